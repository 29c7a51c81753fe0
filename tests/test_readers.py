"""Readers of image files, on files written here: whole, damaged, mislabelled and hostile."""

import builtins
import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygan import data
from tinygan.data import MNIST_NORMALISED, SIGNED, UNIT, readers

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 3, 4), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 3, 4, 3), np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


def same(images, pixels, labels=None):
    assert images.pixels.dtype == np.uint8 and not images.pixels.flags.writeable
    assert images.pixels.flags.c_contiguous
    assert np.array_equal(images.pixels, pixels)
    if labels is None:
        assert images.labels is None
    else:
        assert images.labels.dtype == np.int64
        assert images.labels.tolist() == list(labels)
    return True


@pytest.fixture
def little_memory():
    """No test under this takes more than a few megabytes, whatever a file claims."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


# --- IDX ------------------------------------------------------------------------------


def idx(array, kind=8, shape=None):
    shape = array.shape if shape is None else shape
    return (
        bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()
    )


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_is_known_by_its_bytes_and_not_by_its_name(tmp_path, zipped):
    pack = gzip.compress if zipped else bytes
    misleading = "images" if zipped else "images.gz"
    images = written(tmp_path / misleading, pack(idx(GREY)))
    labels = written(tmp_path / "labels", pack(idx(LABELS)))
    assert same(data.read_idx(images, labels), GREY[..., None], LABELS)
    assert same(data.read_idx(str(images)), GREY[..., None])
    assert data.read_idx(images).name == misleading
    assert same(data.open_images(images), GREY[..., None])


WHOLE = idx(GREY)
ZIPPED = gzip.compress(WHOLE)
WRONG_CHECK = ZIPPED[:-8] + bytes([ZIPPED[-8] ^ 1]) + ZIPPED[-7:]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the bytes of an empty file; expected IDX, 00 00 08 03 for images"),
        (b"\x00\x00", "starts with the bytes 00 00"),
        (b"BM 12345", "starts with the bytes 42 4d 20 31"),
        (idx(LABELS), "type 8 in 1 dimensions; expected bytes .type 8. in 3.*exchanged"),
        (idx(GREY, kind=13), "type 13 in 3 dimensions"),
        (WHOLE[:11], "ends inside its header"),
        (WHOLE[:-1], "59 bytes where its header says 60; it is cut short"),
        (WHOLE + b"\0", "more bytes where its header says 60"),
        (idx(GREY[:0]), "holds no images"),
        (ZIPPED[:-9], "cannot be read as IDX: Compressed file ended"),
        (ZIPPED[:5], "cannot be read as IDX: Compressed file ended"),
        (WRONG_CHECK, "cannot be read as IDX: CRC"),
        (ZIPPED[:12] + b"\xff\xff" + ZIPPED[14:], "cannot be read as IDX|starts with the bytes"),
        (ZIPPED + b"more", "cannot be read as IDX: Not a gzipped file"),
        (gzip.compress(WHOLE + b"\0"), "more bytes where its header says 60"),
        (idx(GREY, shape=(2**31, 1, 1)), "60 bytes where its header says 2,147,483,648"),
        (gzip.compress(idx(GREY, shape=(2**31, 2, 1))), "60 bytes where its header says 4,294,"),
        (idx(GREY, shape=(2**32 - 1,) * 3), "says that it holds 79,228,162,458,924,105,385,300"),
    ],
)
def test_damaged_idx_is_refused_by_name(tmp_path, content, message, little_memory):
    path = written(tmp_path / "some-images", content)
    with pytest.raises(ValueError, match=message) as caught:
        data.read_idx(path)
    assert str(path) in str(caught.value)


def test_labels_of_another_file_are_refused(tmp_path):
    images = written(tmp_path / "images", idx(GREY))
    few = written(tmp_path / "few", idx(LABELS[:4]))
    with pytest.raises(ValueError, match="few: holds 4 labels for the 5 images"):
        data.read_idx(images, few)
    with pytest.raises(ValueError, match="images: an IDX file of type 8 in 3 dim.*bytes .* in 1"):
        data.read_idx(images, images)
    with pytest.raises(FileNotFoundError, match="absent: no such file"):
        data.read_idx(images, tmp_path / "absent")


@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_is_found_under_both_spellings(tmp_path, mark, ending):
    pack = gzip.compress if ending else bytes
    for stem, images in (("train", GREY), ("t10k", GREY[:2])):
        written(tmp_path / f"{stem}-images{mark}idx3-ubyte{ending}", pack(idx(images)))
        labels = LABELS[: len(images)]
        written(tmp_path / f"{stem}-labels{mark}idx1-ubyte{ending}", pack(idx(labels)))
    for read in (data.mnist, data.open_images):
        assert same(read(tmp_path), GREY[..., None], LABELS)
        assert same(read(str(tmp_path), part="test"), GREY[:2, ..., None], LABELS[:2])
    assert data.mnist(tmp_path, "test").name == f"{tmp_path.name} test"


def test_mnist_lists_the_names_it_looked_for(tmp_path):
    written(tmp_path / "train-images-idx3-ubyte", idx(GREY))
    with pytest.raises(FileNotFoundError, match="no labels of part 'train'.* train-labels.idx1-u"):
        data.mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match="looked for t10k-images-idx3-ubyte, t10k-images-"):
        data.open_images(tmp_path, "test")
    with pytest.raises(ValueError, match="part is 'valid'; expected 'train' or 'test'"):
        data.mnist(tmp_path, "valid")


def test_the_shipped_digits():
    images = data.digits()
    assert images.pixels.shape == (5000, 28, 28, 1)
    assert np.bincount(images.labels).tolist() == [500] * 10
    assert images.name == "digits"
    # Upright and bright on black: a one is a narrow stroke, a zero is empty in its middle.
    means = {k: images.only(k).pixels[..., 0].mean(axis=0) for k in (0, 1)}
    assert means[1][10:18, 12:16].mean() > 100 > 30 > means[1][10:18, :8].mean()
    assert means[0][13:15, 13:15].mean() < 20 and images.pixels[:, 0].max() == 0
    assert same(data.open_images("digits"), images.pixels, images.labels)


# --- CIFAR-10 -------------------------------------------------------------------------


def cifar_rows(n, seed=0):
    """n images, as they are, and as CIFAR-10 stores them: all red, all green, all blue."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)
    return images, np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images])


def python2_pickle(rows, labels):
    """A batch as Python 2's cPickle wrote CIFAR-10: its opcodes, one by one."""

    def text(content):
        return b"U" + bytes([len(content)]) + content

    def number(value):
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    raw = rows.tobytes()
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            text(b"batch_label"), b"q\x02", text(b"training batch 1 of 5"), b"q\x03",
            text(b"labels"), b"q\x04]q\x05(", *(number(int(label)) for label in labels), b"e",
            text(b"data"), b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07",
            b"cnumpy\nndarray\nq\x08K\x00\x85q\x09", text(b"b"), b"\x87Rq\x0a",
            b"(K\x01", number(len(rows)), number(3072), b"\x86",
            b"cnumpy\ndtype\nq\x0b", text(b"u1"), b"K\x00K\x01\x87Rq\x0c",
            b"(K\x03", text(b"|"), b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T", struct.pack("<i", len(raw)), raw, b"tb",
            text(b"filenames"), b"q\x0d]q\x0e(", *(text(b"a.png") for _ in labels), b"e",
            b"u.",
        ]
    )  # fmt: skip


def python3_pickle(protocol):
    return lambda rows, labels: pickle.dumps(
        {b"data": rows, b"labels": labels.tolist(), b"filenames": [b"a.png"] * len(labels)},
        protocol,
    )


PICKLES = {
    "python 2": python2_pickle,
    "protocol 2": python3_pickle(2),
    "protocol 4": python3_pickle(4),
    "fortran": lambda rows, labels: python3_pickle(2)(np.asfortranarray(rows), labels),
}


def batches(make, ending=""):
    """The six files of CIFAR-10, of two to four images each, and what they hold."""
    files, pixels, labels = {}, [], []
    for i in range(1, 7):
        images, rows = cifar_rows(2 + i % 3, seed=i)
        classes = np.arange(len(rows), dtype=np.uint8) + i - 1
        files[(f"data_batch_{i}" if i < 6 else "test_batch") + ending] = make(rows, classes)
        pixels.append(images)
        labels.append(classes.tolist())
    return files, {
        "train": (np.concatenate(pixels[:5]), sum(labels[:5], [])),
        "test": (pixels[5], labels[5]),
    }


def binary(rows, labels):
    return np.concatenate([labels[:, None], rows], axis=1).tobytes()


def tar(files, path, mode="w:gz", folder="cifar-10-batches-py/"):
    where = {"fileobj": path} if isinstance(path, io.BytesIO) else {"name": path}
    with tarfile.open(mode=mode, **where) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def folder_of(files, path):
    path.mkdir()
    for name, content in files.items():
        written(path / name, content)
    return path


@pytest.mark.parametrize("how", [*PICKLES, "binary"])
@pytest.mark.parametrize("where", ["folder", "parent", "tar.gz", "tar"])
def test_cifar_in_all_its_forms(tmp_path, how, where):
    pickled = how != "binary"
    files, expected = batches(PICKLES[how]) if pickled else batches(binary, ".bin")
    files["batches.meta" if pickled else "batches.meta.txt"] = b"not a batch"
    name = "cifar-10-batches-py" if pickled else "cifar-10-batches-bin"
    if where.startswith("tar"):
        path = tar(files, tmp_path / "c10", "w:gz" if where == "tar.gz" else "w", name + "/")
    else:
        path = folder_of(files, tmp_path / name)
        path = tmp_path if where == "parent" else path
    for part, (pixels, labels) in expected.items():
        images = data.cifar10(path, part)
        assert same(images, pixels, labels)
        assert images.name == f"cifar10 {part}"
        assert same(data.open_images(path, part), pixels, labels)
    assert not list(tmp_path.glob("**/*.part"))


def test_an_archive_is_not_unpacked(tmp_path, monkeypatch):
    files, expected = batches(python2_pickle)
    path = tar(files, tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.chdir(tmp_path)
    same(data.cifar10("cifar-10-python.tar.gz"), *expected["train"])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_missing_batches_are_listed(tmp_path):
    files, _ = batches(python2_pickle)
    del files["data_batch_1"], files["data_batch_4"], files["test_batch"]
    path = folder_of(files, tmp_path / "some")
    with pytest.raises(FileNotFoundError, match="no CIFAR-10 data_batch_1, data_batch_4; expected"):
        data.cifar10(path)
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin .or test_batch, …, of the Pyth"):
        data.cifar10(path, "test")
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.cifar10(tmp_path / "absent")


def test_links_and_doubles_in_an_archive_are_no_batches(tmp_path):
    secret = written(tmp_path / "secret", python2_pickle(cifar_rows(1)[1], [0]))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        with tarfile.open(tmp_path / "links.tar", "w") as archive:
            member = tarfile.TarInfo("test_batch")
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
        with pytest.raises(FileNotFoundError, match="no CIFAR-10 test_batch"):
            data.cifar10(tmp_path / "links.tar", "test")
    files, _ = batches(python2_pickle)
    path = tar(files, tmp_path / "double.tar", "w")
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("elsewhere/test_batch"))
    with pytest.raises(ValueError, match="holds test_batch twice"):
        data.cifar10(path, "test")


def test_a_damaged_archive_is_refused(tmp_path, little_memory):
    files, _ = batches(python2_pickle)
    path = tar(files, tmp_path / "c.tar.gz")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"no archive", gzip.compress(b"no archive")):
        written(path, damaged)
        with pytest.raises(ValueError, match=r"c\.tar\.gz: cannot be read as an archive"):
            data.cifar10(path)
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("test_batch")
        member.size = 0
        archive.addfile(member)
        huge = tarfile.TarInfo("data_batch_1")
        huge.size = 1 << 40
        archive.fileobj.write(huge.tobuf())
    with pytest.raises(ValueError, match="holds a batch of 1,099,511,627,776 bytes"):
        data.cifar10(path)


def hostile(code):
    """A pickle whose loading would run ``code`` in a shell."""

    class Trap:
        def __reduce__(self):
            return os.system, (code,)

    return {b"data": Trap(), b"labels": [0]}


def pickled_array(state, reconstruct=b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"):
    """A batch whose array is given this state (of plain values and one dtype of bytes)."""
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    items = [dtype if value is np.uint8 else pickle.dumps(value, 1)[:-1] for value in state]
    return (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n" + reconstruct
        + b"(" + b"".join(items) + b"tbU\x06labels]K\x00au."
    )  # fmt: skip


ROWS = cifar_rows(2)[1]
OBJECTS = np.empty((2, 3072), object)


@pytest.mark.parametrize(
    "content, message",
    [
        (pickle.dumps(hostile("touch ran"), 2), r"(posix|nt)\.system'?, which could run anything"),
        (pickle.dumps(hostile("touch ran"), 0), r"system"),
        (b"cbuiltins\neval\n(V__import__('os').system('touch ran')\ntR.", "builtins.eval"),
        (b"(S'touch ran'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'touch ran'\no.", "os.system"),
        (b"c__builtin__\n__import__\n(S'antigravity'\ntR.", "__builtin__.__import__"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.data\x93.", "numpy.ndarray.data"),
        (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.", "numpy.ndarray"),
        (b"c_codecs\nencode\n(V" + b"a" * 99 + b"\nVpunycode\ntR.", "encodes text; refused"),
        (b"cnumpy\ndtype\n}U\x05_makecos\nsystem\nsb.", "os.system"),
        (b"cnumpy\ndtype\n}U\x05_makeU\x01xsb.", "alters what it should only use"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 26) + b"abc.", "no readable pickle"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "expected a CIFAR-10 batch, a dictionary"),
        (b"\x80\x02\x82\x01.", "no readable pickle"),
        (b"", "no readable pickle .EOFError"),
        (python2_pickle(ROWS, [1, 2])[:-900], "no readable pickle"),
        (pickle.dumps({b"data": OBJECTS, b"labels": [0, 1]}, 2), "not of uint8; refused"),
        (pickle.dumps({b"data": ROWS.astype(int), b"labels": [0, 1]}, 2), "not of uint8"),
        (pickle.dumps([1, 2], 2), "expected a CIFAR-10 batch, a dictionary"),
        (pickle.dumps({"data": ROWS, "labels": [0, 1]}, 2), "expected .* array b'data'"),
        (pickle.dumps({b"data": ROWS.tolist(), b"labels": [0, 1]}, 2), "expected .* array b'data'"),
        (pickle.dumps({b"data": ROWS, b"labels": b"ab"}, 2), "a list b'labels'"),
        (pickle.dumps({b"data": ROWS, b"labels": [0]}, 2), r"\(2, 3072\) with 1 labels"),
        (pickle.dumps({b"data": ROWS[:, :9], b"labels": [0, 1]}, 2), r"shape \(2, 9\)"),
        (pickle.dumps({b"data": ROWS[0], b"labels": [0] * 3072}, 2), r"shape \(3072,\)"),
        (pickle.dumps({b"data": ROWS, b"labels": [0, 10]}, 2), "a label is 10; expected 0 to 9"),
        (pickle.dumps({b"data": ROWS, b"labels": [0, -1]}, 2), "not all whole numbers"),
        (pickle.dumps({b"data": ROWS, b"labels": [0, 1.5]}, 2), "not all whole numbers"),
        (pickled_array((1, (10**9, 3072), np.uint8, False, b"x")), "array is not whole"),
        (pickled_array((1, (-1, -1), np.uint8, False, b"x")), "array is not whole"),
        (pickled_array((1, (1, 3072), None, False, b"x" * 3072)), "array is not whole"),
        (pickled_array((1, 2)), "array is not whole"),
    ],
)
def test_hostile_and_foreign_pickles_are_refused(
    tmp_path, monkeypatch, content, message, little_memory
):
    folder = folder_of({"test_batch": content}, tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        data.cifar10(folder, "test")
    assert f"{folder}: test_batch" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_the_trap_is_a_real_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(hostile("echo > ran"), 2))
    assert (tmp_path / "ran").exists()


def test_the_array_by_hand_can_be_good():
    """So that those above fail for their reason and no other."""
    content = pickled_array((1, (1, 3072), np.uint8, False, b"x" * 3072))
    with pytest.raises(ValueError, match="encode"):  # bytes in protocol 1 ask for _codecs.encode
        readers._cifar_pickle("here", content.replace(b"latin1", b"latin2"))
    rows, labels = readers._cifar_pickle("here", content)
    assert rows.tobytes() == b"x" * 3072 and labels.tolist() == [0]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "0 bytes; expected a multiple of 3,073"),
        (bytes(3073 * 2 - 1), "6,145 bytes; expected a multiple of 3,073.* cut short"),
        (b"\x0a" + bytes(3072), "a label is 10; expected 0 to 9"),
    ],
)
def test_wrong_binary_batches_are_refused(tmp_path, content, message):
    folder = folder_of({"test_batch.bin": content}, tmp_path / "c")
    with pytest.raises(ValueError, match=f"test_batch.bin: {message}"):
        data.cifar10(folder, "test")


# --- folders of pictures --------------------------------------------------------------


def save(array, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_a_folder_of_pictures_in_the_order_of_its_paths(tmp_path):
    for name, i in {"b.png": 1, "a/z.PNG": 0, "c.bmp": 2}.items():
        save(COLOUR[i], tmp_path / name)
    written(tmp_path / "notes.txt", b"no picture")
    written(tmp_path / ".hidden.png", b"no picture")
    (tmp_path / ".thumbs").mkdir()
    written(tmp_path / ".thumbs" / "a.png", b"no picture")
    for read in (data.image_folder, data.open_images):
        images = read(tmp_path)
        assert same(images, COLOUR[:3])
        assert images.name == tmp_path.name


def test_sub_folders_are_classes_when_every_picture_lies_in_one(tmp_path):
    order = [("cats/1.png", 0), ("cats/more/0.png", 1), ("dogs/0.png", 2), ("emus/0.png", 3)]
    for name, i in reversed(order):
        save(COLOUR[i], tmp_path / name)
    assert same(data.image_folder(tmp_path), COLOUR[:4], [0, 0, 1, 2])
    save(COLOUR[4], tmp_path / "zebra.png")
    assert same(data.image_folder(tmp_path), COLOUR)


def test_grey_colour_and_transparent_pictures_become_what_is_asked(tmp_path):
    save(GREY[0], tmp_path / "a.png")
    alpha = np.full((3, 4, 1), 7, np.uint8)
    save(np.concatenate([COLOUR[0], alpha], axis=2), tmp_path / "b.png")
    palette = Image.fromarray(COLOUR[1]).quantize(4)
    palette.save(tmp_path / "c.png", transparency=b"\0\xff\xff\xff")
    colour = data.image_folder(tmp_path).pixels
    assert np.array_equal(colour[0], np.repeat(GREY[0][..., None], 3, axis=2))
    assert np.array_equal(colour[1], COLOUR[0])
    assert np.array_equal(colour[2], np.asarray(palette.convert("RGB")))
    grey = data.image_folder(tmp_path, channels=1).pixels
    assert np.array_equal(grey[0, ..., 0], GREY[0])
    luma = COLOUR[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[1, ..., 0], luma, atol=1)


def test_a_size_cuts_the_middle_and_resizes(tmp_path):
    """Red, green and blue thirds: the middle square is green alone."""
    wide = np.zeros((8, 24, 3), np.uint8)
    for third in range(3):
        wide[:, 8 * third : 8 * third + 8, third] = 200
    save(wide, tmp_path / "wide.png")
    save(wide.transpose(1, 0, 2), tmp_path / "tall.png")
    for size in (4, 8, 16):
        images = data.image_folder(tmp_path, size)
        assert np.array_equal(images.pixels, np.full((2, size, size, 3), [0, 200, 0]))
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 24, axis=1)
    save(ramp, tmp_path / "wide.png")
    small = data.open_images(tmp_path, size=6).pixels[1, 1:-1, 2, 0]
    np.testing.assert_allclose(small, 15 + 40 * np.arange(1, 5), atol=2)


def test_the_cameras_note_of_orientation_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter, clockwise
    save(COLOUR[0], tmp_path / "a.png", exif=exif)
    assert same(data.image_folder(tmp_path), np.rot90(COLOUR[0], -1)[None])


def png_of(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def png(width, height):
    """The head of a PNG that says it is this large."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in
              (head, body, b"IEND")]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("content", [b"", b"no picture", None, png(12_000, 12_000)])
def test_an_unreadable_picture_is_named(tmp_path, content, little_memory):
    save(COLOUR[0], tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    written(tmp_path / "b.png", whole[:-30] if content is None else content)
    with pytest.raises(ValueError, match=r"b\.png: cannot be read as a picture: .* Repair it"):
        data.image_folder(tmp_path)


def test_a_huge_picture_is_refused_even_where_warnings_are_not_errors(tmp_path):
    written(tmp_path / "a.png", png(12_000, 12_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"a\.png: cannot be read as a picture: .* bomb"):
            data.image_folder(tmp_path)


def test_pictures_must_have_one_size_and_8_bits(tmp_path):
    save(COLOUR[0], tmp_path / "a.png")
    save(COLOUR[1][:2], tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: 2×4, but a\.png is 3×4; .* Give a size"):
        data.image_folder(tmp_path)
    save(GREY[0].astype(np.uint16) * 257, tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: has more than 8 bits per channel"):
        data.image_folder(tmp_path)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({}, FileNotFoundError, r"no pictures in it; looked for \.bmp, \.gif"),
        ({"size": 0}, ValueError, "size is 0"),
        ({"channels": 4}, ValueError, "channels is 4; expected 1 .grey. or 3"),
    ],
)
def test_an_empty_folder_and_wrong_options_are_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        data.image_folder(tmp_path, **options)


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    save(COLOUR[0], tmp_path / "a.png")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs Pillow.*pip install 'tinygan\[images\]'"):
        data.image_folder(tmp_path)


# --- NumPy's files --------------------------------------------------------------------


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_arrays_of_bytes(tmp_path, compress):
    np.save(tmp_path / "grey.npy", GREY)
    np.save(tmp_path / "colour.npy", np.asfortranarray(COLOUR))
    np.save(tmp_path / "first.npy", COLOUR.transpose(0, 3, 1, 2))
    compress(tmp_path / "both.npz", images=COLOUR, labels=LABELS, more=GREY)
    compress(tmp_path / "alone.npz", whatever=GREY)
    for read in (data.read_array, data.open_images):
        assert same(read(tmp_path / "grey.npy"), GREY[..., None])
        assert same(read(tmp_path / "colour.npy"), COLOUR)
        assert same(read(tmp_path / "both.npz"), COLOUR, LABELS)
        assert same(read(tmp_path / "alone.npz"), GREY[..., None])
    assert same(data.read_array(tmp_path / "first.npy", channels_first=True), COLOUR)
    assert data.read_array(tmp_path / "both.npz").name == "both.npz"


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("scaling", [UNIT, SIGNED, MNIST_NORMALISED], ids=lambda s: s.name)
def test_declared_floats_become_bytes_again(tmp_path, scaling, dtype):
    many = RNG.integers(0, 256, (1500, 3, 2, 1), np.uint8)  # more than a block
    np.save(tmp_path / "a.npy", scaling.apply(many, np.float64).astype(dtype))
    read = data.read_array(tmp_path / "a.npy", scaling=scaling).pixels
    off = np.abs(read.astype(int) - many)
    assert off.max() <= (1 if dtype == "f2" and scaling is MNIST_NORMALISED else 0)


HEADER = npy(GREY)[:-60]
FLOATS = GREY / 255


@pytest.mark.parametrize(
    "content, options, message",
    [
        (b"", {}, r"neither \.npy nor \.npz"),
        (npy(GREY)[:-1], {}, r"59 bytes for an array of uint8 and shape \(5, 3, 4\), which has 60"),
        (npy(GREY) + b"\0", {}, "61 bytes for an array"),
        (HEADER[:40], {}, "header cannot be read"),
        (HEADER.replace(b"'shape'", b"'shame'"), {}, "header cannot be read"),
        (b"\x93NUMPY\x07\x00" + HEADER[8:], {}, "header cannot be read"),
        (npy(np.array([{}], object), allow_pickle=True), {}, "an array of objects; expected real"),
        (npy(np.zeros(3, "U2")), {}, "an array of <U2"),
        (npy(GREY * 1j), {}, "an array of complex128"),
        (npy(GREY[0]), {}, r"images of shape \(3, 4\); expected N×H×W"),
        (npy(COLOUR[None]), {}, r"images of shape \(1, 5, 3, 4, 3\); expected N×H×W"),
        (npy(np.zeros((5, 4, 4, 2), "u1")), {}, r"with C 1 or 3$"),
        (npy(COLOUR.transpose(0, 3, 1, 2)), {}, "For N×C×H×W give channels_first=True"),
        (npy(GREY), {"channels_first": True}, "expected N×C×H×W, with C 1 or 3, as"),
        (npy(COLOUR[:, :2]), {"channels_first": True}, r"shape \(5, 2, 4, 3\); expected N×C×H×W"),
        (npy(GREY[:0]), {}, "holds no images"),
        (npy(GREY.astype(int)), {}, r"images of int64; .* \.astype\(numpy\.uint8\)"),
        (npy(GREY > 9), {}, "images of bool"),
        (npy(FLOATS), {}, "images of float64 and scaling None; expected scaling UNIT"),
        (npy(GREY), {"scaling": UNIT}, "of uint8 and scaling 'unit'; .* none for uint8"),
        (npy(FLOATS + 0.1), {"scaling": UNIT}, "from 0.1.* to 1.*; expected no NaN and 0 to 1"),
        (npy(FLOATS * 2 - 1), {"scaling": UNIT}, "numbers from -0.9.* scaling 'unit'"),
        (npy(FLOATS * 2 - 1.1), {"scaling": SIGNED}, "-1 to 1, the range of scaling 'signed'"),
        (npy(FLOATS * np.nan), {"scaling": UNIT}, "from nan to nan; expected no NaN"),
        (npy(np.where(GREY == GREY[4, 2, 3], np.nan, FLOATS)), {"scaling": UNIT}, "to nan"),
        (npy(np.where(GREY == GREY[4, 2, 3], np.inf, FLOATS)), {"scaling": UNIT}, "to inf"),
    ],
)
def test_wrong_arrays_are_refused_by_name(tmp_path, content, options, message, little_memory):
    path = written(tmp_path / "some.npy", content)
    with pytest.raises(ValueError, match=message) as caught:
        data.read_array(path, **options)
    assert str(path) in str(caught.value)


def test_a_scaling_by_name_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"scaling is a str; expected tinygan\.data\.UNIT"):
        data.read_array(tmp_path / "x.npy", scaling="unit")


def npz(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def claim(shape):
    """An .npy file of a few bytes whose header speaks of a large array."""
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + bytes(60)


OBJECT_NPY = npy(np.array([{}], object), allow_pickle=True)
GOOD = npz({"images.npy": npy(GREY)})


@pytest.mark.parametrize(
    "content, message",
    [
        (npz({}), "holds nothing; expected 'images' and perhaps 'labels'"),
        (npz({"a.npy": npy(GREY), "b.npy": npy(GREY)}), "holds a, b; expected 'images'"),
        (npz({"images.npy": OBJECT_NPY}), "images.npy: an array of objects"),
        (npz({"images.npy": npy(GREY), "labels.npy": OBJECT_NPY}), "labels.npy: an array of obj"),
        (npz({"images.npy": npy(GREY), "labels.npy": npy(LABELS[:3])}), "3 labels for 5 images"),
        (npz({"images.npy": npy(GREY), "labels.npy": npy(LABELS / 1)}), "labels .* of float64"),
        (npz({"images.npy": npy(GREY), "labels.npy": npy(GREY)}), r"labels .* shape \(5, 3, 4\)"),
        (npz({"images.npy": b"text"}), "images.npy: its .npy header cannot be read"),
        (npz({"images.npy": claim((2**40, 1, 1))}), "60 bytes for an array .* 1,099,511,627,776"),
        (npz({"images.npy": npy(GREY)[:-7]}), "53 bytes for an array"),
        (GOOD[:50], "cannot be read as a NumPy file: File is not a zip file"),
        (GOOD.replace(GREY.tobytes(), bytes(60)), "Bad CRC"),
    ],
)
def test_wrong_archives_of_arrays_are_refused_by_name(tmp_path, content, message, little_memory):
    path = written(tmp_path / "some.npz", content)
    with pytest.raises(ValueError, match=message) as caught:
        data.read_array(path)
    assert str(path) in str(caught.value)


def test_a_header_that_claims_more_than_the_file_takes_no_memory(tmp_path, little_memory):
    path = written(tmp_path / "a.npy", claim((2**40, 1, 1)))
    with pytest.raises(ValueError, match="60 bytes for an array of uint8 and shape .* 1,099,511"):
        data.read_array(path)
    # The zip's own directory may lie too: then the bytes run out.
    content = bytearray(npz({"images.npy": claim((2**31 - 200, 1, 1))}))
    size = struct.pack("<I", len(claim((2**31 - 200, 1, 1))))
    lie = struct.pack("<I", len(claim((2**31 - 200, 1, 1))) - 60 + 2**31 - 200)
    at = content.rindex(b"PK\x01\x02") + 24
    assert content[at : at + 4] == size
    content[at : at + 4] = lie
    with pytest.raises(ValueError, match="60 bytes where its header says 2,147,483,448"):
        data.read_array(written(tmp_path / "a.npz", bytes(content)))


# --- any of them ----------------------------------------------------------------------


def small_pickle():
    return python2_pickle(cifar_rows(1)[1], [7])


def tarred():
    return tar({"test_batch": small_pickle()}, io.BytesIO()).getvalue()


SEEDS = {  # a file of each kind, and how it is read
    "idx": (idx(GREY), data.read_idx),
    "idx.gz": (gzip.compress(idx(GREY), mtime=0), data.read_idx),
    "npy": (npy(GREY), data.read_array),
    "npz": (npz({"images.npy": npy(GREY), "labels.npy": npy(LABELS)}), data.read_array),
    "pickle": (small_pickle(), lambda path: data.cifar10(path, "test")),
    "tar": (tarred(), lambda path: data.cifar10(path, "test")),
    "png": (png_of(COLOUR[0]), data.image_folder),
}


@pytest.mark.parametrize("kind", SEEDS)
@given(draw=st.data())
def test_whatever_is_wrong_with_a_file_is_one_clear_error(tmp_path, kind, draw):
    content, read = SEEDS[kind]
    content = bytearray(content)
    for at, value in draw.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=3)
    ):
        content[at] = value
    content = content[: draw.draw(st.sampled_from([len(content), *range(0, len(content), 7)]))]
    path = tmp_path / "test_batch" if kind in ("pickle", "png") else tmp_path / "file"
    path = tmp_path / "a.png" if kind == "png" else path
    path.write_bytes(content)
    try:
        images = read(tmp_path if kind in ("pickle", "png") else path)
    except (ValueError, FileNotFoundError) as error:
        assert str(tmp_path) in str(error)
    else:
        assert images.pixels.dtype == np.uint8


def test_what_has_no_parts_is_all_train(tmp_path):
    np.save(tmp_path / "a.npy", GREY)
    save(COLOUR[0], tmp_path / "a.png")
    raw = written(tmp_path / "idx", idx(GREY))
    for spec in ("digits", tmp_path / "a.npy", tmp_path, raw):
        with pytest.raises(ValueError, match="has no part 'test'; it is all 'train'"):
            data.open_images(spec, "test")
    with pytest.raises(ValueError, match="part is 'all'"):
        data.open_images("digits", "all")


def test_a_folder_called_digits_is_reached_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(COLOUR[0], tmp_path / "digits" / "a.png")
    assert len(data.open_images("digits")) == 5000
    assert len(data.open_images("./digits")) == 1


def test_what_is_not_known_gets_the_list_of_what_is(tmp_path):
    listed = r'looked for "digits" .*MNIST.*CIFAR-10.* \.npy, \.npz or IDX .* folder of pictures'
    (tmp_path / "empty").mkdir()
    for spec, error in [("absent", FileNotFoundError), ("empty", FileNotFoundError)]:
        with pytest.raises(error, match=f"{spec}: .*{listed}"):
            data.open_images(tmp_path / spec)
    path = written(tmp_path / "text", b"hello")
    with pytest.raises(ValueError, match=f"text: a file of no known kind; {listed}"):
        data.open_images(path)


def test_reading_arrays_needs_no_pillow(tmp_path):
    np.save(tmp_path / "a.npy", GREY)
    code = (
        "import sys\nfrom tinygan import data\n"
        "data.open_images('digits'), data.open_images(sys.argv[1])\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('PIL', 'matplotlib', 'scipy')])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, tmp_path / "a.npy"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")

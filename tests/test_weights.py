"""Weights: whole files or none, round trips bit by bit, damaged and foreign files, PyTorch's."""

import io
import json
import os
import pickle
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import record_dcgan_activations as recorder
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygan import from_torch_dcgan, load_weights, models, nn, ops, save_weights, tree
from tinygan import weights as module
from tinygan.backend import Stream
from tinygan.engine import track, values

CRITIC = models.critic(8, 1, (3, 4))
CONFIG = {"model": "critic", "arguments": {"image": 8, "hidden": [3, 4]}, "step": 7, "note": "√2"}
Layer = namedtuple("Layer", "weight bias")


@pytest.fixture
def params():
    return CRITIC.init(Stream(1))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "critic.npz"


def same(a, b):
    """Whether two trees have the same branches, in the same order, and the same bits."""
    if isinstance(a, dict):
        a, b = list(a.items()), (type(b) is type(a) and list(b.items()))
    if isinstance(a, (list, tuple)):
        return (
            type(a) is type(b)
            and len(a) == len(b)
            and all(same(x, y) for x, y in zip(a, b, strict=True))
        )
    if not isinstance(a, np.ndarray):
        return a == b
    form = (type(a), a.dtype, a.shape)
    return form == (type(b), b.dtype, b.shape) and a.tobytes() == b.tobytes()


def only(path):
    """Whether ``path`` is the only file in its folder."""
    return list(path.parent.iterdir()) == [path]


# Round trips


def floats(dtype):
    return hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
        elements=st.floats(
            allow_nan=False, allow_infinity=False, width=8 * np.dtype(dtype).itemsize
        ),
    )


arrays = st.one_of(floats(np.float32), floats(np.float64))
keys = st.one_of(
    st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="\\"), max_size=4),
    st.sampled_from(["0", "1", "file", "a.npy", "a", "conv0", "allow_pickle", "../b", "a/b"]),
    st.integers(-1, 2),
)


def forests(keys, least):
    return st.recursive(
        arrays,
        lambda branch: st.one_of(
            st.lists(branch, min_size=least, max_size=3),
            st.lists(branch, min_size=least, max_size=3).map(tuple),
            st.tuples(branch, branch).map(lambda pair: Layer(*pair)),
            st.dictionaries(keys, branch, min_size=least, max_size=3),
        ),
        max_leaves=8,
    )


@given(forests(keys, 0))
def test_a_file_like_the_tree_gives_the_tree_bit_by_bit(tmp_path, params):
    names = [name for name, _ in tree.paths(params)]
    branches = {name[:i] for name in names for i, c in enumerate(name) if c == "."}
    assume(len(set(names)) == len(names) and not branches & set(names))
    save_weights(tmp_path / "f.npz", params)
    loaded, config = load_weights(tmp_path / "f.npz", params)
    assert config is None and same(loaded, params)
    assert not any(
        np.shares_memory(a, b) for a, b in zip(*map(tree.leaves, (loaded, params)), strict=True)
    )


def plain(branch):
    """A tree with lists for all sequences, as names alone can tell it."""
    if isinstance(branch, dict):
        return {key: plain(value) for key, value in branch.items()}
    return list(map(plain, branch)) if isinstance(branch, (list, tuple)) else branch


@given(forests(st.text("abc", min_size=1, max_size=3), 1))
def test_the_tree_is_rebuilt_from_the_names(tmp_path, params):
    save_weights(tmp_path / "f.npz", params)
    assert same(load_weights(tmp_path / "f.npz")[0], plain(params))


def test_levels_numbered_from_0_are_lists_in_the_order_of_the_numbers(path):
    ones = [np.full(1, i, np.float32) for i in range(12)]
    by_number = {str(i): ones[i] for i in (11, *range(11))}
    save_weights(path, {"a": by_number, "b": {"1": ones[1]}, "c": {"0": ones[0], "2": ones[2]}})
    loaded, _ = load_weights(path)
    assert same(loaded["a"], ones)
    assert same(loaded["b"], {"1": ones[1]}) and same(loaded["c"], {"0": ones[0], "2": ones[2]})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_models_weights_statistics_and_configuration_come_back(path, dtype):
    params, x = CRITIC.init(Stream(1), dtype), Stream(2).normal((5, *CRITIC.input), dtype)
    statistics = models.standing_statistics(CRITIC, params, [x])
    save_weights(path, {"params": params, "statistics": statistics}, CONFIG)
    for like in (None, {"params": CRITIC.init(Stream(9), dtype), "statistics": statistics}):
        loaded, config = load_weights(path, like)
        assert config == CONFIG and same(loaded, {"params": params, "statistics": statistics})
        y = CRITIC(loaded["params"], x, loaded["statistics"])
        assert np.array_equal(y, CRITIC(params, x, statistics))
        for leaf in tree.leaves(loaded):
            leaf += 1  # training may change its own arrays: they are not read-only


def test_a_list_of_layers_and_a_tree_without_leaves_come_back(path):
    model = models.MLP((2, 3, 1))
    save_weights(path, model.init(Stream(3)))
    assert same(load_weights(path)[0], model.init(Stream(3)))
    save_weights(path, {})
    assert load_weights(path) == ({}, None) and load_weights(path, ())[0] == ()


def test_arrays_in_another_order_come_back_in_c_order(path):
    a = np.asfortranarray(Stream(0).normal((3, 4)))
    save_weights(path, {"a": a, "b": a[::2, ::-1]})
    loaded, _ = load_weights(path)
    assert same(loaded, {"a": a, "b": a[::2, ::-1]})
    assert all(b.flags.c_contiguous for b in loaded.values())


def test_the_order_of_like_counts_and_not_that_of_the_file(path):
    a, b = np.zeros(2, np.float32), np.ones(3, np.float32)
    save_weights(path, {"b": b, "a": a})
    assert list(load_weights(path)[0]) == ["b", "a"]
    assert same(load_weights(path, {"a": b[:2], "b": b})[0], {"a": a, "b": b})


def test_weights_go_from_device_to_device(xp, path, params):
    there = tree.tree_map(xp.asarray, params)
    save_weights(path, there)
    assert same(load_weights(path)[0], params)
    loaded, _ = load_weights(path, there, device=xp.device)
    assert same(tree.tree_map(xp.get, loaded), params)


def test_big_endian_files_come_back_in_this_machines_order(path, params):
    save_weights(path, params)
    rewrite(path, {"conv0.weight": npy(params["conv0"]["weight"].astype(">f4"))})
    assert same(load_weights(path, params)[0], params)


# Files


def test_np_load_reads_the_file_and_the_name_is_the_one_given(tmp_path, params):
    save_weights(str(tmp_path / "weights"), params, CONFIG)
    assert only(tmp_path / "weights")
    with np.load(tmp_path / "weights", allow_pickle=False) as file:
        assert file.files[:2] == ["__tinygan__", "__config__"]
        assert file.files[2:] == [name for name, _ in tree.paths(params)]
        assert np.array_equal(file["conv1.weight"], params["conv1"]["weight"])
        assert json.loads(str(file["__config__"])) == CONFIG and file["__tinygan__"] == 1


def test_the_same_weights_give_the_same_bytes(tmp_path, params, monkeypatch):
    save_weights(tmp_path / "a.npz", params, CONFIG)
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    save_weights(tmp_path / "b.npz", params, CONFIG)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def failing(error, after=0):
    """A function that fails with ``error`` at one call and works before it."""

    def wrap(f):
        calls = []

        def wrapped(*args, **kwargs):
            calls.append(args)
            if len(calls) > after:
                raise error
            return f(*args, **kwargs)

        return wrapped

    return wrap


FAILURES = {
    "write_array": (np.lib.format, "write_array"),
    "fsync": (os, "fsync"),
    "replace": (os, "replace"),
    "close": (zipfile.ZipFile, "close"),
}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("place", FAILURES)
@pytest.mark.parametrize("there", [True, False])
def test_a_failing_write_leaves_the_old_file_and_no_part(
    path, params, place, error, there, request
):
    if there:
        save_weights(path, params, CONFIG)
    before = path.read_bytes() if there else None
    where, name = FAILURES[place]
    new = tree.tree_map(lambda a: a + 1, params)
    with pytest.MonkeyPatch.context() as patch:
        wrap = failing(error, after=3 if place == "write_array" else 0)
        patch.setattr(where, name, wrap(getattr(where, name)))
        with pytest.raises(type(error)) as caught:
            save_weights(path, new)
    assert caught.value is error
    if there:
        assert only(path) and path.read_bytes() == before
    else:
        assert not list(path.parent.iterdir())
    save_weights(path, new)
    assert only(path) and same(load_weights(path)[0], new)


def test_the_file_is_complete_and_on_the_disk_before_it_is_renamed(path, params, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(number):
        fsync(number)
        events.append(os.fstat(number).st_size)

    def watched_replace(a, b):
        events.append((os.path.getsize(a), Path(a).parent, Path(b)))
        assert same(load_weights(a)[0], params)
        replace(a, b)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    save_weights(path, params)
    size = path.stat().st_size
    assert events == [size, (size, path.parent, path)]


def test_a_part_left_by_a_lost_machine_is_written_over(path, params):
    path.with_name("critic.npz.part").write_bytes(b"half")
    save_weights(path, params)
    assert only(path) and same(load_weights(path)[0], params)


def test_a_folder_that_is_missing_or_in_the_way_is_an_error(tmp_path, params):
    with pytest.raises(FileNotFoundError, match="no is no folder.*Make it first"):
        save_weights(tmp_path / "no" / "f.npz", params)
    with pytest.raises(IsADirectoryError, match="is a folder; expected the name of a file"):
        save_weights(tmp_path, params)
    assert not list(tmp_path.iterdir())


# What is not saved


class Foreign:
    pass


ONE = np.ones(2, np.float32)
NOT_SAVED = {
    "Tensor": (lambda: track({"a": ONE}), TypeError, r"a is a Tensor.*tinygan\.values\(params\)"),
    "number": (lambda: {"a": [ONE, 1.5]}, TypeError, r"a\.1 is of type float; expected arrays"),
    "scalar": (lambda: {"a": np.float32(1)}, TypeError, r"a is of type numpy\.float32"),
    "None": (lambda: None, TypeError, "the only leaf is of type NoneType"),
    "foreign": (lambda: {"a": Foreign()}, TypeError, r"of type .*test_weights\.Foreign"),
    "integers": (lambda: {"a": np.arange(3)}, TypeError, r"a is int64\[3\]; expected float32"),
    "half": (lambda: {"a": np.ones((2, 3), "f2")}, TypeError, r"float16\[2, 3\]"),
    "complex": (lambda: {"a": np.ones(2, "c8")}, TypeError, "complex64"),
    "objects": (lambda: {"a": np.array([None])}, TypeError, "object"),
    "big-endian": (lambda: {"a": ONE.astype(">f4")}, TypeError, ">f4"),
    "key and string": (lambda: {1: ONE, "1": ONE}, ValueError, "1 would be the name of two"),
    "dots": (lambda: {"a.b": ONE, "a": {"b": ONE}}, ValueError, r"a\.b would be the name of two"),
    "leaf and branch": (lambda: {"a": ONE, "a.b": ONE}, ValueError, "a would be the name of two"),
    "format": (lambda: {"__tinygan__": ONE}, ValueError, "__tinygan__ would be the name"),
    "configuration": (lambda: {"__config__": ONE}, ValueError, "__config__ would be the name"),
    "zero byte": (lambda: {"a\0b": ONE, "a": ONE}, ValueError, "no name for an entry"),
    "half a character": (lambda: {"a\ud800": ONE}, ValueError, "no name for an entry"),
    "backslash": (lambda: {"a\\b": ONE}, ValueError, "no name for an entry"),
    "NaN": (lambda: {"a": ONE, "b": ONE * np.nan}, ValueError, "NaN or infinity in b; .*earlier"),
    "infinity": (lambda: {"a": ONE * np.float32(-np.inf)}, ValueError, "NaN or infinity in a"),
}


@pytest.mark.parametrize("case", NOT_SAVED)
def test_what_a_file_cannot_hold_is_an_error_before_anything_is_written(path, params, case):
    make, error, message = NOT_SAVED[case]
    save_weights(path, params)
    before = path.read_bytes()
    params = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", None)
        with pytest.raises(error, match=message):
            save_weights(path, params)
    assert only(path) and path.read_bytes() == before


def test_the_remedy_for_tensors_works(path, params):
    save_weights(path, values(track(params)))
    assert same(load_weights(path)[0], params)


DEEP = {}
for _ in range(100_000):
    DEEP = {"a": DEEP}
CIRCLE = {}
CIRCLE["a"] = [CIRCLE]


@pytest.mark.parametrize(
    "config, message",
    [
        ([1], "config is of type list; expected a dict, or None"),
        ("x", "config is of type str"),
        ({"a": ONE}, "JSON cannot hold this config: Object of type ndarray"),
        ({"a": np.float32(1)}, "Object of type float32"),
        ({"a": ops.relu}, "Object of type"),
        ({"a": [float("nan")]}, "JSON cannot hold this config.*finite numbers"),
        ({"a": {"b": [{1: 2}]}}, "the key 1 is no string"),
        ({"a": {None: 2}}, "the key None is no string"),
        (CIRCLE, "JSON cannot hold"),
        (DEEP, "JSON cannot hold"),
    ],
    ids=range(10),
)
def test_a_configuration_that_json_cannot_hold_is_an_error(path, params, config, message):
    with pytest.raises(TypeError, match=message):
        save_weights(path, params, config)
    assert not list(path.parent.iterdir())


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(),
            ),
            lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(), v, max_size=3)),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_configurations_come_back(tmp_path, config):
    save_weights(tmp_path / "f.npz", {"a": ONE}, config)
    assert load_weights(tmp_path / "f.npz")[1] == config


# What is not loaded


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def rewrite(path, entries, drop=()):
    """The file with some entries replaced, added or dropped; raw bytes."""
    with zipfile.ZipFile(path) as archive:
        old = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (old | entries).items():
            if name not in drop:
                archive.writestr(f"{name}.npy", content)


def test_weights_of_another_model_are_one_error_that_lists_the_differences(path):
    save_weights(path, CRITIC.init(Stream(1)), {"model": "critic", "image": 8})
    other = models.critic(16, 1, (3, 4, 5), norm_from=0)
    with pytest.raises(ValueError) as caught:
        load_weights(path, other.init(Stream(1)))
    message = str(caught.value)
    assert message.startswith(f"{path}: weights of another model than `like`: missing: norm0.scale")
    assert "missing: norm0.scale float32[3], norm0.shift float32[3], norm2.scale" in message
    assert "conv3.weight float32[4, 4, 5, 1]; of another shape or dtype: " in message
    assert "conv2.weight float32[4, 4, 4, 1], expected float32[4, 4, 4, 5]" in message
    assert "unexpected" not in message and "{'model': 'critic', 'image': 8}" in message
    with pytest.raises(ValueError, match=r"unexpected: norm1.scale float32\[4\], norm1.shift") as c:
        load_weights(path, {k: v for k, v in CRITIC.init(Stream(1)).items() if k != "norm1"})
    assert "missing" not in str(c.value) and "another shape" not in str(c.value)


def test_at_most_six_of_each_difference_are_listed(path):
    save_weights(path, {f"a{i}": ONE for i in range(9)} | {f"c{i}": ONE for i in range(6)})
    like = {f"b{i}": ONE for i in range(8)} | {f"c{i}": ONE[:1] for i in range(6)}
    with pytest.raises(ValueError) as caught:
        load_weights(path, like)
    message = str(caught.value)
    assert "b5 float32[2] and 2 more; unexpected" in message and "b6" not in message
    assert "a5 float32[2] and 3 more; of another" in message and "a6" not in message
    assert "c5 float32[2], expected float32[1]." in message and message.count("more") == 2


def test_weights_of_another_dtype_are_an_error(path, params):
    save_weights(path, params)
    with pytest.raises(ValueError, match=r"float32\[4\], expected float64\[4\]"):
        load_weights(path, CRITIC.init(Stream(1), np.float64))


def test_a_shape_of_as_many_numbers_is_another_shape(path):
    save_weights(path, {"a": np.zeros((2, 3)), "b": np.zeros((3, 3))})
    with pytest.raises(ValueError, match=r"dtype: a float64\[2, 3\], expected float64\[3, 2\]\."):
        load_weights(path, {"a": np.zeros((3, 2)), "b": np.ones((3, 3))})


def test_a_missing_file_is_an_error(path):
    with pytest.raises(FileNotFoundError, match="critic.npz"):
        load_weights(path)


def test_a_wrong_device_is_an_error(path, params):
    save_weights(path, params)
    with pytest.raises(ValueError, match="device is 'tpu'"):
        load_weights(path, device="tpu")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "starts with the bytes of an empty file; expected an .npz"),
        (npy(ONE), "starts with the bytes 93 4e 55 4d; expected an .npz"),
        (b"weights", "starts with the bytes 77 65 69 67"),
        (pickle.dumps({"a": 1}), "starts with the bytes 80 04 95"),
    ],
)
def test_a_file_that_is_no_npz_is_an_error(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_weights(path)


def test_a_file_cut_short_anywhere_is_an_error(path, params):
    save_weights(path, params, CONFIG)
    content = path.read_bytes()
    for length in {*range(0, len(content), 97), *range(len(content) - 30, len(content))}:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="cut short or damaged|starts with the bytes"):
            load_weights(path)


@given(st.data())
def test_a_damaged_file_is_an_error_or_has_the_same_weights(tmp_path, data):
    path, params = tmp_path / "f.npz", {"a": ONE, "b": [np.arange(6.0).reshape(2, 3)]}
    save_weights(path, params, CONFIG)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        loaded, config = load_weights(path, params)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert same(loaded, params) and config == CONFIG


def test_an_npz_of_others_is_an_error(path):
    np.savez(path, **{f"array{i}": ONE for i in range(8)})
    with pytest.raises(ValueError) as caught:
        load_weights(path)
    assert "no weights of tinygan: without __tinygan__.npy and __config__.npy" in str(caught.value)
    assert "array5.npy and 2 more" in str(caught.value)


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("entry", ["conv0.weight", "extra", "__tinygan__", "__config__"])
def test_pickled_objects_are_refused_unread(path, params, entry):
    trap = path.parent / "trapped"
    out = io.BytesIO()
    np.save(out, np.array([Trap(trap)], object), allow_pickle=True)
    save_weights(path, params)
    rewrite(path, {entry: out.getvalue()})
    for like in (None, params):
        with pytest.raises(ValueError, match=rf"entry {entry}\.npy cannot be read.*allow_pickle"):
            load_weights(path, like)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap))).close()
    assert trap.exists()  # the trap works


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"__tinygan__": npy(np.array(2))}, "format 2, of a newer tinygan; this one reads up to 1"),
        ({"__tinygan__": npy(np.array(2)), "x": b"?"}, "format 2, of a newer tinygan"),
        ({"__tinygan__": npy(np.array(0))}, "__tinygan__ is 0; expected the format's version"),
        ({"__tinygan__": npy(np.array([1, 2]))}, "expected the format's version"),
        ({"__tinygan__": npy(np.array("1"))}, "expected the format's version"),
        ({"__config__": npy(np.array("{"))}, "its configuration is no JSON"),
        ({"__config__": npy(np.array("[1]"))}, "configuration is of type list; expected a dict"),
        ({"__config__": npy(np.array("[" * 100_000))}, "its configuration is no JSON"),
        ({"conv0.weight": npy(ONE * np.nan)}, r"NaN or infinity in conv0\.weight; expected finite"),
        ({"conv0.weight": npy(ONE * np.float32(-np.inf))}, "NaN or infinity in conv0"),
        ({"conv0.weight": npy(np.arange(3))}, r"conv0.weight is int64\[3\]; expected float32"),
        ({"conv0.weight": npy(ONE.astype(np.float16))}, r"float16\[2\]; expected float32"),
        ({"conv0.weight": npy(np.zeros(2, [("a", "f4")]))}, "expected float32"),
        ({"conv0.weight": npy(ONE)[:-1]}, "entry conv0.weight.npy cannot be read"),
        ({"conv0.weight": b""}, "entry conv0.weight.npy cannot be read"),
        (
            {"conv0.weight": npy(ONE).replace(b"(2,)", b"(9999999999,)").replace(b" " * 9, b"", 1)},
            "entry conv0.weight.npy cannot be read",
        ),
        ({"conv0": npy(ONE)}, "conv0 twice, or no array"),
    ],
    ids=range(17),
)
def test_a_file_with_something_wrong_in_it_is_an_error(path, params, entries, message):
    save_weights(path, params)
    rewrite(path, entries)
    for like in (None, params):
        with pytest.raises(ValueError, match=message) as caught:
            load_weights(path, like)
        assert str(caught.value).startswith(str(path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("entry", ["conv0.weight.npy", "__config__.npy", "notes.txt", "conv0/"])
def test_entries_twice_and_entries_that_are_no_arrays_are_errors(path, params, entry):
    save_weights(path, params)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, npy(np.array("null")))
    with pytest.raises(ValueError, match="twice, or no array"):
        load_weights(path)


# PyTorch's weights


ROWS = models.Net(
    "rows with batch norm",
    (6, 10, recorder.CHANNELS),
    {
        "conv": nn.Conv(recorder.CHANNELS, 4, (3, 5), (1, 2), (1, 2)),
        "flat": nn.Flatten(),
        "norm": nn.BatchNorm(120),
        "leaky": ops.leaky_relu,
        "linear": nn.Linear(120, 30),
        "norm2": nn.BatchNorm(30),
        "relu": ops.relu,
        "image": nn.Reshape((2, 5, 3)),
        "up": nn.ConvTranspose(3, 2, (2, 3), (2, 1), (0, 1)),
    },
)
SMALL = models.dcgan28(width=recorder.C / 256, latent=recorder.LATENT)
NETS = {
    "generator of 28×28": SMALL.generator,
    "discriminator of 28×28": SMALL.critic,
    "rows with batch norm": ROWS,
}
for kernel in (4, 5):
    NETS[f"generator, kernel {kernel}"] = models.generator(
        recorder.LATENT, recorder.UP, recorder.CHANNELS, kernel=kernel
    )
    NETS[f"discriminator, kernel {kernel}"] = models.critic(
        16, recorder.CHANNELS, recorder.DOWN, kernel=kernel
    )
CLOSE = {np.float32: 1e-5, np.float64: 1e-12}
each_model = pytest.mark.parametrize("name", recorder.MODELS)


@pytest.fixture(scope="module")
def recorded():
    with np.load(recorder.FILE) as file:
        return dict(file)


def state_of(recorded, name, dtype=np.float32):
    start = f"{name}/state/"
    return {
        key.removeprefix(start): a.astype(dtype) if a.dtype == np.float32 else a
        for key, a in recorded.items()
        if key.startswith(start)
    }


def ours(a):
    """An array of PyTorch's layout in ours: images with channels last."""
    return np.moveaxis(a, 1, -1) if a.ndim == 4 else a


def input_of(recorded, name, dtype):
    x = ours(recorded[f"{name}/input"].astype(dtype))
    return x.reshape(-1, *NETS[name].input)


def modes(recorded, name, statistics):
    """(mode, what the network is given): PyTorch's eval is with statistics."""
    found = [("eval", statistics), ("train", None)]
    return [(mode, s) for mode, s in found if f"{name}/{mode}/float32" in recorded]


def test_the_recording_is_of_these_models(recorded):
    assert str(recorded["torch"]).startswith("2.")
    assert (
        NETS.keys() == recorder.MODELS.keys() == {k.partition("/")[0] for k in recorded} - {"torch"}
    )
    assert recorder.FILE.stat().st_size < 300_000
    counts = [len(modes(recorded, name, None)) for name in recorder.MODELS]
    assert counts == [2, 2, 2, 2, 1, 1, 2]


@each_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_imported_networks_give_the_recorded_results(recorded, name, dtype):
    net = NETS[name]
    params, statistics = from_torch_dcgan(state_of(recorded, name, dtype), net)
    for mode, standing in modes(recorded, name, statistics):
        expected = ours(recorded[f"{name}/{mode}/{np.dtype(dtype)}"])
        y = net(params, input_of(recorded, name, dtype), standing)
        if name.startswith("discriminator, "):
            y = ops.sigmoid(y)  # the example's own ends with one
            expected = expected.reshape(-1, 1)
        assert y.dtype == dtype and y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=0, atol=CLOSE[dtype])


@each_model
def test_every_layer_gives_the_recorded_result_on_the_way(recorded, name):
    net = NETS[name]
    params, statistics = from_torch_dcgan(state_of(recorded, name, np.float64), net)
    x = input_of(recorded, name, np.float64)
    for mode, standing in modes(recorded, name, statistics):
        for i, layer in enumerate(list(params)[:-1]):
            names = list(net.layers)[: list(net.layers).index(layer) + 1]
            part = models.Net(layer, net.input, {key: net.layers[key] for key in names})
            y = part({key: params[key] for key in names if key in params}, x, standing)
            expected = recorded[f"{name}/{mode}/hidden{i}"]
            if expected.ndim == 3:
                got = np.moveaxis(y[0], -1, 0)
            elif name == "rows with batch norm":
                got = y[0].reshape((6, 5, 4) if i == 1 else (2, 5, 3)).transpose(2, 0, 1).ravel()
            else:
                got = y[0].reshape(4, 4, recorder.C).transpose(2, 0, 1).ravel()
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12, err_msg=layer)


@each_model
def test_imported_weights_are_the_networks_own_in_name_order_shape_and_dtype(recorded, name):
    for dtype in (np.float32, np.float64):
        state = state_of(recorded, name, dtype)
        params, statistics = from_torch_dcgan(state, NETS[name])
        like = NETS[name].init(Stream(0), dtype)
        for (a, x), (b, y) in zip(tree.paths(params), tree.paths(like), strict=True):
            assert (a, x.dtype, x.shape) == (b, y.dtype, y.shape) and x.flags.c_contiguous
        norms = [k for k, v in NETS[name].layers.items() if isinstance(v, nn.BatchNorm)]
        assert list(statistics or ()) == norms and (statistics is None) == (not norms)
        kept = tree.tree_map(np.copy, params)
        for a in state.values():
            a[...] = 7
        assert same(params, kept)


def test_an_import_can_be_saved_and_loaded(recorded, path):
    name = "generator, kernel 5"
    params, statistics = from_torch_dcgan(state_of(recorded, name), NETS[name])
    save_weights(path, {"params": params, "statistics": statistics})
    assert same(load_weights(path)[0], {"params": params, "statistics": statistics})


def renamed(state, f):
    return {f(key): a for key, a in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.replace("main.", "module.main."),
        lambda key: key.replace("main.", ""),
        lambda key: "layer" + "abcdefgh"[int(key.split(".")[1])] + "." + key.split(".")[2],
    ],
)
def test_what_stands_before_the_numbers_does_not_matter(recorded, change):
    name = "generator, kernel 4"
    state = state_of(recorded, name)
    assert same(
        from_torch_dcgan(renamed(state, change), NETS[name]), from_torch_dcgan(state, NETS[name])
    )


def test_the_modules_of_one_sequential_are_taken_by_number():
    net = models.MLP((3,) * 13)
    net = models.Net("chain", (3,), {f"l{i}": layer for i, layer in enumerate(net.layers)})
    params = net.init(Stream(0))
    state = {
        f"main.{2 * i}.{key}": a.T
        for i, layer in enumerate(params.values())
        for key, a in layer.items()
    }
    assert list(state) != sorted(state)
    for order in (state, dict(sorted(state.items()))):
        found, statistics = from_torch_dcgan(order, net)
        assert same(found, params) and statistics is None


def test_a_single_layer_without_a_prefix():
    net = models.Net("one", (2,), {"linear": nn.Linear(2, 3)})
    weight, bias = np.arange(6.0).reshape(3, 2), np.arange(3.0)
    params, _ = from_torch_dcgan({"weight": weight, "bias": bias}, net)
    assert same(params, {"linear": {"weight": np.ascontiguousarray(weight.T), "bias": bias}})
    with pytest.raises(ValueError, match="missing bias for layer linear; left over nothing"):
        from_torch_dcgan({"weight": weight}, net)


def test_a_shape_that_does_not_fit_names_the_key_and_the_layer(recorded):
    name = "generator, kernel 4"
    state = state_of(recorded, name)
    with pytest.raises(ValueError) as caught:
        from_torch_dcgan(state, NETS["generator, kernel 5"])
    assert str(caught.value).startswith(
        "from_torch_dcgan: main.3.weight has the shape (5, 4, 4, 4); layer conv1 of generator 7 to "
        "16×16, a ConvTranspose, expects (5, 4, 5, 5). Are the sizes"
    )
    wider = models.generator(recorder.LATENT, (6, 4), recorder.CHANNELS)
    with pytest.raises(ValueError, match=r"main.0.weight .*\(7, 5, 4, 4\);.*\(7, 6, 4, 4\)"):
        from_torch_dcgan(state, wider)
    state["main.1.running_var"] = state["main.1.running_var"][:-1]
    with pytest.raises(
        ValueError, match=r"main.1.running_var has the shape \(4,\).*expects \(5,\)"
    ):
        from_torch_dcgan(state, NETS[name])


def test_a_norm_that_one_side_lacks_is_an_error(recorded):
    state = state_of(recorded, "discriminator, kernel 4")
    other = models.critic(16, recorder.CHANNELS, recorder.DOWN, norm_from=0)
    with pytest.raises(ValueError, match=r"main.2.weight .*layer norm0 .*a BatchNorm, .*\(4,\)"):
        from_torch_dcgan(state, other)


def test_missing_and_leftover_keys_are_one_error(recorded):
    name = "generator, kernel 4"
    net, state = NETS[name], state_of(recorded, name)
    state |= {"main.8.weight": ONE, "main.8.bias": ONE, "main.6.bias": ONE}
    del state["main.1.running_mean"], state["main.4.bias"]
    with pytest.raises(ValueError) as caught:
        from_torch_dcgan(state, net)
    assert str(caught.value).startswith(
        "from_torch_dcgan: the keys are not those of generator 7 to 16×16: missing "
        "main.1.running_mean for layer norm0, main.4.bias for layer norm1; left over "
        "main.6.bias, main.8.weight, main.8.bias. Expected"
    )


def test_missing_layers_are_named_and_a_long_list_is_cut(recorded):
    name = "generator, kernel 4"
    state = {
        k: a for k, a in state_of(recorded, name).items() if k.startswith(("main.0", "main.1"))
    }
    with pytest.raises(ValueError, match=r"missing weight for layer conv1, .*left over nothing"):
        from_torch_dcgan(state, NETS[name])
    with pytest.raises(ValueError, match="missing weight for layer conv0, .* and 5 more; left"):
        from_torch_dcgan({}, NETS[name])
    with pytest.raises(ValueError, match=r"missing nothing; left over main.2.weight. Expected"):
        from_torch_dcgan(state | {"main.2.weight": ONE}, models.Net("", (7,), first(NETS[name], 3)))


def first(net, n):
    return dict(list(net.layers.items())[:n])


def test_batch_norm_without_its_count_is_imported_too(recorded):
    name = "generator, kernel 4"
    state = state_of(recorded, name)
    without = {k: a for k, a in state.items() if "num_batches" not in k}
    assert len(without) == len(state) - 2
    assert same(from_torch_dcgan(without, NETS[name]), from_torch_dcgan(state, NETS[name]))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.astype(np.float16), r"arrays of float16 \(main.0.weight\).*module.float\(\)"),
        (lambda a: a.astype(">f8"), r"arrays of >f8 .*expected all float32 or all float64"),
        (lambda a: a.astype(np.int64), "arrays of int64"),
        (lambda a: a.astype(np.float64) if a.ndim > 1 else a, r"float64 \(main.0.weight\) and flo"),
        (lambda a: a.tolist(), r"main.0.weight is a list; expected NumPy arrays: .*cpu\(\).numpy"),
    ],
)
def test_other_values_than_arrays_of_one_float_are_refused(recorded, change, message):
    name = "generator, kernel 4"
    state = {k: change(a) if a.ndim else a for k, a in state_of(recorded, name).items()}
    with pytest.raises(TypeError, match=message):
        from_torch_dcgan(state, NETS[name])


def test_networks_of_other_layers_are_refused(recorded):
    with pytest.raises(TypeError, match="net is a MLP; expected a Net"):
        from_torch_dcgan({}, models.MLP((2, 3)))
    for layer in (nn.LayerNorm(2), nn.Maxout(2, 2)):
        net = models.Net("odd", (2,), {"linear": nn.Linear(2, 2), "strange": layer})
        with pytest.raises(ValueError, match=f"strange of odd is a {type(layer).__name__}; expect"):
            from_torch_dcgan({}, net)


LINEAR = {"0.weight": np.ones((12, 12), np.float32), "0.bias": np.ones(12, np.float32)}


@pytest.mark.parametrize(
    "input, layers, wrong",
    [
        ((12,), {"a": nn.Reshape((2, 2, 3))}, "a"),
        ((12,), {"a": ops.relu, "b": nn.Reshape((2, 2, 3))}, "a"),
        ((2, 2, 3), {"a": nn.Flatten()}, "a"),
        ((2, 2, 3), {"a": nn.Reshape((12,)), "b": ops.relu}, "b"),
        ((2, 2, 3), {"a": nn.Reshape((2, 3, 2))}, "a"),
        ((2, 2, 3), {"a": nn.Flatten(), "b": nn.Reshape((1, 4, 3))}, "b"),
        ((2, 2, 3), {"a": nn.Reshape((4, 3)), "b": nn.Flatten()}, "b"),
        ((12,), {"a": nn.Linear(12, 12), "b": nn.Reshape((4, 3))}, "b"),
    ],
)
def test_orders_that_no_weights_can_absorb_are_refused(input, layers, wrong):
    net = models.Net("order", input, layers)
    state = LINEAR if "Linear" in str(layers) else {}
    with pytest.raises(
        ValueError, match=f"at layer {wrong} of order PyTorch has an image's values"
    ):
        from_torch_dcgan(state, net)


@pytest.mark.parametrize(
    "input, layers",
    [
        ((12,), {"a": nn.Linear(12, 12), "b": nn.Reshape((1, 1, 12)), "c": nn.Flatten()}),
        ((3, 4, 1), {"a": nn.Flatten(), "b": nn.Linear(12, 12), "c": nn.Reshape((4, 3, 1))}),
        ((12,), {"a": nn.Reshape((12,)), "b": nn.Linear(12, 12)}),
    ],
)
def test_images_of_one_channel_or_one_pixel_have_one_order(input, layers):
    state = {"0.weight": np.arange(144.0).reshape(12, 12), "0.bias": np.arange(12.0)}
    params, _ = from_torch_dcgan(state, models.Net("order", input, layers))
    (layer,) = params.values()
    assert np.array_equal(layer["weight"], state["0.weight"].T)
    assert np.array_equal(layer["bias"], state["0.bias"])


def test_a_linear_from_image_to_image_is_permuted_on_both_sides():
    net = models.Net(
        "both",
        (2, 3, 2),
        {"flat": nn.Flatten(), "linear": nn.Linear(12, 20), "image": nn.Reshape((5, 2, 2))},
    )
    weight, bias = np.random.default_rng(0).normal(size=(20, 12)), np.arange(20.0)
    params, _ = from_torch_dcgan({"1.weight": weight, "1.bias": bias}, net)
    x = np.random.default_rng(1).normal(size=(4, 2, 3, 2))
    there = x.transpose(0, 3, 1, 2).reshape(4, 12) @ weight.T + bias
    expected = there.reshape(4, 2, 5, 2).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(net(params, x), expected, rtol=1e-13, atol=1e-13)


def test_the_version_of_the_format_is_the_one_that_is_read():
    assert module.FORMAT == 1


def test_a_compressed_file_is_refused_before_it_unfolds(tmp_path):
    """A small file may claim any size once it is compressed; save_weights never compresses."""
    file = tmp_path / "weights.npz"
    save_weights(file, {"a": np.zeros(1000, np.float32)})
    with np.load(file) as entries:
        np.savez_compressed(file, **dict(entries))
    with pytest.raises(ValueError, match="it is compressed, which save_weights never does"):
        load_weights(file)

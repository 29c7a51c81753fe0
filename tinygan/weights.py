"""Weights in files: saved whole or not at all, checked when loaded.

A file is an ``.npz``, a zip of NumPy arrays that ``np.load`` reads too. It holds one entry for each
leaf under its dotted path (``conv0.weight``), and two more: ``__tinygan__``, the version of this
format, and ``__config__``, a JSON string. Nothing in it is ever unpickled. The same weights and
configuration give the same bytes.
"""

import contextlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from tinygan import tree as trees
from tinygan.backend import check_device, to_device, to_host
from tinygan.engine import Tensor

FORMAT = 1
"""The version of the format that :func:`save_weights` writes; older ones are read."""

_FORMAT, _CONFIG = "__tinygan__", "__config__"
_FLOATS = (np.float32, np.float64)
_LISTED = 6  # names of each kind in an error


# Saving


def save_weights(path, params, config=None):
    """Write a tree of arrays to a file, so that ``path`` holds the old file or the new, never part.

    The file is written beside ``path`` under its name with ``.part`` added, brought to the disk,
    and renamed; when that fails or is interrupted, the part is removed. ``path`` is taken as it
    is: no ``.npz`` is added to it.

    Args:
        params: parameters, standing statistics, or a dict that holds several such trees;
            arrays of NumPy or CuPy, float32 or float64.
        config: a dict that JSON can hold, to say what made the weights: the model's factory, its
            arguments, the step, the seed. A tuple in it comes back as a list.
    Raises: TypeError for Tensors, for other leaves that are no arrays of floats, and for a
        configuration that JSON cannot hold; ValueError for two leaves of one name, and for NaN or
        infinity, which :func:`load_weights` would refuse; FileNotFoundError without the folder. All
        of these come before anything is written.
    """
    path = Path(path)
    arrays = _named(params)
    text = _config_text(config)
    if path.is_dir():
        raise IsADirectoryError(f"save_weights: {path} is a folder; expected the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"save_weights: {path.parent} is no folder; expected one that exists. Make it first"
        )
    entries = {_FORMAT: np.array(FORMAT), _CONFIG: np.array(text), **arrays}
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            _write(file, entries)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # an interruption too
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _write(file, entries):
    # Not np.savez: it takes names as keywords, so that no array could be called "file".
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in entries.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _named(params):
    """{path: array on the host, in C order} for every leaf; errors for what a file cannot hold."""
    places = trees.paths(params)
    for name, leaf in places:
        if type(leaf) is Tensor:
            raise TypeError(
                f"save_weights: {_name(name)} is a Tensor; expected arrays. Save "
                "tinygan.values(params)"
            )
    arrays = [(name, to_host(leaf)) for name, leaf in places]
    for name, array in arrays:
        if not isinstance(array, np.ndarray):
            kind = f"{type(array).__module__}.{type(array).__qualname__}"
            raise TypeError(
                f"save_weights: {_name(name)} is of type {kind.removeprefix('builtins.')}; "
                "expected arrays of NumPy or CuPy"
            )
        if array.dtype not in _FLOATS:
            raise TypeError(
                f"save_weights: {_name(name)} is {_form(array)}; expected float32 or float64, as "
                "weights are. Put other values into config"
            )
        if not name.isprintable() or "\\" in name:
            raise ValueError(
                f"save_weights: {name!r} is no name for an entry of a file; expected printable "
                "characters without backslashes"
            )
    clashes = _clashes([name for name, _ in arrays])
    if clashes:
        raise ValueError(
            f"save_weights: {_some(clashes)} would be the name of two entries; expected names that "
            f"differ, also as strings and without dots, and are neither {_FORMAT} nor {_CONFIG}"
        )
    infinite = [_name(name) for name, array in arrays if not np.isfinite(array).all()]
    if infinite:
        raise ValueError(
            f"save_weights: NaN or infinity in {_some(infinite)}; expected finite weights. Save "
            "those of an earlier step"
        )
    return {name: np.asarray(array, order="C") for name, array in arrays}


def _clashes(names):
    """The names that two leaves share, or a leaf and a branch, or a leaf and the file's own."""
    branches = {name[:i] for name in names for i, c in enumerate(name) if c == "."}
    found, seen = [], branches | {_FORMAT, _CONFIG}
    for name in names:
        if name in seen:
            found.append(name)
        seen.add(name)
    return found


def _config_text(config):
    """``config`` as JSON."""
    if config is not None and not isinstance(config, dict):
        raise TypeError(
            f"save_weights: config is of type {type(config).__name__}; expected a dict, or None"
        )
    try:
        _check_keys(config)
        return json.dumps(config, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"save_weights: JSON cannot hold this config: {error}. Expected dicts with strings for "
            "keys, lists, strings, finite numbers, booleans and None"
        ) from error


def _check_keys(config):
    # json.dumps makes strings of other keys without a word: {1: a, "1": b} would lose one.
    if isinstance(config, dict):
        for key in config:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
        config = config.values()
    elif not isinstance(config, (list, tuple)):
        return
    for value in config:
        _check_keys(value)


# Loading


def load_weights(path, like=None, device="cpu"):
    """(params, config) of a file that :func:`save_weights` wrote.

    Args:
        like: a tree of arrays such as ``model.init(stream)`` gives. Names, shapes and dtypes must
            be those of its leaves, and the result has its branches, tuples among them. Without it
            the tree is made from the names: dicts, and lists where the keys are 0, 1, …, n − 1; a
            dot in a key then separates two keys, and branches without leaves are gone.
        device: where the arrays are put, "cpu" or "gpu".
    Raises: ValueError that lists what is missing, unexpected and of another shape or dtype, for
        weights of another model; and for a file that is no .npz, cut short, damaged, not of
        tinygan, of a newer format, or with NaN or infinity. Pickled objects are refused unread.
    """
    check_device(device)
    arrays, config = _read(Path(path))
    if like is not None:
        _check_model(path, arrays, config, like)
        tree = trees.rebuild(like, [arrays[name] for name, _ in trees.paths(like)])
    else:
        tree = _nested(arrays)
    return trees.tree_map(lambda array: to_device(array, device), tree), config


def _read(path):
    """The arrays of a file by their names, and its configuration."""
    with open(path, "rb") as file, _archive(path, file) as archive:
        entries = archive.namelist()
        foreign = [entry for entry in (f"{_FORMAT}.npy", f"{_CONFIG}.npy") if entry not in entries]
        if foreign:
            raise ValueError(
                f"{path}: no weights of tinygan: without {' and '.join(foreign)}, with "
                f"{_some(entries)}. Expected what save_weights wrote; np.load reads other files"
            )
        _check_format(path, _array(path, archive, f"{_FORMAT}.npy"))
        config = _config(path, _array(path, archive, f"{_CONFIG}.npy"))
        names = [entry.removesuffix(".npy") for entry in entries]
        names = [name for name in names if name not in (_FORMAT, _CONFIG)]
        odd = _clashes(names) + [entry for entry in entries if not entry.endswith(".npy")]
        if odd or len(names) + 2 != len(entries):
            raise ValueError(
                f"{path}: {_some(odd or entries)} twice, or no array; expected each leaf of a tree "
                "once, as save_weights writes it"
            )
        arrays = {name: _array(path, archive, f"{name}.npy") for name in names}
    for name, array in arrays.items():
        if array.dtype.newbyteorder("=") not in _FLOATS:
            raise ValueError(
                f"{path}: {_name(name)} is {_form(array)}; expected float32 or float64, as "
                "save_weights writes"
            )
    infinite = [_name(name) for name, array in arrays.items() if not np.isfinite(array).all()]
    if infinite:
        raise ValueError(
            f"{path}: NaN or infinity in {_some(infinite)}; expected finite weights, as "
            "save_weights writes. Take those of an earlier step"
        )
    native = {n: a.astype(a.dtype.newbyteorder("="), copy=False) for n, a in arrays.items()}
    return native, config


def _archive(path, file):
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # of many kinds for damaged files
        file.seek(0)
        start = file.read(4)
        if start == b"PK\x03\x04":
            raise ValueError(
                f"{path}: cut short or damaged ({error}); expected the whole of what save_weights "
                "wrote. Copy it again"
            ) from error
        raise ValueError(
            f"{path}: starts with the bytes {start.hex(' ') or 'of an empty file'}; expected an "
            ".npz of save_weights, 50 4b 03 04"
        ) from error


def _array(path, archive, entry):
    try:
        if archive.getinfo(entry).compress_type != zipfile.ZIP_STORED:  # no size to believe in
            raise ValueError("it is compressed, which save_weights never does")
        content = archive.read(entry)  # all of it, so that its checksum is compared
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # of many kinds for damaged files
        raise ValueError(
            f"{path}: entry {entry} cannot be read ({error}); expected the whole of what "
            "save_weights wrote. Copy it again"
        ) from error


def _check_format(path, version):
    if version.shape != () or version.dtype.kind != "i" or version < 1:
        raise ValueError(f"{path}: {_FORMAT} is {version}; expected the format's version, 1 or up")
    if version > FORMAT:
        raise ValueError(
            f"{path}: format {version}, of a newer tinygan; this one reads up to {FORMAT}. "
            "Install a newer one, or save the weights again with this one"
        )


def _config(path, text):
    try:
        config = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its configuration is no JSON: {error}") from error
    if config is not None and not isinstance(config, dict):
        raise ValueError(
            f"{path}: its configuration is of type {type(config).__name__}; expected a dict or null"
        )
    return config


def _check_model(path, arrays, config, like):
    """An error for everything in which a file's arrays differ from the leaves of ``like``."""
    wanted = dict(trees.paths(like))
    problems = {
        "missing": [f"{_name(n)} {_form(a)}" for n, a in wanted.items() if n not in arrays],
        "unexpected": [f"{_name(n)} {_form(a)}" for n, a in arrays.items() if n not in wanted],
        "of another shape or dtype": [
            f"{_name(n)} {_form(arrays[n])}, expected {_form(a)}"
            for n, a in wanted.items()
            if n in arrays and _form(arrays[n]) != _form(a)
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        made = f" The file's configuration is {str(config)[:300]}" if config else ""
        raise ValueError(f"{path}: weights of another model than `like`: {said}.{made}")


def _nested(arrays):
    """The tree whose paths are the names of ``arrays``."""
    if list(arrays) == [""]:
        return arrays[""]
    tree = {}
    for name, array in arrays.items():
        *branches, last = name.split(".")
        level = tree
        for key in branches:
            level = level.setdefault(key, {})
        level[last] = array
    return _with_lists(tree)


def _with_lists(tree):
    if not isinstance(tree, dict):
        return tree
    tree = {key: _with_lists(branch) for key, branch in tree.items()}
    numbers = [str(i) for i in range(len(tree))]
    return [tree[i] for i in numbers] if tree and tree.keys() == set(numbers) else tree


def _name(name):
    return name or "the only leaf"


def _form(array):
    """float32[4, 2]"""
    return f"{array.dtype}{list(array.shape)}"


def _some(names):
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "nothing") + more

"""Weights in files: saved whole or not at all, checked when loaded; and weights made by PyTorch.

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
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.backend import check_device, to_device, to_host
from tinygan.engine import Tensor
from tinygan.models import Net
from tinygan.nn import BatchNorm, Conv, ConvTranspose, Flatten, Linear, Reshape

FORMAT = 1
"""The version of the format that :func:`save_weights` writes; older ones are read."""

_FORMAT, _CONFIG = "__tinygan__", "__config__"
_FLOATS = (np.float32, np.float64)
_COUNT = "num_batches_tracked"  # of PyTorch's batch norm; an integer, and of no use here
_LISTED = 6  # names of each kind in an error


# --- Saving --------------------------------------------------------------------------------


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


# --- Loading -------------------------------------------------------------------------------


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


# --- PyTorch -------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """What one array of a PyTorch module is here."""

    shape: tuple  # there
    place: str  # "params" or "statistics"
    name: str  # in that tree's dict of the layer
    convert: Callable  # from its layout there to ours


def from_torch_dcgan(state, net):
    """(params, statistics) of a network from a PyTorch model with the same layers.

    The modules of ``state`` are taken in their order (those of one ``Sequential`` by number) for
    the layers of ``net`` that have parameters; what stands before a module's number or name, as in
    ``main.0.weight`` or ``module.main.0.weight``, does not matter. Layouts differ:

        Conv           weight (outputs, inputs, kh, kw) → (kh, kw, inputs, outputs)
        ConvTranspose  weight (inputs, outputs, kh, kw) → (kh, kw, outputs, inputs)
        Linear         weight (outputs, inputs)         → (inputs, outputs)
        BatchNorm      weight, bias → scale, shift; running_mean, running_var → mean, variance

    PyTorch flattens an image in the order C·H·W, and tinygan in the order H·W·C: a Linear's rows
    are permuted after a Flatten, its columns and bias before a Reshape to an image, and likewise a
    BatchNorm of such rows. Strides, paddings, eps and activations are not in a state dict: those
    of ``net`` must be the PyTorch model's.

    Args:
        state: arrays by key, ``{k: v.numpy() for k, v in module.state_dict().items()}``.
        net: a :class:`tinygan.models.Net` of the layers above, and of functions of single values.
    Returns: copies, of the dtype that ``state`` has: params for ``net(params, x)``, which does what
        PyTorch does in training; statistics for ``net(params, x, statistics)``, which does what it
        does after ``eval()``, or None for a network without batch norm.
    Raises: TypeError for values that are no arrays of float32 or float64, all of one; ValueError
        that names the key, its shape, the layer and what it expects, for a shape that does not fit;
        one that lists missing and leftover keys; and for a network of other layers.
    Source: PyTorch's DCGAN example, for the layout.
    """
    if not isinstance(net, Net):
        raise TypeError(f"from_torch_dcgan: net is a {type(net).__name__}; expected a Net")
    _check_state(state)
    expected = _expected(net)
    matched = _match(net, state, expected)
    found = {"params": {name: {} for name in expected}, "statistics": {}}
    for layer, key, entry in matched:
        converted = np.array(entry.convert(state[key]), order="C")
        found[entry.place].setdefault(layer, {})[entry.name] = converted
    return found["params"], found["statistics"] or None


def _check_state(state):
    floats = {}
    for key, array in state.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"from_torch_dcgan: {key} is a {type(array).__name__}; expected NumPy arrays: "
                "{k: v.cpu().numpy() for k, v in module.state_dict().items()}"
            )
        if not key.endswith(_COUNT):
            floats.setdefault(array.dtype, key)
    if len(floats) > 1 or not all(dtype in _FLOATS for dtype in floats):
        given = " and ".join(f"{dtype} ({key})" for dtype, key in floats.items())
        raise TypeError(
            f"from_torch_dcgan: arrays of {given}; expected all float32 or all float64. "
            "module.float() makes all of them float32, from half precision too"
        )


def _modules(state):
    """{module: {field: key}}: "main.0.weight" is the field weight of the module main.0."""
    found = {}
    for key in state:
        module, _, field = key.rpartition(".")
        found.setdefault(module, {})[field] = key
    parts = [module.rpartition(".") for module in found]
    if len({before for before, _, _ in parts}) == 1 and all(n.isdecimal() for _, _, n in parts):
        return dict(sorted(found.items(), key=lambda item: int(item[0].rpartition(".")[2])))
    return found


def _match(net, state, expected):
    """[(layer, key, entry)]: every array that a layer expects, and the key that holds it."""
    matched, missing, leftover = [], [], []
    pairs = zip_longest(expected.items(), _modules(state).items(), fillvalue=("", {}))
    for (layer, entries), (module, keys) in pairs:
        for field, entry in entries.items():
            if field not in keys:
                missing.append(f"{module and module + '.'}{field} for layer {layer}")
            elif state[keys[field]].shape != entry.shape:
                raise ValueError(
                    f"from_torch_dcgan: {keys[field]} has the shape {state[keys[field]].shape}; "
                    f"layer {layer} of {net.title}, {_kind(net.layers[layer])}, expects "
                    f"{entry.shape}. Are the sizes and the order of the layers the same?"
                )
            else:
                matched.append((layer, keys[field], entry))
        leftover += [key for field, key in keys.items() if field not in entries]
    leftover = [key for key in leftover if not key.endswith(_COUNT)]
    if missing or leftover:
        raise ValueError(
            f"from_torch_dcgan: the keys are not those of {net.title}: missing {_some(missing)}; "
            f"left over {_some(leftover)}. Expected the same layers, in the same order"
        )
    return matched


def _expected(net):
    """{layer: {field: entry}} for the layers that have parameters, in their order."""
    images = _images(net)
    return {
        name: _entries(net, name, layer, images[i], images[i + 1])
        for i, (name, layer) in enumerate(net.layers.items())
        if hasattr(layer, "init")
    }


def _entries(net, name, layer, before, after):
    """{field: entry} of one layer, between rows that hold the images ``before`` and ``after``."""

    def row(size, name, place="params"):
        return _Entry((size,), place, name, lambda a: _channels_last(a, 0, after))

    def weight(shape, convert):
        return _Entry(shape, "params", "weight", convert)

    if isinstance(layer, (Conv, ConvTranspose)):
        channels = (layer.outputs, layer.inputs)
        channels = channels[::-1] if isinstance(layer, ConvTranspose) else channels
        kernel = layer.kernel if isinstance(layer.kernel, tuple) else (layer.kernel,) * 2
        entries = {"weight": weight((*channels, *kernel), lambda a: a.transpose(2, 3, 1, 0))}
        return entries | ({"bias": row(layer.outputs, "bias")} if layer.bias else {})
    if isinstance(layer, Linear):
        return {
            "weight": weight(
                (layer.outputs, layer.inputs),
                lambda a: _channels_last(_channels_last(a.T, 0, before), 1, after),
            ),
            "bias": row(layer.outputs, "bias"),
        }
    if isinstance(layer, BatchNorm):
        return {
            "weight": row(layer.channels, "scale"),
            "bias": row(layer.channels, "shift"),
            "running_mean": row(layer.channels, "mean", "statistics"),
            "running_var": row(layer.channels, "variance", "statistics"),
        }
    raise ValueError(
        f"from_torch_dcgan: layer {name} of {net.title} is {_kind(layer)}; expected Conv, "
        "ConvTranspose, Linear and BatchNorm where there are parameters"
    )


def _channels_last(a, axis, image):
    """``a`` with the places along an axis moved from an image's order C·H·W to H·W·C."""
    if image is None:
        return a
    height, width, channels = image
    there = np.arange(a.shape[axis]).reshape(channels, height, width)
    return a.take(there.transpose(1, 2, 0).ravel(), axis)


def _images(net):
    """Before each layer and after the last: the image whose values a row holds, or None.

    Rows hold an image from a Flatten to the next Linear, and from a Linear to the Reshape after it.
    """
    layers, shapes = list(net.layers.items()), [net.input, *net.shapes().values()]
    steps = list(zip(layers, shapes[:-1], shapes[1:], strict=True))
    found = [None] * len(shapes)
    for i, ((_, layer), before, after) in enumerate(steps):
        if (len(before), len(after)) == (3, 1):
            found[i + 1] = before
        elif before == after and not isinstance(layer, Linear):
            found[i + 1] = found[i]
    for i, ((name, layer), before, after) in reversed(list(enumerate(steps))):
        if (len(before), len(after)) == (1, 3):
            if found[i] not in (None, after):
                raise _reordered(net, name)
            found[i] = after
        elif before == after and not isinstance(layer, Linear):
            found[i] = found[i] or found[i + 1]
        elif isinstance(layer, (Flatten, Reshape)) and (len(before), len(after)) != (3, 1):
            raise _reordered(net, name)
    for image, (name, _) in ((found[0], layers[0]), (found[-1], layers[-1])):
        if image is not None and image[0] * image[1] > 1 and image[2] > 1:
            raise _reordered(net, name)
    return found


def _reordered(net, name):
    return ValueError(
        f"from_torch_dcgan: at layer {name} of {net.title} PyTorch has an image's values in "
        "another order (C·H·W); expected a Linear between, whose weights can be permuted"
    )


def _kind(layer):
    return f"a {getattr(layer, '__name__', type(layer).__name__)}"

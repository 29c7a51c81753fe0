"""Networks made by PyTorch: the weights of its DCGAN example, and of models with such layers."""

from collections.abc import Callable
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from tinygan.models import Net
from tinygan.nn import BatchNorm, Conv, ConvTranspose, Flatten, Linear, Reshape

_FLOATS = (np.float32, np.float64)
_COUNT = "num_batches_tracked"  # of PyTorch's batch norm; an integer, and of no use here


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


def _some(names, at_most=6):
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return (", ".join(names[:at_most]) or "nothing") + more

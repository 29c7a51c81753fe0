"""tinygan: GANs from scratch on NumPy or CuPy, with every gradient in plain sight."""

from importlib import import_module

try:
    import tinygan.kernels  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "tinygan.kernels":
        raise
    raise ModuleNotFoundError(
        "tinygan.kernels is not there: this tinygan is a clone that is not installed, where the "
        "kernels lie beside the package. Run pip install -e . in the clone."
    ) from error

from tinygan import (
    conv,
    data,
    kernels,
    losses,
    metrics,
    models,
    nn,
    ops,
    optim,
    penalties,
    study,
    train,
)
from tinygan.backend import Stream, to_device, to_host
from tinygan.check import check_gradients
from tinygan.engine import (
    Tensor,
    grad,
    grad_values,
    hvp,
    jvp,
    observe,
    primitive,
    stop_gradient,
    tape,
    track,
    values,
    vjp,
)
from tinygan.kernels import emulated, precision
from tinygan.parallel import threads
from tinygan.torch_import import from_torch_dcgan
from tinygan.tree import tree_map
from tinygan.weights import load_weights, save_weights

__version__ = "0.1.0"
__all__ = [
    "Stream",
    "Tensor",
    "check_gradients",
    "compile",
    "conv",
    "data",
    "emulated",
    "from_torch_dcgan",
    "grad",
    "grad_values",
    "hvp",
    "jvp",
    "kernels",
    "load_weights",
    "losses",
    "metrics",
    "models",
    "nn",
    "observe",
    "ops",
    "optim",
    "penalties",
    "precision",
    "primitive",
    "replay",
    "save_weights",
    "stop_gradient",
    "study",
    "tape",
    "threads",
    "to_device",
    "to_host",
    "trace",
    "track",
    "train",
    "tree_map",
    "values",
    "vjp",
]


def __getattr__(name):
    """``compile``, ``trace`` and ``replay``: a third of the time of an import, so not unasked."""
    if name not in ("compile", "replay", "trace"):
        raise AttributeError(f"module 'tinygan' has no attribute {name!r}")
    replay = import_module("tinygan.replay")
    return replay if name == "replay" else getattr(replay, name)

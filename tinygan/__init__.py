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
    kernels,
    losses,
    models,
    nn,
    ops,
    optim,
    penalties,
)
from tinygan.backend import Stream, to_device, to_host
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
from tinygan.tree import tree_map

__version__ = "0.1.0"
__all__ = [
    "Stream",
    "Tensor",
    "algorithms",
    "check_gradients",
    "compile",
    "conv",
    "data",
    "ema",
    "emulated",
    "from_torch_dcgan",
    "game",
    "grad",
    "grad_values",
    "hvp",
    "image_scores",
    "jvp",
    "kernels",
    "load_weights",
    "loop",
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
    "spectral",
    "stop_gradient",
    "study",
    "systems",
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


# What not every program uses is imported when it is first asked for: an import stays short.
_MODULES = {
    "algorithms", "data", "ema", "game", "image_scores", "loop", "metrics", "replay", "spectral",
    "study", "systems", "train",
}  # fmt: skip
_FUNCTIONS = {
    "check_gradients": "check",
    "compile": "replay",
    "from_torch_dcgan": "torch_import",
    "load_weights": "weights",
    "save_weights": "weights",
    "trace": "replay",
}


def __getattr__(name):
    if name in _MODULES:
        return import_module(f"tinygan.{name}")
    if name in _FUNCTIONS:
        return getattr(import_module(f"tinygan.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'tinygan' has no attribute {name!r}")

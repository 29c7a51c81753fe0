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
    ema,
    game,
    kernels,
    loop,
    losses,
    metrics,
    models,
    nn,
    ops,
    optim,
    penalties,
    spectral,
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


def __getattr__(name):
    """What not every program uses is imported when it is first asked for: an import stays short."""
    if name in ("algorithms", "image_scores", "replay", "systems"):
        return import_module(f"tinygan.{name}")
    if name in ("compile", "trace"):
        return getattr(import_module("tinygan.replay"), name)
    raise AttributeError(f"module 'tinygan' has no attribute {name!r}")

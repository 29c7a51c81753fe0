"""Hand-written CUDA kernels, the emulator that runs them on a CPU, and the one way to launch them.

This package imports nothing else of tinygan, and compiles nothing before a
kernel is called.
"""

from .conv import conv2d, conv2d_transpose, conv2d_weight_grad, fits
from .gemm import matmul, packed, take
from .launch import (
    Instance,
    Kernel,
    architecture,
    bank_report,
    check_precision,
    current_precision,
    emulated,
    multiprocessors,
    pointer,
    precision,
    serves,
)

__all__ = [
    "Instance",
    "Kernel",
    "architecture",
    "bank_report",
    "check_precision",
    "conv2d",
    "conv2d_transpose",
    "conv2d_weight_grad",
    "current_precision",
    "emulated",
    "fits",
    "matmul",
    "multiprocessors",
    "packed",
    "pointer",
    "precision",
    "serves",
    "take",
]

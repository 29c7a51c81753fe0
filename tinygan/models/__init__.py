"""Models: small objects that hold sizes and choices, called with their parameters."""

from tinygan.models.dcgan import critic, dcgan28, dcgan32, dcgan64, generator
from tinygan.models.mlp import (
    MLP,
    Pair,
    mlp_pair,
    unrolled_ring,
    wgan_gp_toy,
    zero_gp_mnist,
    zero_gp_toy,
    zero_gp_value_surface,
)
from tinygan.models.net import Net, count_parameters, standing_statistics

__all__ = [
    "MLP",
    "Net",
    "Pair",
    "count_parameters",
    "critic",
    "dcgan28",
    "dcgan32",
    "dcgan64",
    "generator",
    "mlp_pair",
    "standing_statistics",
    "unrolled_ring",
    "wgan_gp_toy",
    "zero_gp_mnist",
    "zero_gp_toy",
    "zero_gp_value_surface",
]

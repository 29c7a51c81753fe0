"""Models: small objects that hold sizes and choices, called with their parameters."""

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

__all__ = [
    "MLP",
    "Pair",
    "mlp_pair",
    "unrolled_ring",
    "wgan_gp_toy",
    "zero_gp_mnist",
    "zero_gp_toy",
    "zero_gp_value_surface",
]

"""Models: small objects that hold sizes and choices, called with their parameters."""

from tinygan.models.ac_gan import ac_gan
from tinygan.models.autoencoder import AutoEncoder, conv_autoencoder, encoder, mlp_autoencoder
from tinygan.models.dcgan import critic, dcgan28, dcgan32, dcgan64, generator
from tinygan.models.epsilon_optimal import SoftmaxMLP, epsilon_optimal, sufficient_k
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
from tinygan.models.perceptron import image_perceptron, perceptron, row_perceptron
from tinygan.models.points import (
    DiracCritic,
    DiracGenerator,
    Given,
    LinearCritic,
    LinearGenerator,
)

__all__ = [
    "MLP",
    "AutoEncoder",
    "DiracCritic",
    "DiracGenerator",
    "Given",
    "LinearCritic",
    "LinearGenerator",
    "Net",
    "Pair",
    "SoftmaxMLP",
    "ac_gan",
    "conv_autoencoder",
    "count_parameters",
    "critic",
    "dcgan28",
    "dcgan32",
    "dcgan64",
    "encoder",
    "epsilon_optimal",
    "generator",
    "image_perceptron",
    "mlp_autoencoder",
    "mlp_pair",
    "perceptron",
    "row_perceptron",
    "standing_statistics",
    "sufficient_k",
    "unrolled_ring",
    "wgan_gp_toy",
    "zero_gp_mnist",
    "zero_gp_toy",
    "zero_gp_value_surface",
]

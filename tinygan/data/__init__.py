"""What a GAN is trained on: toy distributions in the plane, and images."""

from tinygan.data.images import MNIST_NORMALISED, SIGNED, UNIT, Images, Scaling, Shuffled
from tinygan.data.readers import (
    cifar10,
    digits,
    image_folder,
    mnist,
    open_images,
    read_array,
    read_idx,
)
from tinygan.data.stacked import StackedDigits
from tinygan.data.toy import (
    Gaussian,
    Mixture,
    SwissRoll,
    eight_gaussians,
    grid,
    ring,
    twenty_five_gaussians,
    two_gaussians,
)

__all__ = [
    "MNIST_NORMALISED",
    "SIGNED",
    "UNIT",
    "Gaussian",
    "Images",
    "Mixture",
    "Scaling",
    "Shuffled",
    "StackedDigits",
    "SwissRoll",
    "cifar10",
    "digits",
    "eight_gaussians",
    "grid",
    "image_folder",
    "mnist",
    "open_images",
    "read_array",
    "read_idx",
    "ring",
    "twenty_five_gaussians",
    "two_gaussians",
]

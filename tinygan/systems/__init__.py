"""Games with more to them than a generator against a critic: one file for each paper's system."""

from tinygan.systems.ac_gan import ACGAN
from tinygan.systems.began import BEGAN
from tinygan.systems.ebgan import EBGAN
from tinygan.systems.infogan import InfoGAN
from tinygan.systems.mdgan import MDGAN
from tinygan.systems.regularized import Regularized

__all__ = ["ACGAN", "BEGAN", "EBGAN", "MDGAN", "InfoGAN", "Regularized"]

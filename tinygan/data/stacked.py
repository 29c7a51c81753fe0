"""Stacked digits: three digits as the channels of one colour image, a thousand modes to count."""

from dataclasses import dataclass

import numpy as np

from tinygan.backend import to_device, to_host
from tinygan.data.images import SIGNED, Images, Scaling, _kind, _real
from tinygan.data.toy import _draws

DIGITS = 10


@dataclass(frozen=True, eq=False)
class StackedDigits:
    """Images of three independent digits each, the red, the green and the blue channel.

    x = (dᵢ, dⱼ, dₖ), label = 100·yᵢ + 10·yⱼ + yₖ, with i, j, k uniform on 0 … N−1

    There is no list of the N³ images: ``sample`` draws new ones, and the stream's state fixes
    them. Published tables draw them from the 60,000 digits of MNIST, most of them a list of some
    ten thousand once and for all.

    Args:
        digits: grey images with labels 0 to 9, such as :func:`tinygan.data.digits`.
        scaling: the :class:`tinygan.data.Scaling` of what is served.
        dtype: of what is served, float32 or float64.
    Raises: TypeError or ValueError for what is no grey images with such labels, no scaling, or
        another dtype.
    Source: Metz et al., Unrolled GANs (2017), section 3.3; Che et al., MDGAN (2017).
    """

    digits: Images
    scaling: Scaling = SIGNED
    dtype: np.dtype = np.float32

    def __post_init__(self):
        if not isinstance(self.digits, Images) or not isinstance(self.scaling, Scaling):
            raise TypeError(
                f"StackedDigits: digits is {_kind(self.digits)} and scaling {_kind(self.scaling)}; "
                "expected Images, as from tinygan.data.digits(), and a Scaling, as "
                "tinygan.data.SIGNED"
            )
        labels = self.digits.labels
        if self.digits.shape[2] != 1 or labels is None:
            raise ValueError(
                f"StackedDigits: {self.digits!r}; expected grey images with labels, of which three "
                "make an image"
            )
        if labels.min() < 0 or labels.max() >= DIGITS:
            raise ValueError(
                f"StackedDigits: labels from {labels.min()} to {labels.max()}; expected 0 to 9, so "
                "that three make a label from 0 to 999"
            )
        object.__setattr__(self, "dtype", _real("StackedDigits", self.dtype))

    @property
    def shape(self):
        """(H, W, 3), the shape of one image."""
        return (*self.digits.shape[:2], 3)

    @property
    def shares(self):
        """How likely each label is: 1/1000 if the digits are equally frequent.

        pₗ = qᵢ·qⱼ·qₖ for l = 100i + 10j + k, q the digits' shares among the images

        Shapes: returns 1000, which sum to 1.
        """
        q = np.bincount(self.digits.labels, minlength=DIGITS) / len(self.digits)
        return (q[:, None, None] * q[:, None] * q).ravel()

    def sample(self, n, stream):
        """n independent images, scaled, on the stream's device.

        Shapes: returns n×H×W×3.
        Raises: TypeError or ValueError for n or a stream of the wrong kind.
        """
        return self.scaling.apply(self._draw(n, stream)[0], self.dtype)

    def sample_with_labels(self, n, stream):
        """n independent images, scaled, and their labels; what :meth:`sample` gives from there.

        Shapes: returns (n×H×W×3, n of int64, 0 to 999), both on the stream's device.
        Raises: as :meth:`sample`.
        """
        pixels, labels = self._draw(n, stream)
        return self.scaling.apply(pixels, self.dtype), to_device(labels, stream.device)

    def images(self, n, stream):
        """n independent images as :class:`tinygan.data.Images`, with their labels; on the CPU.

        Raises: as :meth:`sample`.
        """
        pixels, labels = self._draw(n, stream)
        return Images(to_host(pixels), labels, f"stacked {self.digits.name}")

    def _draw(self, n, stream):
        """Pixels n×H×W×3 on the stream's device, and labels on the CPU."""
        n = _draws("StackedDigits", n, stream)
        indices = to_host(stream.integers((n, 3), len(self.digits)))
        pixels = self.digits.pixels[indices.ravel()].reshape(n, 3, *self.digits.shape[:2])
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        labels = self.digits.labels[indices] @ np.array([DIGITS**2, DIGITS, 1])
        return to_device(pixels, stream.device), labels

"""Sets of images, how pixels become numbers for a network, and the order they are served in.

Images are kept as they come, one byte per pixel and channel, channels last. They become floats
one batch at a time: the digits of MNIST take 47 MB as bytes, and would take 188 as float32.
"""

import math
import numbers
import operator
from dataclasses import dataclass

import numpy as np

from tinygan.backend import Stream, array_module, to_device, to_host
from tinygan.data.toy import _count, _freeze


@dataclass(frozen=True, eq=False)
class Images:
    """N images of one size, with or without labels.

    Args:
        pixels: bytes, 0 black and 255 full; kept read-only (a copy, if it could be written to).
        labels: one whole number per image, or None; kept as a read-only int64 copy.
        name: what the set is called in messages and reports.
    Shapes: pixels N×H×W×C, C 1 (grey) or 3 (red, green, blue); labels N.
    Raises: TypeError or ValueError for other dtypes, ranks, channels or lengths.
    """

    pixels: np.ndarray
    labels: np.ndarray | None = None
    name: str = "images"

    def __post_init__(self):
        pixels = _bytes(f"Images {self.name!r}: pixels", self.pixels)
        if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape:
            raise ValueError(
                f"Images {self.name!r}: pixels has shape {pixels.shape}; expected N×H×W×C of at "
                "least one image, with C 1 (grey) or 3 (colour) in last place"
                f"{_channels_hint(pixels.shape)}"
            )
        if pixels.flags.writeable or pixels.base is not None:  # a view's base may be writeable
            pixels = pixels.copy()
        _freeze(self, pixels=np.ascontiguousarray(pixels))
        if self.labels is not None:
            _freeze(self, labels=_whole(f"Images {self.name!r}: labels", self.labels))
            if len(self.labels) != len(self):
                raise ValueError(
                    f"Images {self.name!r}: {len(self.labels)} labels for {len(self)} images; "
                    "expected one each"
                )

    def __len__(self):
        return len(self.pixels)

    def __repr__(self):
        height, width, channels = self.shape
        labels = "no labels" if self.labels is None else "labels"
        return f"<Images {self.name!r}: {len(self):,} of {height}×{width}×{channels}, {labels}>"

    @property
    def shape(self):
        """(H, W, C), the shape of one image."""
        return self.pixels.shape[1:]

    def padded(self, size):
        """The images with black borders, equally wide on opposite sides, to size×size.

        Shapes: returns N×size×size×C.
        Raises: ValueError for a size below H or W, or one that would need half a pixel.
        """
        size = _count("Images.padded", "size", size)
        height, width, _ = self.shape
        if size < max(height, width) or (size - height) % 2 or (size - width) % 2:
            raise ValueError(
                f"Images.padded: size is {size} for images of {height}×{width}; expected no less, "
                "and an even difference, so that both sides get the same border"
            )
        if (height, width) == (size, size):
            return self
        top, left = (size - height) // 2, (size - width) // 2
        pixels = np.pad(self.pixels, [(0, 0), (top, top), (left, left), (0, 0)])
        return self._with(pixels, self.labels)

    def repeated(self, channels):
        """The images with their grey repeated in every channel; themselves, if they have as many.

        Shapes: returns N×H×W×channels.
        Raises: ValueError for colour images that would have to become grey, or channels other
            than 1 and 3.
        """
        channels, have = _count("Images.repeated", "channels", channels), self.shape[2]
        if channels == have:
            return self
        if have != 1 or channels != 3:
            raise ValueError(
                f"Images.repeated: channels is {channels} for images of {have}; expected 3 for "
                "grey images, or as many as they have"
            )
        return self._with(np.repeat(self.pixels, channels, axis=3), self.labels)

    def take(self, indices):
        """The images at ``indices``, in their order; an index may occur more than once.

        Shapes: indices m, whole numbers from 0 to N−1; returns m images.
        Raises: TypeError or ValueError for other indices, or none.
        """
        indices = _whole("Images.take: indices", indices)
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= len(self):
            raise ValueError(
                f"Images.take: indices {_span(indices)}; expected at least one, from 0 to "
                f"{len(self) - 1}"
            )
        return self._with(self.pixels[indices], self._labels_at(indices))

    def only(self, labels):
        """The images with this label, or with one of these labels, in the order they have here.

        Raises: ValueError for images without labels, or when no image has one of these.
        """
        if self.labels is None:
            raise ValueError(f"Images.only: {self.name!r} has no labels to choose by")
        wanted = _whole("Images.only: labels", np.atleast_1d(labels))
        chosen = np.flatnonzero(np.isin(self.labels, wanted))
        missing = sorted(set(wanted.tolist()) - set(self.labels.tolist()))
        if missing or len(chosen) == 0:
            raise ValueError(
                f"Images.only: no image of {self.name!r} has label "
                f"{', '.join(map(str, missing)) or 'of an empty list'}; its labels are "
                f"{', '.join(map(str, np.unique(self.labels)))}"
            )
        return self.take(chosen)

    def _labels_at(self, indices):
        return None if self.labels is None else self.labels[indices]

    def _with(self, pixels, labels):
        pixels.flags.writeable = False
        return Images(pixels, labels, self.name)


@dataclass(frozen=True)
class Scaling:
    """How a pixel p of 0 … 255 becomes a number for a network, and back.

    y = (p/255 − mean)/deviation, worked out as (p − 255·mean)/(255·deviation)

    With the constants below the two ends come out exact: −1 and 1, 0 and 1.

    Args:
        name: what the scaling is called in messages.
        mean, deviation: of a pixel between 0 and 1; or simply the middle and half the width of
            the range that is wanted.
    Raises: TypeError or ValueError for a mean that is not finite or a deviation that is not
        positive and finite.
    """

    name: str
    mean: float
    deviation: float

    def __post_init__(self):
        if not isinstance(self.mean, numbers.Real) or not math.isfinite(self.mean):
            raise ValueError(f"Scaling: mean is {self.mean!r}; expected a finite number")
        if not isinstance(self.deviation, numbers.Real) or not 0 < self.deviation < math.inf:
            raise ValueError(
                f"Scaling: deviation is {self.deviation!r}; expected a positive, finite number"
            )

    @property
    def low(self):
        """What black becomes, −mean/deviation."""
        return (0.0 - self.mean) / self.deviation

    @property
    def high(self):
        """What full brightness becomes, (1 − mean)/deviation."""
        return (1.0 - self.mean) / self.deviation

    def apply(self, pixels, dtype=np.float32):
        """y of every pixel, on the pixels' device.

        Shapes: any; returns the same, of ``dtype`` (float32 or float64).
        Raises: TypeError for pixels that are not uint8, or another dtype.
        """
        # A table of the 256 values takes three times as long, for a batch of 64·32·32·3.
        dtype = _real("Scaling.apply", dtype)
        if getattr(pixels, "dtype", None) != np.uint8:
            raise TypeError(f"Scaling.apply: pixels is {_kind(pixels)}; expected an array of uint8")
        y = pixels.astype(dtype)
        y -= 255 * self.mean
        y /= 255 * self.deviation
        return y

    def invert(self, y):
        """The nearest pixel of every y, on the CPU; beyond the range, the nearer end of it.

        p = round(255·(y·deviation + mean)), cut to 0 … 255

        Shapes: any, NumPy or CuPy; returns the same, NumPy uint8.
        Raises: TypeError for y that are not floats, ValueError for NaN among them.
        """
        y = to_host(y)
        if not isinstance(y, np.ndarray) or y.dtype.kind != "f":
            raise TypeError(f"Scaling.invert: y is {_kind(y)}; expected an array of floats")
        if np.isnan(y).any():
            raise ValueError("Scaling.invert: y holds NaN, which is no pixel; expected numbers")
        # float16 is widened: it cannot tell 254.9 from 255.
        p = y.astype(np.promote_types(y.dtype, np.float32))
        np.clip(p, self.low, self.high, out=p)
        p *= 255 * self.deviation
        p += 255 * self.mean
        return np.clip(np.rint(p), 0, 255).astype(np.uint8)

    def check_reach(self, low=None, high=None):
        """Check that outputs between ``low`` and ``high`` can match every scaled pixel.

        A generator that ends in a sigmoid never makes the −1 of black in :data:`SIGNED`; a critic
        then tells its images by that alone. None or an infinity is no bound.

        Raises: ValueError with the remedy when the outputs stop short of the data.
        """
        low = -math.inf if low is None else float(low)
        high = math.inf if high is None else float(high)
        if not low < high:
            raise ValueError(f"Scaling.check_reach: outputs from {low:g} to {high:g}; no range")
        if low <= self.low and high >= self.high:
            return
        fits = [s.name for s in (SIGNED, UNIT, MNIST_NORMALISED) if low <= s.low and high >= s.high]
        other = f"take the scaling {' or '.join(map(repr, fits))}, or " if fits else ""
        endings = {
            (-1.0, 1.0): "tanh or in no activation",
            (0.0, 1.0): "a sigmoid or in no activation",
        }
        raise ValueError(
            f"the generator's outputs lie in [{low:g}, {high:g}], but the images, scaled by "
            f"{self.name!r}, in [{self.low:.4g}, {self.high:.4g}]: it cannot reach them all. "
            f"To mend that, {other}end the generator in "
            f"{endings.get((self.low, self.high), 'no activation')}"
        )


SIGNED = Scaling("signed", 0.5, 0.5)
"""From −1 to 1, for a generator that ends in tanh. Source: Radford et al., DCGAN (2016)."""

UNIT = Scaling("unit", 0.0, 1.0)
"""From 0 to 1, for a generator that ends in a sigmoid."""

MNIST_NORMALISED = Scaling("mnist-normalised", 0.1307, 0.3081)
"""Mean 0 and deviation 1 over MNIST, from −0.42 to 2.82; for a generator that ends in nothing.

Source: Thanh-Tung, Tran & Venkatesh, Improving Generalization and Stability of GANs (2019), its
public code for MNIST.
"""


class Shuffled:
    """Images in an order shuffled anew for every epoch, served batch by batch.

    Epoch e is the permutation ``Stream(key).child(e).permutation(N)``. Every image comes once in
    each epoch; a batch that an epoch cannot fill is filled from the next.

    Args:
        images: the :class:`Images`.
        scaling: the :class:`Scaling` of what is served.
        key: the seed of the order, as a :class:`tinygan.backend.Stream`'s.
        dtype: of what is served, float32 or float64.
        state: (epoch, position) where to start: the epoch from 0, and the number of its images
            that were served already.
    Raises: TypeError or ValueError for any of these of the wrong kind.
    """

    def __init__(self, images, scaling, key, dtype=np.float32, state=(0, 0)):
        if not isinstance(images, Images) or not isinstance(scaling, Scaling):
            raise TypeError(
                f"Shuffled: images is {_kind(images)} and scaling {_kind(scaling)}; expected "
                "Images, as from tinygan.data.digits(), and a Scaling, as tinygan.data.SIGNED"
            )
        self.images = images
        self.scaling = scaling
        self.key = Stream(key).key
        self.dtype = _real("Shuffled", dtype)
        self._epoch, self._position = _state(state, len(images))
        self._order = self._permutation(self._epoch)

    def __repr__(self):
        epoch, position = self.state
        return (
            f"<Shuffled {self.images.name!r} by {self.scaling.name!r}, key {self.key}: "
            f"epoch {epoch}, {position:,} of {len(self.images):,} served>"
        )

    @property
    def state(self):
        """(epoch, position): ``shuffled.at(state)`` goes on with the same batches."""
        return self._epoch, self._position

    def at(self, state):
        """The same images in the same order, standing at ``state``; this one does not move.

        Raises: TypeError or ValueError for a state that this set cannot be in.
        """
        return Shuffled(self.images, self.scaling, self.key, self.dtype, state)

    def sample(self, n, stream=None):
        """The next n images, scaled.

        Args:
            stream: says on which device they are wanted, by ``stream.device``, and nothing else
                (None: the CPU). The order is fixed by ``key``; the stream does not move.
        Shapes: returns n×H×W×C; n may exceed N.
        Raises: TypeError or ValueError for n or a stream of the wrong kind.
        """
        return self._serve(n, _device(stream))[0]

    def sample_with_labels(self, n, stream=None):
        """The next n images, scaled, and their labels; the same images as :meth:`sample` gives.

        Shapes: returns (n×H×W×C, n of int64), both on the stream's device.
        Raises: as :meth:`sample`; ValueError for images without labels.
        """
        device = _device(stream)
        if self.images.labels is None:
            raise ValueError(
                f"Shuffled.sample_with_labels: {self.images.name!r} has no labels; use sample"
            )
        batch, indices = self._serve(n, device)
        return batch, to_device(self.images.labels[indices], device)

    def _serve(self, n, device):
        """The next n images, scaled, and their indices; the state moves when all is done."""
        indices, moved = self._next(_count("Shuffled.sample", "n", n))
        # Bytes travel to the device, and become floats there.
        batch = self.scaling.apply(to_device(self.images.pixels[indices], device), self.dtype)
        self._epoch, self._position, self._order = moved
        return batch, indices

    def _next(self, n):
        """The next n indices, and (epoch, position, order) after them."""
        epoch, position, order = self._epoch, self._position, self._order
        parts = []
        while n > 0:
            part = order[position : position + n]
            parts.append(part)
            position, n = position + len(part), n - len(part)
            if position == len(order):
                epoch, position = epoch + 1, 0
                order = self._permutation(epoch)
        return np.concatenate(parts), (epoch, position, order)

    def _permutation(self, epoch):
        return Stream(self.key).child(epoch).permutation(len(self.images))


def _device(stream):
    if stream is None:
        return "cpu"
    if not isinstance(stream, Stream):
        raise TypeError(
            f"Shuffled.sample: stream is {_kind(stream)}; expected a random stream, as from "
            "tinygan.backend.Stream(0), or None for the CPU"
        )
    return stream.device


def _state(state, n):
    try:
        epoch, position = map(operator.index, state)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Shuffled: state is {state!r}; expected (epoch, position), two whole numbers"
        ) from error
    if epoch < 0 or not 0 <= position < n:
        raise ValueError(
            f"Shuffled: state is ({epoch}, {position}); expected an epoch from 0 on and a position "
            f"from 0 to {n - 1}. Is it the state of another set of images?"
        )
    return epoch, position


def _real(where, dtype):
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{where}: dtype is {dtype}; expected float32 or float64")
    return dtype


def _kind(value):
    """What something is, for a message."""
    dtype = getattr(value, "dtype", None)
    return f"a {type(value).__name__}" if dtype is None else f"an array of {dtype}"


def _bytes(what, pixels):
    pixels = to_host(pixels)
    if array_module(pixels) is not np or getattr(pixels, "dtype", None) != np.uint8:
        raise TypeError(
            f"{what} is {_kind(pixels)}; expected an array of uint8, 0 to 255. Floats become that "
            "by Scaling.invert, as of tinygan.data.UNIT"
        )
    return pixels


def _whole(what, values):
    """A 1-d int64 copy of whole numbers."""
    values = np.asarray(to_host(values))
    if values.size == 0:
        values = values.astype(np.int64)  # an empty list is of float64
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise TypeError(
            f"{what} is an array of {values.dtype} and shape {values.shape}; expected a row of "
            "whole numbers"
        )
    return values.astype(np.int64)


def _span(indices):
    return f"go from {indices.min()} to {indices.max()}" if len(indices) else "is empty"


def _channels_hint(shape):
    if len(shape) == 4 and shape[1] in (1, 3):
        return ". Channels in second place go last by .transpose(0, 2, 3, 1)"
    if len(shape) == 3:
        return ". Grey images get their channel by pixels[..., None]"
    return ""

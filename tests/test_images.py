"""Sets of images, their scalings, and the order they are served in."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygan import data, models, ops, optim
from tinygan.backend import Stream
from tinygan.data import MNIST_NORMALISED, SIGNED, UNIT, Images, Scaling, Shuffled
from tinygan.train import GAN, train

SCALINGS = [SIGNED, UNIT, MNIST_NORMALISED]
each_scaling = pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.name)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
BYTES = np.arange(256, dtype=np.uint8)


def numbered(n, shape=(2, 2, 1)):
    """n images, each of one brightness, its own number; and labels, its number too."""
    pixels = np.zeros((n, *shape), np.uint8)
    pixels += np.arange(n, dtype=np.uint8)[:, None, None, None]
    return Images(pixels, np.arange(n))


def numbers(batch, scaling=UNIT):
    return scaling.invert(batch)[:, 0, 0, 0].tolist()


# --- Images ---------------------------------------------------------------------------


def test_images_are_a_copy_that_cannot_be_changed():
    pixels, labels = np.zeros((3, 2, 4, 1), np.uint8), np.array([4, 5, 6], np.uint8)
    images = Images(pixels, labels, "three")
    pixels[:] = 9
    labels[:] = 9
    assert images.pixels.max() == 0 and images.labels.tolist() == [4, 5, 6]
    assert images.labels.dtype == np.int64
    assert (len(images), images.shape, images.name) == (3, (2, 4, 1), "three")
    for array in (images.pixels, images.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.name = "four"
    assert repr(images) == "<Images 'three': 3 of 2×4×1, labels>"
    assert repr(Images(pixels)) == "<Images 'images': 3 of 2×4×1, no labels>"


def test_a_read_only_array_is_not_copied():
    pixels = np.zeros((3, 2, 4, 1), np.uint8)
    pixels.flags.writeable = False
    assert Images(pixels).pixels is pixels


def test_padding_is_black_and_equal_on_both_sides():
    images = Images(np.full((2, 2, 4, 3), 200, np.uint8), [1, 2], "wide").padded(6)
    expected = np.zeros((2, 6, 6, 3), np.uint8)
    expected[:, 2:4, 1:5] = 200
    assert np.array_equal(images.pixels, expected)
    assert (images.labels.tolist(), images.name) == ([1, 2], "wide")
    assert images.padded(6) is images


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_padding_that_cannot_be_equal_is_refused(size):
    images = Images(np.zeros((1, 2, 4, 1), np.uint8))
    with pytest.raises(ValueError, match=f"size is {size} for images of 2×4; expected no less"):
        images.padded(size)


def test_grey_is_repeated_in_every_channel():
    grey = numbered(3)
    colour = grey.repeated(3)
    assert colour.shape == (2, 2, 3)
    assert all(np.array_equal(colour.pixels[..., [c]], grey.pixels) for c in range(3))
    assert colour.labels.tolist() == [0, 1, 2]
    assert colour.repeated(3) is colour and grey.repeated(1) is grey
    with pytest.raises(ValueError, match="channels is 1 for images of 3; expected 3 for grey"):
        colour.repeated(1)
    with pytest.raises(ValueError, match="channels is 2 for images of 1"):
        grey.repeated(2)


def test_take_and_only_choose_images_with_their_labels():
    images = Images(numbered(5).pixels, [7, 3, 7, 1, 3], "five")
    taken = images.take([4, 0, 4])
    assert taken.pixels[:, 0, 0, 0].tolist() == [4, 0, 4]
    assert (taken.labels.tolist(), taken.name) == ([3, 7, 3], "five")
    assert images.only(7).pixels[:, 0, 0, 0].tolist() == [0, 2]
    assert images.only([3, 1]).labels.tolist() == [3, 1, 3]
    assert Images(images.pixels).take([1]).labels is None


GREY = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Images(GREY[0]), ValueError, r"shape \(4, 4, 1\); expected N×H×W×C"),
        (lambda: Images(GREY[..., 0]), ValueError, r"get their channel by pixels\[\.\.\., None\]"),
        (lambda: Images(np.zeros((2, 4, 4, 4), np.uint8)), ValueError, "C 1 .grey. or 3"),
        (lambda: Images(GREY.transpose(0, 3, 1, 2)), ValueError, r"\.transpose\(0, 2, 3, 1\)"),
        (lambda: Images(GREY[:0]), ValueError, "at least one image"),
        (lambda: Images(GREY / 255.0), TypeError, "array of float64; expected an array of uint8"),
        (lambda: Images(GREY.tolist()), TypeError, "pixels is a list"),
        (lambda: Images(GREY, [1]), ValueError, "1 labels for 2 images"),
        (lambda: Images(GREY, [1.0, 2.0]), TypeError, "labels is an array of float64"),
        (lambda: Images(GREY, [[1], [2]]), TypeError, r"shape \(2, 1\)"),
        (lambda: Images(GREY, name="cats").only(1), ValueError, "'cats' has no labels"),
        (lambda: Images(GREY, [1, 2]).only([1, 5]), ValueError, "has label 5; its labels are 1, 2"),
        (lambda: Images(GREY, [1, 2]).only([]), ValueError, "empty list; its labels are 1, 2"),
        (lambda: Images(GREY).take([2]), ValueError, "from 2 to 2; expected .* from 0 to 1"),
        (lambda: Images(GREY).take([0, -1]), ValueError, "from -1 to 0"),
        (lambda: Images(GREY).take([]), ValueError, "is empty"),
        (lambda: Images(GREY).take([0.5]), TypeError, "expected a row of whole numbers"),
        (lambda: Images(GREY).take([True, False]), TypeError, "array of bool"),
        (lambda: Images(GREY).padded(8.0), TypeError, r"size is 8\.0"),
    ],
)
def test_errors_name_what_was_given(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- Scaling --------------------------------------------------------------------------


@each_dtype
@each_scaling
def test_scaling_there_and_back_is_exact(scaling, dtype):
    y = scaling.apply(BYTES, dtype)
    assert y.dtype == dtype
    assert np.array_equal(scaling.invert(y), BYTES)
    assert scaling.invert(y).dtype == np.uint8
    assert np.all(np.diff(y) > 0)


@each_dtype
@each_scaling
def test_scaling_is_the_stated_formula(scaling, dtype):
    expected = (BYTES / 255 - scaling.mean) / scaling.deviation
    np.testing.assert_allclose(scaling.apply(BYTES, dtype), expected, atol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose([scaling.low, scaling.high], expected[[0, -1]], rtol=1e-14)


@each_dtype
def test_the_ends_are_exact(dtype):
    assert SIGNED.apply(BYTES, dtype)[[0, 255]].tolist() == [-1, 1]
    assert UNIT.apply(BYTES, dtype)[[0, 255]].tolist() == [0, 1]
    assert (SIGNED.low, SIGNED.high, UNIT.low, UNIT.high) == (-1, 1, 0, 1)


def test_the_published_numbers_of_mnist():
    assert MNIST_NORMALISED.low == pytest.approx(-0.4242, abs=5e-5)
    assert MNIST_NORMALISED.high == pytest.approx(2.8215, abs=5e-5)
    # They are the mean and deviation of 60,000 digits; those of 5,000 are close.
    y = MNIST_NORMALISED.apply(data.digits().pixels, np.float64)
    assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.02


@each_scaling
def test_inversion_rounds_to_the_nearest_and_cuts_off(scaling):
    step = 1 / 255 / scaling.deviation
    y = scaling.apply(BYTES, np.float64)
    for shift in (-0.49, 0.49):
        assert np.array_equal(scaling.invert(y + shift * step), BYTES)
    beyond = np.array([scaling.low - 5, scaling.high + 5, -np.inf, np.inf], np.float32)
    assert scaling.invert(beyond).tolist() == [0, 255, 0, 255]
    extremes = np.array([-3e38, 3e38], np.float32)
    assert scaling.invert(extremes).tolist() == [0, 255]
    assert scaling.invert(np.full((2, 3, 1), scaling.high, np.float16)).shape == (2, 3, 1)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: SIGNED.apply(BYTES / 1.0), TypeError, "array of float64; expected .* uint8"),
        (lambda: SIGNED.apply([1, 2]), TypeError, "a list"),
        (lambda: SIGNED.apply(BYTES, np.float16), TypeError, "dtype is float16; expected float32"),
        (lambda: SIGNED.invert(BYTES), TypeError, "array of uint8; expected an array of floats"),
        (lambda: SIGNED.invert(np.array([0.0, np.nan])), ValueError, "holds NaN"),
        (lambda: Scaling("s", math.inf, 1), ValueError, "mean is inf"),
        (lambda: Scaling("s", 0, 0), ValueError, "deviation is 0; expected a positive"),
        (lambda: Scaling("s", 0, "1"), ValueError, "deviation is '1'"),
    ],
)
def test_scalings_refuse_what_they_cannot_scale(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "scaling, low, high",
    [
        (SIGNED, -1, 1),
        (SIGNED, None, None),
        (SIGNED, -math.inf, math.inf),
        (UNIT, 0, 1),
        (UNIT, -1, 1),
        (UNIT, 0, None),
        (MNIST_NORMALISED, None, None),
        (MNIST_NORMALISED, -1, 3),
    ],
)
def test_outputs_that_reach_the_data_pass(scaling, low, high):
    scaling.check_reach(low, high)


@pytest.mark.parametrize(
    "scaling, low, high, remedy",
    [
        (SIGNED, 0, 1, "scaling 'unit', or end the generator in tanh"),
        (SIGNED, 0, None, "scaling 'unit', or end the generator in tanh"),
        (SIGNED, -1, 0.5, "To mend that, end the generator in tanh"),
        (UNIT, 0.5, 2, "To mend that, end the generator in a sigmoid"),
        (MNIST_NORMALISED, -1, 1, "'signed' or 'unit', or end the generator in no activation"),
        (MNIST_NORMALISED, 0, 1, "scaling 'unit', or end the generator in no activation"),
    ],
)
def test_outputs_that_stop_short_are_refused_with_the_remedy(scaling, low, high, remedy):
    with pytest.raises(ValueError, match="cannot reach") as caught:
        scaling.check_reach(low, high)
    assert remedy in str(caught.value)
    assert repr(scaling.name) in str(caught.value)


@pytest.mark.parametrize("low, high", [(1, -1), (0, 0), (math.nan, 1)])
def test_no_range_is_refused(low, high):
    with pytest.raises(ValueError, match="no range"):
        UNIT.check_reach(low, high)


# --- Shuffled -------------------------------------------------------------------------


@given(
    n=st.integers(1, 30),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=8),
    key=st.integers(0, 2**128 - 1),
)
def test_every_image_comes_once_in_every_epoch(n, sizes, key):
    shuffled = Shuffled(numbered(n), UNIT, key)
    served = []
    for size in sizes:
        batch = shuffled.sample(size)
        assert batch.shape == (size, 2, 2, 1)
        served += numbers(batch)
        assert shuffled.state == divmod(len(served), n)
    expected = [Stream(key).child(e).permutation(n).tolist() for e in range(len(served) // n + 1)]
    assert served == sum(expected, [])[: len(served)]
    for start in range(0, len(served) - n + 1, n):
        assert sorted(served[start : start + n]) == list(range(n))


@given(
    before=st.lists(st.integers(1, 25), max_size=5),
    after=st.lists(st.integers(1, 25), min_size=1, max_size=5),
)
def test_a_resumed_state_gives_the_same_batches(before, after):
    images = numbered(10)
    shuffled = Shuffled(images, SIGNED, 3)
    for size in before:
        shuffled.sample(size)
    state = shuffled.state
    continued = [shuffled.sample(size) for size in after]
    for other in (Shuffled(images, SIGNED, 3, state=list(state)), shuffled.at(state)):
        assert other.state == state
        for size, batch in zip(after, continued, strict=True):
            assert np.array_equal(other.sample(size), batch)
        assert other.state == shuffled.state
    assert shuffled.at((0, 0)).sample(1).tolist() == Shuffled(images, SIGNED, 3).sample(1).tolist()


def test_epochs_and_keys_have_their_own_order():
    shuffled = Shuffled(numbered(200), UNIT, 1)
    first, second = numbers(shuffled.sample(200)), numbers(shuffled.sample(200))
    other = numbers(Shuffled(numbered(200), UNIT, 2).sample(200))
    assert sorted(first) == sorted(second) == sorted(other) == list(range(200))
    fixed = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in
             [(first, second), (first, other), (first, range(200))]]  # fmt: skip
    assert max(fixed) < 8  # one is expected, of each


def test_labels_come_with_their_images():
    shuffled = Shuffled(numbered(50), UNIT, 5)
    for size in (20, 45):
        batch, labels = shuffled.sample_with_labels(size)
        assert labels.dtype == np.int64
        assert labels.tolist() == numbers(batch)
    plain = Shuffled(numbered(50), UNIT, 5)
    plain.sample(20)
    assert np.array_equal(plain.sample(45), batch)


@each_dtype
@each_scaling
def test_batches_are_scaled_to_the_dtype(scaling, dtype):
    images = numbered(9)
    batch, labels = Shuffled(images, scaling, 0, dtype).sample_with_labels(7)
    assert batch.dtype == dtype
    assert np.array_equal(batch, scaling.apply(images.pixels[labels], dtype))
    batch[:] = 0  # a batch is the caller's own


def test_the_stream_says_the_device_and_does_not_move(stand_in):
    images = numbered(9)
    stream = Stream(4, device="gpu")
    there, labels = Shuffled(images, SIGNED, 8).sample_with_labels(12, stream)
    here, expected = Shuffled(images, SIGNED, 8).sample_with_labels(12, Stream(77))
    assert np.array_equal(stand_in.get(there), here)
    assert np.array_equal(stand_in.get(labels), expected)
    assert there.dtype == np.float32
    assert stream.state == (4, 0)
    assert type(here) is np.ndarray
    assert type(Shuffled(images, SIGNED, 8).sample(2)) is np.ndarray


def test_pixels_on_the_gpu_are_scaled_there_and_inverted_here(stand_in):
    y = SIGNED.apply(stand_in.asarray(BYTES))
    assert np.array_equal(stand_in.get(y), SIGNED.apply(BYTES))
    assert np.array_equal(SIGNED.invert(y), BYTES)
    images = Images(stand_in.asarray(GREY), stand_in.asarray(np.array([1, 2])))
    assert type(images.pixels) is np.ndarray and images.labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda s: s.sample(0), ValueError, "n is 0; expected a whole number above 0"),
        (lambda s: s.sample(2.5), TypeError, r"n is 2\.5"),
        (lambda s: s.sample(2, np.random.default_rng(0)), TypeError, r"Stream\(0\), or None"),
        (lambda s: s.sample_with_labels(2), ValueError, "has no labels; use sample"),
        (lambda s: s.at((0, 9)), ValueError, r"\(0, 9\); .* from 0 to 8. Is it .* another set"),
        (lambda s: s.at((-1, 0)), ValueError, "an epoch from 0 on"),
        (lambda s: s.at((0, 1.5)), TypeError, "two whole numbers"),
        (lambda s: s.at(3), TypeError, "state is 3"),
        (lambda s: Shuffled(s.images, s.scaling, -1), ValueError, "key is -1"),
        (lambda s: Shuffled(s.images, s.scaling, 0, np.int32), TypeError, "dtype is int32"),
        (lambda s: Shuffled(s.images.pixels, s.scaling, 0), TypeError, "expected Images"),
        (lambda s: Shuffled(s.images, "signed", 0), TypeError, "scaling a str"),
    ],
)
def test_a_refusal_names_the_reason_and_moves_nothing(call, error, message):
    shuffled = Shuffled(Images(numbered(9).pixels), SIGNED, 0)
    shuffled.sample(4)
    with pytest.raises(error, match=message):
        call(shuffled)
    assert shuffled.state == (0, 4)


def test_shuffled_says_where_it_stands():
    shuffled = Shuffled(numbered(9), SIGNED, 6)
    shuffled.sample(13)
    expected = "<Shuffled 'images' by 'signed', key 6: epoch 1, 4 of 9 served>"
    assert repr(shuffled) == expected


@dataclasses.dataclass(frozen=True)
class Reshaped:
    """An MLP between other shapes than rows."""

    inner: models.MLP
    before: tuple
    after: tuple

    def init(self, stream, dtype):
        return self.inner.init(stream, dtype)

    def __call__(self, params, x):
        x = ops.reshape(x, shape=(len(x), *self.before))
        return ops.reshape(self.inner(params, x), shape=(len(x), *self.after))


def test_training_takes_images_as_it_takes_points():
    shuffled = Shuffled(numbered(9), SIGNED, 0)
    generator = Reshaped(models.MLP((2, 8, 4), output=ops.tanh), (2,), (2, 2, 1))
    critic = Reshaped(models.MLP((4, 8, 1)), (4,), (1,))
    gan = GAN(generator, critic, optim.SGD(1e-2), optim.SGD(1e-2))
    stream = Stream(0)
    run = train(gan, gan.init(stream), shuffled.sample, 5, stream, batch=4, latent=2)
    assert len(run.history.records) == 5
    assert shuffled.state == (2, 2)


def test_a_read_only_view_of_what_can_be_written_is_copied():
    pixels = np.zeros((2, 3, 3, 1), np.uint8)
    view = pixels.view()
    view.flags.writeable = False
    images = Images(view)
    pixels[:] = 7
    assert not images.pixels.any()

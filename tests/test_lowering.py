"""Tiles: against the loops, how exact they are, and when they are taken. Columns: test_conv.py."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_conv import (
    INTO,
    LAYOUTS,
    NAIVE,
    each_op,
    empty_arrays_hold_nan,  # noqa: F401 - a fixture: also here, what was never written shows
    inputs_of,
    lowered,
    seeds,
    twice,
    whole,
)

from tinygan import lowering
from tinygan.conv import Geometry, conv2d, conv2d_transpose, conv2d_weight_grad
from tinygan.lowering import tiled

pytestmark = pytest.mark.numpy_path("tiles")
LAYER = Geometry(8, 4, 2, 1)


@st.composite
def tiled_geometries(draw):
    """Kernels of two strides, even grids, any padding; pixels left over only in the padding."""
    stride, tiles = draw(twice(1, 3)), draw(twice(1, 3))
    pad = draw(st.tuples(twice(0, 5), twice(0, 5)))
    image = []
    for s, t, (before, after) in zip(stride, tiles, pad, strict=True):
        left_over = draw(whole(0, min(s - 1, after)))
        image.append((2 * t + 1) * s - before - after + left_over)
    assume(min(image) >= 1)
    return Geometry(tuple(image), tuple(2 * s for s in stride), stride, pad)


@each_op
@given(
    geometry=tiled_geometries(),
    samples=whole(0, 5),
    channels=twice(1, 4),
    dtype=st.sampled_from([np.float32, np.float64]),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    tiles=whole(1, 20),
    threads=st.sampled_from([None, 1, 2, 3]),
    seed=seeds,
)
def test_tiles_are_the_loops(
    op, letters, geometry, samples, channels, dtype, layouts, tiles, threads, seed
):
    inputs = inputs_of(letters, geometry, samples, channels, seed % 1000, dtype)
    given_as = [f(a) for f, a in zip(layouts, inputs, strict=False)]
    exact = [a.astype(np.float64) for a in inputs]
    expected = NAIVE[op](*exact, geometry=geometry)
    with lowered(threads=threads, tiles=tiles):
        assert tiled(geometry, samples, *channels) == (samples > 0)
        y = op(*given_as, geometry=geometry)
        assert y.tobytes() == op(*given_as, geometry=geometry).tobytes()
    for a, before in zip(given_as, inputs, strict=True):
        assert a.tobytes() == before.tobytes(), "an input was changed"
    assert y.shape == expected.shape and y.dtype == dtype
    # Sums of neighbours meet in the products: the error is of the size of the largest result's.
    largest = NAIVE[op](*map(np.abs, exact), geometry=geometry).max(initial=0)
    tolerance = 1e-12 if dtype is np.float64 else 3e-6
    assert not (~(np.abs(y - expected) <= tolerance * largest)).any()


@each_op
def test_the_bits_of_images_and_grids_do_not_depend_on_the_threads(op, letters):
    inputs = inputs_of(letters, LAYER, 8, (6, 8), dtype=np.float32)
    found = set()
    for threads in (None, 1, 2):
        with lowered(threads=threads, tiles=8):  # two images at a time, in each part
            found.add(op(*inputs, geometry=LAYER).tobytes())
    assert len(found) == 1 or op is conv2d_weight_grad


@pytest.mark.parametrize("op, letters", [(conv2d, "xw"), (conv2d_transpose, "zw")])
@pytest.mark.parametrize("channels", [(32, 64), (128, 64)])
def test_tiles_round_less_than_four_times_as_much_as_columns(op, letters, channels):
    error_of_tiles, error_of_columns = errors(op, letters, channels)
    assert error_of_tiles < 4 * error_of_columns


def test_the_weight_gradients_of_tiles_round_less_than_four_times_as_much():
    error_of_tiles, error_of_columns = errors(conv2d_weight_grad, "xz", (32, 64))
    assert error_of_tiles < 4 * error_of_columns


def errors(op, letters, channels):
    """The root mean square distances from float64's loops: by tiles, by columns."""
    inputs = inputs_of(letters, LAYER, 16, channels, dtype=np.float32)
    exact = NAIVE[op](*[a.astype(np.float64) for a in inputs], geometry=LAYER)
    found = []
    for fewest in (1, 10**9):
        with mock.patch.multiple(lowering, TILES=fewest, WORK=1):
            assert tiled(LAYER, 16, *channels) == (fewest == 1)
            y = op(*inputs, geometry=LAYER)
        found.append(math.sqrt(((y - exact) ** 2).mean()))
    return found


@pytest.mark.parametrize(
    "geometry, samples, channels, features, expected",
    [
        (LAYER, 64, 128, 256, True),
        (Geometry(32, 4, 2, 1), 64, 64, 128, True),
        (Geometry((9, 6), 2, 1), 64, 128, 128, False),  # a grid of 8×5
        (Geometry((9, 7), 2, 1), 64, 128, 128, True),
        (Geometry((14, 32), (6, 4), (3, 2), 1), 64, 128, 128, True),
        (Geometry((14, 32), (6, 4), (3, 2), ((1, 2), (1, 1))), 64, 128, 128, True),
        (Geometry((15, 32), (6, 4), (3, 2), ((1, 0), (1, 1))), 64, 128, 128, False),  # pixels unmet
        (Geometry(8, 3, 2, 1), 64, 128, 256, False),
        (Geometry(8, 3, 1, 1), 64, 128, 256, False),
        (Geometry(4, 4), 512, 256, 64, False),
        (Geometry(32, 4, 2, 1), 4096, 3, 64, False),  # too few channels
        (LAYER, 1 << 16, 128, 1, False),
        (LAYER, 32, 512, 512, False),  # too few to make up for the sums of weights
        (LAYER, 64, 128, 128, False),  # too little work to make up for the calls
        (LAYER, 0, 128, 256, False),
    ],
)
def test_tiles_are_taken_where_they_serve_and_pay(geometry, samples, channels, features, expected):
    assert tiled(geometry, samples, channels, features) is expected


@each_op
def test_what_is_said_to_go_by_tiles_does(op, letters):
    name = f"{op.__name__}_in_tiles"
    for samples in (64, 63):
        inputs = inputs_of(letters, LAYER, samples, (32, 32), dtype=np.float32)
        work = getattr(lowering, name)
        spy = mock.patch(f"tinygan.conv.{name}", side_effect=work)
        with mock.patch.object(lowering, "WORK", 1), spy as by_tiles:
            y = op(*inputs, geometry=LAYER)
            assert by_tiles.call_count == (samples == 64)
            other = INTO[op](np.empty_like(y), *inputs, geometry=LAYER)
            assert other.tobytes() == y.tobytes()

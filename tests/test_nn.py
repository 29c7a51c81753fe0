"""Layers and initialisers: bounds, moments, orthogonality; values against NumPy; derivatives."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygan import nn, ops
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import grad_values, track

# Initialisers: the deviation of each, and the bound of the uniform ones, for (fan_in, fan_out)
DEVIATIONS = {
    nn.he_uniform: lambda i, o: math.sqrt(2 / i),
    nn.he_normal: lambda i, o: math.sqrt(2 / i),
    nn.xavier_uniform: lambda i, o: math.sqrt(2 / (i + o)),
    nn.xavier_normal: lambda i, o: math.sqrt(2 / (i + o)),
    nn.fan_in_uniform: lambda i, o: 1 / math.sqrt(3 * i),
    nn.Normal(): lambda i, o: 0.02,
    nn.Normal(0.5): lambda i, o: 0.5,
}
BOUNDS = {
    nn.he_uniform: lambda i, o: math.sqrt(6 / i),
    nn.xavier_uniform: lambda i, o: math.sqrt(6 / (i + o)),
    nn.fan_in_uniform: lambda i, o: 1 / math.sqrt(i),
}
ALL = [*DEVIATIONS, nn.zeros, nn.Orthogonal(), nn.Orthogonal(1.4)]


def name_of(init):
    return getattr(init, "__name__", str(init))


each = pytest.mark.parametrize("init", ALL, ids=name_of)
each_random = pytest.mark.parametrize("init", DEVIATIONS, ids=name_of)
LINEAR = (300, 200), (300, 200)
KERNEL = (4, 4, 30, 50), (4 * 4 * 30, 4 * 4 * 50)  # a convolution's shape, and its fans


@each_random
@pytest.mark.parametrize("shape, fans", [LINEAR, KERNEL], ids=["linear", "kernel"])
def test_moments(init, shape, fans):
    """Mean 0, and the deviation of its formula: of the fans, whatever the shape."""
    w = init(Stream(3), shape, fans, np.float64)
    deviation = DEVIATIONS[init](*fans)
    assert w.shape == shape
    assert abs(w.mean()) < 4 * deviation / math.sqrt(w.size)
    assert w.std() == pytest.approx(deviation, rel=4 / math.sqrt(w.size))


@pytest.mark.parametrize("init", BOUNDS, ids=name_of)
@pytest.mark.parametrize("shape, fans", [LINEAR, KERNEL], ids=["linear", "kernel"])
def test_uniform_bounds_are_kept_and_reached(init, shape, fans):
    w = init(Stream(3), shape, fans, np.float32)
    bound = BOUNDS[init](*fans)
    assert 0.999 * bound < abs(w).max() <= bound * (1 + 1e-6)
    counts = np.histogram(w, 10, (-bound * 1.000001, bound * 1.000001))[0] / w.size
    assert abs(counts - 0.1).max() < 0.01


@pytest.mark.parametrize("init", [nn.he_normal, nn.xavier_normal, nn.Normal()], ids=name_of)
def test_normal_ones_are_normal(init):
    w = init(Stream(3), *LINEAR, np.float64)
    w = w.reshape(-1) / w.std()
    for quantile, point in [(0.1587, -1), (0.5, 0), (0.8413, 1), (0.9772, 2)]:
        assert (w < point).mean() == pytest.approx(quantile, abs=0.01)


@pytest.mark.parametrize(
    "shape",
    [(6, 4), (4, 6), (5, 5), (1, 3), (3, 1), (4, 4, 3, 50), (4, 4, 3, 5)],
    ids=str,
)
@pytest.mark.parametrize("gain", [1.0, 1.4])
def test_orthogonal_rows_or_columns(shape, gain):
    """The rows (or the columns, if they are fewer) are orthonormal times the gain; a kernel's
    rows run over all its axes but the last."""
    w = nn.Orthogonal(gain)(Stream(3), shape, None, np.float64).reshape(-1, shape[-1])
    rows, columns = w.shape
    product = w.T @ w if rows >= columns else w @ w.T
    np.testing.assert_allclose(product, gain**2 * np.eye(min(rows, columns)), atol=1e-14)


def test_orthogonal_matrices_are_spread_over_all_of_them():
    """Haar measure: entries of mean 0 and variance 1/n, and both determinants."""
    stream = Stream(4)
    many = np.array([nn.Orthogonal()(stream, (3, 3), None, np.float64) for _ in range(2000)])
    assert abs(many.mean(0)).max() < 4 * math.sqrt(1 / 3 / 2000)
    assert abs((many**2).mean(0) - 1 / 3).max() < 0.03
    assert (np.linalg.det(many) > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_zeros_are_zeros():
    assert not nn.zeros(Stream(0), (3, 2), (3, 2), np.float32).any()


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_stream_gives_the_same_bits_in_the_dtype_asked_for(init, dtype):
    once, again = (init(Stream(5), (6, 4), (6, 4), dtype) for _ in range(2))
    assert once.dtype == dtype and np.array_equal(once, again)
    if init is not nn.zeros:
        assert not np.array_equal(once, init(Stream(6), (6, 4), (6, 4), dtype))


@each
def test_weights_are_made_on_the_streams_device(init, stand_in):
    there = init(Stream(5, device="gpu"), (6, 4), (6, 4), np.float32)
    assert np.array_equal(stand_in.get(there), init(Stream(5), (6, 4), (6, 4), np.float32))


# Linear


def test_linear_is_x_times_weight_plus_bias():
    params = {"weight": np.array([[1.0, 2], [3, 4], [5, 6]]), "bias": np.array([0.5, -0.5])}
    y = nn.Linear(3, 2)(params, np.array([[1.0, 0, -1], [2, 1, 0]]))
    assert y.tolist() == [[-3.5, -4.5], [5.5, 7.5]]


def test_linears_default_is_he_uniform_weights_and_no_bias():
    params = nn.Linear(6, 4).init(Stream(1))
    assert list(params) == ["weight", "bias"]
    assert params["weight"].shape == (6, 4) and params["weight"].dtype == np.float32
    assert params["bias"].tolist() == [0, 0, 0, 0]
    assert np.array_equal(params["weight"], nn.he_uniform(Stream(1), (6, 4), (6, 4), np.float32))


def test_a_bias_has_the_fans_of_its_layer():
    """PyTorch's default: uniform on ±1/√inputs, the bias too."""
    layer = nn.Linear(4, 5000, nn.fan_in_uniform, nn.fan_in_uniform)
    bias = layer.init(Stream(1))["bias"]
    assert bias.shape == (5000,) and 0.499 < abs(bias).max() <= 0.5


def test_linear_gradients_to_order_three():
    layer = nn.Linear(3, 2)
    params = layer.init(Stream(1), np.float64)
    x = Stream(2).normal((4, 3), np.float64)
    check_gradients(
        lambda t: ops.tanh(layer(t["params"], t["x"])), {"params": params, "x": x}, order=3
    )


def test_linear_on_other_devices(xp):
    layer = nn.Linear(3, 2)
    params, x = layer.init(Stream(1)), Stream(2).normal((4, 3))
    there = layer({key: xp.asarray(a) for key, a in params.items()}, xp.asarray(x))
    np.testing.assert_allclose(
        xp.get(there), x @ params["weight"] + params["bias"], rtol=1e-6, atol=1e-6
    )


# Maxout


def test_maxout_is_the_largest_of_its_pieces():
    params = {"weight": np.array([[1.0, -1, 2, 0.5]]), "bias": np.array([0.0, 0, -1, 1])}
    y = nn.Maxout(1, 2, pieces=2)(params, np.array([[3.0], [-3.0]]))
    # |x| and max(2x − 1, x/2 + 1)
    assert y.tolist() == [[3, 5], [3, -0.5]]


@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99)
)
def test_maxout_against_numpy(n, inputs, outputs, pieces, seed):
    layer = nn.Maxout(inputs, outputs, pieces, bias_init=nn.he_normal)
    stream = Stream(seed)
    params = layer.init(stream, np.float64)
    x = stream.normal((n, inputs), np.float64)
    all_pieces = [
        x @ params["weight"][:, k::pieces] + params["bias"][k::pieces] for k in range(pieces)
    ]
    np.testing.assert_allclose(layer(params, x), np.maximum.reduce(all_pieces), atol=1e-14)


def test_maxout_gradients():
    """To order 3, away from ties; only the winning piece gets any."""
    layer = nn.Maxout(3, 2, pieces=3)
    params = layer.init(Stream(7), np.float64)
    x = Stream(8).normal((4, 3), np.float64)
    pieces = np.sort((x @ params["weight"]).reshape(4, 2, 3))
    assert (pieces[..., -1] - pieces[..., -2]).min() > 0.02
    check_gradients(
        lambda t: ops.tanh(layer(t["params"], t["x"])), {"params": params, "x": x}, order=3
    )

    tracked = track({"weight": np.array([[1.0, -1]]), "bias": np.zeros(2)})
    y = nn.Maxout(1, 1)(tracked, np.array([[3.0]]))
    assert grad_values(ops.sum(y), tracked)["weight"].tolist() == [[3, 0]]


def test_maxouts_fans_are_of_one_piece():
    layer = nn.Maxout(4, 50, pieces=40, weight_init=nn.xavier_uniform)
    params = layer.init(Stream(1))
    assert params["weight"].shape == (4, 2000) and params["bias"].shape == (2000,)
    bound = math.sqrt(6 / 54)
    assert 0.99 * bound < abs(params["weight"]).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3", None])
def test_sizes_that_are_no_whole_numbers_above_zero_are_errors(size):
    for make, name in [
        (lambda: nn.Linear(size, 2), "Linear: inputs"),
        (lambda: nn.Linear(2, size), "Linear: outputs"),
        (lambda: nn.Maxout(size, 2), "Maxout: inputs"),
        (lambda: nn.Maxout(2, size), "Maxout: outputs"),
        (lambda: nn.Maxout(2, 2, size), "Maxout: pieces"),
    ]:
        with pytest.raises(ValueError, match=f"{name} is .*whole number above 0"):
            make()


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Maxout(3, 2)], ids=str)
def test_input_of_another_width_is_an_error_that_names_the_shapes(layer):
    params = layer.init(Stream(1))
    with pytest.raises(ValueError, match=r"affine\(float32\[4, 5\], float32\[3, "):
        layer(params, np.ones((4, 5), np.float32))
    with pytest.raises(TypeError, match="mixed dtypes"):
        layer(params, np.ones((4, 3)))


# Batch norm


def batch_norm_in_numpy(x, scale, shift, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    return scale * (x - x.mean(axes)) / np.sqrt(x.var(axes) + eps) + shift


each_shape = pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3), (2, 3, 2, 3)], ids=str)


@each_shape
def test_batch_norm_is_its_formula(shape):
    x, scale, shift = setting = normal_setting(shape)
    got = nn.batch_norm(*setting)
    np.testing.assert_allclose(got, batch_norm_in_numpy(x, scale, shift), rtol=1e-12, atol=1e-14)
    got = nn.batch_norm(*setting, eps=0.5)
    expected = batch_norm_in_numpy(x, scale, shift, eps=0.5)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def normal_setting(shape):
    stream = Stream(3)
    return (
        3 * stream.normal(shape, np.float64) + 2,
        stream.normal(shape[-1], np.float64),
        stream.normal(shape[-1], np.float64),
    )


@each_shape
def test_batch_norms_output_has_the_shift_as_mean_and_the_scale_as_deviation(shape):
    x, scale, shift = normal_setting(shape)
    y = nn.batch_norm(x, scale, shift, eps=0.0)
    axes = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(y.mean(axes), shift, rtol=1e-12)
    np.testing.assert_allclose(y.std(axes), abs(scale), rtol=1e-12)


@each_shape
def test_batch_norm_gradients_to_order_three(shape):
    check_gradients(lambda t: nn.batch_norm(*t), normal_setting(shape), order=3, complex_step=True)


def test_the_gradient_of_batch_norm_has_no_part_along_the_ones_or_the_output():
    """The output does not change when x is shifted or scaled: Σ x̄ = 0 and Σ x̄·x ≈ 0."""
    x, scale, shift = normal_setting((6, 3))
    tracked = track(x)
    u = Stream(9).normal((6, 3), np.float64)
    slope = grad_values(nn.batch_norm(tracked, scale, shift, eps=0.0), tracked, u)
    assert abs(slope).max() > 0.1
    np.testing.assert_allclose(slope.sum(0), 0, atol=1e-14)
    np.testing.assert_allclose((slope * x).sum(0), 0, atol=1e-13)


def test_a_constant_feature_gives_the_shift_and_finite_gradients():
    x = track(np.full((4, 2), 7.0, np.float32))
    y = nn.batch_norm(x, np.ones(2, np.float32), np.full(2, 0.5, np.float32))
    assert (y.data == 0.5).all()
    slope = grad_values(y, x, np.ones((4, 2), np.float32))
    assert np.isfinite(slope).all()


def test_batch_norm_keeps_float32_and_runs_on_other_devices(xp):
    setting = [a.astype(np.float32) for a in normal_setting((2, 3, 2, 3))]
    got = xp.get(nn.batch_norm(*map(xp.asarray, setting)))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, batch_norm_in_numpy(*setting), rtol=1e-4, atol=1e-5)


def test_batch_mean_is_marked_as_mixing_samples():
    assert nn.batch_mean.cross_sample
    assert not ops.affine.cross_sample and not ops.sum.cross_sample

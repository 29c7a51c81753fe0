"""Layers and initialisers: bounds, moments, fans, shapes; values against NumPy; derivatives."""

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
CONSTANTS = [nn.zeros, nn.ones]
ALL = [*DEVIATIONS, *CONSTANTS, nn.Normal(0.5, 3.0), nn.Orthogonal(), nn.Orthogonal(1.4)]


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


def test_zeros_are_zeros_and_ones_are_ones():
    assert nn.zeros(Stream(0), (3, 2), (3, 2), np.float32).tolist() == [[0, 0]] * 3
    assert nn.ones(Stream(0), (3, 2), (3, 2), np.float32).tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("mean", [1.0, -2.0])
def test_a_normals_mean_is_added_to_its_deviation(mean):
    w = nn.Normal(0.02, mean)(Stream(3), *LINEAR, np.float64)
    assert w.mean() == pytest.approx(mean, abs=4 * 0.02 / math.sqrt(w.size))
    np.testing.assert_allclose(
        w - mean, nn.Normal(0.02)(Stream(3), *LINEAR, np.float64), atol=1e-15
    )


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_stream_gives_the_same_bits_in_the_dtype_asked_for(init, dtype):
    once, again = (init(Stream(5), (6, 4), (6, 4), dtype) for _ in range(2))
    assert once.dtype == dtype and np.array_equal(once, again)
    if init not in CONSTANTS:
        assert not np.array_equal(once, init(Stream(6), (6, 4), (6, 4), dtype))


@each
def test_weights_are_made_on_the_streams_device(init, stand_in):
    there = init(Stream(5, device="gpu"), (6, 4), (6, 4), np.float32)
    here = init(Stream(5), (6, 4), (6, 4), np.float32)
    np.testing.assert_allclose(stand_in.get(there), here, rtol=1e-6)  # normals differ by some ulp


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


# Convolutions

SETTINGS = st.fixed_dictionaries(
    {
        "inputs": st.integers(1, 3),
        "outputs": st.integers(1, 3),
        "kernel": st.one_of(st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "stride": st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "pad": st.one_of(
            st.integers(0, 2),
            st.tuples(st.integers(0, 2), st.integers(0, 2)),
            st.just(((1, 0), (0, 2))),
        ),
        "bias": st.booleans(),
    }
)
CONVS = {"Conv": nn.Conv, "ConvTranspose": nn.ConvTranspose}
each_conv = pytest.mark.parametrize("name", CONVS)


class Probe:
    """An initialiser that writes down what it is asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, stream, shape, fans, dtype):
        self.asked.append((shape, fans, dtype))
        return np.zeros(shape, dtype)


def test_convolutions_hand_their_fans_to_both_initialisers():
    """How many values a result sums, and how many results a value goes into: with a stride, a
    convolution has fewer results for each value, and its transpose fewer values for each result."""
    w, b = Probe(), Probe()
    nn.Conv(3, 5, (4, 2), 2, 1, weight_init=w, bias_init=b).init(Stream(0), np.float64)
    assert w.asked == [((4, 2, 3, 5), (4 * 2 * 3, 4 * 2 * 5 / 4), np.float64)]
    assert b.asked == [((5,), (4 * 2 * 3, 4 * 2 * 5 / 4), np.float64)]
    w, b = Probe(), Probe()
    nn.ConvTranspose(3, 5, (4, 2), 2, 1, weight_init=w, bias_init=b).init(Stream(0))
    assert w.asked == [((4, 2, 5, 3), (4 * 2 * 3 / 4, 4 * 2 * 5), np.float32)]
    assert b.asked == [((5,), (4 * 2 * 3 / 4, 4 * 2 * 5), np.float32)]
    w = Probe()
    nn.ConvTranspose(3, 5, 4, (3, 1), weight_init=w).init(Stream(0))
    assert w.asked[0][1] == (16 * 3 / 3, 16 * 5)


def test_he_weights_keep_the_size_of_signals_through_strides():
    """Three layers of stride 2 down and three up: the mean square stays of the order of 1."""
    x = Stream(1).normal((8, 32, 32, 8))
    stream = Stream(0)
    down = [nn.Conv(8 << i, 16 << i, 4, 2, 1, weight_init=nn.he_normal) for i in range(3)]
    up = [nn.ConvTranspose(64 >> i, 32 >> i, 4, 2, 1, weight_init=nn.he_normal) for i in range(3)]
    for layer in (*down, *up):
        x = layer(layer.init(stream), ops.relu(x))
        assert 0.15 < np.mean(x * x) < 3


def test_other_layers_hand_their_fans_to_both_initialisers():
    for layer, shapes, fans in [
        (nn.Linear(3, 5, *(probes := (Probe(), Probe()))), ((3, 5), (5,)), (3, 5)),
        (nn.BatchNorm(4, 0.1, *(norm := (Probe(), Probe()))), ((4,), (4,)), (4, 4)),
    ]:
        layer.init(Stream(0))
        given = probes if isinstance(layer, nn.Linear) else norm
        assert [p.asked for p in given] == [[(shape, fans, np.float32)] for shape in shapes]


@each_conv
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolutions_parameters(name, bias):
    params = CONVS[name](3, 5, 4, bias=bias, bias_init=nn.ones).init(Stream(0))
    assert list(params) == ["weight", "bias"][: 1 + bias]
    assert params["weight"].shape == ((4, 4, 3, 5) if name == "Conv" else (4, 4, 5, 3))
    bound = math.sqrt(6 / (16 * 3))  # the default, He-uniform
    assert 0.9 * bound < abs(params["weight"]).max() <= bound * (1 + 1e-6)
    if bias:
        assert params["bias"].tolist() == [1] * 5
        assert not CONVS[name](3, 5, 4).init(Stream(0))["bias"].any()


@each_conv
@given(SETTINGS, st.integers(1, 7), st.integers(1, 7), st.integers(0, 3), st.data())
def test_a_convolutions_output_is_the_shape_it_makes(name, setting, height, width, n, data):
    if name == "ConvTranspose":
        strides = setting["stride"]
        strides = strides if isinstance(strides, tuple) else (strides, strides)
        extra = tuple(data.draw(st.integers(0, s - 1)) for s in strides)
        setting = {**setting, "output_padding": extra}
    layer = CONVS[name](**setting)
    params = layer.init(Stream(1))
    shape = (height, width, setting["inputs"])
    x = np.ones((n, *shape), np.float32)
    try:
        expected = layer.output_shape(shape)
    except ValueError as error:
        assert "Geometry" in str(error)
        with pytest.raises(ValueError, match="Geometry"):
            layer(params, x)
        return
    y = layer(params, x)
    assert y.shape == (n, *expected) and y.dtype == np.float32
    assert all(type(size) is int for size in expected)


def taps(params, x, stride, pad):
    """A convolution by loops over grid points."""
    w = params["weight"]
    kh, kw = w.shape[:2]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    p, q = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((len(x), p, q, w.shape[3]))
    for i in range(p):
        for j in range(q):
            part = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
            y[:, i, j] = np.einsum("nabc,abco->no", part, w)
    return y + params.get("bias", 0.0)


def taps_back(params, z, stride, pad):
    """A transposed convolution by loops over grid points."""
    w = params["weight"]
    kh, kw, channels, _ = w.shape
    n, p, q, _ = z.shape
    y = np.zeros((n, (p - 1) * stride + kh, (q - 1) * stride + kw, channels))
    for i in range(p):
        for j in range(q):
            part = np.einsum("no,abco->nabc", z[:, i, j], w)
            y[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += part
    return y[:, pad : y.shape[1] - pad, pad : y.shape[2] - pad] + params.get("bias", 0.0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride, pad", [(1, 0), (2, 1)])
def test_convolutions_against_loops(stride, pad, bias):
    x = Stream(2).normal((2, 5, 4, 3), np.float64)
    kinds = {"kernel": 3, "stride": stride, "pad": pad, "bias": bias, "bias_init": nn.he_normal}
    for make, reference in ((nn.Conv, taps), (nn.ConvTranspose, taps_back)):
        layer = make(3, 2, **kinds)
        params = layer.init(Stream(1), np.float64)
        np.testing.assert_allclose(
            layer(params, x), reference(params, x, stride, pad), rtol=1e-12, atol=1e-13
        )


@each_conv
def test_convolutions_gradients_to_order_three(name):
    layer = CONVS[name](2, 3, 3, 2, 1)
    params = layer.init(Stream(1), np.float64)
    x = Stream(2).normal((2, 4, 3, 2), np.float64)
    check_gradients(
        lambda t: ops.tanh(layer(t["params"], t["x"])), {"params": params, "x": x}, order=3
    )


@each_conv
def test_convolutions_on_other_devices(name, xp):
    layer = CONVS[name](2, 3, 3, 2, 1)
    params, x = layer.init(Stream(1)), Stream(2).normal((2, 4, 3, 2))
    there = layer({key: xp.asarray(a) for key, a in params.items()}, xp.asarray(x))
    np.testing.assert_allclose(xp.get(there), layer(params, x), rtol=1e-5, atol=1e-6)


@each_conv
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (3, 4, 4), (16 * 3,)], ids=str)
def test_samples_that_are_no_image_of_the_layers_channels_are_an_error(name, shape):
    with pytest.raises(ValueError, match=rf"{name}: samples of shape .*\(height, width, 3\)"):
        CONVS[name](3, 2, 2).output_shape(shape)


@each_conv
def test_bad_sizes_of_convolutions_are_errors(name):
    make = CONVS[name]
    for size in (0, -1, 2.5, True, None):
        with pytest.raises(ValueError, match=f"{name}: inputs is .*whole number above 0"):
            make(size, 2, 3)
        with pytest.raises(ValueError, match=f"{name}: outputs is .*whole number above 0"):
            make(2, size, 3)
    for key, size in [("kernel", 0), ("stride", 0), ("pad", -1), ("kernel", (3, 3, 3))]:
        with pytest.raises(ValueError, match=f"{key} is "):
            make(2, 2, **{"kernel": 3, key: size})
    with pytest.raises(ValueError, match="pad is 'same'"):
        make(2, 2, 3, pad="same")


@each_conv
def test_images_of_the_wrong_layout_are_an_error_that_says_so(name):
    layer = CONVS[name](3, 4, 3)
    params = layer.init(Stream(0))
    with pytest.raises(ValueError, match=r"\(3, 8, 8\); expected .*, 3\), channels last"):
        layer(params, np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(ValueError, match=r"samples of shape \(192,\); expected \(height"):
        layer(params, np.zeros((2, 192), np.float32))


def test_kernels_that_do_not_fit_and_output_padding_of_a_stride_are_errors():
    with pytest.raises(ValueError, match=r"kernel \(4, 4\) does not fit image \(3, 3\)"):
        nn.Conv(2, 2, 4).output_shape((3, 3, 2))
    with pytest.raises(ValueError, match="output_padding .* expected less than the stride"):
        nn.ConvTranspose(2, 2, 4, 2, 1, output_padding=2)


# Norms (their functions are in test_norms.py)


@pytest.mark.parametrize("make", [nn.BatchNorm, nn.LayerNorm])
def test_norm_layers_are_their_functions_with_scale_one_and_shift_zero(make):
    layer, x = make(3, 0.1), Stream(3).normal((4, 2, 3), np.float64)
    params = layer.init(Stream(0), np.float64)
    assert {key: a.tolist() for key, a in params.items()} == {"scale": [1] * 3, "shift": [0] * 3}
    assert list(params) == ["scale", "shift"] and layer.output_shape((2, 3)) == (2, 3)
    axes = (0, 1) if make is nn.BatchNorm else (1, 2)
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 0.1)
    np.testing.assert_allclose(layer(params, x), expected, rtol=1e-12, atol=1e-13)
    params = {"scale": np.array([1.0, 2, 3]), "shift": np.array([4.0, 5, 6])}
    np.testing.assert_allclose(
        layer(params, x), expected * [1, 2, 3] + [4, 5, 6], rtol=1e-12, atol=1e-13
    )


def test_standing_batch_norm_uses_what_it_is_given():
    layer, x = nn.BatchNorm(2, eps=3.0), Stream(3).normal((4, 2), np.float64)
    params = {"scale": np.array([2.0, 3]), "shift": np.array([0.5, 1])}
    given = {"mean": np.array([1.0, 2]), "variance": np.array([1.0, 6])}
    expected = params["scale"] * (x - given["mean"]) / [2, 3] + params["shift"]
    np.testing.assert_allclose(layer.standing(params, x, given), expected, rtol=1e-13)


@pytest.mark.parametrize("make", [nn.BatchNorm, nn.LayerNorm])
def test_a_norms_initialisers_dtype_and_errors(make):
    layer = make(3000, scale_init=nn.Normal(0.02, 1.0), shift_init=nn.ones)
    params = layer.init(Stream(0))
    assert params["scale"].dtype == np.float32 and params["shift"].tolist() == [1] * 3000
    assert params["scale"].mean() == pytest.approx(1, abs=2e-3)
    assert params["scale"].std() == pytest.approx(0.02, rel=0.1)
    with pytest.raises(
        ValueError, match=rf"{make.__name__}: samples of shape \(2, 4\); expected 3"
    ):
        make(3).output_shape((2, 4))
    with pytest.raises(ValueError, match=f"{make.__name__}: channels is 0"):
        make(0)


# Flatten and reshape


def test_flatten_goes_by_height_width_channels():
    x = np.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4)
    y = nn.Flatten()(x)
    assert y.shape == (2, 24) and nn.Flatten().output_shape((2, 3, 4)) == (24,)
    for h, w, c in np.ndindex(2, 3, 4):
        assert y[1, (h * 3 + w) * 4 + c] == x[1, h, w, c]


def test_reshape_goes_by_height_width_channels_and_is_flattens_inverse():
    rows = np.arange(48.0).reshape(2, 24)
    layer = nn.Reshape((2, 3, 4))
    y = layer(rows)
    assert y.shape == (2, 2, 3, 4) and layer.output_shape((24,)) == (2, 3, 4)
    for h, w, c in np.ndindex(2, 3, 4):
        assert y[1, h, w, c] == rows[1, (h * 3 + w) * 4 + c]
    assert np.array_equal(nn.Flatten()(y), rows)


def test_flatten_and_reshape_of_an_empty_batch_and_their_gradients():
    assert nn.Flatten()(np.ones((0, 2, 3, 4))).shape == (0, 24)
    assert nn.Reshape((2, 12))(np.ones((0, 2, 3, 4))).shape == (0, 2, 12)
    x = Stream(2).normal((2, 2, 3, 2), np.float64)
    check_gradients(lambda a: ops.tanh(nn.Flatten()(a)), x)
    check_gradients(lambda a: ops.tanh(nn.Reshape((3, 4))(a)), x)


def test_reshape_to_another_number_of_values_is_an_error():
    with pytest.raises(ValueError, match=r"Reshape: \(23,\) has 23 values; expected 24"):
        nn.Reshape((2, 3, 4)).output_shape((23,))
    with pytest.raises(ValueError, match="reshape"):
        nn.Reshape((2, 3, 4))(np.ones((2, 23)))


# Dropout


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_a_mask_keeps_with_probability_one_minus_rate_and_has_mean_one(rate, dtype):
    """Counts within five deviations of the binomial's, so the mean is 1 to that."""
    n = 40_000
    mask = nn.dropout_mask(Stream(1), (n // 40, 40), rate, dtype)
    assert mask.shape == (n // 40, 40) and mask.dtype == dtype
    kept = (mask != 0).sum()
    deviation = math.sqrt(n * rate * (1 - rate))
    assert abs(kept - n * (1 - rate)) < 5 * deviation
    assert np.unique(mask).tolist() == [0, dtype(1 / (1 - rate))]
    assert abs(mask.mean(dtype=np.float64) - 1) < 5 * deviation / (n * (1 - rate))
    for axis in (0, 1):  # and no row or column is treated apart
        assert mask.mean(axis).std() < 0.5


def test_rate_zero_keeps_everything():
    assert (nn.dropout_mask(Stream(1), (50, 40), 0) == 1).all()
    assert (nn.dropout_mask(Stream(1), (50, 40), 0.0, np.float64) == 1).all()


def test_the_state_of_the_stream_is_the_mask():
    stream = Stream(3)
    first = nn.dropout_mask(stream, (5, 4), 0.5)
    state = stream.state
    second = nn.dropout_mask(stream, (5, 4), 0.5)
    assert np.array_equal(nn.dropout_mask(Stream(3), (5, 4), 0.5), first)
    assert np.array_equal(nn.dropout_mask(Stream(*state), (5, 4), 0.5), second)
    assert not np.array_equal(first, second)


def test_dropout_multiplies_with_its_mask_and_without_one_is_nothing():
    x = np.array([[1.0, -2, 3]])
    assert nn.dropout(x, np.array([[2.0, 0, 2]])).tolist() == [[2, 0, 6]]
    assert nn.dropout(x, None) is x
    tracked = track(x)
    assert nn.dropout(tracked, None) is tracked


def test_dropouts_gradients_with_a_fixed_mask_to_order_three():
    mask = nn.dropout_mask(Stream(1), (4, 3), 0.4, np.float64)
    assert 0 < (mask == 0).sum() < 12
    x = Stream(2).normal((4, 3), np.float64)
    check_gradients(lambda a: ops.tanh(nn.dropout(a, mask)), x, order=3, complex_step=True)
    tracked = track(x)
    assert np.array_equal(grad_values(ops.sum(nn.dropout(tracked, mask)), tracked), mask)


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 2, math.nan, math.inf])
def test_a_rate_outside_zero_to_one_is_an_error(rate):
    with pytest.raises(ValueError, match="rate is .*0 or more and below 1"):
        nn.dropout_mask(Stream(1), (2, 2), rate)


@pytest.mark.parametrize("shape", [(4, 1), (1, 3), (3,), (3, 4)], ids=str)
def test_a_mask_of_another_shape_is_an_error_even_if_it_broadcasts(shape):
    with pytest.raises(ValueError, match=r"mask .* for x \(4, 3\); expected the same shape"):
        nn.dropout(np.ones((4, 3)), np.ones(shape))


def test_masks_are_made_on_the_streams_device(stand_in):
    there = nn.dropout_mask(Stream(5, device="gpu"), (6, 4), 0.5)
    assert np.array_equal(stand_in.get(there), nn.dropout_mask(Stream(5), (6, 4), 0.5))


# Dropout and noise as layers


def test_a_dropout_layer_draws_dropouts_mask_whatever_the_level():
    layer = nn.Dropout(0.3)
    mask = layer.draw(Stream(1), (40, 6), np.float64)
    assert mask.dtype == np.float64
    assert np.array_equal(mask, nn.dropout_mask(Stream(1), (40, 6), 0.3, np.float64))
    assert np.array_equal(mask, layer.draw(Stream(1), (40, 6), np.float64, level=0.0))
    x = Stream(2).normal((40, 6), np.float64)
    assert np.array_equal(layer(x, mask), x * mask)
    assert nn.Dropout() == nn.Dropout(0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_noise_layer_adds_normal_noise_of_its_deviation_times_the_level(dtype):
    layer = nn.Noise(0.3)
    noise = layer.draw(Stream(1), (200, 100), dtype)
    assert noise.dtype == dtype and abs(noise.mean()) < 5 * 0.3 / math.sqrt(20_000)
    assert noise.std() == pytest.approx(0.3, rel=5 / math.sqrt(2 * 20_000))
    np.testing.assert_allclose(noise, 0.3 * Stream(1).normal((200, 100), dtype), rtol=1e-6)
    half = layer.draw(Stream(1), (200, 100), dtype, level=0.5)
    np.testing.assert_allclose(half, noise / 2, rtol=1e-6)
    assert half.dtype == dtype
    assert (layer.draw(Stream(1), (2, 3), dtype, level=0) == 0).all()
    assert (nn.Noise(0.0).draw(Stream(1), (2, 3), dtype) == 0).all()
    x = Stream(2).normal((200, 100), dtype)
    assert np.array_equal(layer(x, noise), x + noise)


@pytest.mark.parametrize("layer", [nn.Dropout(0.4), nn.Noise(0.7)], ids=str)
def test_layers_that_draw_are_nothing_without_noise_and_have_gradients_with_it(layer):
    x = Stream(2).normal((4, 3), np.float64)
    tracked = track(x)
    assert layer(x) is x and layer(tracked) is tracked and layer(tracked, None) is tracked
    assert not hasattr(layer, "init")
    noise = layer.draw(Stream(5), (4, 3), np.float64)
    check_gradients(lambda a: ops.tanh(layer(a, noise)), x, order=3, complex_step=True)
    for shape in [(4, 1), (1, 3), (3,), (3, 4), ()]:
        with pytest.raises(ValueError, match=r"noise \(.*\) for x \(4, 3\); expected the same sh"):
            layer(x, np.ones(shape))
    with pytest.raises(ValueError, match="noise of type float for x"):
        layer(x, 1.0)


def test_layers_that_draw_do_so_on_the_streams_device(stand_in):
    for layer in (nn.Dropout(0.4), nn.Noise(0.7)):
        there = layer.draw(Stream(5, device="gpu"), (6, 4), level=0.5)
        assert type(there) is stand_in.ndarray
        np.testing.assert_allclose(
            stand_in.get(there), layer.draw(Stream(5), (6, 4), level=0.5), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("bad", [-0.1, 1, math.nan, math.inf])
def test_bad_rates_deviations_and_levels_are_errors(bad):
    with pytest.raises(ValueError, match="Dropout: rate is .*0 or more and below 1"):
        nn.Dropout(bad)
    if bad == 1:
        return
    with pytest.raises(ValueError, match="Noise: deviation is .*0 or more, finite"):
        nn.Noise(bad)
    with pytest.raises(ValueError, match="Noise: level is .*0 or more, finite"):
        nn.Noise(0.1).draw(Stream(0), (2, 3), level=bad)

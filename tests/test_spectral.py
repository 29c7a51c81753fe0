"""Spectral norm against NumPy's singular values, by loops, through training, and compiled."""

import numpy as np
import pytest

import tinygan
from tinygan import models, nn, ops, optim, spectral, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import grad_values, track
from tinygan.spectral import SpectralNorm, refreshed, singular_value, spectral_norm

LAYERS = {
    "linear": nn.Linear(7, 4),
    "wide": nn.Linear(3, 8, bias_init=nn.he_normal),
    "conv": nn.Conv(3, 5, 4, 2, 1, bias_init=nn.he_normal),
    "conv without bias": nn.Conv(2, 6, (3, 2), bias=False),
    "one output": nn.Conv(4, 1, 2),
}
each_layer = pytest.mark.parametrize("name", LAYERS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def matrix(params):
    return params["weight"].reshape(-1, params["weight"].shape[-1])


def largest(params):
    return np.linalg.svd(matrix(params).astype(np.float64), compute_uv=False)[0]


def samples(layer, n=4, dtype=np.float64):
    shape = (layer.inputs,) if isinstance(layer, nn.Linear) else (6, 6, layer.inputs)
    return Stream(9).normal((n, *shape), dtype)


@each_layer
@each_dtype
def test_the_layer_starts_with_the_layers_parameters_and_unit_vectors(name, dtype):
    layer = LAYERS[name]
    params = SpectralNorm(layer).init(Stream(1), dtype)
    rows, columns = matrix(params).shape
    assert list(params) == [*layer.init(Stream(1)), "left", "right"]
    for key, a in layer.init(Stream(1), dtype).items():
        assert np.array_equal(params[key], a)
    assert (params["left"].shape, params["right"].shape) == ((rows,), (columns,))
    for key in ("left", "right"):
        assert params[key].dtype == dtype
        assert np.linalg.norm(params[key]) == pytest.approx(1, abs=1e-6)
    assert singular_value(params) == pytest.approx(largest(params), rel=1e-3)
    again = SpectralNorm(layer).init(Stream(1), dtype)
    other = SpectralNorm(layer).init(Stream(2), dtype)
    assert all(np.array_equal(params[key], again[key]) for key in params)
    assert not np.array_equal(params["weight"], other["weight"])


@each_layer
def test_the_singular_value_is_numpys_after_enough_iterations(name):
    params = refreshed(SpectralNorm(LAYERS[name]).init(Stream(1), np.float64), 600)
    assert singular_value(params).shape == ()
    assert singular_value(params) == pytest.approx(largest(params), rel=1e-9)
    u, _, vt = np.linalg.svd(matrix(params), full_matrices=False)
    assert abs(u[:, 0] @ params["left"]) == pytest.approx(1, rel=1e-9)
    assert abs(vt[0] @ params["right"]) == pytest.approx(1, rel=1e-9)
    single = refreshed(SpectralNorm(LAYERS[name]).init(Stream(1), np.float32), 600)
    assert singular_value(single) == pytest.approx(largest(single), rel=1e-6)


@each_layer
@each_dtype
def test_it_is_the_layer_with_its_weight_divided(name, dtype):
    layer = LAYERS[name]
    params = SpectralNorm(layer).init(Stream(1), dtype)
    params |= {"left": Stream(2).normal(params["left"].shape, dtype)}  # whatever the vectors are
    sigma = 0.0
    for i, a in enumerate(params["left"]):
        for j, b in enumerate(params["right"]):
            sigma += float(a) * float(matrix(params)[i, j]) * float(b)
    x = samples(layer, dtype=dtype)
    expected = layer(params | {"weight": (params["weight"] / sigma).astype(dtype)}, x)
    got = SpectralNorm(layer)(params, x)
    assert got.dtype == dtype
    tolerance = 1e-3 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    assert SpectralNorm(layer).output_shape(x.shape[1:]) == layer.output_shape(x.shape[1:])


def test_an_iteration_is_the_papers_left_first():
    weight = Stream(1).normal((5, 3), np.float64)
    params = {"weight": weight, "bias": np.zeros(3)}
    left, right = Stream(2).normal((5,), np.float64), Stream(3).normal((3,), np.float64)
    before = params | {"left": left, "right": right}
    for count in (1, 2, 5):
        u, v = left, right
        for _ in range(count):
            u = np.array([sum(weight[i, j] * v[j] for j in range(3)) for i in range(5)])
            u = u / np.sqrt(sum(u**2))
            v = np.array([sum(weight[i, j] * u[i] for i in range(5)) for j in range(3)])
            v = v / np.sqrt(sum(v**2))
        after = refreshed(before, count)
        np.testing.assert_allclose(after["left"], u, rtol=1e-12)
        np.testing.assert_allclose(after["right"], v, rtol=1e-12)
        assert after["weight"] is weight and after["bias"] is params["bias"]
    assert before["left"] is left  # nothing was changed in place


@each_layer
def test_the_slope_of_sigma_is_the_outer_product_and_that_of_the_true_one(name):
    params = refreshed(SpectralNorm(LAYERS[name]).init(Stream(1), np.float64), 600)
    tracked = track(params)
    found = grad_values(singular_value(tracked), tracked)
    outer = np.outer(params["left"], params["right"]).reshape(params["weight"].shape)
    np.testing.assert_allclose(found["weight"], outer, rtol=1e-12)
    assert not found["left"].any() and not found["right"].any()
    direction = Stream(4).normal(params["weight"].shape, np.float64)
    h = 1e-6
    ends = [largest({"weight": params["weight"] + s * h * direction}) for s in (1, -1)]
    assert (outer * direction).sum() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


@each_layer
def test_gradients_to_order_three_with_the_vectors_fixed(name):
    layer = SpectralNorm(LAYERS[name])
    params = layer.init(Stream(1), np.float64)
    vectors = {key: params.pop(key) for key in ("left", "right")}
    check_gradients(
        lambda t: ops.tanh(layer(t["params"] | vectors, t["x"])),
        {"params": params, "x": samples(layer.layer, 2)},
        order=3,
    )


def test_a_layers_slope_is_at_most_one_and_reaches_it():
    layer = SpectralNorm(nn.Linear(7, 4, nn.Normal(3.0)))
    params = refreshed(layer.init(Stream(1), np.float64), 600)
    a, b = Stream(2).normal((50, 7), np.float64), Stream(3).normal((50, 7), np.float64)
    moved = np.linalg.norm(layer(params, a) - layer(params, b), axis=1)
    assert (moved <= np.linalg.norm(a - b, axis=1) * (1 + 1e-9)).all()
    b = a + params["left"]
    moved = np.linalg.norm(layer(params, a) - layer(params, b), axis=1)
    np.testing.assert_allclose(moved, 1, rtol=1e-9)


@each_dtype
@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
def test_vectors_stay_of_length_one_whatever_the_weights_size(dtype, size):
    layer = SpectralNorm(nn.Linear(6, 5, nn.Normal(size)))
    params = refreshed(layer.init(Stream(1), dtype), 50)
    for key in ("left", "right"):
        assert np.linalg.norm(params[key]) == pytest.approx(1, abs=1e-6)
    y = layer(params, np.eye(6, dtype=dtype))
    assert np.linalg.svd(y, compute_uv=False)[0] == pytest.approx(1, rel=1e-3)


@each_dtype
def test_a_weight_of_zero_gives_zero_and_keeps_its_vectors(dtype):
    layer = SpectralNorm(nn.Linear(3, 2, nn.zeros, nn.ones))
    params = layer.init(Stream(1), dtype)
    after = refreshed(params)
    for key in ("left", "right"):
        assert np.array_equal(after[key], params[key])
        assert np.linalg.norm(after[key]) == pytest.approx(1, abs=1e-6)
    tracked = track(params)
    y = layer(tracked, np.ones((4, 3), dtype))
    assert (y.data == 1).all()
    assert all(np.isfinite(a).all() for a in grad_values(ops.sum(y), tracked).values())


# Networks


def small_critic():
    net = models.Net(
        "critic",
        (6, 6, 2),
        {
            "conv": nn.Conv(2, 4, 4, 2, 1),
            "leaky": ops.leaky_relu,
            "noise": nn.Noise(0.1),
            "row": nn.Flatten(),
            "logit": nn.Linear(36, 1),
        },
    )
    return net, spectral_norm(net)


def test_a_network_has_its_linear_layers_and_convolutions_wrapped():
    net, wrapped = small_critic()
    assert wrapped.layers["conv"] == SpectralNorm(net.layers["conv"])
    assert wrapped.layers["logit"] == SpectralNorm(net.layers["logit"])
    for name in ("leaky", "noise", "row"):
        assert wrapped.layers[name] is net.layers[name]
    assert wrapped.shapes() == net.shapes() and wrapped.title == net.title
    assert list(wrapped.draw(Stream(0), 3)) == ["noise"]
    assert spectral_norm(wrapped).layers == wrapped.layers  # once is enough
    normed = spectral_norm(models.dcgan32(width=1 / 64).critic)
    assert isinstance(normed.layers["norm1"], nn.BatchNorm) and normed.mixes_samples


def test_printing_counts_what_is_learned():
    net, wrapped = small_critic()
    assert str(wrapped).splitlines() == [
        "critic",
        "       input                                 6×6×2",
        "conv   SpectralNorm Conv 4×4 stride 2 pad 1  3×3×4  132",
        "leaky  leaky_relu                            3×3×4",
        "noise  Noise 0.1                             3×3×4",
        "row    Flatten                                  36",
        "logit  SpectralNorm Linear                       1   37",
        "       total                                        169",
    ]
    params = wrapped.init(Stream(0))
    vectors = (4 * 4 * 2 + 4) + (36 + 1)
    assert models.count_parameters(params) == 169 + vectors
    assert models.count_parameters(net.init(Stream(0))) == 169


def test_only_layers_with_vectors_are_refreshed_wherever_they_stand():
    layer = SpectralNorm(nn.Linear(4, 3))
    params = layer.init(Stream(1), np.float64)
    params["left"] = Stream(2).normal((4,), np.float64)
    expected = refreshed(params)
    weight = np.ones((2, 2))
    left_and_right = {"left": {"weight": weight}, "right": {"weight": weight}}
    nested = [{"a": params, "b": left_and_right}, (params, optim.SGD(0.1).init([])), weight]
    after = refreshed(nested)
    for found in (after[0]["a"], after[1][0]):
        assert list(found) == list(params)
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert after[0]["b"] == left_and_right and after[2] is weight
    assert after[0]["b"]["left"]["weight"] is weight and type(after[1]) is tuple
    pair = models.Pair(params, weight)
    assert np.array_equal(refreshed(pair).generator["left"], expected["left"])


@pytest.mark.parametrize(
    "optimizer",
    [optim.SGD(0.1), optim.SGD(0.1, 0.9, True), optim.RMSProp(0.01), optim.Adam(0.01)],
    ids=str,
)
def test_optimisers_leave_the_vectors_as_they_are(optimizer):
    _, net = small_critic()
    params = net.init(Stream(0))
    state, x = optimizer.init(params), Stream(1).normal((5, 6, 6, 2))
    start = params
    for _ in range(3):
        tracked = track(params)
        gradient = grad_values(ops.mean(net(tracked, x)), tracked)
        params, state = optimizer.update(params, gradient, state)
    for name in ("conv", "logit"):
        assert not np.array_equal(params[name]["weight"], start[name]["weight"])
        for key in ("left", "right"):
            assert np.array_equal(params[name][key], start[name][key])


def training_step(net, optimizer):
    def step(params, state, x, noise):
        params = refreshed(params)
        tracked = track(params)
        y = net(tracked, x, None, noise)
        loss = ops.mean(ops.softplus(ops.negative(y)))
        gradient = grad_values(loss, tracked, release=True)
        return optimizer.update(params, gradient, state)

    return step


def test_one_iteration_a_step_follows_the_largest_singular_value_through_training():
    _, net = small_critic()
    optimizer, stream = optim.Adam(5e-3), Stream(2)
    params = net.init(Stream(0), np.float64)
    state, step, start = optimizer.init(params), training_step(net, optimizer), params
    errors = []
    for _ in range(100):
        x, noise = stream.normal((8, 6, 6, 2), np.float64), net.draw(stream, 8, np.float64)
        params, state = step(params, state, x, noise)
        found = refreshed(params)["conv"]
        true = largest(found)
        assert singular_value(found) <= true * (1 + 1e-12)
        errors.append(1 - singular_value(found) / true)
    assert max(errors) < 0.1  # while one singular value overtakes another
    assert errors[-1] < 1e-3, errors[-1]
    never = {key: start["conv"][key] for key in ("left", "right")}
    assert singular_value(found | never) < 0.9 * true


@each_dtype
def test_a_compiled_step_gives_the_same(dtype):
    _, net = small_critic()
    optimizer, stream = optim.Adam(1e-2), Stream(2)
    params = net.init(Stream(0), dtype)
    step = training_step(net, optimizer)
    compiled = tinygan.compile(step)
    eager = replayed = (params, optimizer.init(params))
    for _ in range(4):
        x, noise = stream.normal((5, 6, 6, 2), dtype), net.draw(stream, 5, dtype)
        eager, replayed = step(*eager, x, noise), compiled(*replayed, x, noise)
        for a, b in zip(tree.leaves(eager[0]), tree.leaves(replayed[0]), strict=True):
            assert a.dtype == b.dtype == dtype
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 if dtype == np.float32 else 1e-12)


def test_parameters_are_made_and_refreshed_on_the_streams_device(stand_in):
    layer = SpectralNorm(nn.Conv(2, 3, 4, 2, 1))
    here, there = layer.init(Stream(1)), layer.init(Stream(1, device="gpu"))
    for key, a in refreshed(there).items():
        assert type(a) is stand_in.ndarray
        np.testing.assert_allclose(stand_in.get(a), refreshed(here)[key], rtol=1e-4, atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    "layer",
    [nn.ConvTranspose(2, 3, 4), nn.Maxout(2, 3), nn.BatchNorm(3), ops.tanh, nn.Flatten()],
    ids=str,
)
def test_other_layers_are_an_error(layer):
    with pytest.raises(TypeError, match="SpectralNorm: .*expected nn.Linear or nn.Conv"):
        SpectralNorm(layer)


def test_a_network_with_a_weight_that_cannot_be_divided_is_an_error_that_names_the_layer():
    with pytest.raises(TypeError, match="layer conv0 of generator .*a layer of type ConvTranspose"):
        spectral_norm(models.dcgan32(width=1 / 64).generator)
    with pytest.raises(TypeError, match="layer m of net: .*Maxout"):
        spectral_norm(models.Net("net", (2,), {"m": nn.Maxout(2, 3)}))
    with pytest.raises(TypeError, match="spectral_norm: a MLP; expected a models.Net"):
        spectral_norm(models.MLP((2, 3, 1)))


@pytest.mark.parametrize("iterations", [0, -1, 1.5, None])
def test_fewer_than_one_iteration_is_an_error(iterations):
    with pytest.raises(ValueError, match="iterations is .*expected 1 or more"):
        refreshed({}, iterations)


def test_tracked_parameters_are_refused():
    params = SpectralNorm(nn.Linear(3, 2)).init(Stream(0))
    with pytest.raises(TypeError, match="refreshed: tracked parameters; expected arrays"):
        refreshed({"layer": track(params)})
    assert spectral.START >= 15

"""The MLP and its presets: shapes, counts, forward passes in NumPy, errors; nets that draw."""

from functools import partial

import numpy as np
import pytest

import tinygan
from tinygan import models, nn, ops, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import Tensor, grad_values, track

# Parameters by hand: (inputs + 1)·outputs for each layer.
COUNTS = {
    "zero_gp_toy": (
        models.zero_gp_toy(),
        3 * 512 + 513 * 512 + 513 * 512 + 513 * 2,
        3 * 512 + 513 * 512 + 513 * 512 + 513 * 1,
    ),
    "zero_gp_toy 64": (
        models.zero_gp_toy(64),
        3 * 64 + 65 * 64 + 65 * 64 + 65 * 2,
        3 * 64 + 65 * 64 + 65 * 64 + 65 * 1,
    ),
    "zero_gp_toy 512, two layers": (
        models.zero_gp_toy(512, depth=2),
        3 * 512 + 513 * 512 + 513 * 2,
        3 * 512 + 513 * 512 + 513 * 1,
    ),
    "wgan_gp_toy": (models.wgan_gp_toy(), 527_874, 527_361),
    "zero_gp_mnist": (
        models.zero_gp_mnist(),
        51 * 512 + 2 * 513 * 512 + 513 * 784,
        785 * 512 + 2 * 513 * 512 + 513 * 1,
    ),
    "unrolled_ring": (
        models.unrolled_ring(),
        257 * 128 + 129 * 128 + 129 * 2,
        3 * 128 + 129 * 128 + 129 * 1,
    ),
}
LATENT = {"zero_gp_mnist": (50, 784), "unrolled_ring": (256, 2)}
each = pytest.mark.parametrize("name", COUNTS)


def count(params):
    return sum(a.size for a in tree.leaves(params))


def by_hand(params, x, activation):
    for i, layer in enumerate(params):
        x = activation(x) if i else x
        x = x @ layer["weight"] + layer["bias"]
    return x


@each
def test_presets_have_the_papers_parameters_and_shapes(name):
    pair, of_generator, of_critic = COUNTS[name]
    stream = Stream(0)
    g, d = pair.generator.init(stream), pair.critic.init(stream)
    assert (count(g), count(d)) == (of_generator, of_critic)
    latent, data = LATENT.get(name, (2, 2))
    assert pair.latent == latent
    fake = pair.generator(g, stream.normal((3, latent)))
    assert fake.shape == (3, data) and pair.critic(d, fake).shape == (3, 1)
    for model, total in ((pair.generator, of_generator), (pair.critic, of_critic)):
        assert f"{total} parameters" in str(model)


def test_the_value_surface_is_2_64_64_1_in_tanh():
    model = models.zero_gp_value_surface()
    params = model.init(Stream(0), np.float64)
    assert count(params) == 3 * 64 + 65 * 64 + 65 * 1 == 4417
    x = Stream(1).normal((5, 2), np.float64)
    np.testing.assert_allclose(model(params, x), by_hand(params, x, np.tanh), rtol=1e-13)
    assert 0.12 < abs(params[1]["bias"]).max() <= 0.125  # uniform on ±1/√64, biases too


@each
def test_presets_are_a_linear_chain_with_their_activation(name):
    activation = np.tanh if name == "unrolled_ring" else lambda x: np.maximum(x, 0)
    pair, stream = COUNTS[name][0], Stream(1)
    for model in pair:
        params = model.init(stream, np.float64)
        x = stream.normal((3, model.sizes[0]), np.float64)
        np.testing.assert_allclose(
            model(params, x), by_hand(params, x, activation), rtol=1e-11, atol=1e-13
        )


@pytest.mark.parametrize(
    "name, bias, bound",
    [
        ("zero_gp_toy", True, 1 / np.sqrt(512)),
        ("wgan_gp_toy", False, np.sqrt(6 / 512)),
        ("zero_gp_mnist", True, 1 / np.sqrt(512)),
    ],
)
def test_presets_start_in_the_papers_ranges(name, bias, bound):
    """P3: uniform on ±1/√fan_in, weights and biases; WGAN-GP: He-uniform and no bias."""
    for model in COUNTS[name][0]:
        hidden = model.init(Stream(2))[1]
        assert 0.999 * bound < abs(hidden["weight"]).max() <= bound * (1 + 1e-6)
        assert hidden["bias"].any() == bias and abs(hidden["bias"]).max() <= bound


def test_the_rings_weights_are_orthogonal_with_gain_1_4():
    hidden = models.unrolled_ring().critic.init(Stream(2), np.float64)[1]["weight"]
    np.testing.assert_allclose(hidden @ hidden.T, 1.96 * np.eye(128), atol=1e-12)


def test_a_pair_of_any_depth_width_and_activation():
    for depth in (0, 1, 4):
        pair = models.mlp_pair(3, 5, 7, depth, activation=ops.leaky_relu)
        assert pair.generator.sizes == (5,) + (7,) * depth + (3,)
        assert pair.critic.sizes == (3,) + (7,) * depth + (1,)
        assert pair.latent == 5
        params = pair.critic.init(Stream(0), np.float64)
        x = Stream(1).normal((4, 3), np.float64)
        expected = by_hand(params, x, lambda x: np.where(x > 0, x, 0.2 * x))
        np.testing.assert_allclose(pair.critic(params, x), expected, rtol=1e-12)


def test_the_output_function_comes_last():
    model = models.MLP((2, 3, 2), output=ops.tanh)
    params = model.init(Stream(0), np.float64)
    x = Stream(1).normal((4, 2), np.float64)
    expected = np.tanh(by_hand(params, x, lambda x: np.maximum(x, 0)))
    np.testing.assert_allclose(model(params, x), expected, rtol=1e-13)


def test_parameters_are_a_list_of_layers_in_order_and_the_stream_fixes_their_bits():
    model = models.MLP((2, 4, 3), bias_init=nn.he_normal)
    params = model.init(Stream(3))
    assert [path for path, _ in tree.paths(params)] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]
    assert [a.shape for a in tree.leaves(params)] == [(2, 4), (4,), (4, 3), (3,)]
    again, other = model.init(Stream(3)), model.init(Stream(4))
    for a, b, c in zip(*map(tree.leaves, (params, again, other)), strict=True):
        assert a.dtype == np.float32 and np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_graph_keeps_its_dtype(dtype):
    model = models.MLP((2, 4, 1))
    params = model.init(Stream(3), dtype)
    x = Stream(1).normal((4, 2), dtype)
    assert model(params, x).dtype == dtype
    assert type(model(params, x)) is np.ndarray and type(model(track(params), x)) is Tensor


def test_gradients_to_order_three():
    model = models.MLP((2, 4, 3, 1), ops.tanh)
    params = model.init(Stream(3), np.float64)
    x = Stream(1).normal((4, 2), np.float64)
    check_gradients(
        lambda t: model(t["params"], t["x"]),
        {"params": params, "x": x},
        order=3,
        complex_step=True,
    )


def test_other_devices_give_the_same_numbers(xp):
    model = models.MLP((2, 8, 8, 1))
    params, x = model.init(Stream(3)), Stream(1).normal((4, 2))
    there = model(tree.tree_map(xp.asarray, params), xp.asarray(x))
    np.testing.assert_allclose(xp.get(there), model(params, x), rtol=1e-5, atol=1e-6)


def test_parameters_are_made_on_the_streams_device(stand_in):
    model = models.MLP((2, 4, 1))
    there = model.init(Stream(3, device="gpu"))
    for a, b in zip(tree.leaves(there), tree.leaves(model.init(Stream(3))), strict=True):
        assert np.array_equal(stand_in.get(a), b)


def test_str_lists_the_layers_and_counts():
    assert str(models.MLP((2, 64, 1))) == "\n".join(
        [
            "MLP, relu, 257 parameters",
            "  0      2 -> 64          192",
            "  1     64 -> 1            65",
        ]
    )


def test_str_of_an_activation_without_a_name():
    model = models.MLP((2, 3, 1), partial(ops.leaky_relu, slope=0.1))
    assert "13 parameters" in str(model)


def test_models_are_compared_by_their_sizes_and_choices():
    assert models.MLP((2, 3, 1)) == models.MLP((2, 3, 1))
    assert models.MLP((2, 3, 1)) != models.MLP((2, 3, 1), ops.tanh)


# Bad input


@pytest.mark.parametrize("sizes", [(), (2,)])
def test_too_few_sizes_are_an_error(sizes):
    with pytest.raises(ValueError, match="expected inputs, hidden widths, outputs"):
        models.MLP(sizes)


@pytest.mark.parametrize("sizes", [(2, 0, 1), (0, 3, 1), (2, 3, -1), (2, 3.5, 1)])
def test_sizes_that_are_no_whole_numbers_above_zero_are_errors(sizes):
    with pytest.raises(ValueError, match="whole number above 0"):
        models.MLP(sizes)


def test_presets_refuse_bad_sizes():
    with pytest.raises(ValueError, match="depth is -1"):
        models.mlp_pair(2, 2, 64, -1)
    with pytest.raises(ValueError, match="whole number above 0"):
        models.zero_gp_toy(0)


@pytest.mark.parametrize("shape", [(4, 3), (2,), (4, 2, 1), (4, 1)])
def test_input_of_another_shape_is_an_error(shape):
    model = models.MLP((2, 3, 1))
    with pytest.raises(ValueError, match=r"input of shape .*expected \(N, 2\)"):
        model(model.init(Stream(0)), np.ones(shape, np.float32))


def test_parameters_of_another_model_are_an_error():
    model = models.MLP((2, 3, 1))
    with pytest.raises(ValueError, match="3 layers of parameters"):
        model(models.MLP((2, 3, 3, 1)).init(Stream(0)), np.ones((4, 2), np.float32))
    with pytest.raises(ValueError, match=r"affine\(float32\[4, 2\], float32\[5, 3\]"):
        model(models.MLP((5, 3, 1)).init(Stream(0)), np.ones((4, 2), np.float32))


# Nets whose layers draw, and the statistics of a batch


def noisy(noise=0.3, rate=0.4):
    """Instance noise, two batch norms with dropout between them, layer noise, and more after."""
    return models.Net(
        "noisy",
        (6, 6, 2),
        {
            "instance": nn.Noise(noise),
            "conv": nn.Conv(2, 3, 4, 2, 1),
            "norm0": nn.BatchNorm(3),
            "tanh": ops.tanh,
            "dropout": nn.Dropout(rate),
            "row": nn.Flatten(),
            "hidden": nn.Linear(27, 5),
            "norm1": nn.BatchNorm(5),
            "layer": nn.Noise(2 * noise),
            "logit": nn.Linear(5, 1),
        },
    )


def setting(dtype=np.float64, n=7):
    net = noisy()
    params = tree.tree_map(
        lambda a: a + Stream(4).normal(a.shape, dtype) / 9, net.init(Stream(3), dtype)
    )
    return net, params, Stream(5).normal((n, 6, 6, 2), dtype), net.draw(Stream(6), n, dtype)


def by_layers(net, params, x, noise):
    """Every layer's input and at last the result, layer by layer, noise by NumPy."""
    found = {}
    for name, layer in net.layers.items():
        found[name] = x
        if name in ("instance", "layer"):
            x = x + noise[name]
        elif name == "dropout":
            x = x * noise[name]
        else:
            x = layer(params[name], x) if name in params else layer(x)
    return found, x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_net_draws_for_its_layers_in_order_from_one_stream(dtype):
    net, stream = noisy(), Stream(8)
    noise = net.draw(Stream(8), 4, dtype, level=0.5)
    assert {name: a.shape for name, a in noise.items()} == {
        "instance": (4, 6, 6, 2),
        "dropout": (4, 3, 3, 3),
        "layer": (4, 5),
    }
    expected = [
        0.5 * 0.3 * stream.normal((4, 6, 6, 2), dtype),
        nn.dropout_mask(stream, (4, 3, 3, 3), 0.4, dtype),
        0.5 * 0.6 * stream.normal((4, 5), dtype),
    ]
    for a, b in zip(noise.values(), expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=1e-6)
    plain = models.dcgan28(width=1 / 64).critic
    state = stream.state
    assert plain.draw(stream, 4) == {} and stream.state == state


def test_a_net_uses_the_noise_it_is_given_and_none_without():
    net, params, x, noise = setting()
    np.testing.assert_allclose(
        net(params, x, noise=noise), by_layers(net, params, x, noise)[1], rtol=1e-12
    )
    still = {"instance": 0.0, "dropout": 1.0, "layer": 0.0}
    expected = by_layers(net, params, x, still)[1]
    for nothing in (None, {}):
        assert np.array_equal(net(params, x, noise=nothing), expected)
    assert abs(net(params, x, None, noise) - expected).max() > 0.1


def test_gradients_of_a_net_with_noise_to_order_two():
    net, params, x, noise = setting()
    check_gradients(
        lambda t: ops.tanh(net(t["params"], t["x"], None, noise)),
        {"params": params, "x": x},
        order=2,
        tolerance=1e-5,
    )


def test_the_statistics_of_a_batch_are_each_norms_mean_and_biased_variance():
    net, params, x, noise = setting()
    for given in (noise, None):
        inputs, _ = by_layers(
            net, params, x, given or {"instance": 0.0, "dropout": 1.0, "layer": 0.0}
        )
        found = net.statistics(params, x, given)
        assert list(found) == ["norm0", "norm1"]
        for name, moments in found.items():
            rows = inputs[name].reshape(-1, inputs[name].shape[-1])
            for c in range(rows.shape[1]):
                mean = sum(rows[:, c]) / len(rows)
                variance = sum((v - mean) ** 2 for v in rows[:, c]) / len(rows)
                assert moments["mean"][c] == pytest.approx(mean, rel=1e-10, abs=1e-12)
                assert moments["variance"][c] == pytest.approx(variance, rel=1e-10)
    with_statistics = net(params, x, net.statistics(params, x, noise), noise)
    np.testing.assert_allclose(with_statistics, net(params, x, noise=noise), rtol=1e-9)


def test_statistics_are_constants_and_those_of_a_net_without_batch_norm_are_none():
    net, params, x, noise = setting()
    found = net.statistics(track(params), track(x), noise)
    for a, b in zip(tree.leaves(found), tree.leaves(net.statistics(params, x, noise)), strict=True):
        assert type(a) is np.ndarray and np.array_equal(a, b)
    plain = models.dcgan28(width=1 / 64).critic
    assert plain.statistics(plain.init(Stream(0)), np.zeros((2, 28, 28, 1), np.float32)) == {}


def test_statistics_need_nothing_that_comes_after_the_last_norm():
    def never(x):
        raise AssertionError("was called")

    net = models.Net("net", (2,), {"norm": nn.BatchNorm(2), "never": never})
    assert list(net.statistics(net.init(Stream(0)), np.eye(2, dtype=np.float32))) == ["norm"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_compiled_step_draws_nothing_and_takes_its_noise(dtype):
    net, params, x, _ = setting(dtype)

    def step(params, x, noise):
        tracked = track(params)
        loss = ops.mean(ops.square(net(tracked, x, None, noise)))
        return grad_values(loss, tracked, release=True), net.statistics(params, x, noise)

    compiled = tinygan.compile(step)
    for seed in range(3):
        noise = net.draw(Stream(seed), len(x), dtype)
        for a, b in zip(
            tree.leaves(compiled(params, x, noise)),
            tree.leaves(step(params, x, noise)),
            strict=True,
        ):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=1e-4 if dtype == np.float32 else 1e-11, atol=1e-6)


def test_a_layer_may_have_parameters_and_noise():
    class Both(nn.Linear):
        def draw(self, stream, shape, dtype, level):
            return level * stream.normal(shape, dtype)

        def __call__(self, params, x, noise=None):
            y = super().__call__(params, x)
            return y if noise is None else y + noise

    net = models.Net("net", (2,), {"both": Both(2, 3)})
    params, x, noise = net.init(Stream(0)), np.ones((4, 2), np.float32), net.draw(Stream(1), 4)
    np.testing.assert_allclose(
        net(params, x, noise=noise) - net(params, x), noise["both"], atol=1e-6
    )


def test_printing_a_net_tells_the_rate_and_the_deviation():
    lines = str(noisy()).splitlines()
    assert "instance  Noise 0.3                6×6×2" in lines
    assert "dropout   Dropout 0.4              3×3×3" in lines
    assert "layer     Noise 0.6                    5" in lines


def test_noise_that_is_not_that_of_the_net_is_an_error():
    net, params, x, noise = setting()
    for wrong in (
        {"instance": noise["instance"], "layer": noise["layer"]},
        noise | {"droput": noise["dropout"]},
        [noise["instance"]],
        noise["instance"],
    ):
        for use in (partial(net, noise=wrong), partial(net.statistics, noise=wrong)):
            with pytest.raises(
                ValueError, match="noisy: noise for .*; expected it for instance, dropout, layer"
            ):
                use(params, x)
    with pytest.raises(ValueError, match=r"noisy, layer layer: Noise: noise \(1, 5\) for x \(7"):
        net(params, x, noise=noise | {"layer": noise["layer"][:1]})
    with pytest.raises(ValueError, match="noisy, layer dropout: Dropout: noise .*the same shape"):
        net(params, x, noise=net.draw(Stream(0), 7, np.float64) | {"dropout": noise["layer"]})
    plain = models.dcgan28(width=1 / 64).critic
    with pytest.raises(ValueError, match="noise for a; expected it for no layer"):
        plain(plain.init(Stream(0)), np.zeros((2, 28, 28, 1), np.float32), noise={"a": x})


def test_an_error_of_a_layer_names_the_layer():
    net, params, x, _ = setting(n=1)
    with pytest.raises(ValueError, match="noisy, layer norm1: batch_norm: .*larger batch"):
        net(params, x)

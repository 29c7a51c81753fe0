"""The MLP and its presets: shapes, counts by hand, forward passes in NumPy, errors."""

from functools import partial

import numpy as np
import pytest

from tinygan import models, nn, ops, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import Tensor, track

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

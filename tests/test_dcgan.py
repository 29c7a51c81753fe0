"""Networks of named layers and the DCGANs: counts and shapes as printed, loops, statistics."""

import math
import re
from functools import partial

import numpy as np
import pytest

from tinygan import models, nn, ops, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import Tensor, grad_values, track
from tinygan.models import Net, critic, generator, standing_statistics
from tinygan.penalties import gradient_penalty

SMALL = 1 / 64  # of the hidden channels
PAIRS = {  # small ones of every kind: (pair, image, channels)
    "28": (models.dcgan28(width=SMALL), 28, 1),
    "28, tanh": (
        models.dcgan28(
            3, SMALL, latent=100, output=ops.tanh, generator_filters=2, activations=(ops.tanh,) * 2
        ),
        28,
        3,
    ),
    "32": (models.dcgan32(width=SMALL), 32, 3),
    "32, kernel 5": (models.dcgan32(width=SMALL, kernel=5), 32, 3),
    "32, no norm": (models.dcgan32(1, SMALL, norm=None), 32, 1),
    "32, norm from 0": (models.dcgan32(width=SMALL, norm_from=0), 32, 3),
    "32, layer norm": (models.dcgan32(width=SMALL, norm=nn.LayerNorm), 32, 3),
    "32, constant filters": (models.dcgan32(filters=4, norm=None, kernel=5), 32, 3),
    "32, tanh": (models.dcgan32(width=SMALL, activations=(ops.tanh, ops.tanh)), 32, 3),
    "64": (models.dcgan64(width=SMALL), 64, 3),
    "64, kernel 5": (models.dcgan64(1, SMALL, kernel=5), 64, 1),
    "64, no norm": (models.dcgan64(width=SMALL, norm=None), 64, 3),
    "64, constant in G": (models.dcgan64(width=SMALL, generator_filters=3), 64, 3),
}
NETS = {
    f"{name}, {side}": getattr(pair, side)
    for name, (pair, *_) in PAIRS.items()
    for side in ("generator", "critic")
}
each_pair = pytest.mark.parametrize("name", PAIRS)
each_net = pytest.mark.parametrize("name", NETS)


def shapes_of(net):
    """The channels last, as tables print them, after every layer that has parameters but norms."""
    return [shape for name, shape in net.shapes().items() if re.match("conv|project|logit", name)]


def filled(net, seed=3, dtype=np.float64):
    """Parameters with nothing at 0: biases and shifts too."""
    stream = Stream(seed)
    return tree.tree_map(
        lambda a: (a + 0.1 * stream.normal(a.shape, np.float64)).astype(dtype),
        net.init(Stream(seed + 1), np.float64),
    )


def normal_input(net, n, seed=5, dtype=np.float64):
    return Stream(seed).normal((n, *net.input), dtype)


# As the papers print them


def layer_counts(net):
    params = net.init(Stream(0))
    return {name: models.count_parameters(branch) for name, branch in params.items()}


def test_dcgan28_has_the_papers_parameters():
    pair = models.dcgan28()
    assert layer_counts(pair.generator) == {
        "project": 129 * 4096,
        "conv1": 25 * 256 * 128 + 128,
        "conv2": 25 * 128 * 64 + 64,
        "conv3": 25 * 64 + 1,
    }
    assert layer_counts(pair.critic) == {
        "conv0": 25 * 64 + 64,
        "conv1": 25 * 64 * 128 + 128,
        "conv2": 25 * 128 * 256 + 256,
        "logit": 4096 + 1,
    }
    assert sum(layer_counts(pair.generator).values()) == 1_554_177
    assert sum(layer_counts(pair.critic).values()) == 1_030_145
    assert shapes_of(pair.generator) == [(4096,), (7, 7, 128), (14, 14, 64), (28, 28, 1)]
    assert pair.generator.shapes()["reshape"] == (4, 4, 256)
    assert shapes_of(pair.critic) == [(14, 14, 64), (7, 7, 128), (4, 4, 256), (1,)]
    assert pair.generator.output == (28, 28, 1) and pair.critic.output == (1,)
    assert pair.latent == 128 and models.dcgan28(latent=100).latent == 100


def test_dcgan32_is_p4s_printed_table():
    pair = models.dcgan32()
    found = layer_counts(pair.generator)
    assert found == {
        "conv0": 16 * 100 * 1024,
        "norm0": 2 * 1024,
        "conv1": 16 * 1024 * 512,
        "norm1": 2 * 512,
        "conv2": 16 * 512 * 256,
        "norm2": 2 * 256,
        "conv3": 16 * 256 * 3,
    }
    assert sum(found.values()) == 12_140_032
    found = layer_counts(pair.critic)
    assert found == {
        "conv0": 16 * 3 * 32,
        "conv1": 16 * 32 * 64,
        "norm1": 2 * 64,
        "conv2": 16 * 64 * 128,
        "norm2": 2 * 128,
        "conv3": 16 * 128 * 256,
        "norm3": 2 * 256,
        "conv4": 16 * 256,
    }
    assert sum(found.values()) == 694_656
    assert shapes_of(pair.generator) == [(4, 4, 1024), (8, 8, 512), (16, 16, 256), (32, 32, 3)]
    assert shapes_of(pair.critic) == [
        (16, 16, 32),
        (8, 8, 64),
        (4, 4, 128),
        (2, 2, 256),
        (1, 1, 1),
        (1,),
    ]
    assert pair.latent == 100


def test_with_norm_from_0_dcgan32s_critic_is_the_printed_one():
    net = models.dcgan32(norm_from=0).critic
    assert list(net.init(Stream(0)))[:2] == ["conv0", "norm0"]
    assert sum(layer_counts(net).values()) == 694_720


def test_dcgan64_is_radfords_figure_and_its_mirror():
    pair = models.dcgan64()
    up = [(4, 4, 1024), (8, 8, 512), (16, 16, 256), (32, 32, 128)]
    assert shapes_of(pair.generator) == [*up, (64, 64, 3)]
    assert shapes_of(pair.critic) == [*up[::-1], (1, 1, 1), (1,)]
    half = models.dcgan64(width=0.5)
    assert [s[2] for s in shapes_of(half.generator)] == [512, 256, 128, 64, 3]
    assert pair.latent == 100


def test_filters_are_constant_in_both_or_in_the_generator_alone():
    both = models.dcgan64(filters=6)
    assert [s[-1] for s in shapes_of(both.generator)] == [6, 6, 6, 6, 3]
    assert [s[-1] for s in shapes_of(both.critic)] == [6, 6, 6, 6, 1, 1]
    one = models.dcgan64(width=SMALL, generator_filters=6)
    assert [s[-1] for s in shapes_of(one.generator)] == [6, 6, 6, 6, 3]
    assert [s[-1] for s in shapes_of(one.critic)] == [2, 4, 8, 16, 1, 1]
    one = models.dcgan32(filters=6, generator_filters=5)
    assert [s[-1] for s in shapes_of(one.generator)] == [5, 5, 5, 3]
    assert [s[-1] for s in shapes_of(one.critic)] == [6, 6, 6, 6, 1, 1]
    one = models.dcgan28(generator_filters=5)
    assert [s[-1] for s in shapes_of(one.generator)] == [80, 5, 5, 1]
    assert [s[-1] for s in shapes_of(one.critic)] == [64, 128, 256, 1]


@pytest.mark.parametrize("name", ["32", "64", "32, norm from 0"])
def test_papers_networks_start_normal_around_zero_and_scales_around_one(name):
    for net in PAIRS[name][0]:
        for path, a in tree.paths(net.init(Stream(1), np.float64)):
            kind = path.rpartition(".")[2]
            if kind == "shift":
                assert not a.any()
            else:
                off = abs(a.mean() - (kind == "scale"))
                assert off < 5 * 0.02 / math.sqrt(a.size) and abs(a).max() < 1.12
                assert a.size < 100 or a.std() == pytest.approx(0.02, rel=0.3), path


def test_biases_are_where_no_norm_is():
    for name in ("32, no norm", "64, no norm", "28"):
        for net in PAIRS[name][0]:
            for layer in net.init(Stream(0)).values():
                assert list(layer) == ["weight", "bias"]
    for net in PAIRS["32"][0]:
        assert not any(path.endswith("bias") for path, _ in tree.paths(net.init(Stream(0))))


def test_the_layers_of_each_kind_are_as_asked_for():
    def kinds(net):
        return [getattr(layer, "__name__", type(layer).__name__) for layer in net.layers.values()]

    pair = PAIRS["32, layer norm"][0]
    assert kinds(pair.critic).count("LayerNorm") == 3 and "BatchNorm" not in kinds(pair.critic)
    pair = PAIRS["32"][0]
    assert kinds(pair.generator) == [
        "Reshape",
        *["ConvTranspose", "BatchNorm", "relu"] * 3,
        "ConvTranspose",
        "tanh",
    ]
    assert kinds(pair.critic) == [
        *["Conv", "leaky_relu"],
        *["Conv", "BatchNorm", "leaky_relu"] * 3,
        "Conv",
        "Flatten",
    ]
    for name in ("32, tanh", "28, tanh"):
        for net in PAIRS[name][0]:
            assert "relu" not in "".join(kinds(net)) and kinds(net).count("tanh") >= 3
    assert kinds(PAIRS["28"][0].generator)[-1] == "sigmoid"


# Every one of them runs


@each_pair
def test_networks_go_from_latent_points_to_images_to_logits(name):
    pair, image, channels = PAIRS[name]
    g, d = (net.init(Stream(0)) for net in pair)
    z = Stream(1).normal((2, pair.latent))
    fake = pair.generator(g, z)
    assert fake.shape == (2, image, image, channels) == (2, *pair.generator.output)
    assert pair.critic.input == pair.generator.output
    low = 0 if name == "28" else -1
    assert low <= fake.min() < fake.max() <= 1 and fake.dtype == np.float32
    logits = pair.critic(d, fake)
    assert logits.shape == (2, 1) and pair.critic.output == (1,)
    assert type(logits) is np.ndarray and type(pair.critic(track(d), fake)) is Tensor


@each_net
def test_each_layer_gives_the_shape_it_promises(name):
    net = NETS[name]
    params, x = net.init(Stream(0)), normal_input(net, 2, dtype=np.float32)
    for layer, shape in net.shapes().items():
        part = net.layers[layer]
        x = part(params[layer], x) if layer in params else part(x)
        assert x.shape == (2, *shape), layer


@each_net
def test_no_layer_is_dead(name):
    """Every array of parameters gets a gradient, and the input too."""
    net = NETS[name]
    params, x = track(filled(net)), track(normal_input(net, 3))
    y = net(params, x)
    slopes, to_x = grad_values(y, (params, x), Stream(8).normal(y.shape, np.float64))
    for path, slope in tree.paths(slopes):
        assert abs(slope).max() > 1e-9 and np.isfinite(slope).all(), path
    assert all(abs(row).max() > 0 for row in to_x)


@each_net
def test_the_same_stream_gives_the_same_bits_and_another_others(name):
    net = NETS[name]
    first, again, other = (net.init(Stream(seed)) for seed in (1, 1, 2))
    assert [path for path, _ in tree.paths(first)] == [path for path, _ in tree.paths(again)]
    for (path, a), b, c in zip(
        tree.paths(first), tree.leaves(again), tree.leaves(other), strict=True
    ):
        assert a.dtype == np.float32 and np.array_equal(a, b)
        assert path.endswith(("bias", "shift")) or not np.array_equal(a, c)


@pytest.mark.parametrize("name", ["28", "32", "32, layer norm"])
def test_other_devices_give_the_same_numbers(name, xp):
    for net in PAIRS[name][0]:
        params, x = filled(net), normal_input(net, 2)
        there = net(tree.tree_map(xp.asarray, params), xp.asarray(x))
        np.testing.assert_allclose(xp.get(there), net(params, x), rtol=1e-10, atol=1e-12)


def test_parameters_are_made_on_the_streams_device(stand_in):
    for net in PAIRS["32"][0]:
        there = net.init(Stream(3, device="gpu"))
        for a, b in zip(tree.leaves(there), tree.leaves(net.init(Stream(3))), strict=True):
            # By a kernel there: its normals differ from NumPy's by a few ulp.
            np.testing.assert_allclose(stand_in.get(a), b, rtol=1e-6)


def test_a_latent_dimension_of_every_pair():
    assert models.mlp_pair(3, 5, 7, 2).latent == 5
    for name, (pair, *_) in PAIRS.items():
        assert pair.latent == (128 if name == "28" else 100)
        assert pair.generator.input == (pair.latent,)


# By hand


def padded(x, pad):
    n, h, w, c = x.shape
    y = np.zeros((n, h + 2 * pad, w + 2 * pad, c))
    y[:, pad : pad + h, pad : pad + w] = x
    return y


def conv_by_hand(x, w, stride, pad):
    x, (kh, kw, _, outputs) = padded(x, pad), w.shape
    p, q = ((size - k) // stride + 1 for size, k in zip(x.shape[1:3], (kh, kw), strict=True))
    y = np.zeros((len(x), p, q, outputs))
    for n, i, j, o in np.ndindex(*y.shape):
        top, left = i * stride, j * stride
        y[n, i, j, o] = (x[n, top : top + kh, left : left + kw] * w[..., o]).sum()
    return y


def conv_transpose_by_hand(z, w, stride, pad, size):
    """Each point of the grid puts its kernel into an image of this size."""
    kh, kw, channels, _ = w.shape
    n, p, q, _ = z.shape
    y = np.zeros((n, size + 2 * pad, size + 2 * pad, channels))
    for s, i, j in np.ndindex(n, p, q):
        top, left = i * stride, j * stride
        y[s, top : top + kh, left : left + kw] += w @ z[s, i, j]
    return y[:, pad : pad + size, pad : pad + size]


def norm_by_hand(x, params, axes):
    centred = x - x.mean(axes, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)
    return params["scale"] * centred / deviation + params["shift"]


def leaky_by_hand(x):
    return np.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm, nn.LayerNorm])
def test_a_critics_forward_pass_by_hand(norm):
    net = critic(8, 2, (3, 4), norm=norm, bias=norm is None)
    params, x = filled(net), normal_input(net, 2)
    h = x
    for i in range(3):
        layer = params[f"conv{i}"]
        h = conv_by_hand(h, layer["weight"], 2, 1) + layer.get("bias", 0)
        if i == 1 and norm is not None:
            h = norm_by_hand(h, params["norm1"], (0, 1, 2) if norm is nn.BatchNorm else (1, 2, 3))
        if i < 2:
            h = leaky_by_hand(h)
    np.testing.assert_allclose(net(params, x), h.reshape(2, 1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernel, pad", [(4, 1), (5, 2)])
def test_a_generators_forward_pass_by_hand(kernel, pad):
    net = generator(3, (4, 2), 1, kernel=kernel)
    params, z = filled(net), normal_input(net, 3)
    h = conv_transpose_by_hand(z.reshape(3, 1, 1, 3), params["conv0"]["weight"], 1, 0, 4)
    h = np.maximum(norm_by_hand(h, params["norm0"], (0, 1, 2)), 0)
    h = conv_transpose_by_hand(h, params["conv1"]["weight"], 2, pad, 8)
    h = np.maximum(norm_by_hand(h, params["norm1"], (0, 1, 2)), 0)
    h = np.tanh(conv_transpose_by_hand(h, params["conv2"]["weight"], 2, pad, 16))
    np.testing.assert_allclose(net(params, z), h, rtol=1e-11, atol=1e-13)


def test_dcgan28s_forward_pass_by_hand():
    pair = PAIRS["28"][0]
    g, d = (filled(net, seed) for seed, net in enumerate(pair))
    z = normal_input(pair.generator, 2)
    h = (z @ g["project"]["weight"] + g["project"]["bias"]).reshape(2, 4, 4, -1)
    for name, size in (("conv1", 7), ("conv2", 14), ("conv3", 28)):
        h = conv_transpose_by_hand(np.maximum(h, 0), g[name]["weight"], 2, 2, size)
        h = h + g[name]["bias"]
    images = 1 / (1 + np.exp(-h))
    np.testing.assert_allclose(pair.generator(g, z), images, rtol=1e-11, atol=1e-13)
    h = images
    for name in ("conv0", "conv1", "conv2"):
        h = leaky_by_hand(conv_by_hand(h, d[name]["weight"], 2, 2) + d[name]["bias"])
    logits = h.reshape(2, -1) @ d["logit"]["weight"] + d["logit"]["bias"]
    np.testing.assert_allclose(pair.critic(d, images), logits, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm, nn.LayerNorm])
def test_gradients_to_order_three(norm):
    """With an eps that keeps the norms' curvature within reach of differences."""
    kinds = {"bias": norm is None, "norm": norm and partial(norm, eps=0.5), "activation": ops.tanh}
    for net in (critic(4, 1, (2,), norm_from=0, **kinds), generator(2, (2,), 1, **kinds)):
        x = {"params": filled(net), "x": normal_input(net, 3)}
        check_gradients(lambda t, n=net: n(t["params"], t["x"]), x, order=3, complex_step=True)


# Tables


def test_the_table_of_a_small_network():
    assert str(generator(3, (4, 2), 1)) == "\n".join(
        [
            "generator 3 to 16×16",
            "        input                                           3",
            "pixel   Reshape                                     1×1×3",
            "conv0   ConvTranspose 4×4 stride 1 no bias          4×4×4  192",
            "norm0   BatchNorm                                   4×4×4    8",
            "relu0   relu                                        4×4×4",
            "conv1   ConvTranspose 4×4 stride 2 pad 1 no bias    8×8×2  128",
            "norm1   BatchNorm                                   8×8×2    4",
            "relu1   relu                                        8×8×2",
            "conv2   ConvTranspose 4×4 stride 2 pad 1 no bias  16×16×1   32",
            "output  tanh                                      16×16×1",
            "        total                                              364",
        ]
    )


def test_the_table_of_kernels_and_functions_that_are_not_square_or_have_no_name():
    net = Net("odd ones", (9, 8, 2), {"a": nn.Conv(2, 3, (3, 2), (2, 1), (1, 0)), "b": lambda x: x})
    lines = str(net).splitlines()
    assert lines[2] == "a  Conv 3×2 stride 2×1 pad 1×0  5×7×3  39"
    assert lines[-1].split() == ["total", "39"]


@each_net
def test_a_table_has_a_row_for_each_layer_and_the_real_total(name):
    net = NETS[name]
    title, first, *rows, last = str(net).splitlines()
    params = net.init(Stream(0))
    assert title == net.title and "input" in first
    assert last.split() == ["total", f"{models.count_parameters(params):,}"]
    for row, (layer, shape) in zip(rows, net.shapes().items(), strict=True):
        words = row.split()
        assert words[0] == layer and "×".join(map(str, shape)) in words
        if layer in params:
            assert words[-1] == f"{models.count_parameters(params[layer]):,}"


def test_titles_name_the_sizes():
    assert PAIRS["64"][0].generator.title == "generator 100 to 64×64"
    assert PAIRS["64"][0].critic.title == "critic of 64×64"
    assert PAIRS["28"][0].generator.title == "generator 128 to 28×28"


# Standing statistics


def test_standing_statistics_are_the_pooled_moments_of_equal_batches():
    net = generator(3, (4, 2), 1)
    params, z = filled(net), normal_input(net, 12)
    batches = z.reshape(3, 4, 3)
    found = standing_statistics(net, params, batches)
    assert list(found) == ["norm0", "norm1"]
    before = {"norm0": [], "norm1": []}
    for x in batches:
        h = conv_transpose_by_hand(x.reshape(4, 1, 1, 3), params["conv0"]["weight"], 1, 0, 4)
        before["norm0"].append(h)
        h = np.maximum(norm_by_hand(h, params["norm0"], (0, 1, 2)), 0)
        before["norm1"].append(conv_transpose_by_hand(h, params["conv1"]["weight"], 2, 1, 8))
    for name, parts in before.items():
        pooled = np.concatenate(parts)
        np.testing.assert_allclose(found[name]["mean"], pooled.mean((0, 1, 2)), rtol=1e-11)
        np.testing.assert_allclose(found[name]["variance"], pooled.var((0, 1, 2)), rtol=1e-11)


def test_every_sample_of_uneven_batches_counts_alike():
    net = Net("norm", (1,), {"norm": nn.BatchNorm(1)})
    batches = [np.array([[0.0], [2.0]]), np.array([[4.0], [4.0], [7.0]])]
    found = standing_statistics(net, net.init(Stream(0), np.float64), batches)["norm"]
    values = np.array([0.0, 2.0, 4.0, 4.0, 7.0])
    assert found["mean"] == pytest.approx([values.mean()])
    assert found["variance"] == pytest.approx([values.var()])


def test_statistics_that_are_missing_and_batches_of_another_shape_are_errors():
    net = Net("norm", (1,), {"norm": nn.BatchNorm(1)})
    params = net.init(Stream(0), np.float64)
    with pytest.raises(ValueError, match="no statistics of norm; expected those of every batch"):
        net(params, np.ones((2, 1)), {})
    with pytest.raises(ValueError, match=r"input of shape \(3, 2\); expected \(N, 1\)"):
        standing_statistics(net, params, [np.ones((3, 2))])


def test_what_is_no_layer_or_changes_the_shape_is_an_error():
    inner = Net("inner", (1,), {"norm": nn.BatchNorm(1)})
    with pytest.raises(TypeError, match="layer a is a Net; expected a layer of tinygan.nn or a fu"):
        Net("outer", (1,), {"a": inner})
    with pytest.raises(TypeError, match="layer a is a str"):
        Net("outer", (1,), {"a": "relu"})
    with pytest.raises(ValueError, match="no layers; expected at least one"):
        Net("outer", (1,), {})
    half = Net("half", (4,), {"half": lambda x: x[:, :2]})
    with pytest.raises(ValueError, match=r"function half made \(3, 2\) of \(3, 4\)"):
        half({}, np.ones((3, 4)))


def test_with_standing_statistics_a_sample_does_not_depend_on_its_batch():
    for name in ("32", "32, tanh"):
        for net in PAIRS[name][0]:
            params, x = filled(net), normal_input(net, 6)
            statistics = standing_statistics(net, params, [x[:3], x[3:]])
            alone = net(params, x[:1], statistics)
            together = net(params, x[:4], statistics)
            np.testing.assert_allclose(together[:1], alone, rtol=1e-9, atol=1e-12)
            other = np.concatenate([x[:1], 2 * x[3:] + 1])
            np.testing.assert_allclose(
                net(params, other, statistics)[:1], alone, rtol=1e-9, atol=1e-12
            )
            assert abs(net(params, other)[:1] - net(params, x[:4])[:1]).max() > 1e-6


def test_with_the_batchs_own_statistics_standing_is_training():
    net = PAIRS["32"][0].generator
    params, x = filled(net), normal_input(net, 4)
    statistics = standing_statistics(net, params, [x])
    np.testing.assert_allclose(net(params, x, statistics), net(params, x), rtol=1e-9, atol=1e-11)


def test_standing_statistics_take_any_iterable_tracked_parameters_and_no_norms():
    net = PAIRS["32"][0].generator
    params, x = filled(net), normal_input(net, 4)
    expected = standing_statistics(net, params, [x[:2], x[2:]])
    got = standing_statistics(net, track(params), (x[i : i + 2] for i in (0, 2)))
    for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        assert type(a) is np.ndarray and np.array_equal(a, b)
    plain = PAIRS["32, no norm"][0].generator
    assert standing_statistics(plain, filled(plain), [normal_input(plain, 2)]) == {}
    assert standing_statistics(PAIRS["32, layer norm"][0].critic, *critic_and_images()) == {}


def critic_and_images():
    net = PAIRS["32, layer norm"][0].critic
    return filled(net), [normal_input(net, 2)]


def test_standing_statistics_without_batches_are_an_error():
    net = PAIRS["32"][0].generator
    with pytest.raises(ValueError, match="no batches; expected at least one"):
        standing_statistics(net, net.init(Stream(0)), [])


def test_standing_statistics_keep_float32_and_run_on_other_devices(xp):
    net = generator(3, (4, 2), 1)
    params, x = filled(net, dtype=np.float32), normal_input(net, 4, dtype=np.float32)
    here = standing_statistics(net, filled(net), [x.astype(np.float64)])
    there = standing_statistics(net, tree.tree_map(xp.asarray, params), [xp.asarray(x)])
    for a, b in zip(tree.leaves(there), tree.leaves(here), strict=True):
        assert xp.get(a).dtype == np.float32
        np.testing.assert_allclose(xp.get(a), b, rtol=1e-4, atol=1e-5)


def test_standing_variances_are_right_in_float32_far_from_zero():
    """Mean 1000 and deviation 1: E x² − (E x)² in float32 would be off by a tenth and more."""
    net = Net("norm", (2,), {"norm": nn.BatchNorm(2)})
    batches = [(1000 + Stream(i).normal((256, 2))).astype(np.float32) for i in range(4)]
    found = standing_statistics(net, net.init(Stream(0)), batches)["norm"]
    pooled = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(found["mean"], pooled.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["variance"], pooled.var(0), rtol=1e-3)


def test_a_penalty_through_standing_statistics_is_allowed():
    """They are constants: no sample's slope holds another's. With the batch's own it is not."""
    net = PAIRS["32"][0].critic
    params, x = filled(net), normal_input(net, 3)
    statistics = standing_statistics(net, params, [x])
    found = gradient_penalty(lambda x: net(params, x, statistics), x, centre=1.0)
    alone = [
        gradient_penalty(lambda x: net(params, x, statistics), x[i : i + 1], centre=1.0).data
        for i in range(3)
    ]
    assert found.data == pytest.approx(np.mean(alone), rel=1e-9)
    with pytest.raises(ValueError, match="mixes the samples"):
        gradient_penalty(lambda x: net(params, x), x)


# Bad input


@each_net
def test_input_of_another_shape_is_an_error_that_names_the_network(name):
    net = NETS[name]
    params = net.init(Stream(0))
    expected = re.escape(f"expected (N, {', '.join(map(str, net.input))})")
    for shape in [(2, *net.input, 1), (2, *net.input[:-1], net.input[-1] + 1), net.input, (2,)]:
        with pytest.raises(ValueError, match=f"{net.title}: input of shape .*{expected}"):
            net(params, np.ones(shape, np.float32))


def test_parameters_of_another_network_are_an_error():
    pair = PAIRS["32"][0]
    g, x = pair.generator.init(Stream(0)), np.ones((2, 100), np.float32)
    others = [
        pair.critic.init(Stream(0)),
        PAIRS["32, no norm"][0].generator.init(Stream(0)),
        PAIRS["64"][0].generator.init(Stream(0)),
        {key: g[key] for key in list(g)[:-1]},
        {},
        models.MLP((100, 3)).init(Stream(0)),
    ]
    for params in others:
        with pytest.raises(ValueError, match="generator 100 to 32×32: parameters of .* as init"):
            pair.generator(params, x)
    wider = models.dcgan32(width=2 * SMALL).generator.init(Stream(0))
    narrow = models.dcgan32(width=SMALL, generator_filters=3).generator.init(Stream(0))
    for params in ({**g, "conv1": wider["conv1"]}, {**g, "conv1": narrow["conv1"]}):
        with pytest.raises(ValueError, match="conv2d_transpose"):
            pair.generator(params, x)


@pytest.mark.parametrize(
    "layers, message",
    [
        ({"a": nn.Conv(3, 2, 3), "b": nn.Conv(3, 2, 3)}, "layer b: Conv: samples of shape"),
        ({"a": nn.Conv(3, 2, 9)}, "layer a: Geometry: kernel"),
        ({"a": nn.Conv(3, 2, 3), "n": nn.BatchNorm(3)}, "layer n: BatchNorm: samples of shape"),
        ({"a": nn.Linear(3, 2)}, "layer a: Linear: samples of shape"),
        ({"f": nn.Flatten(), "r": nn.Reshape((5, 5))}, "layer r: Reshape: .* has 48 values"),
        ({"f": nn.Flatten(), "u": nn.ConvTranspose(3, 2, 3)}, "layer u: ConvTranspose: samples"),
    ],
)
def test_layers_that_do_not_fit_are_an_error_that_names_them(layers, message):
    with pytest.raises(ValueError, match=f"little net, {message}"):
        Net("little net", (4, 4, 3), layers)


def test_a_maxout_layer_fits_into_a_network():
    net = Net("maxout", (8,), {"hidden": nn.Maxout(8, 4), "logit": nn.Linear(4, 1)})
    assert net.shapes() == {"hidden": (4,), "logit": (1,)}
    assert net(net.init(Stream(0)), np.ones((3, 8), np.float32)).shape == (3, 1)


@pytest.mark.parametrize("make", [models.dcgan32, models.dcgan64])
@pytest.mark.parametrize("kernel", [3, 6, 0])
def test_another_kernel_is_an_error(make, kernel):
    with pytest.raises(ValueError, match=f"kernel is {kernel}; expected 4 or 5"):
        make(kernel=kernel)


@pytest.mark.parametrize("make", [models.dcgan28, models.dcgan32, models.dcgan64])
@pytest.mark.parametrize("width", [0, -1, float("nan")])
def test_a_width_that_is_not_above_zero_is_an_error(make, width):
    with pytest.raises(ValueError, match="width is .*above 0"):
        make(width=width)


@pytest.mark.parametrize("make", [models.dcgan32, models.dcgan64])
def test_other_bad_sizes_are_errors(make):
    for wrong in ({"filters": 0}, {"generator_filters": -1}, {"channels": 0}):
        with pytest.raises(ValueError, match="whole number above 0"):
            make(**wrong)


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("image", [6, 8, 12, 28])
def test_a_critic_of_any_image_ends_in_one_logit(image, kernel):
    """Kernel 4 halves 7 to 3, kernel 5 to 4: the last convolution covers what is left."""
    net = critic(image, 1, (2, 2, 2)[: 1 + (image > 6) + (image > 12)], kernel=kernel)
    assert net.output == (1,)
    assert net(net.init(Stream(0)), np.ones((2, image, image, 1), np.float32)).shape == (2, 1)


@pytest.mark.parametrize(
    "last, reach",
    [
        (ops.tanh, (-1.0, 1.0)),
        (ops.sigmoid, (0.0, 1.0)),
        (ops.relu, (0.0, None)),
        (nn.Linear(2, 2), (None, None)),
    ],
)
def test_what_a_network_can_reach_is_its_last_layers(last, reach):
    assert Net("net", (2,), {"first": ops.tanh, "last": last}).reach == reach

"""The networks of AC-GAN, auto-encoders, named perceptrons and the one-parameter games."""

import math

import numpy as np
import pytest

import tinygan
from tinygan import losses, models, nn, ops, optim, penalties, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import Tensor, add, grad_values, track
from tinygan.models import (
    AutoEncoder,
    DiracCritic,
    DiracGenerator,
    Given,
    LinearCritic,
    LinearGenerator,
    Net,
    ac_gan,
    conv_autoencoder,
    encoder,
    image_perceptron,
    mlp_autoencoder,
    perceptron,
    row_perceptron,
)
from tinygan.train import GAN, critic_gradients, generator_gradients

SMALL = 1 / 64
NETS = {
    "ac_gan G": ac_gan(width=SMALL).generator,
    "ac_gan G, variant": ac_gan(1, SMALL, True).generator,
    "ac_gan D": ac_gan(width=SMALL).critic,
    "perceptron": perceptron((3, 5, 4, 2), activation=ops.tanh, output=ops.sigmoid),
    "perceptron, norm": perceptron((3, 5, 2), activation=ops.tanh, norm=nn.BatchNorm),
    "perceptron, layer norm": perceptron((3, 5, 2), activation=ops.tanh, norm=nn.LayerNorm),
    "perceptron, noise": perceptron(
        (3, 5, 4, 2), activation=ops.tanh, noise=nn.Dropout(0.5), input_noise=nn.Noise(0.1)
    ),
    "maxout": perceptron((3, 5, 4, 2), pieces=3),
    "image_perceptron": image_perceptron(3, (4, 4, 2), 5, 2, activation=ops.tanh),
    "row_perceptron": row_perceptron((4, 4, 2), 3, 5, 2, activation=ops.tanh),
    "encoder": encoder(28, 1, (2, 3), 4, activation=ops.tanh),
}
CODERS = {
    "maps": conv_autoencoder(8, 2, (3, 4), activation=ops.tanh),
    "a row": conv_autoencoder(8, 1, (3,), 5, activation=ops.elu),
    "norm": conv_autoencoder(8, 1, (2, 3), 4, norm=nn.BatchNorm, output=None),
    "mlp": mlp_autoencoder((4,), (6, 5), 2, activation=ops.tanh),
    "mlp of images": mlp_autoencoder((4, 4, 1), (6,), 2, activation=ops.tanh, output=ops.tanh),
}
POINTS = {
    "dirac G": DiracGenerator(0.7),
    "dirac D": DiracCritic(-1.3),
    "linear G": LinearGenerator(3, 2),
    "linear D": LinearCritic(2),
}
ALL = {**NETS, **CODERS, **POINTS}
each_net = pytest.mark.parametrize("name", NETS)
each_coder = pytest.mark.parametrize("name", CODERS)
each = pytest.mark.parametrize("name", ALL)


def counts(net):
    params = net.init(Stream(0))
    return {name: models.count_parameters(branch) for name, branch in params.items()}


def kinds(net):
    return [getattr(layer, "__name__", type(layer).__name__) for layer in net.layers.values()]


def filled(model, seed=3, dtype=np.float64):
    """Parameters with nothing at 0: biases and shifts too."""
    stream = Stream(seed)
    return tree.tree_map(
        lambda a: (a + 0.1 * stream.normal(a.shape, np.float64)).astype(dtype),
        model.init(Stream(seed + 1), np.float64),
    )


def normal_input(model, n, seed=5, dtype=np.float64):
    return Stream(seed).normal((n, *model.input), dtype)


# AC-GAN, as P4's tables 7 and 8 print it


def test_ac_gans_critic_is_the_printed_table():
    net = ac_gan().critic
    assert counts(net) == {
        "conv0": 9 * 3 * 16,
        "conv1": 9 * 16 * 32,
        "norm1": 2 * 32,
        "conv2": 9 * 32 * 64,
        "norm2": 2 * 64,
        "conv3": 9 * 64 * 128,
        "norm3": 2 * 128,
        "conv4": 9 * 128 * 256,
        "norm4": 2 * 256,
        "conv5": 9 * 256 * 512,
        "norm5": 2 * 512,
        "logits": 8192 * 11 + 11,
    }
    assert sum(counts(net).values()) == 1_663_867
    assert "1,663,867" in str(net)
    expected = {"row": (8192,), "logits": (11,)}
    grids = zip((16, 16, 8, 8, 4, 4), (16, 32, 64, 128, 256, 512), strict=True)
    for i, (side, channels) in enumerate(grids):
        for name in ("conv", "norm", "leaky_relu", "dropout"):
            expected[f"{name}{i}"] = (side, side, channels)
    del expected["norm0"]
    assert net.shapes() == expected
    assert kinds(net) == [
        *["Conv", "leaky_relu", "Dropout"],
        *["Conv", "BatchNorm", "leaky_relu", "Dropout"] * 5,
        *["Flatten", "Linear"],
    ]
    assert [net.layers[f"conv{i}"].stride for i in range(6)] == [2, 1, 2, 1, 2, 1]
    assert all(net.layers[f"dropout{i}"].rate == 0.5 for i in range(6))
    assert not any(net.layers[f"conv{i}"].bias for i in range(6))


def test_ac_gans_generator_is_the_printed_table():
    net = ac_gan().generator
    assert counts(net) == {
        "project": 110 * 6144 + 6144,
        "conv1": 25 * 384 * 192,
        "norm1": 2 * 192,
        "conv2": 25 * 192 * 96,
        "norm2": 2 * 96,
        "conv3": 25 * 96 * 3,
    }
    assert sum(counts(net).values()) == 2_993_760
    assert net.shapes() == {
        "project": (6144,),
        "image": (4, 4, 384),
        "relu0": (4, 4, 384),
        **{name: (8, 8, 192) for name in ("conv1", "norm1", "relu1")},
        **{name: (16, 16, 96) for name in ("conv2", "norm2", "relu2")},
        "conv3": (32, 32, 3),
        "output": (32, 32, 3),
    }
    assert kinds(net)[2:] == [
        "relu",
        *["ConvTranspose", "BatchNorm", "relu"] * 2,
        *["ConvTranspose", "tanh"],
    ]
    assert net.input == (110,) and net.reach == (-1.0, 1.0)


def test_ac_gans_variant_is_the_table_read_to_the_letter():
    pair = ac_gan(variant=True)
    net = pair.generator
    assert counts(net) == {
        "project": 110 * 384 + 384,
        "conv1": 16 * 384 * 192,
        "norm1": 2 * 192,
        "conv2": 16 * 192 * 96,
        "norm2": 2 * 96,
        "conv3": 16 * 96 * 48,
        "norm3": 2 * 48,
        "conv4": 16 * 48 * 3,
    }
    assert sum(counts(net).values()) == 1_593_888
    assert net.shapes()["image"] == (1, 1, 384)
    grids = [net.shapes()[f"conv{i}"] for i in (1, 2, 3, 4)]
    assert grids == [(4, 4, 192), (8, 8, 96), (16, 16, 48), (32, 32, 3)]
    assert kinds(net).count("BatchNorm") == 3 and kinds(net)[-1] == "tanh"
    assert counts(pair.critic) == counts(ac_gan().critic)


def test_ac_gan_starts_as_table_9_says():
    for net in (*ac_gan(width=0.25), ac_gan(width=0.25, variant=True).generator):
        for path, a in tree.paths(net.init(Stream(1), np.float64)):
            kind = path.rpartition(".")[2]
            if kind in ("bias", "shift"):
                assert not a.any(), path
            else:
                off = abs(a.mean() - (kind == "scale"))
                assert off < 5 * 0.02 / math.sqrt(a.size), path
                assert a.size < 100 or a.std() == pytest.approx(0.02, rel=0.3), path


def test_ac_gans_classes_latent_points_channels_width_and_dropout():
    pair = ac_gan(1, 0.5, classes=3, latent=20, dropout=0.25)
    assert pair.latent == 23 and pair.critic.output == (4,)
    assert pair.critic.input == pair.generator.output == (32, 32, 1)
    assert pair.critic.shapes()["conv5"] == (4, 4, 256)
    assert pair.critic.layers["dropout3"].rate == 0.25


def test_ac_gans_dropout_is_drawn_and_put_after_each_activation():
    net = ac_gan(width=SMALL).critic
    params, x = filled(net), normal_input(net, 3)
    noise = net.draw(Stream(1), 3, np.float64)
    assert list(noise) == [f"dropout{i}" for i in range(6)]
    assert {a.dtype for a in noise.values()} == {np.dtype(np.float64)}
    assert set(np.unique(noise["dropout4"])) == {0.0, 2.0}
    y = x
    for name, layer in net.layers.items():
        y = layer(params[name], y) if name in params else layer(y)
        if name.startswith("leaky_relu"):
            y = y * noise[f"dropout{name[-1]}"]
    np.testing.assert_allclose(net(params, x, noise=noise), y, rtol=1e-12)
    assert not np.allclose(net(params, x), y)


def test_ac_gans_steps_are_the_same_compiled():
    pair = ac_gan(width=SMALL, classes=3, latent=4)
    g, d = (filled(net, dtype=np.float32) for net in pair)
    n, stream = 4, Stream(2)

    def gradients(g, d, x, z, masks):
        tracked = track(d)
        fake = pair.generator(g, z)
        on_real = pair.critic(tracked, x, noise=masks[0])
        on_fake = pair.critic(tracked, fake, noise=masks[1])
        loss = add(ops.mean(ops.square(on_real)), ops.mean(ops.softplus(on_fake)))
        of_d = grad_values(loss, tracked, release=True)
        tracked = track(g)
        logits = pair.critic(d, pair.generator(tracked, z), noise=masks[2])
        return of_d, grad_values(ops.mean(ops.softplus(logits)), tracked, release=True)

    fast = tinygan.compile(gradients)
    for seed in range(3):  # recorded, and then replayed with other numbers
        x, z = (normal_input(net, n, seed, np.float32) for net in pair[::-1])
        masks = [pair.critic.draw(stream, n) for _ in range(3)]
        eager, replayed = gradients(g, d, x, z, masks), fast(g, d, x, z, masks)
        for (path, a), b in zip(tree.paths(eager), tree.leaves(replayed), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6, err_msg=path)


@pytest.mark.parametrize(
    "choices, complaint",
    [
        (dict(width=0), "width is 0; expected a multiplier above 0"),
        (dict(width=math.nan), "width is nan"),
        (dict(classes=0), "classes 0, latent 100; expected at least 1"),
        (dict(latent=0), "latent 0"),
        (dict(dropout=1.0), "rate is 1.0"),
        (dict(channels=0), "whole number above 0"),
    ],
)
def test_ac_gan_refuses_bad_choices(choices, complaint):
    with pytest.raises(ValueError, match=complaint):
        ac_gan(**choices)


# Perceptrons


def in_loops(params, x, activation, norm=None):
    """A perceptron with two hidden layers, in plain NumPy."""
    for i in range(2):
        x = x @ params[f"linear{i}"]["weight"] + params[f"linear{i}"]["bias"]
        if norm:
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            x = x * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["shift"]
        x = activation(x)
    return x @ params["linear2"]["weight"] + params["linear2"]["bias"]


def test_a_perceptron_is_linear_layers_with_an_activation_between_them():
    net = perceptron((3, 5, 4, 2))
    assert list(net.layers) == ["linear0", "relu0", "linear1", "relu1", "linear2"]
    params, x = filled(net), normal_input(net, 6)
    expected = in_loops(params, x, lambda x: np.maximum(x, 0))
    np.testing.assert_allclose(net(params, x), expected, rtol=1e-12)
    plain = models.MLP((3, 5, 4, 2))
    np.testing.assert_allclose(plain(list(params.values()), x), expected, rtol=1e-12)


def test_its_norm_stands_before_the_activation():
    net = perceptron((3, 5, 4, 2), norm=nn.BatchNorm, activation=ops.tanh)
    assert list(net.layers)[:4] == ["linear0", "norm0", "tanh0", "linear1"]
    params, x = filled(net), normal_input(net, 6)
    np.testing.assert_allclose(net(params, x), in_loops(params, x, np.tanh, True), rtol=1e-11)
    assert net.mixes_samples and not perceptron((3, 5, 2), norm=nn.LayerNorm).mixes_samples


def test_its_noise_stands_after_each_activation_and_before_the_first_layer():
    net = NETS["perceptron, noise"]
    assert list(net.layers) == [
        *["input_noise", "linear0", "tanh0", "noise0", "linear1", "tanh1", "noise1", "linear2"]
    ]
    params, x = filled(net), normal_input(net, 6)
    noise = net.draw(Stream(1), 6, np.float64)
    masks = iter((noise["noise0"], noise["noise1"]))
    expected = in_loops(params, x + noise["input_noise"], lambda x: np.tanh(x) * next(masks))
    np.testing.assert_allclose(net(params, x, noise=noise), expected, rtol=1e-12)
    np.testing.assert_allclose(net(params, x), in_loops(params, x, np.tanh), rtol=1e-12)


def test_maxout_takes_the_activations_place():
    net = perceptron((3, 5, 4, 2), pieces=3, noise=nn.Dropout(0.2))
    assert list(net.layers) == ["maxout0", "noise0", "maxout1", "noise1", "linear2"]
    params, x = filled(net), normal_input(net, 6)
    y = x
    for i, width in enumerate((5, 4)):
        y = y @ params[f"maxout{i}"]["weight"] + params[f"maxout{i}"]["bias"]
        y = y.reshape(6, width, 3).max(2)
    y = y @ params["linear2"]["weight"] + params["linear2"]["bias"]
    np.testing.assert_allclose(net(params, x), y, rtol=1e-12)
    assert counts(net) == {"maxout0": 4 * 15, "maxout1": 6 * 12, "linear2": 10}


def test_a_perceptrons_output_title_and_initialisers():
    net = perceptron((2, 3, 1), output=ops.sigmoid, title="D", weight_init=nn.ones)
    assert list(net.layers)[-1] == "output" and net.reach == (0.0, 1.0)
    assert str(net).startswith("D\n")
    params = net.init(Stream(0))
    assert (params["linear0"]["weight"] == 1).all() and not params["linear1"]["bias"].any()
    params = perceptron((2, 3, 1), bias_init=nn.ones).init(Stream(0))
    assert all((layer["bias"] == 1).all() for layer in params.values())
    assert list(perceptron((2, 1)).layers) == ["linear0"]


def test_the_ablations_generator_has_four_hidden_layers_of_512():
    net = image_perceptron(128, (32, 32, 3))
    assert counts(net) == {
        "linear0": 129 * 512,
        "linear1": 513 * 512,
        "linear2": 513 * 512,
        "linear3": 513 * 512,
        "linear4": 513 * 3072,
    }
    assert [kind for kind in kinds(net) if kind != "Linear"] == [*["relu"] * 4, "Reshape", "tanh"]
    assert net.input == (128,) and net.output == (32, 32, 3) and net.reach == (-1.0, 1.0)
    rows = perceptron((3, 5, 5, 32), activation=ops.tanh)
    small = NETS["image_perceptron"]
    params, z = filled(small), normal_input(small, 6)
    expected = np.tanh(rows(params, z)).reshape(6, 4, 4, 2)
    np.testing.assert_allclose(small(params, z), expected, rtol=1e-12)
    assert image_perceptron(2, (2, 2, 1), 3, 1, output=ops.sigmoid).reach == (0.0, 1.0)
    linear = image_perceptron(2, (2, 2, 1), 3, 1, output=None)
    assert kinds(linear)[-1] == "Reshape" and linear.reach == (None, None)
    assert list(image_perceptron(2, (2, 2, 1), 3, 0).layers) == ["linear0", "image", "output"]


def test_a_row_perceptron_is_a_perceptron_of_the_flattened_image():
    net = row_perceptron((28, 28, 1))
    assert counts(net) == {
        "linear0": 785 * 512,
        "linear1": 513 * 512,
        "linear2": 513 * 512,
        "linear3": 513,
    }
    assert net.input == (28, 28, 1) and net.output == (1,)
    small = NETS["row_perceptron"]
    params, x = filled(small), normal_input(small, 6)
    rows = perceptron((32, 5, 5, 3), activation=ops.tanh)
    np.testing.assert_allclose(small(params, x), rows(params, x.reshape(6, 32)), rtol=1e-12)


def test_perceptrons_refuse_bad_sizes():
    for sizes in ((), (2,)):
        with pytest.raises(ValueError, match="expected inputs, hidden widths, outputs"):
            perceptron(sizes)
    for sizes in ((2, 0, 1), (0, 3, 1), (2, 3.5, 1)):
        with pytest.raises(ValueError, match="whole number above 0"):
            perceptron(sizes)
    with pytest.raises(ValueError, match=r"expected \(N, 3\)"):
        NETS["perceptron"](filled(NETS["perceptron"]), np.ones((2, 4)))


# Auto-encoders and encoders


def test_the_convolutional_auto_encoders_layers():
    model = conv_autoencoder(28, 1, (16, 32), 20)
    assert model.encoder.shapes() == {
        "conv0": (14, 14, 16),
        "leaky_relu0": (14, 14, 16),
        "conv1": (7, 7, 32),
        "leaky_relu1": (7, 7, 32),
        "row": (1568,),
        "code": (20,),
    }
    assert model.decoder.shapes() == {
        "project": (1568,),
        "image": (7, 7, 32),
        "leaky_relu0": (7, 7, 32),
        "conv1": (14, 14, 16),
        "leaky_relu1": (14, 14, 16),
        "conv2": (28, 28, 1),
        "output": (28, 28, 1),
    }
    assert counts(model) == {
        "encoder": 16 * 16 + 16 + 16 * 16 * 32 + 32 + 1568 * 20 + 20,
        "decoder": 20 * 1568 + 1568 + 16 * 32 * 16 + 16 + 16 * 16 + 1,
    }
    assert model.input == model.output == (28, 28, 1) and model.reach == (-1.0, 1.0)


def test_without_a_latent_size_the_code_is_the_last_maps():
    model = conv_autoencoder(32, 3, (64, 128, 256))
    assert model.encoder.output == (4, 4, 256) == model.decoder.input
    assert kinds(model.encoder) == ["Conv", "leaky_relu"] * 3
    assert kinds(model.decoder) == [*["ConvTranspose", "leaky_relu"] * 2, "ConvTranspose", "tanh"]
    grids = [model.decoder.shapes()[f"conv{i}"] for i in (1, 2, 3)]
    assert grids == [(8, 8, 128), (16, 16, 64), (32, 32, 3)]


def test_norms_of_the_auto_encoder_leave_out_the_first_the_code_and_the_last_layer():
    model = CODERS["norm"]
    assert kinds(model.encoder) == [
        *["Conv", "leaky_relu", "Conv", "BatchNorm", "leaky_relu", "Flatten", "Linear"]
    ]
    assert kinds(model.decoder) == [
        *["Linear", "Reshape", "BatchNorm", "leaky_relu"],
        *["ConvTranspose", "BatchNorm", "leaky_relu", "ConvTranspose"],
    ]
    assert model.mixes_samples and model.reach == (None, None)
    assert not CODERS["maps"].mixes_samples
    half = AutoEncoder(perceptron((3, 2)), perceptron((2, 4, 3), norm=nn.BatchNorm))
    assert half.mixes_samples
    assert AutoEncoder(perceptron((3, 4, 2), norm=nn.BatchNorm), perceptron((2, 3))).mixes_samples


def test_the_perceptrons_auto_encoder_is_its_own_mirror_image():
    model = mlp_autoencoder((28, 28, 1), (64, 32), 8)
    assert [s for s in model.encoder.shapes().values()][-1] == (8,) == model.decoder.input
    assert [model.encoder.layers[f"linear{i}"].outputs for i in range(3)] == [64, 32, 8]
    assert [model.decoder.layers[f"linear{i}"].outputs for i in range(3)] == [32, 64, 784]
    assert model.output == (28, 28, 1) and model.reach == (None, None)
    assert CODERS["mlp of images"].reach == (-1.0, 1.0)
    assert mlp_autoencoder((2,), (4,), 1, norm=nn.BatchNorm).mixes_samples


@each_coder
def test_an_auto_encoder_is_its_decoder_after_its_encoder(name):
    model = CODERS[name]
    params, x = filled(model), normal_input(model, 4)
    assert list(params) == ["encoder", "decoder"]
    code = model.code(params, x)
    np.testing.assert_array_equal(code, model.encoder(params["encoder"], x))
    assert code.shape == (4, *model.encoder.output)
    y = model.decoder(params["decoder"], code)
    np.testing.assert_array_equal(model(params, x), y)
    np.testing.assert_array_equal(model.decode(params, code), y)
    assert y.shape == x.shape and model.input == model.output == x.shape[1:]
    assert str(model.encoder) in str(model) and str(model.decoder) in str(model)


def test_networks_that_do_not_fit_are_no_auto_encoder():
    with pytest.raises(ValueError, match=r"codes of shape \(2,\) for a decoder of \(3,\)"):
        AutoEncoder(perceptron((4, 2)), perceptron((3, 4)))
    with pytest.raises(ValueError, match=r"samples of shape \(4,\), reconstructions of \(5,\)"):
        AutoEncoder(perceptron((4, 2)), perceptron((2, 5)))


def test_auto_encoders_refuse_other_parameters_and_samples():
    model = CODERS["mlp"]
    params, x = filled(model), normal_input(model, 3)
    for bad in (params["encoder"], list(params.values())):
        with pytest.raises(ValueError, match="expected those of encoder and decoder"):
            model(bad, x)
        with pytest.raises(ValueError, match="expected those of encoder and decoder"):
            model.decode(bad, x[:, :2])
    with pytest.raises(ValueError, match=r"expected \(N, 4\)"):
        model(params, x[:, :3])


@pytest.mark.parametrize("image, hidden", [(28, (4, 4, 4)), (7, (4,)), (32, ())])
def test_images_that_cannot_be_halved_so_often(image, hidden):
    with pytest.raises(ValueError, match=f"image of size {image} for hidden channels"):
        conv_autoencoder(image, 1, hidden)


def test_an_encoder_is_a_critic_with_more_outputs():
    net = encoder(32, 3, (32, 64, 128, 256), 100)
    critic = models.dcgan32().critic
    assert list(net.layers) == [*list(critic.layers)[:-1], "code"]
    same = [name for name in critic.layers if name not in ("conv4", "logit")]
    assert all(net.layers[name] == critic.layers[name] for name in same)
    assert net.output == (100,) and net.shapes()["conv4"] == (1, 1, 100)
    assert counts(net)["conv4"] == 16 * 256 * 100 + 100  # and a bias
    assert encoder(28, 1, (4, 8), 10, norm=None, bias=True, kernel=5).output == (10,)
    assert encoder(28, 1, (4, 8), 10, norm=None).mixes_samples is False


def test_encoders_refuse_bad_sizes():
    with pytest.raises(ValueError, match="whole number above 0"):
        encoder(28, 1, (4, 8), 0)
    with pytest.raises(ValueError, match="kernel is 3"):
        encoder(28, 1, (4, 8), 2, kernel=3)


# The one-parameter games


def dirac(loss, theta, psi, penalty=None):
    """The gradients of both sides at (θ, ψ), with real samples at 0, and the critic's penalty."""
    gan = GAN(
        DiracGenerator(theta), DiracCritic(psi), optim.SGD(0.2), optim.SGD(0.2), loss, penalty
    )
    players = gan.init(Stream(0), np.float64)
    real, z = np.zeros((4, 1)), Stream(1).normal((4, 1), np.float64)
    noise = penalty.draw(Stream(2), real) if penalty else ()
    of_d = critic_gradients(gan, players, real, z, noise).tree["psi"]
    return float(generator_gradients(gan, players, z).tree["theta"][0]), float(of_d[0])


def sigmoid(t):
    return 1 / (1 + math.exp(-t))


FIELDS = {  # the gradients in θ and in ψ, by hand
    "MINIMAX": lambda t, p: (-sigmoid(t * p) * p, sigmoid(t * p) * t),
    "NON_SATURATING": lambda t, p: (-sigmoid(-t * p) * p, sigmoid(t * p) * t),
    "WASSERSTEIN": lambda t, p: (-p, t),
    "LEAST_SQUARES": lambda t, p: ((t * p - 1) * p, t * p * t),
    "HINGE": lambda t, p: (-p, t if t * p > -1 else 0),
}


@pytest.mark.parametrize("name", FIELDS)
def test_the_dirac_games_field_is_the_closed_form(name):
    for theta, psi in ((1.0, 1.0), (0.3, -2.0), (-1.5, 0.4)):
        expected = FIELDS[name](theta, psi)
        loss = getattr(losses, name)
        assert dirac(loss, theta, psi) == pytest.approx(expected, rel=1e-12)
        gamma = 0.3
        of_g, of_d = dirac(loss, theta, psi, penalties.r1(gamma / 2))
        assert (of_g, of_d) == pytest.approx((expected[0], expected[1] + gamma * psi), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_the_dirac_games_eigenvalues_at_the_equilibrium(gamma):
    """−γ/2 ± √(γ²/4 − f′(0)²), f′(0) = ½, of the field −∇ by differences."""
    penalty = penalties.r1(gamma / 2) if gamma else None

    def field(theta, psi):
        return -np.array(dirac(losses.MINIMAX, theta, psi, penalty))

    h = 1e-5
    jacobian = np.stack(
        [(field(h, 0) - field(-h, 0)) / (2 * h), (field(0, h) - field(0, -h)) / (2 * h)], 1
    )
    root = np.sqrt(complex(gamma**2 / 4 - 0.25))
    found = np.sort_complex(np.linalg.eigvals(jacobian))
    expected = np.sort_complex(np.array([-gamma / 2 - root, -gamma / 2 + root]))
    np.testing.assert_allclose(found, expected, atol=1e-4 if gamma == 1 else 1e-9)  # √ at 0


def test_the_dirac_game_starts_where_it_is_told():
    assert DiracGenerator().init(Stream(0)) == {"theta": np.float32(1)}
    assert DiracCritic(-2.5).init(Stream(0), np.float64) == {"psi": -2.5}
    z = np.ones((3, 1))
    y = DiracGenerator(4.0)(DiracGenerator(4.0).init(Stream(0), np.float64), z)
    np.testing.assert_array_equal(y, np.full((3, 1), 4.0))
    x = np.array([[1.0], [-2.0]])
    np.testing.assert_array_equal(DiracCritic()({"psi": np.array([3.0])}, x), 3 * x)


def test_the_linear_games_field_is_p3s():
    """∂L/∂θ_D = x − y, ∂L/∂θ_G = −θ_D zᵀ, of L that D maximises and G minimises."""
    theta_g, theta_d = ((0.5, -1.0), (2.0, 0.3), (0.1, 0.7)), ((1.5,), (-0.5,))
    gan = GAN(
        LinearGenerator(3, 2, Given(theta_g)),
        LinearCritic(2, Given(theta_d)),
        optim.SGD(0.1),
        optim.SGD(0.1),
        losses.WASSERSTEIN,
    )
    players = gan.init(Stream(0), np.float64)
    x, z = np.array([[0.4, 0.9]]), np.array([[1.0, -2.0, 0.5]])
    y = np.array(theta_g).T @ z[0]
    of_d = critic_gradients(gan, players, x, z).tree["theta"]
    np.testing.assert_allclose(-of_d[:, 0], x[0] - y, rtol=1e-14)
    of_g = generator_gradients(gan, players, z).tree["theta"]
    np.testing.assert_allclose(of_g.T, -np.outer(np.array(theta_d)[:, 0], z[0]), rtol=1e-14)


def test_to_stay_epsilon_optimal_the_linear_critic_must_grow():
    """‖θ_D‖ ≥ ε/‖x − y‖, and with it G's gradient, while D's own gradient x − y vanishes."""
    epsilon, z = 0.5, np.array([[1.0]])
    sizes = []
    for distance in (1.0, 0.1, 0.01):
        x, y = np.array([[1.0, 1.0]]), np.array([[1.0 - distance, 1.0]])
        least = epsilon * (x - y)[0] / distance**2  # the shortest θ with θᵀ(x − y) = ε
        d = LinearCritic(2, Given(tuple((a,) for a in least)))
        g = LinearGenerator(1, 2, Given((tuple(y[0]),)))
        gan = GAN(g, d, optim.SGD(0.1), optim.SGD(0.1), losses.WASSERSTEIN)
        players = gan.init(Stream(0), np.float64)
        gap = d(players.critic, x) - d(players.critic, g(players.generator, z))
        assert float(gap[0, 0]) == pytest.approx(epsilon, rel=1e-9)
        of_d = critic_gradients(gan, players, x, z).tree["theta"]
        of_g = generator_gradients(gan, players, z).tree["theta"]
        sizes.append((np.linalg.norm(of_d), np.linalg.norm(of_g)))
        assert np.linalg.norm(players.critic["theta"]) == pytest.approx(epsilon / distance)
    np.testing.assert_allclose(sizes, [(1, 0.5), (0.1, 5), (0.01, 50)], rtol=1e-9)


def test_linear_maps_are_drawn_or_given():
    model = LinearGenerator(30, 20, nn.Normal(0.5))
    theta = model.init(Stream(0), np.float64)["theta"]
    assert theta.shape == (30, 20) and theta.std() == pytest.approx(0.5, rel=0.1)
    assert LinearGenerator(3, 2).init(Stream(0))["theta"].dtype == np.float32
    with pytest.raises(ValueError, match=r"values of shape \(2,\) for a parameter of shape \(2, 1"):
        LinearCritic(2, Given((1.0, 2.0))).init(Stream(0))
    weights = nn.Linear(2, 2, Given(((1, 2), (3, 4)))).init(Stream(0))["weight"]
    np.testing.assert_array_equal(weights, np.array([[1, 2], [3, 4]], np.float32))


@pytest.mark.parametrize("name", POINTS)
def test_points_refuse_other_input(name):
    model = POINTS[name]
    params, width = model.init(Stream(0)), model.input[0]
    for shape in ((3, width + 1), (width,), (3, width, 1)):
        with pytest.raises(ValueError, match=rf"input of shape .*expected \(N, {width}\)"):
            model(params, np.ones(shape, np.float32))


def test_the_dirac_game_trains_as_any_other():
    gan = GAN(DiracGenerator(), DiracCritic(), optim.SGD(0.2), optim.SGD(0.2), losses.MINIMAX)
    start = gan.init(Stream(0))

    def zeros(n, stream):
        return np.zeros((n, 1), np.float32)

    runs = [
        tinygan.train.train(
            gan, start, zeros, 5, Stream(1), batch=2, latent=1, compiled=compiled
        ).players
        for compiled in (True, False)
    ]
    theta, psi = 1.0, 1.0
    for _ in range(5):  # the critic first
        psi -= 0.2 * sigmoid(theta * psi) * theta
        theta += 0.2 * sigmoid(theta * psi) * psi
    for players in runs:
        found = float(players.generator["theta"][0]), float(players.critic["psi"][0])
        assert found == pytest.approx((theta, psi), rel=1e-5)


# All of them


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_forward_pass_keeps_its_dtype(name, dtype):
    model = ALL[name]
    params = model.init(Stream(3), dtype)
    x = normal_input(model, 4, dtype=dtype)
    y = model(params, x)
    assert type(y) is np.ndarray and y.dtype == dtype and y.shape == (4, *model.output)
    assert {a.dtype for a in tree.leaves(params)} == {np.dtype(dtype)}
    assert np.isfinite(y).all()
    tracked = model(track(params), x)
    assert type(tracked) is Tensor
    np.testing.assert_array_equal(tracked.data, y)


def smooth(model):
    """The same with tanh where there are kinks, which finite differences cannot cross."""
    if isinstance(model, AutoEncoder):
        return AutoEncoder(smooth(model.encoder), smooth(model.decoder))
    if not isinstance(model, Net):
        return model
    kinks = (ops.relu, ops.leaky_relu, ops.elu)
    layers = {k: ops.tanh if f in kinks else f for k, f in model.layers.items()}
    return Net(model.title, model.input, layers)


@each
def test_gradients_to_order_two_of_parameters_and_samples(name):
    model = smooth(ALL[name])
    noise = {"noise": model.draw(Stream(6), 3, np.float64)} if isinstance(model, Net) else {}
    at = {"params": filled(model), "x": normal_input(model, 3)}

    def near(moved):  # a hundredth of the steps, which weights around .1 cannot bear
        t = tree.tree_map(lambda a, b: add(a, ops.multiply(b, 0.01)), at, moved)
        return model(t["params"], t["x"], **noise)

    check_gradients(near, tree.tree_map(np.zeros_like, at), order=2, directions=1)


@each
def test_the_stream_fixes_the_bits(name):
    model = ALL[name]
    a, b = model.init(Stream(3)), model.init(Stream(3))
    assert all(np.array_equal(x, y) for x, y in zip(*map(tree.leaves, (a, b)), strict=True))


@pytest.mark.parametrize("name", [*POINTS, "mlp", "maxout", "a row"])
def test_other_devices_give_the_same_numbers(name, xp):
    model = ALL[name]
    params, x = model.init(Stream(3)), normal_input(model, 4, dtype=np.float32)
    there = model(tree.tree_map(xp.asarray, params), xp.asarray(x))
    np.testing.assert_allclose(xp.get(there), model(params, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*POINTS, "mlp"])
def test_parameters_are_made_on_the_streams_device(name, stand_in):
    there = ALL[name].init(Stream(3, device="gpu"))
    for a, b in zip(*map(tree.leaves, (there, ALL[name].init(Stream(3)))), strict=True):
        np.testing.assert_allclose(stand_in.get(a), b, rtol=1e-6)


@each_net
def test_every_network_can_be_printed(name):
    lines = str(NETS[name]).splitlines()
    assert len(lines) == len(NETS[name].layers) + 3
    assert lines[-1].split() == ["total", f"{sum(counts(NETS[name]).values()):,}"]

"""What all systems share: spectral norms are kept, and noise that nobody would draw is refused."""

import numpy as np
import pytest

from tinygan import nn, optim, spectral, systems
from tinygan.backend import Stream
from tinygan.game import Streams
from tinygan.models import AutoEncoder, Net, perceptron
from tinygan.replay import compile

ADAM = optim.Adam(2e-3, (0.5, 0.9))


def net(inputs, outputs, noise=None):
    return perceptron((inputs, 16, outputs), noise=noise)


def auto_encoder(change):
    return AutoEncoder(change(net(2, 4)), change(net(4, 2)))


SYSTEMS = {  # a function of what to do to every judging network
    "ac-gan": lambda change: systems.ACGAN(
        net(3 + 4, 2), change(net(2, 1 + 4)), ADAM, ADAM, classes=4, batch=16
    ),
    "infogan": lambda change: systems.InfoGAN(
        net(3 + 4 + 1, 2), change(net(2, 1 + 4 + 2)), ADAM, ADAM, (4,), 1, batch=16
    ),
    "regularized": lambda change: systems.Regularized(
        net(3, 2), change(net(2, 1)), change(net(2, 3)), ADAM, ADAM, ADAM, batch=16
    ),
    "mdgan": lambda change: systems.MDGAN(
        net(3, 2), change(net(2, 3)), change(net(2, 1)), change(net(2, 1)), ADAM, ADAM, ADAM, ADAM,
        batch=16,
    ),
    "ebgan": lambda change: systems.EBGAN(net(3, 2), auto_encoder(change), ADAM, ADAM, batch=16),
    "began": lambda change: systems.BEGAN(net(3, 2), auto_encoder(change), ADAM, ADAM, batch=16),
}  # fmt: skip
each = pytest.mark.parametrize("name", SYSTEMS)


def points(n, stream):
    return stream.normal((n, 2), np.float64) + 1


def labelled(n, stream):
    return points(n, stream), np.arange(n) % 4


def judging(players):
    """The parameters of all players, without their optimisers' states."""
    return [tree for name, tree in players._asdict().items() if not name.endswith("_state")]


def with_vectors(params):
    """The parameters of each layer that keeps singular vectors."""
    if isinstance(params, dict) and "left" in params:
        return [params]
    if not isinstance(params, (dict, list, tuple)):
        return []
    branches = params.values() if isinstance(params, dict) else params
    return [found for branch in branches for found in with_vectors(branch)]


def largest(params):
    """The true largest singular value of a layer's weight as it is used; 1 is right."""
    weight = params["weight"] / spectral.singular_value(params)
    return np.linalg.svd(weight, compute_uv=False)[0]


@each
def test_spectral_norms_follow_their_weights(name):
    game = SYSTEMS[name](spectral.spectral_norm)
    players = start = game.init(Stream(0), np.float64)
    step, streams = compile(game.step), Streams(Stream(1), Stream(2), Stream(3))
    data = labelled if name == "ac-gan" else points
    for i in range(150):
        batch = game.draw(data, streams, i, np.dtype(np.float64))
        players, _ = step(players, batch, 1.0)
    layers, first = with_vectors(judging(players)), with_vectors(judging(start))
    assert len(layers) == len(first) >= 2
    stale = [
        {**layer, "left": old["left"], "right": old["right"]}
        for layer, old in zip(layers, first, strict=True)
    ]
    assert max(map(largest, layers)) < 1.09 and max(map(largest, stale)) > 1.09
    assert max(map(largest, layers)) - 1 < (max(map(largest, stale)) - 1) / 2


@pytest.mark.parametrize("name", ["regularized", "mdgan", "ebgan", "began"])
@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Noise(0.1)], ids=["dropout", "noise"])
def test_noise_that_a_system_does_not_hand_out_is_an_error(name, layer):
    def noisy(network):
        return Net(network.title, network.input, {"noise": layer, **network.layers})

    with pytest.raises(ValueError, match=f"(?i){name}: .* draws noise in its layers.*expected"):
        SYSTEMS[name](noisy)

"""One training step of DCGAN-32, critic and then generator, is PyTorch's.

The networks have 1/16 of their width, and the games are those of ``record_dcgan_step``: batch norm
without a penalty, and biases with the WGAN-GP penalty, the 1-GP, and the 0-GP on σ(D). Of every
tensor the gradient, the weights after the step, and the step are compared, by their norm and by two
projections; an error of a norm is relative to the norm, that of a projection to the norm times the
direction's. No component is left out.

In float64 all are PyTorch's to 1e-10. In float32 they may be 10 times as far from PyTorch's float64
as its float32 is: the tensors as a whole, and so their norms and projections too. PyTorch's own
distance counts as at least 4 ulps of the tensor's norm (of 1, for the losses), for it may be small
by luck.

Adam's first step is −rate·g/(|g| + eps), nearly rate·sign(g), and so badly conditioned where |g| is
not far above eps = 1e-8. No component changes its sign between float64 and float32: the recorder
sees to it. What is left is the slope rate·eps/(|g| + eps)², which turns an error of 1e-9 into one
of up to a tenth of the rate, in about one component in 20,000 of the generator's first layer. In
float32 the steps and the weights after them are given that much more: PyTorch's own error of the
gradient, sent through this slope (``amplified`` in the recorder). In float64 it is below 1e-12 of
the step, and nothing is given.
"""

import threading
from pathlib import Path

import numpy as np
import pytest
import record_dcgan_step as recorder

import tinygan
from tinygan import conv, losses, lowering, models, norms, ops, optim, penalties, tree
from tinygan.backend import Stream
from tinygan.train import GAN, critic_step, generator_step

LOSSES = {"non-saturating": losses.NON_SATURATING, "wasserstein": losses.WASSERSTEIN}
PENALISED = [name for name, game in recorder.GAMES.items() if game.penalty is not None]
FEW_ULPS = 4 * 2.0**-23
each_game = pytest.mark.parametrize("name", recorder.GAMES)


@pytest.fixture(scope="module")
def recorded():
    with np.load(recorder.FILE) as file:
        return dict(file)


def gan_of(game, **changes):
    """The game as training plays it."""
    g, d = models.dcgan32(width=1 / 16, **({} if game.norm else {"norm": None}))
    adam = optim.Adam(game.rate, game.betas)
    penalty = None
    if game.penalty is not None:
        centre, of_probability = game.penalty
        of = ops.sigmoid if of_probability else None
        penalty = penalties.Penalty(
            recorder.WEIGHT, penalties.INTERPOLATES, centre, one_sided=False, of=of
        )
    arguments = dict(loss=LOSSES[game.loss], penalty=penalty) | changes
    return GAN(g, d, adam, adam, **arguments)


def flat(side, params):
    return {f"{side}.{path}": a for path, a in tree.paths(params)}


def placed(params, found):
    """A tree like ``params`` of the arrays {path: array}; every path and shape must agree."""
    paths = tree.paths(params)
    assert {p: a.shape for p, a in paths} == {p: a.shape for p, a in found.items()}
    return tree.rebuild(params, [found[path].astype(a.dtype) for path, a in paths])


def play(game, dtype, **changes):
    """One step of each player: losses, and {kind: {"player.layer.name": array}}."""
    gan, start = gan_of(game, **changes), recorder.arrays(game)
    before = gan.init(Stream(0), dtype)
    before = before._replace(
        generator=placed(before.generator, start["generator"]),
        critic=placed(before.critic, start["critic"]),
    )
    real, z, alpha = (start[key].astype(dtype) for key in ("real", "z", "alpha"))
    players, critic = critic_step(gan, before, real, z, () if gan.penalty is None else (alpha,))
    players, generator = generator_step(gan, players, z)

    penalty = 0.0 if critic.penalty is None else critic.penalty
    gradient = flat("generator", generator.tree) | flat("critic", critic.tree)
    after = flat("generator", players.generator) | flat("critic", players.critic)
    assert all(a.dtype == dtype for a in [*gradient.values(), *after.values(), critic.loss])
    old = flat("generator", before.generator) | flat("critic", before.critic)
    step = {path: a.astype(np.float64) - old[path] for path, a in after.items()}
    values = np.array([critic.loss, penalty, generator.loss], np.float64)
    return values, dict(zip(recorder.KINDS, (gradient, after, step), strict=True))


def relative(error, scale):
    """|error|/scale, and where the scale is 0, as for a gradient that cancels, 0 or infinity."""
    error = abs(error)
    return np.divide(error, scale, out=np.where(error == 0, 0.0, np.inf), where=scale != 0)


def distances(found, recorded, name, kind):
    """Of each tensor in {path: array}, the relative errors of its three numbers, in float64."""
    paths = recorded[f"{name}/names"]
    rows = np.stack([recorder.three_numbers(found[path]) for path in paths])
    return distances_of_rows(rows, recorded, name, kind)


def distances_of_rows(rows, recorded, name, kind):
    start, exact = recorder.arrays(recorder.GAMES[name]), recorded[f"{name}/float64/{kind}"]
    start = flat("generator", start["generator"]) | flat("critic", start["critic"])
    shapes = [start[path].shape for path in recorded[f"{name}/names"]]
    scales = [recorder.scales(row[0], shape) for row, shape in zip(exact, shapes, strict=True)]
    return relative(rows - exact, np.stack(scales))


def worst(found, recorded, name):
    """The largest error of a whole step in float64, losses included."""
    values, tensors = found
    exact = recorded[f"{name}/float64/losses"]
    errors = [relative(values - exact, abs(exact)).max()]
    for kind in recorder.KINDS:
        errors.append(distances(tensors[kind], recorded, name, kind).max())
    return max(errors)


@pytest.fixture
def cut_small(monkeypatch):
    """Every op that can be cut is cut, for two threads; the modules that ran in the second."""
    for module in (conv, norms, ops):
        monkeypatch.setattr(module, "PAYS", 0)
    for module in (norms, ops):
        monkeypatch.setattr(module, "BLOCK", 1 << 10)
    monkeypatch.setattr(lowering, "CHUNK", 1 << 15)
    seen = set()
    threading.setprofile(lambda frame, event, arg: seen.add(Path(frame.f_code.co_filename).stem))
    yield seen
    threading.setprofile(None)


# The recording


def test_the_recording_names_the_pytorch_that_made_it(recorded):
    assert str(recorded["torch"]).startswith("2.")


@each_game
def test_the_recording_is_of_every_tensor_and_none_is_idle(name, recorded):
    game, start = recorder.GAMES[name], recorder.arrays(recorder.GAMES[name])
    names = [*flat("generator", start["generator"]), *flat("critic", start["critic"])]
    assert list(recorded[f"{name}/names"]) == names and len(names) == (21 if game.norm else 18)
    cancels = [n for n, row in zip(names, recorded[f"{name}/float64/gradient"], strict=True)
               if row[0] < recorder.FLOOR]  # fmt: skip
    assert cancels == (["critic.conv4.bias"] if game.loss == "wasserstein" else [])
    for kind in recorder.KINDS:
        assert recorded[f"{name}/float64/{kind}"].shape == (len(names), 3)
        far = distances_of_rows(recorded[f"{name}/float32/{kind}"], recorded, name, kind)
        sizes = recorded[f"{name}/float64/{kind}"][:, 0]
        assert (far.max(1) <= 1.01 * relative(recorded[f"{name}/distance/{kind}"], sizes)).all()


# The step


@each_game
def test_a_step_in_float64_is_pytorchs(name, recorded):
    assert worst(play(recorder.GAMES[name], np.float64), recorded, name) <= 1e-10


@pytest.mark.parametrize("name", PENALISED)
def test_a_step_in_one_batch_is_pytorchs(name, recorded):
    game = recorder.GAMES[name]
    one = play(game, np.float64, one_batch=True)
    assert worst(one, recorded, name) <= 1e-10
    two = play(game, np.float64)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-12)
    for path, g in two[1]["gradient"].items():
        assert np.linalg.norm(one[1]["gradient"][path] - g) <= 1e-12 * np.linalg.norm(g), path


@pytest.mark.numpy_path("threads")
@each_game
def test_a_step_in_two_threads_is_pytorchs(name, recorded, cut_small):
    game = recorder.GAMES[name]
    with tinygan.threads(2):
        assert worst(play(game, np.float64), recorded, name) <= 1e-10
    assert cut_small >= ({"conv", "norms"} if game.norm else {"conv"})


def check_float32(found, exact, recorded, name):
    values, tensors = found
    right, theirs = (recorded[f"{name}/{dtype}/losses"] for dtype in ("float64", "float32"))
    assert (abs(values - right) <= 10 * np.maximum(abs(theirs - right), FEW_ULPS)).all()
    for kind in recorder.KINDS:
        ours = distances(tensors[kind], recorded, name, kind)
        columns = [f"float64/{kind}", f"distance/{kind}", "amplified", "names"]
        rows = zip(*(recorded[f"{name}/{column}"] for column in columns), strict=True)
        for i, ((size, *_), pytorchs, amplified, path) in enumerate(rows):
            limit = 10 * max(pytorchs, FEW_ULPS * size)
            if kind != "gradient":
                limit += 10 * amplified
            # ``exact`` is ours in float64, every tensor of which is PyTorch's to 1e-10.
            error = tensors[kind][path].astype(np.float64) - exact[kind][path]
            assert np.linalg.norm(error) <= limit, (kind, path)
            assert (ours[i] <= relative(np.array(limit), np.array(size))).all(), (kind, path)


@each_game
@pytest.mark.parametrize(
    "count", [1, pytest.param(2, marks=pytest.mark.numpy_path("threads"))], ids=["", "two threads"]
)
def test_a_step_in_float32_is_as_near_as_pytorchs(name, count, recorded, cut_small):
    game = recorder.GAMES[name]
    _, exact = play(game, np.float64)
    with tinygan.threads(count):
        check_float32(play(game, np.float32), exact, recorded, name)
    assert ("conv" in cut_small) == (count == 2)


# The comparison can fail


def swapped(loss):
    return losses.Loss(lambda real, fake, average: loss.critic(fake, real, average), loss.generator)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("batch norm", dict(average=True)),
        ("batch norm", dict(loss=losses.MINIMAX)),
        ("batch norm", dict(loss=swapped(losses.NON_SATURATING))),
        ("wgan-gp", dict(loss=swapped(losses.WASSERSTEIN))),
        ("wgan-gp", dict(penalty=penalties.lp())),
        ("wgan-gp", dict(penalty=penalties.one_gp(10 * (1 + 1e-8)))),
        ("1-gp", dict(penalty=penalties.zero_gp())),
        ("0-gp on a probability", dict(penalty=penalties.zero_gp())),
    ],
    ids=str,
)
def test_another_game_is_told_from_the_recorded_one(name, changes, recorded):
    assert worst(play(recorder.GAMES[name], np.float64, **changes), recorded, name) > 1e-9

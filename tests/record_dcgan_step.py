"""Records what PyTorch computes for one training step of DCGAN-32, for the tests to compare with.

    python tests/record_dcgan_step.py

writes tests/recorded/dcgan_step.npz: for each game below, in float64 and in float32, one step of
the critic and then one of the generator, at 1/16 of DCGAN-32's width. Of every tensor of both
players: its gradient, its weights after the step, and the step itself (after less before), each
reduced to three numbers, the Euclidean norm and two fixed projections. Both sides start from the
formulas below, which the tests import from here; the networks, the losses, the penalty, the
gradients and Adam are PyTorch's own.

The recorder refuses constants that would make a poor test: see :func:`main`.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).parent / "recorded" / "dcgan_step.npz"
BATCH, LATENT, IMAGE, CHANNELS = 16, 100, 32, 3
HIDDEN_G, HIDDEN_D = (64, 32, 16), (2, 4, 8, 16)  # DCGAN-32's channels / 16
KINDS = ("gradient", "after", "step")
FLOOR = 1e-6  # no gradient's norm is below


class Game(NamedTuple):
    """What tells one game from another."""

    loss: str  # "non-saturating" or "wasserstein"
    norm: bool  # batch norm in both players, and then no biases
    penalty: tuple | None  # (centre, whether of σ(D)), at interpolates; λ = 10
    rate: float
    betas: tuple
    pitch: float  # of the waves


GAMES = {
    "batch norm": Game("non-saturating", True, None, 2e-4, (0.5, 0.999), 1.85),
    "wgan-gp": Game("wasserstein", False, (1.0, False), 1e-4, (0.5, 0.9), 1.7),
    "1-gp": Game("non-saturating", False, (1.0, False), 2e-4, (0.5, 0.999), 1.7),
    "0-gp on a probability": Game("non-saturating", False, (0.0, True), 2e-4, (0.5, 0.999), 1.7),
}
WEIGHT = 10.0  # λ


def wave(shape, pitch, number):
    """sin(c·k²), c = pitch + number/10, k = 1, 2, … in C order; float64.

    The square, for sin(c·k) would make every matrix one of rank 2.
    """
    k = np.arange(1.0, 1 + np.prod(shape))
    return np.sin((pitch + number / 10) * (k * k)).reshape(shape)


@cache
def directions(shape):
    """Two tensors to project on, cos(k²) and cos(1.3·k²)."""
    k = np.arange(1.0, 1 + np.prod(shape))
    return [np.cos(pitch * (k * k)).reshape(shape) for pitch in (1.0, 1.3)]


def arrays(game):
    """Generator and critic as {"layer.name": array}, real images, latent points, α; float64.

    The layout is tinygan's: N×H×W×C, convolutions kh×kw×inputs×outputs, transposed ones
    kh×kw×outputs×inputs. Weights have the variance 2/fan_in, so that values neither fade nor
    grow; a transposed convolution of stride 2 has a fan_in of a quarter of its kernel.
    """
    numbers = iter(range(100))

    def waves(*shape):
        return wave(shape, game.pitch, next(numbers))

    g, d = {}, {}
    sizes = (LATENT, *HIDDEN_G, CHANNELS)
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        fan_in = inputs if i == 0 else 4 * inputs
        _layer(g, waves, i, (4, 4, outputs, inputs), fan_in, outputs, game.norm and i < 3)
        if not game.norm:
            g[f"conv{i}.bias"] = 0.3 * waves(outputs)
    sizes = (CHANNELS, *HIDDEN_D, 1)
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        _layer(d, waves, i, (4, 4, inputs, outputs), 16 * inputs, outputs, game.norm and 0 < i < 4)
        if not game.norm:
            d[f"conv{i}.bias"] = 0.3 * waves(outputs)
    return dict(
        generator=g,
        critic=d,
        real=waves(BATCH, IMAGE, IMAGE, CHANNELS),
        z=2**0.5 * waves(BATCH, LATENT),
        alpha=waves(BATCH, 1, 1, 1) ** 2,
    )


def _layer(params, waves, i, shape, fan_in, channels, norm):
    params[f"conv{i}.weight"] = 2 / fan_in**0.5 * waves(*shape)
    if norm:
        params[f"norm{i}.scale"] = 1 + 0.3 * waves(channels)
        params[f"norm{i}.shift"] = 0.3 * waves(channels)


def three_numbers(a):
    """The Euclidean norm of a tensor and its projections on both directions, in float64."""
    a = a.astype(np.float64)
    return np.array([np.sqrt((a * a).sum()), *((a * d).sum() for d in directions(a.shape))])


def scales(norm, shape):
    """What errors of :func:`three_numbers` are relative to: ‖a‖, and ‖a‖·‖direction‖ twice."""
    return norm * np.array([1.0, *(np.sqrt((d * d).sum()) for d in directions(shape))])


# PyTorch's side


def play(torch, game, dtype):
    """One step of each player: (losses, {kind: {"player.layer.name": array}}, values at kinks)."""
    functional, start = torch.nn.functional, arrays(game)
    kinks = []

    def tensor(a, is_image=False):
        a = a.astype(dtype)
        return torch.from_numpy(np.ascontiguousarray(a.transpose(0, 3, 1, 2) if is_image else a))

    def parameters(side):  # kh×kw×I×O to O×I×kh×kw; the transposed kh×kw×O×I to I×O×kh×kw
        return {
            path: tensor(a.transpose(3, 2, 0, 1) if a.ndim == 4 else a).requires_grad_()
            for path, a in start[side].items()
        }

    def array(t):  # and back
        a = t.detach().numpy()
        return (a.transpose(2, 3, 1, 0) if a.ndim == 4 else a).copy()

    def norm(params, i, x):
        if f"norm{i}.scale" not in params:
            return x
        scale, shift = params[f"norm{i}.scale"], params[f"norm{i}.shift"]
        return functional.batch_norm(x, None, None, scale, shift, training=True, eps=1e-5)

    def generator(params, z):
        x = z[:, :, None, None]
        for i in range(4):
            stride, pad = (1, 0) if i == 0 else (2, 1)
            bias = params.get(f"conv{i}.bias")
            x = functional.conv_transpose2d(x, params[f"conv{i}.weight"], bias, stride, pad)
            if i < 3:
                x = norm(params, i, x)
                kinks.append(array(x))
                x = functional.relu(x)
        return torch.tanh(x)

    def critic(params, x):
        for i in range(5):
            x = functional.conv2d(x, params[f"conv{i}.weight"], params.get(f"conv{i}.bias"), 2, 1)
            if i < 4:
                x = norm(params, i, x)
                kinks.append(array(x))
                x = functional.leaky_relu(x, 0.2)
        return x.flatten(1)

    def against(logits, label):
        labels = torch.full_like(logits, label)
        return functional.binary_cross_entropy_with_logits(logits, labels)

    g, d = parameters("generator"), parameters("critic")
    before = {"generator": g, "critic": d}
    before = {f"{s}.{path}": array(p) for s, side in before.items() for path, p in side.items()}
    real, z, alpha = tensor(start["real"], True), tensor(start["z"]), tensor(start["alpha"], True)

    with torch.no_grad():
        fake = generator(g, z)
    on_real, on_fake = critic(d, real), critic(d, fake)
    if game.loss == "wasserstein":
        loss = on_fake.mean() - on_real.mean()
    else:
        loss = against(on_real, 1.0) + against(on_fake, 0.0)
    penalty = torch.zeros_like(loss)
    if game.penalty is not None:
        centre, of_probability = game.penalty
        points = (alpha * real + (1 - alpha) * fake).requires_grad_()
        y = critic(d, points)
        y = torch.sigmoid(y) if of_probability else y
        (slopes,) = torch.autograd.grad(y.sum(), points, create_graph=True)
        penalty = WEIGHT * ((slopes.flatten(1).norm(dim=1) - centre) ** 2).mean()
    adam = dict(lr=game.rate, betas=game.betas)
    d_optimizer = torch.optim.Adam(list(d.values()), **adam)
    (loss + penalty).backward()
    d_optimizer.step()

    held = {path: p.detach() for path, p in d.items()}
    on_fake = critic(held, generator(g, z))
    g_loss = -on_fake.mean() if game.loss == "wasserstein" else against(on_fake, 1.0)
    g_optimizer = torch.optim.Adam(list(g.values()), **adam)
    g_loss.backward()
    g_optimizer.step()

    losses = np.array([float(t.detach()) for t in (loss, penalty, g_loss)])
    now = {f"generator.{path}": p for path, p in g.items()}
    now |= {f"critic.{path}": p for path, p in d.items()}
    gradient = {path: array(p.grad) for path, p in now.items()}
    after = {path: array(p) for path, p in now.items()}
    step = {path: a.astype(np.float64) - before[path] for path, a in after.items()}
    return losses, dict(zip(KINDS, (gradient, after, step), strict=True)), kinks


def amplified(g, g32, rate):
    """How far gradients' rounding in float32 may move Adam's first step, to first order.

    The step is −rate·g/(|g| + eps), whose slope is rate·eps/(|g| + eps)²: next to nothing where
    |g| is far above eps, but up to rate/eps where it is not. The Euclidean norm over the tensor,
    for errors of g as large in each component as they are in the root mean square.
    """
    error = np.sqrt(((g32 - g) ** 2).mean())
    slopes = rate * 1e-8 / (abs(g) + 1e-8) ** 2
    return error * np.sqrt((slopes[g != 0] ** 2).sum())


def record(torch, name):
    """What the tests compare one game with; AssertionError where the constants are poor."""
    game, found = GAMES[name], {}
    losses, exact, kinks = play(torch, game, np.float64)
    losses32, rounded, kinks32 = play(torch, game, np.float32)
    for a, b in zip(kinks, kinks32, strict=True):
        assert abs(a).min() > 4 * abs(a - b).max(), f"{name}: a value within rounding of its kink"
        assert ((a > 0) == (b > 0)).all() and 0.2 < (a > 0).mean() < 0.8, name
    for path, g in exact["gradient"].items():
        cancels = path == "critic.conv4.bias" and game.loss == "wasserstein"
        size = np.sqrt((g * g).sum())
        assert size == 0 if cancels else size > FLOOR, f"{name}: {path} has a gradient of {size}"
        assert (np.sign(g) == np.sign(rounded["gradient"][path])).all(), f"{name}: {path}"
    assert game.penalty is None or losses[1] > 0.01, name

    found["float64/losses"], found["float32/losses"] = losses, losses32
    for kind in KINDS:
        pairs = [(a, rounded[kind][path]) for path, a in exact[kind].items()]
        found[f"float64/{kind}"] = np.stack([three_numbers(a) for a, _ in pairs])
        found[f"float32/{kind}"] = np.stack([three_numbers(b) for _, b in pairs])
        found[f"distance/{kind}"] = np.array([np.sqrt(((a - b) ** 2).sum()) for a, b in pairs])
    pairs = [(g, rounded["gradient"][path]) for path, g in exact["gradient"].items()]
    found["amplified"] = np.array([amplified(a, b, game.rate) for a, b in pairs])
    found["names"] = np.array(list(exact["gradient"]))
    return {f"{name}/{key}": a for key, a in found.items()}


def main():
    """Writes the file, if the constants make a good test.

    In float64 and float32 every value before a ReLU has the same sign, with room for four times
    PyTorch's rounding; so has every component of every gradient, for Adam's first step is nearly
    rate·sign(g). No gradient has a norm below FLOOR, but one that is 0 by rights: that of a
    Wasserstein critic's last bias, which its two halves and the penalty do not feel.
    """
    import torch

    torch.set_num_threads(1)
    found = {"torch": np.array(torch.__version__)}
    for name in GAMES:
        found |= record(torch, name)
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **found)
    print(f"{FILE}: {FILE.stat().st_size} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()

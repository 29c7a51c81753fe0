"""Records what PyTorch computes, so that the tests can compare with it and do without it.

    python tests/record_optimisers.py

writes tests/recorded/optimisers.npz: 100 steps of each optimiser (in float32 every tenth), and
one training step of five games. Both sides start from the formulas below, which the tests import
from here.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "recorded" / "optimisers.npz"
STEPS = 100

# The optimisers' problem: f(a, b) = ¼ Σ (a² − 1)² + ½ Σⱼ sⱼ (bⱼ − a₀ⱼ·a₁ⱼ)², not convex. The
# gradient of the last b is about 1e-8, as large as eps, so that eps and its place matter.

START = {"a": [[0.3, -1.4, 0.05], [1.7, 0.2, -0.6]], "b": [0.9, -0.4, 1.3]}
SCALES = [1.0, 1e-3, 1e-8]

RUNS = {  # name: class and arguments in torch.optim
    "sgd": ("SGD", dict(lr=0.05)),
    "momentum": ("SGD", dict(lr=0.02, momentum=0.9)),
    "nesterov": ("SGD", dict(lr=0.02, momentum=0.9, nesterov=True)),
    "rmsprop": ("RMSprop", dict(lr=0.01)),
    "rmsprop, decay .9": ("RMSprop", dict(lr=0.004, alpha=0.9, eps=1e-6)),
    "adam": ("Adam", dict(lr=0.02, betas=(0.9, 0.999))),
    "adam, betas .5 .9": ("Adam", dict(lr=0.004, betas=(0.5, 0.9))),
    "adam, falling rate": ("Adam", dict(lr=0.02, betas=(0.9, 0.999))),
}


def rate_factor(name, step):
    """What multiplies the rate at a step, from 0."""
    return 1 - step / STEPS if name == "adam, falling rate" else 1.0


def start(dtype):
    """The parameters before the first step, NumPy arrays."""
    return {key: np.array(value, dtype) for key, value in START.items()}


def gradient(params):
    """∂f/∂a and ∂f/∂b by hand, in NumPy."""
    a, b = params["a"], params["b"]
    pull = np.array(SCALES, a.dtype) * (b - a[0] * a[1])
    return {"a": a * (a * a - 1) - pull * a[::-1], "b": pull}


# The games: two small MLPs, whose weights, data and noise are waves.

GAMES = {  # name: loss, penalty (where, centre, one-sided, of σ), λ, activation
    "wgan-gp": ("wasserstein", ("interpolates", 1.0, False, False), 10.0, "relu"),
    "0-gp on a probability": ("non-saturating", ("interpolates", 0.0, False, True), 10.0, "tanh"),
    "r1": ("minimax", ("real", 0.0, False, False), 0.5, "tanh"),
    "lp": ("least squares", ("interpolates", 1.0, True, False), 10.0, "tanh"),
    "hinge, dragan": ("hinge", ("dragan", 1.0, False, False), 10.0, "relu"),
}
GENERATOR, CRITIC = (2, 5, 2), (2, 6, 6, 1)
BATCH = 7


def wave(shape, pitch, amplitude=1.0):
    """amplitude·sin(pitch·(k + 1)), k the place in C order; float64."""
    return amplitude * np.sin(pitch * np.arange(1, 1 + np.prod(shape))).reshape(shape)


def game_arrays():
    """Generator, critic, real data, latent points, α and DRAGAN's u; float64."""

    def mlp(sizes, pitch):
        return [
            {
                "weight": wave((m, n), pitch + i, 1.1),
                "bias": wave((n,), pitch + i + 0.3, 0.4),
            }
            for i, (m, n) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
        ]

    return dict(
        generator=mlp(GENERATOR, 1.7),
        critic=mlp(CRITIC, 0.9),
        real=wave((BATCH, 2), 2.3, 1.5),
        z=wave((BATCH, 2), 3.1),
        alpha=wave((BATCH, 1), 0.7) ** 2,
        u=wave((BATCH, 2), 1.3) ** 2,
    )


def record_runs(torch):
    found = {}
    for name, (kind, arguments) in RUNS.items():
        for dtype in ("float64", "float32"):
            params = {k: torch.tensor(v, requires_grad=True) for k, v in start(dtype).items()}
            optimizer = getattr(torch.optim, kind)(list(params.values()), **arguments)
            scales = torch.tensor(np.array(SCALES, dtype))
            trajectory = {key: [] for key in params}
            for step in range(STEPS):
                optimizer.param_groups[0]["lr"] = arguments["lr"] * rate_factor(name, step)
                optimizer.zero_grad()
                a, b = params["a"], params["b"]
                f = ((a**2 - 1) ** 2).sum() / 4 + (scales * (b - a[0] * a[1]) ** 2).sum() / 2
                f.backward()
                optimizer.step()
                for key, p in params.items():
                    trajectory[key].append(p.detach().numpy().copy())
            for key, points in trajectory.items():
                every = 1 if dtype == "float64" else 10
                found[f"{name}/{dtype}/{key}"] = np.stack(points[every - 1 :: every])
    return found


def record_games(torch):
    from torch.nn.functional import softplus

    def call(layers, x, activation):
        for i, layer in enumerate(layers):
            x = activation(x) if i else x
            x = x @ layer["weight"] + layer["bias"]
        return x

    def tensors(layers):
        return [
            {key: torch.tensor(a, requires_grad=True) for key, a in layer.items()}
            for layer in layers
        ]

    def flat(layers):
        return [layer[key] for layer in layers for key in ("weight", "bias")]

    critics = {
        "wasserstein": lambda r, f: f.mean() - r.mean(),
        "non-saturating": lambda r, f: softplus(-r).mean() + softplus(f).mean(),
        "minimax": lambda r, f: softplus(-r).mean() + softplus(f).mean(),
        "least squares": lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),
        "hinge": lambda r, f: torch.relu(1 - r).mean() + torch.relu(1 + f).mean(),
    }
    generators = {
        "wasserstein": lambda f: -f.mean(),
        "non-saturating": lambda f: softplus(-f).mean(),
        "minimax": lambda f: -softplus(f).mean(),
        "least squares": lambda f: 0.5 * ((f - 1) ** 2).mean(),
        "hinge": lambda f: -f.mean(),
    }

    found = {}
    for name, (loss, (where, centre, one_sided, probability), weight, kind) in GAMES.items():
        arrays, activation = game_arrays(), getattr(torch, kind)
        g, d = tensors(arrays["generator"]), tensors(arrays["critic"])
        real, z, alpha, u = (torch.tensor(arrays[key]) for key in ("real", "z", "alpha", "u"))
        fake = call(g, z, activation).detach()
        points = {
            "interpolates": alpha * real + (1 - alpha) * fake,
            "real": real,
            "dragan": real + alpha * 0.5 * real.std(correction=0) * u,
        }[where].requires_grad_()
        y = call(d, points, activation)
        y = torch.sigmoid(y) if probability else y
        (slopes,) = torch.autograd.grad(y.sum(), points, create_graph=True)
        excess = slopes.norm(dim=1) - centre
        penalty = weight * ((torch.relu(excess) if one_sided else excess) ** 2).mean()
        value = critics[loss](call(d, real, activation), call(d, fake, activation))
        (value + penalty).backward()
        torch.optim.Adam(flat(d), lr=1e-2, betas=(0.5, 0.9)).step()
        generator_value = generators[loss](call(d, call(g, z, activation), activation))
        d_gradients = [p.grad.clone() for p in flat(d)]
        generator_value.backward()
        torch.optim.Adam(flat(g), lr=1e-2, betas=(0.5, 0.9)).step()

        def together(parts):
            return np.concatenate([p.detach().numpy().ravel() for p in parts])

        found[f"{name}/losses"] = together([value, penalty, generator_value])
        found[f"{name}/critic gradient"] = together(d_gradients)
        found[f"{name}/critic after"] = together(flat(d))
        found[f"{name}/generator gradient"] = together([p.grad for p in flat(g)])
        found[f"{name}/generator after"] = together(flat(g))
    return found


def main():
    import torch

    torch.set_num_threads(1)
    found = {"torch": np.array(torch.__version__), **record_runs(torch), **record_games(torch)}
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **found)
    print(f"{FILE}: {FILE.stat().st_size} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()

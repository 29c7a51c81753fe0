"""The same GAN step in tinygan and in other libraries, from the same weights on the same data.

A case says what a step is; a contender is one library's version of it. ``step(i)`` trains on
iteration i of the batches (they are used in rotation) and returns the two losses, not yet
converted; ``finish()`` waits until all the work is done; ``weights()`` gives the parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

import tinygan as tg
from tinygan.data import eight_gaussians
from tinygan.train import GAN, critic_step, generator_step


@dataclass(frozen=True)
class Case:
    """A training iteration: the critic's steps, then one of the generator."""

    title: str
    hidden: int
    depth: int
    batch: int
    critic_steps: int
    wasserstein: bool  # with a slope of 1 and Adam; else logistic, σ(D) with slope 0, and SGD
    rate: float
    weight: float

    def game(self):
        """The case as tinygan trains it."""
        if self.wasserstein:
            pair = tg.models.mlp_pair(2, 2, self.hidden, self.depth)
            optimizer = tg.optim.Adam(self.rate, (0.5, 0.9))
            loss, penalty = tg.losses.WASSERSTEIN, tg.penalties.one_gp(self.weight)
        else:
            pair = tg.models.zero_gp_toy(self.hidden, self.depth)
            optimizer = tg.optim.SGD(self.rate)
            loss = tg.losses.NON_SATURATING
            penalty = tg.penalties.zero_gp(self.weight, tg.ops.sigmoid)
        return GAN(*pair, optimizer, optimizer, loss, penalty, one_batch=True)

    def batches(self, iterations):
        """What each iteration uses: ([(real, z, alpha) for each critic step], z)."""
        stream, data = tg.Stream(1), eight_gaussians()

        def z():
            return stream.normal((self.batch, 2))

        def critic():
            return data.sample(self.batch, stream), z(), stream.uniform((self.batch, 1))

        return [([critic() for _ in range(self.critic_steps)], z()) for _ in range(iterations)]


CASES = {
    "wgan-gp": Case(
        "toy WGAN-GP, 3×512, batch 256, 5+1 steps, Adam", 512, 3, 256, 5, True, 1e-4, 0.1
    ),
    "0-gp-512": Case(
        "toy 0-GP, 2×512, batch 128, 1+1 steps, SGD", 512, 2, 128, 1, False, 3e-3, 10.0
    ),
    "0-gp-64": Case("toy 0-GP, 2×64, batch 128, 1+1 steps, SGD", 64, 2, 128, 1, False, 3e-3, 10.0),
}


class Contender(NamedTuple):
    """One library's version of a case."""

    step: Callable
    finish: Callable
    weights: Callable


def pairs(params):
    """tinygan's parameters of an MLP as [(weight, bias)], weights (inputs, outputs)."""
    return [(layer["weight"], layer["bias"]) for layer in params]


def tinygan_eager(case, batches):
    gan = case.game()
    state = SimpleNamespace(players=gan.init(tg.Stream(0)))

    def step(i):
        now, (critic_batches, z) = state.players, batches[i % len(batches)]
        for real, latent, alpha in critic_batches:
            now, critic = critic_step(gan, now, real, latent, (alpha,))
        state.players, generator = generator_step(gan, now, z)
        return critic.loss + critic.penalty, generator.loss

    def weights():
        return pairs(state.players.generator), pairs(state.players.critic)

    return Contender(step, lambda: None, weights)


def torch_eager(case, batches, fused=None):
    import torch
    from torch.nn.functional import softplus

    def network(layers):
        modules = []
        for weight, bias in layers:
            linear = torch.nn.Linear(*weight.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weight.T.copy()))
                linear.bias.copy_(torch.from_numpy(bias))
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules[:-1])

    def optimizer(params):
        if case.wasserstein:
            return torch.optim.Adam(params, case.rate, (0.5, 0.9), fused=fused)
        return torch.optim.SGD(params, case.rate, fused=fused)

    def descend(loss, params, optimizer):
        optimizer.zero_grad()
        loss.backward(inputs=params)  # no gradient for the side that is held fixed
        optimizer.step()
        return loss.detach()

    def critic_loss(real, z, alpha):
        with torch.no_grad():
            fake = generator(z)
        points = (alpha * real + (1 - alpha) * fake).requires_grad_()
        on_real, on_fake = critic(torch.cat([real, fake])).split(case.batch)
        y = critic(points)
        y = y if case.wasserstein else torch.sigmoid(y)
        (slope,) = torch.autograd.grad(y.sum(), points, create_graph=True)
        if case.wasserstein:
            penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
            return on_fake.mean() - on_real.mean() + case.weight * penalty
        penalty = (slope**2).sum(1).mean()
        return softplus(-on_real).mean() + softplus(on_fake).mean() + case.weight * penalty

    def generator_loss(z):
        y = critic(generator(z))
        return -y.mean() if case.wasserstein else softplus(-y).mean()

    start = case.game().init(tg.Stream(0))
    generator, critic = network(pairs(start.generator)), network(pairs(start.critic))
    g_params, d_params = list(generator.parameters()), list(critic.parameters())
    g_optimizer, d_optimizer = optimizer(g_params), optimizer(d_params)
    batches = [
        ([tuple(map(torch.from_numpy, b)) for b in critic_batches], torch.from_numpy(z))
        for critic_batches, z in batches
    ]

    def step(i):
        critic_batches, z = batches[i % len(batches)]
        for batch in critic_batches:
            loss = descend(critic_loss(*batch), d_params, d_optimizer)
        return loss, descend(generator_loss(z), g_params, g_optimizer)

    def weights():
        return [
            [(m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy()) for m in net[::2]]
            for net in (generator, critic)
        ]

    return Contender(step, lambda: None, weights)


def torch_fused(case, batches):
    return torch_eager(case, batches, fused=True)


def jax_jit(case, batches):
    """The whole iteration is one compiled function, which may reuse its arguments' memory."""
    import jax
    import jax.numpy as jnp

    iteration = jax.jit(
        _functional(case, jnp, jax.value_and_grad, jax.grad, jax.nn.relu, jax.tree.map),
        donate_argnums=0,
    )
    first = jax.tree.map(jnp.array, _start(case))
    return _stateful(iteration, first, jax.tree.map(jnp.asarray, batches), jax.block_until_ready)


def hips_autograd(case, batches):
    import autograd
    import autograd.numpy as anp

    def relu(x):
        return x * (x > 0)  # the rule of its maximum turns float32 into float64

    def tree_map(f, *trees):
        return tg.tree_map(f, *trees)

    iteration = _functional(case, anp, autograd.value_and_grad, autograd.grad, relu, tree_map)
    return _stateful(iteration, _start(case), batches, lambda state: None)


def _start(case):
    """Everything that training changes: parameters, optimiser states and the step counts."""
    players = case.game().init(tg.Stream(0))
    sides = [pairs(players.generator), pairs(players.critic)]
    zeros = tg.tree_map(np.zeros_like, sides)
    return [
        (params, (z, tg.tree_map(np.copy, z), 0)) if case.wasserstein else (params, ())
        for params, z in zip(sides, zeros, strict=True)
    ]


def _functional(case, np, value_and_grad, grad, relu, tree_map):
    """The iteration as a pure function, in the terms that JAX and HIPS autograd share."""

    def network(params, x):
        for weight, bias in params[:-1]:
            x = relu(np.dot(x, weight) + bias)
        weight, bias = params[-1]
        return np.dot(x, weight) + bias

    def softplus(x):
        return np.logaddexp(x, 0.0)

    def height(points, d):
        y = network(d, points)
        return np.sum(y if case.wasserstein else 0.5 * np.tanh(0.5 * y) + 0.5)

    def critic_loss(d, g, real, z, alpha):
        fake = network(g, z)
        points = alpha * real + (1 - alpha) * fake
        logits, slope = network(d, np.concatenate([real, fake])), grad(height)(points, d)
        on_real, on_fake = logits[: case.batch], logits[case.batch :]
        if case.wasserstein:
            penalty = np.mean((np.sqrt(np.sum(slope**2, axis=1)) - 1) ** 2)
            return np.mean(on_fake) - np.mean(on_real) + case.weight * penalty
        penalty = np.mean(np.sum(slope**2, axis=1))
        return np.mean(softplus(-on_real)) + np.mean(softplus(on_fake)) + case.weight * penalty

    def generator_loss(g, d, z):
        y = network(d, network(g, z))
        return -np.mean(y) if case.wasserstein else np.mean(softplus(-y))

    def descend(side, grads):
        params, state = side
        if not case.wasserstein:
            return tree_map(lambda p, g: p - case.rate * g, params, grads), state
        m, v, t = state
        t = t + 1
        m = tree_map(lambda m, g: 0.5 * m + 0.5 * g, m, grads)
        v = tree_map(lambda v, g: 0.9 * v + (1 - 0.9) * g * g, v, grads)
        rate, root = case.rate / (1 - 0.5**t), (1 - 0.9**t) ** -0.5
        params = tree_map(lambda p, m, v: p - rate * m / (root * np.sqrt(v) + 1e-8), params, m, v)
        return params, (m, v, t)

    def iteration(state, critic_batches, z):
        g, d = state
        for batch in critic_batches:
            loss, grads = value_and_grad(critic_loss)(d[0], g[0], *batch)
            d = descend(d, grads)
        g_loss, grads = value_and_grad(generator_loss)(g[0], d[0], z)
        return [descend(g, grads), d], (loss, g_loss)

    return iteration


def _stateful(iteration, first, batches, wait):
    state = SimpleNamespace(now=first)

    def step(i):
        state.now, losses = iteration(state.now, *batches[i % len(batches)])
        return losses

    def weights():
        return [[tuple(map(np.array, layer)) for layer in params] for params, _ in state.now]

    return Contender(step, lambda: wait(state.now), weights)


# Name: (how to build it, the package it needs, the module whose import is timed).
CONTENDERS = {
    "tinygan": (tinygan_eager, None, "tinygan"),
    "PyTorch eager": (torch_eager, "torch", "torch"),
    "PyTorch eager, fused optimiser": (torch_fused, "torch", None),
    "jax.jit": (jax_jit, "jax", "jax"),
    "HIPS autograd": (hips_autograd, "autograd", "autograd.numpy"),
}

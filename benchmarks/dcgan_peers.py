"""The steps of nets.py in tinygan and in other libraries, from the same weights on the same data.

A contender is built by ``build(case, batches, threads, life)``, with an ``ExitStack`` for what it
keeps open. Its ``step(i)`` trains on iteration i of the batches (they are used in rotation) and
returns the losses that there are, {"critic", "penalty", "generator"}, not yet converted;
``finish()`` waits until all the work is done.
"""

from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from nets import EPS, KERNEL, LATENT, PENALTY, SLOPE, Batch


class Contender(NamedTuple):
    """One library's version of a case."""

    step: Callable
    finish: Callable


def given(params, fakes):
    """A generator without parameters that returns its input: fakes made elsewhere."""
    return fakes


def tinygan_step(case, batches, threads, life, device="cpu"):
    import tinygan as tg
    from tinygan.models import critic, generator
    from tinygan.train import GAN, Players, critic_step, generator_step

    optimizer = tg.optim.Adam(case.rate, case.betas)
    norm = None if case.penalised else tg.nn.BatchNorm
    g = generator(LATENT, case.up, 3, bias=True) if case.up else given
    gan = GAN(
        g,
        critic(case.image, 3, case.down, norm=norm, norm_from=1, bias=True),
        optimizer,
        optimizer,
        tg.losses.WASSERSTEIN if case.penalised else tg.losses.NON_SATURATING,
        tg.penalties.one_gp(PENALTY) if case.penalised else None,
        one_batch=case.penalised,
    )
    sides = [
        _tree(weights, net)
        for weights, net in zip(case.weights(), (gan.generator, gan.critic), strict=True)
    ]
    if device != "cpu":
        sides = tg.tree_map(partial(tg.to_device, device=device), sides)
        batches = [
            Batch(*(None if a is None else tg.to_device(a, device) for a in batch))
            for batch in batches
        ]
    state = SimpleNamespace(now=Players(*sides, *(optimizer.init(side) for side in sides)))
    life.enter_context(tg.threads(threads))

    def step(i):
        real, source, alpha, latent = batches[i % len(batches)]
        noise = () if alpha is None else (alpha,)
        now, critic = critic_step(gan, state.now, real, source, noise)
        losses = {"critic": critic.loss}
        if case.penalised:
            losses["penalty"] = critic.penalty
        if case.up:
            now, found = generator_step(gan, now, latent)
            losses["generator"] = found.loss
        state.now = now
        return losses

    return Contender(step, lambda: None)


def _tree(weights, net):
    """The weights as tinygan's network has them; an error if it has others."""
    params = {}
    for i, layer in enumerate(weights):
        params[f"conv{i}"] = {name: layer[name] for name in ("weight", "bias")}
        if "scale" in layer:
            params[f"norm{i}"] = {name: layer[name] for name in ("scale", "shift")}
    if net is not given:
        import tinygan as tg

        expected = net.init(tg.Stream(0))
        shapes = [
            {name: {k: a.shape for k, a in layer.items()} for name, layer in tree.items()}
            for tree in (params, expected)
        ]
        if shapes[0] != shapes[1]:
            raise SystemExit(f"nets.py defines {shapes[0]}, and {net.title} has {shapes[1]}")
    return params


def torch_step(case, batches, threads, life, channels_last=False, device="cpu"):
    import torch
    from torch import nn
    from torch.nn.functional import softplus

    layout = torch.channels_last if channels_last else torch.contiguous_format

    def network(layers, weights, activation, end):
        modules = []
        for i, (layer, params) in enumerate(zip(layers, weights, strict=True)):
            sizes, kind = (layer.channels, layer.features), nn.Conv2d
            if layer.transposed:
                sizes, kind = sizes[::-1], nn.ConvTranspose2d
            modules.append(kind(*sizes, KERNEL, layer.stride, layer.pad))
            _set(modules[-1], params["weight"].transpose(3, 2, 0, 1), params["bias"])
            if layer.norm:  # without running averages, which tinygan does not keep either
                modules.append(nn.BatchNorm2d(sizes[1], EPS, track_running_stats=False))
                _set(modules[-1], params["scale"], params["shift"])
            modules += [activation()] if i + 1 < len(layers) else [end()]
        return nn.Sequential(*modules).to(device, memory_format=layout)

    def _set(module, weight, bias):
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
            module.bias.copy_(torch.from_numpy(bias))

    def images(a):
        a = torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        return a.to(device)

    def points(a):
        return torch.from_numpy(a).view(len(a), -1, 1, 1).to(device)

    def descend(loss, params, optimizer):
        optimizer.zero_grad()
        loss.backward(inputs=params)  # no gradient for the side that is held fixed
        optimizer.step()

    def critic_losses(real, fake, alpha):
        if not case.penalised:
            on_real, on_fake = critic(real), critic(fake)
            return (softplus(-on_real).mean() + softplus(on_fake).mean(),)
        on_real, on_fake = critic(torch.cat([real, fake])).split(case.batch)
        between = (alpha * real + (1 - alpha) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        norm = torch.linalg.vector_norm(slope, dim=(1, 2, 3))
        return on_fake.mean() - on_real.mean(), PENALTY * ((norm - 1) ** 2).mean()

    def generator_loss(latent):
        y = critic(generator(latent))
        return -y.mean() if case.penalised else softplus(-y).mean()

    g_weights, d_weights = case.weights()
    critic = network(case.critic(), d_weights, partial(nn.LeakyReLU, SLOPE), nn.Flatten)
    d_params = list(critic.parameters())
    d_optimizer = torch.optim.Adam(d_params, case.rate, case.betas)
    if case.up:
        generator = network(case.generator(), g_weights, nn.ReLU, nn.Tanh)
        g_params = list(generator.parameters())
        g_optimizer = torch.optim.Adam(g_params, case.rate, case.betas)
    batches = [
        (
            images(real),
            points(source) if case.up else images(source),
            None if alpha is None else torch.from_numpy(alpha).to(device),
            None if latent is None else points(latent),
        )
        for real, source, alpha, latent in batches
    ]

    def step(i):
        real, fake, alpha, latent = batches[i % len(batches)]
        if case.up:
            with torch.no_grad():
                fake = generator(fake)
        found = critic_losses(real, fake, alpha)
        descend(sum(found), d_params, d_optimizer)
        losses = dict(zip(("critic", "penalty"), (loss.detach() for loss in found), strict=False))
        if case.up:
            loss = generator_loss(latent)
            descend(loss, g_params, g_optimizer)
            losses["generator"] = loss.detach()
        return losses

    return Contender(step, lambda: None)


def jax_step(case, batches, threads, life):
    """The whole step is one compiled function, which may reuse its state's memory."""
    import jax
    import jax.numpy as jnp

    beta1, beta2 = case.betas

    def network(layers, params, x, activation):
        for i, (layer, p) in enumerate(zip(layers, params, strict=True)):
            x = jax_convolution(layer, x, p["weight"]) + p["bias"]
            if layer.norm:
                x = x - x.mean((0, 1, 2))
                x = x * jax.lax.rsqrt((x * x).mean((0, 1, 2)) + EPS) * p["scale"] + p["shift"]
            x = activation(x) if i + 1 < len(layers) else x
        return x

    def critic(params, x):
        return network(case.critic(), params, x, lambda x: jnp.where(x > 0, x, SLOPE * x))

    def generator(params, z):
        return jnp.tanh(network(case.generator(), params, z[:, None, None, :], jax.nn.relu))

    def critic_loss(d, real, fake, alpha):
        if not case.penalised:
            loss = (
                jax.nn.softplus(-critic(d, real)).mean() + jax.nn.softplus(critic(d, fake)).mean()
            )
            return loss, {"critic": loss}
        y = critic(d, jnp.concatenate([real, fake]))
        loss = y[case.batch :].mean() - y[: case.batch].mean()
        slope = jax.grad(lambda x: critic(d, x).sum())(alpha * real + (1 - alpha) * fake)
        norm = jnp.sqrt((slope**2).sum((1, 2, 3)))
        penalty = PENALTY * ((norm - 1) ** 2).mean()
        return loss + penalty, {"critic": loss, "penalty": penalty}

    def generator_loss(g, d, latent):
        y = critic(d, generator(g, latent))
        return -y.mean() if case.penalised else jax.nn.softplus(-y).mean()

    def descend(side, grads):
        params, m, v, t = side
        t = t + 1
        m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, m, grads)
        v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, grads)
        rate, root = case.rate / (1 - beta1**t), (1 - beta2**t) ** -0.5
        params = jax.tree.map(
            lambda p, m, v: p - rate * m / (root * jnp.sqrt(v) + 1e-8), params, m, v
        )
        return params, m, v, t

    def iteration(state, real, source, alpha, latent):
        g, d = state
        fake = generator(g[0], source) if case.up else source
        (_, losses), grads = jax.value_and_grad(critic_loss, has_aux=True)(d[0], real, fake, alpha)
        d = descend(d, grads)
        if case.up:
            losses["generator"], grads = jax.value_and_grad(generator_loss)(g[0], d[0], latent)
            g = descend(g, grads)
        return (g, d), losses

    def side(weights):
        zeros = jax.tree.map(jnp.zeros_like, weights)
        return jax.tree.map(jnp.array, (weights, zeros, zeros, 0.0))

    iteration = jax.jit(iteration, donate_argnums=0)
    state = SimpleNamespace(now=tuple(side(weights) for weights in case.weights()))
    batches = jax.tree.map(jnp.asarray, batches)

    def step(i):
        state.now, losses = iteration(state.now, *batches[i % len(batches)])
        return losses

    return Contender(step, lambda: jax.block_until_ready(state.now))


def jax_convolution(layer, x, w):
    """A layer's convolution in JAX, N×H×W×C and kernels H×W×C×O."""
    to_grid, to_image = _jax_products()
    return (to_image if layer.transposed else to_grid)(layer, x, w)


@cache
def _jax_products():
    """A convolution and its transpose, each other's derivatives to every order.

    JAX's own rules are right, but XLA takes a hundred times as long for some of what they make: the
    weight gradient of ``lax.conv_transpose`` on a CPU.
    """
    import jax
    from jax import lax

    layouts = ("NHWC", "HWIO", "NHWC")

    def convolve(layer, x, w):
        strides, pads = (layer.stride,) * 2, ((layer.pad,) * 2,) * 2
        return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=layouts)

    def to_grid(layer, x, w):
        return convolve(layer, x, w)

    def to_image(layer, z, w):
        strides, pads = (layer.stride,) * 2, ((KERNEL - 1 - layer.pad,) * 2,) * 2
        return lax.conv_transpose(
            z, w, strides, pads, dimension_numbers=layouts, transpose_kernel=True
        )

    def to_weights(layer, x, z):
        w = jax.numpy.zeros((KERNEL, KERNEL, x.shape[3], z.shape[3]), x.dtype)
        return jax.vjp(lambda w: convolve(layer, x, w), w)[1](z)[0]

    def rule(f, backward):
        f = jax.custom_vjp(f, nondiff_argnums=(0,))
        f.defvjp(lambda layer, *args: (f(layer, *args), args), backward)
        return f

    to_grid = rule(
        to_grid, lambda layer, xw, g: (to_image(layer, g, xw[1]), to_weights(layer, xw[0], g))
    )
    to_image = rule(
        to_image, lambda layer, zw, g: (to_grid(layer, g, zw[1]), to_weights(layer, g, zw[0]))
    )
    to_weights = rule(
        to_weights, lambda layer, xz, g: (to_image(layer, xz[1], g), to_grid(layer, xz[0], g))
    )
    return to_grid, to_image


TORCH, TORCH_LAST = "PyTorch", "PyTorch, channels-last"

# Name: (how to build it, the package it needs).
CONTENDERS = {
    "tinygan": (tinygan_step, "tinygan"),
    TORCH: (torch_step, "torch"),
    TORCH_LAST: (partial(torch_step, channels_last=True), "torch"),
    "jax.jit": (jax_step, "jax"),
}

"""The steps of toys.py and nets.py in tinygan and other libraries, from the same weights and data.

A contender is built by ``build(case, batches, threads, life)``, with an ``ExitStack`` for what it
keeps open. All train alike: the critic's steps of an iteration, then one of the generator if the
batch has latent points for it. Libraries are imported where they are used, so that a process holds
nothing but the one that it times.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from nets import EPS, KERNEL, LATENT, SLOPE
from toys import Toy

ITERATIONS = 4  # different batches; they are used in rotation
COMPARED = 2  # iterations whose losses are compared; in later ones Adam enlarges rounding


class Contender(NamedTuple):
    """One library's version of a case.

    Attributes:
        step: ``step(i)`` trains on iteration i of the batches (they are used in rotation) and
            returns {"critic", "penalty", "generator"}, the losses that there are (of the critic's
            last step), not yet converted.
        weights: gives (the generator's, the critic's) as the case gave them.
        finish: waits until all the work is done.
        profile: says what the time of a compiled step goes to, [(function, calls, seconds)].
    """

    step: Callable
    weights: Callable
    finish: Callable = lambda: None
    profile: Callable | None = None


# tinygan


def given(params, fakes):
    """A generator without parameters that returns its input: fakes made elsewhere."""
    return fakes


def game(case):
    """The case as tinygan trains it."""
    import tinygan as tg
    from tinygan.train import GAN

    if isinstance(case, Toy):
        g, d = tg.models.mlp_pair(2, 2, case.hidden, case.depth)
    else:
        g = tg.models.generator(LATENT, case.up, 3, bias=True) if case.up else given
        norm = None if case.penalised else tg.nn.BatchNorm
        d = tg.models.critic(case.image, 3, case.down, norm=norm, norm_from=1, bias=True)
    optimizer = tg.optim.Adam(case.rate, case.betas) if case.betas else tg.optim.SGD(case.rate)
    loss, penalty = tg.losses.NON_SATURATING, None
    if case.wasserstein:
        loss, penalty = tg.losses.WASSERSTEIN, tg.penalties.one_gp(case.penalty)
    elif case.penalty:
        penalty = tg.penalties.zero_gp(case.penalty, tg.ops.sigmoid)
    return GAN(g, d, optimizer, optimizer, loss, penalty, one_batch=case.one_batch)


def players(case, gan):
    """What training starts from: the case's weights, and optimisers at rest."""
    from tinygan.train import Players

    g, d = (
        _tree(weights, net)
        for weights, net in zip(case.weights(), (gan.generator, gan.critic), strict=True)
    )
    return Players(g, d, gan.generator_optimizer.init(g), gan.critic_optimizer.init(d))


def iteration(gan):
    """An iteration as a function of arrays alone: ``run(players, batch)``, (players, losses)."""
    from tinygan.train import critic_step, generator_step

    def run(players, batch):
        for real, source, alpha in batch.critic:
            noise = () if alpha is None else (alpha,)
            players, found = critic_step(gan, players, real, source, noise)
        losses = {"critic": found.loss}
        if found.penalty is not None:
            losses["penalty"] = found.penalty
        if batch.latent is not None:
            players, found = generator_step(gan, players, batch.latent)
            losses["generator"] = found.loss
        return players, losses

    return run


def tinygan_step(case, batches, threads, life, compiled=False, device="cpu"):
    """The whole iteration, call by call, or recorded once and replayed."""
    import tinygan as tg

    gan = game(case)
    state = SimpleNamespace(now=players(case, gan))
    if device != "cpu":
        move = partial(tg.to_device, device=device)
        state.now = tg.tree_map(move, state.now)
        batches = tg.tree_map(lambda a: None if a is None else move(a), batches)
    if case.split:
        life.enter_context(tg.threads(threads))
    run = iteration(gan)
    if compiled:
        run = tg.compile(run)

    def step(i):
        state.now, losses = run(state.now, batches[i % len(batches)])
        return losses

    def weights():
        return [_layers(side) for side in (state.now.generator, state.now.critic)]

    def profile():
        return run.profile(state.now, batches[0])

    return Contender(step, weights, profile=profile if compiled else None)


def _tree(weights, net):
    """A case's weights as tinygan's network has them; an error if it has others."""
    params = [dict(layer) for layer in weights]
    if weights and weights[0]["weight"].ndim == 4:
        params = {}
        for i, layer in enumerate(weights):
            params[f"conv{i}"] = {name: layer[name] for name in ("weight", "bias")}
            if "scale" in layer:
                params[f"norm{i}"] = {name: layer[name] for name in ("scale", "shift")}
    if net is not given:
        import tinygan as tg

        expected = net.init(tg.Stream(0))
        shapes = [{k: a.shape for k, a in tg.tree.paths(tree)} for tree in (params, expected)]
        if shapes[0] != shapes[1]:
            raise SystemExit(f"the case defines {shapes[0]}, and {net} has {shapes[1]}")
    return params


def _layers(params):
    """tinygan's parameters as the case gives them: a list of each layer's."""
    if not isinstance(params, dict):
        return params
    convs = [name for name in params if name.startswith("conv")]
    return [params[name] | params.get(name.replace("conv", "norm"), {}) for name in convs]


def product_flops(case):
    """Operations in the products of one iteration of tinygan's: {kind: number}.

    Counted as it runs, call by call. A convolution with N·P·Q grid points and weights 4×4×C×O, its
    transpose and its weight gradient all have 2·N·P·Q·16·C·O; a product of n×k by k×m has 2·n·k·m.
    """
    import tinygan as tg
    from tinygan import conv, ops

    found = {"convolutions": 0, "transposed": 0, "weight gradients": 0, "matrix products": 0}

    def see(op, args, params, out):
        if op is conv.conv2d:
            found["convolutions"] += 2 * out.size * math.prod(args[1].shape[:3])
        elif op is conv.conv2d_transpose:
            found["transposed"] += 2 * args[0].size * math.prod(args[1].shape[:3])
        elif op is conv.conv2d_weight_grad:
            found["weight gradients"] += 2 * args[1].size * math.prod(out.shape[:3])
        elif op is ops.matmul:
            inner = args[0].shape[-2 if params.get("ta") else -1]
            found["matrix products"] += 2 * out.size * inner
        elif op is ops.affine:
            found["matrix products"] += 2 * out.size * args[0].shape[-1]

    with ExitStack() as life:
        step = tinygan_step(case, case.batches(1), 1, life).step
        with tg.observe(see):
            step(0)
    return found


# PyTorch


def torch_step(case, batches, threads, life, channels_last=False, tuned=False, device="cpu"):
    """Eager PyTorch. Tuned: the fused optimiser, and fakes made in inference mode."""
    import torch

    def optimizer(params):
        fused = True if tuned else None
        if case.betas:
            return torch.optim.Adam(params, case.rate, case.betas, fused=fused)
        return torch.optim.SGD(params, case.rate, fused=fused)

    def descend(loss, params, optimizer):
        optimizer.zero_grad()
        loss.backward(inputs=params)  # no gradient for the side that is held fixed
        optimizer.step()

    def fakes(source):
        with torch.inference_mode() if tuned else torch.no_grad():
            fake = generator(source)
        # The critic may not keep an array of inference mode: a batch of both is a new one.
        return fake if case.one_batch else fake.clone()

    def slope_at(height, points):
        points.requires_grad_()
        return torch.autograd.grad(height(points), points, create_graph=True)[0]

    critic_losses, generator_loss = _losses(case, _torch_terms(slope_at))
    generator, critic = _torch_pair(case, channels_last, device)
    sides = [(net, list(net.parameters())) for net in (generator, critic) if len(net)]
    sides = {net: (params, optimizer(params)) for net, params in sides}
    batches = _torch_batches(batches, channels_last, device)

    def step(i):
        batch = batches[i % len(batches)]
        for real, source, alpha in batch.critic:
            found = critic_losses(critic, real, fakes(source), alpha)
            descend(sum(found.values()), *sides[critic])
        if batch.latent is not None:
            found["generator"] = generator_loss(critic, generator, batch.latent)
            descend(found["generator"], *sides[generator])
        return {name: loss.detach() for name, loss in found.items()}

    return Contender(step, lambda: [_torch_layers(net) for net in (generator, critic)])


def torch_compiled(case, batches, threads, life):
    """torch.compile of the whole iteration, which is written with torch.func.

    Its compiler cannot differentiate twice what it has compiled; here the gradients are taken
    first, and it compiles what they come to.
    """
    import torch
    from torch.utils import _pytree

    nets = _torch_pair(case, True, "cpu")
    apply = [partial(_applied, net) for net in nets]
    terms = _torch_terms(lambda height, points: torch.func.grad(height)(points))

    def value_and_grad(f):
        def run(*args):
            grads, (_, losses) = torch.func.grad_and_value(f, has_aux=True)(*args)
            return losses, grads

        return run

    run = _functional(case, terms, *apply, value_and_grad, torch.sqrt, _pytree.tree_map)
    # Called from C++: half the time of a step of 64 units.
    run = torch.compile(run, fullgraph=True, options={"cpp_wrapper": True})
    params = [{k: p.detach().clone() for k, p in net.named_parameters()} for net in nets]
    zeros = partial(_pytree.tree_map, torch.zeros_like)
    first = [_side(case, side, zeros, torch.tensor(0.0)) for side in params]

    def weights(now):
        for net, (params, _) in zip(nets, now, strict=True):
            if len(net):
                net.load_state_dict(params)
        return [_torch_layers(net) for net in nets]

    return _stateful(run, first, _torch_batches(batches, True, "cpu"), weights)


def _applied(net, params, x):
    import torch

    return torch.func.functional_call(net, params, (x,)) if len(net) else x


def _torch_pair(case, channels_last, device):
    """(generator, critic): modules with the case's weights; an empty one where fakes are given."""
    import torch
    from torch import nn

    layout = torch.channels_last if channels_last else torch.contiguous_format

    def linear(layers):
        modules = []
        for params in layers:
            modules += [nn.Linear(*params["weight"].shape), nn.ReLU()]
            _fill(modules[-2], params["weight"].T, params["bias"])
        return nn.Sequential(*modules[:-1]).to(device)

    def convolutions(layers, weights, activation, end):
        modules = []
        for i, (layer, params) in enumerate(zip(layers, weights, strict=True)):
            sizes, kind = (layer.channels, layer.features), nn.Conv2d
            if layer.transposed:
                sizes, kind = sizes[::-1], nn.ConvTranspose2d
            modules.append(kind(*sizes, KERNEL, layer.stride, layer.pad))
            _fill(modules[-1], params["weight"].transpose(3, 2, 0, 1), params["bias"])
            if layer.norm:  # without running averages, which tinygan does not keep either
                modules.append(nn.BatchNorm2d(sizes[1], EPS, track_running_stats=False))
                _fill(modules[-1], params["scale"], params["shift"])
            modules.append(activation() if i + 1 < len(layers) else end())
        return nn.Sequential(*modules).to(device, memory_format=layout)

    g, d = case.weights()
    if isinstance(case, Toy):
        return linear(g), linear(d)
    return (
        convolutions(case.generator(), g, nn.ReLU, nn.Tanh),
        convolutions(case.critic(), d, partial(nn.LeakyReLU, SLOPE), nn.Flatten),
    )


def _fill(module, weight, bias):
    import torch

    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        module.bias.copy_(torch.from_numpy(bias))


def _torch_layers(net):
    """A network's parameters as the case gives them."""
    found = []
    for module in net:
        if hasattr(module, "weight"):
            weight, bias = (p.detach().cpu().numpy().copy() for p in (module.weight, module.bias))
            if weight.ndim == 1:
                found[-1] |= {"scale": weight, "shift": bias}
            else:
                axes = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
                found.append({"weight": weight.transpose(axes), "bias": bias})
    return found


def _torch_batches(batches, channels_last, device):
    """The batches as PyTorch takes them: images N×C×H×W, latent points of convolutions N×C×1×1."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format

    def move(a):
        if a is None:
            return None
        a = torch.from_numpy(a)
        if a.ndim == 2 and a.shape[1] == LATENT:
            a = a[:, :, None, None]
        elif a.ndim == 4:
            a = a.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        return a.to(device)

    return [
        batch._replace(
            critic=[tuple(map(move, one)) for one in batch.critic], latent=move(batch.latent)
        )
        for batch in batches
    ]


def _torch_terms(slope_at):
    import torch

    return SimpleNamespace(
        slope_at=slope_at,
        both=lambda a, b: torch.cat([a, b]),
        square_norm=lambda a: a.square().flatten(1).sum(1),
        norm=lambda a: torch.linalg.vector_norm(a, dim=tuple(range(1, a.ndim))),
        mean=torch.mean,
        sum=torch.sum,
        sigmoid=torch.sigmoid,
        softplus=torch.nn.functional.softplus,
    )


# What all libraries but tinygan share: the losses, and an iteration as a pure function


def _losses(case, terms):
    """The critic's losses and the generator's, of networks and arrays, in a library's terms."""
    mean, softplus = terms.mean, terms.softplus

    def critic_losses(critic, real, fake, alpha):
        if case.one_batch:
            y = critic(terms.both(real, fake))
            on_real, on_fake = y[: case.batch], y[case.batch :]
        else:
            on_real, on_fake = critic(real), critic(fake)
        if case.wasserstein:
            found = {"critic": mean(on_fake) - mean(on_real)}
        else:
            found = {"critic": mean(softplus(-on_real)) + mean(softplus(on_fake))}
        if case.penalty:
            slope = terms.slope_at(partial(height, critic), alpha * real + (1 - alpha) * fake)
            if case.wasserstein:
                found["penalty"] = case.penalty * mean((terms.norm(slope) - 1) ** 2)
            else:
                found["penalty"] = case.penalty * mean(terms.square_norm(slope))
        return found

    def height(critic, points):
        y = critic(points)
        return terms.sum(y if case.wasserstein else terms.sigmoid(y))

    def generator_loss(critic, generator, latent):
        y = critic(generator(latent))
        return -mean(y) if case.wasserstein else mean(softplus(-y))

    return critic_losses, generator_loss


def _functional(case, terms, generator, critic, value_and_grad, sqrt, tree_map):
    """The iteration as a pure function, ``run(state, batch)``, (state, losses).

    Args:
        generator, critic: functions of (parameters, arrays).
        value_and_grad: ``value_and_grad(f)(params, *args)`` is (losses, gradient) of an f that
            returns (what is to be differentiated, losses).
    """
    critic_losses, generator_loss = _losses(case, terms)

    def of_critic(d, real, fake, alpha):
        found = critic_losses(partial(critic, d), real, fake, alpha)
        return sum(found.values()), found

    def of_generator(g, d, latent):
        loss = generator_loss(partial(critic, d), partial(generator, g), latent)
        return loss, loss

    def descend(side, grads):
        params, state = side
        if not case.betas:
            return tree_map(lambda p, g: p - case.rate * g, params, grads), state
        (m, v, t), (beta1, beta2) = state, case.betas
        t = t + 1
        m = tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, m, grads)
        v = tree_map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, grads)
        rate, root = case.rate / (1 - beta1**t), (1 - beta2**t) ** -0.5
        params = tree_map(lambda p, m, v: p - rate * m / (root * sqrt(v) + 1e-8), params, m, v)
        return params, (m, v, t)

    def run(state, batch):
        g, d = state
        for real, source, alpha in batch.critic:
            fake = generator(g[0], source)
            losses, grads = value_and_grad(of_critic)(d[0], real, fake, alpha)
            d = descend(d, grads)
        if batch.latent is not None:
            loss, grads = value_and_grad(of_generator)(g[0], d[0], batch.latent)
            g, losses = descend(g, grads), {**losses, "generator": loss}
        return [g, d], losses

    return run


def _side(case, params, zeros, count):
    """(parameters, the optimiser's state at rest)."""
    return (params, (zeros(params), zeros(params), count) if case.betas else ())


def _stateful(run, first, batches, weights, wait=lambda state: None):
    state = SimpleNamespace(now=first)

    def step(i):
        state.now, losses = run(state.now, batches[i % len(batches)])
        return losses

    return Contender(step, lambda: weights(state.now), lambda: wait(state.now))


def _array_terms(xp, gradient):
    """For libraries that look like NumPy."""

    def square_norm(a):
        return xp.sum(a**2, axis=tuple(range(1, a.ndim)))

    return SimpleNamespace(
        slope_at=lambda height, points: gradient(height)(points),
        both=lambda a, b: xp.concatenate([a, b]),
        square_norm=square_norm,
        norm=lambda a: xp.sqrt(square_norm(a)),
        mean=xp.mean,
        sum=xp.sum,
        sigmoid=lambda a: 0.5 * xp.tanh(0.5 * a) + 0.5,
        softplus=lambda a: xp.logaddexp(a, 0.0),
    )


def _mlp(dot, relu, params, x):
    for layer in params[:-1]:
        x = relu(dot(x, layer["weight"]) + layer["bias"])
    return dot(x, params[-1]["weight"]) + params[-1]["bias"]


# JAX


def jax_step(case, batches, threads, life):
    """The whole iteration is one compiled function, which may reuse its state's memory."""
    import jax
    import jax.numpy as jnp

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
        if not params:
            return z
        return jnp.tanh(network(case.generator(), params, z[:, None, None, :], jax.nn.relu))

    if isinstance(case, Toy):
        generator = critic = partial(_mlp, jnp.dot, jax.nn.relu)

    def value_and_grad(f):
        def run(*args):
            (_, losses), grads = jax.value_and_grad(f, has_aux=True)(*args)
            return losses, grads

        return run

    terms = _array_terms(jnp, jax.grad)
    run = _functional(case, terms, generator, critic, value_and_grad, jnp.sqrt, jax.tree.map)
    zeros = partial(jax.tree.map, np.zeros_like)
    first = [_side(case, side, zeros, 0.0) for side in case.weights()]
    return _stateful(
        jax.jit(run, donate_argnums=0),
        jax.tree.map(jnp.array, first),
        jax.tree.map(jnp.asarray, batches),
        lambda now: [jax.tree.map(np.array, params) for params, _ in now],
        jax.block_until_ready,
    )


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


# HIPS autograd


def hips_step(case, batches, threads, life):
    """HIPS autograd, call by call; of the toys only, for it has no convolutions worth timing."""
    import autograd
    import autograd.numpy as anp
    from autograd.tracer import getval

    import tinygan as tg

    def relu(x):
        return x * (x > 0)  # the rule of its maximum turns float32 into float64

    def value_and_grad(f):
        def run(*args):
            kept = []

            def scalar(*args):
                value, losses = f(*args)
                kept.append(losses)
                return value

            grads = autograd.grad(scalar)(*args)
            losses = kept[0]
            if isinstance(losses, dict):
                return {name: getval(loss) for name, loss in losses.items()}, grads
            return getval(losses), grads

        return run

    net, terms = partial(_mlp, anp.dot, relu), _array_terms(anp, autograd.grad)
    run = _functional(case, terms, net, net, value_and_grad, np.sqrt, tg.tree_map)
    zeros = partial(tg.tree_map, np.zeros_like)
    first = [_side(case, side, zeros, 0) for side in case.weights()]
    return _stateful(run, first, batches, lambda now: [params for params, _ in now])


class Entry(NamedTuple):
    """How to build a contender, and the package that it needs.

    Attributes:
        convolutions: whether it has steps of convolutional networks.
        may_fail: whether a failure to build it or to run its first step is a result, and no error.
    """

    build: Callable
    package: str
    convolutions: bool = True
    may_fail: bool = False


EAGER, COMPILED, TORCH, TUNED = "tinygan", "tinygan compiled", "PyTorch", "PyTorch tuned"
TORCH_COMPILED, JAX, HIPS = "torch.compile", "jax.jit", "HIPS autograd"

CONTENDERS = {
    EAGER: Entry(tinygan_step, "tinygan"),
    COMPILED: Entry(partial(tinygan_step, compiled=True), "tinygan"),
    TORCH: Entry(torch_step, "torch"),
    TUNED: Entry(partial(torch_step, channels_last=True, tuned=True), "torch"),
    TORCH_COMPILED: Entry(torch_compiled, "torch", may_fail=True),
    JAX: Entry(jax_step, "jax"),
    HIPS: Entry(hips_step, "autograd", convolutions=False),
}

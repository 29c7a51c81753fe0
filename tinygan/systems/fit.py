"""Whether a system's models fit each other, and a step of several players at once."""

import math

from tinygan.engine import grad_values, values
from tinygan.game import Descent, square_norm
from tinygan.models.mlp import MLP
from tinygan.ops import multiply
from tinygan.spectral import refreshed


def output_shape(model):
    """The shape of one sample of what a model gives."""
    if not hasattr(model, "input") or not hasattr(model, "output"):
        raise TypeError(
            f"a model of type {type(model).__name__}, without the shapes ``input`` and ``output``; "
            "expected a network of tinygan.models"
        )
    return model.sizes[-1:] if isinstance(model, MLP) else tuple(model.output)


def check_feeds(system, source, model, target, reader):
    """ValueError unless what ``model`` gives is what ``reader`` takes, each with its name."""
    given, taken = output_shape(model), tuple(reader.input)
    if given != taken:
        raise ValueError(
            f"{system}: the {source} gives samples of shape {given} and the {target} takes "
            f"{taken}; expected the same shape. Change the {source}'s last layer or the "
            f"{target}'s input"
        )


def check_logit(system, name, critic):
    """ValueError unless a critic gives one number for each sample."""
    if math.prod(output_shape(critic)) != 1:
        raise ValueError(
            f"{system}: the {name} gives samples of shape {output_shape(critic)}; expected one "
            "logit for each sample, (1,)"
        )


def check_auto_encoder(system, critic):
    """ValueError unless a critic gives samples of the shape that it takes."""
    if output_shape(critic) != tuple(critic.input):
        raise ValueError(
            f"{system}: the critic makes {output_shape(critic)} of samples of shape "
            f"{tuple(critic.input)}; expected the same shape, as of a "
            "tinygan.models.AutoEncoder"
        )


def check_weights(system, **weights):
    """ValueError for a weight that is not a finite number of 0 or more."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{system}: {name} is {weight}; expected a number of 0 or more")


def check_batch(system, batch, least=1):
    """ValueError for batches of too few samples."""
    if batch < least:
        raise ValueError(f"{system}: batch is {batch}; expected at least {least}")


def descend_together(loss, players, factor=1.0):
    """One step of several players down one loss, all from where they stand: a Descent of each.

    Args:
        loss: a scalar Tensor, made of every player's parameters.
        players: triples of parameters as :func:`tinygan.track` made them, optimiser and state.
        factor: multiplies the optimisers' rates.
    """
    gradients = grad_values(loss, [tracked for tracked, _, _ in players], release=True)
    steps = []
    for (tracked, optimizer, state), gradient in zip(players, gradients, strict=True):
        params, state = optimizer.update(
            values(tracked), gradient, state, multiply(factor, optimizer.rate)
        )
        steps.append(Descent(refreshed(params), state, square_norm(gradient)))
    return steps

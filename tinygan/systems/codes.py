"""Codes: what a generator is told beside noise, and how well a critic reads it off the samples."""

import math

from tinygan.ops import (
    add,
    exp,
    leader,
    log_softmax,
    mean,
    multiply,
    negative,
    one_hot,
    square,
    subtract,
    sum,
)
from tinygan.systems.fit import check_batch, check_feeds


def random_one_hot(stream, n, classes, dtype):
    """n classes, each equally likely, as rows of zeros with a one.

    Shapes: returns (n, classes).
    """
    return one_hot(stream.integers(n, classes), classes, dtype)


def log_likelihood(logits, codes):
    """The log-likelihood of given classes.

    E ln P(C = c|X), P the softmax of the logits

    Shapes: logits, codes (N, K), codes one-hot; a scalar.
    """
    return mean(sum(multiply(log_softmax(logits), codes), axis=1))


def gaussian_log_likelihood(mu, log_deviation, codes):
    """The log-likelihood of given numbers under a factored Gaussian, summed over the numbers.

    E Σⱼ [ −½·ln 2π − ln σⱼ − ½((cⱼ − μⱼ)/σⱼ)² ]

    Args:
        log_deviation: ln σ; None for σ = 1.
    Shapes: mu, log_deviation, codes (N, J); a scalar.
    """
    offset = subtract(codes, mu)
    if log_deviation is not None:
        offset = multiply(offset, exp(negative(log_deviation)))
    each = add(multiply(square(offset), -0.5), -0.5 * math.log(2 * math.pi))
    if log_deviation is not None:
        each = subtract(each, log_deviation)
    return mean(sum(each, axis=1))


def accuracy(logits, codes):
    """The share of samples whose largest logit is that of their class; n tied ones count 1/n each.

    E [c = argmax logits]

    Shapes: logits, codes (N, K), codes one-hot; a scalar, without a derivative.
    """
    return mean(sum(multiply(leader(logits, axis=1), codes), axis=1))


def check_networks(game, outputs, codes):
    """That the networks of a game fit its codes and each other.

    Args:
        outputs: how many numbers the critic must give, and what for: (11, "1 for the source …").
        codes: how many of the generator's inputs are codes.
    Raises: TypeError for networks without shapes; ValueError for those of other shapes, and for a
        batch below 1.
    """
    who = type(game).__name__
    for name in ("generator", "critic"):
        network = getattr(game, name)
        if not hasattr(network, "draw"):
            raise TypeError(
                f"{who}: the {name} is a {type(network).__name__}; expected a tinygan.models.Net"
            )
    expected, why = outputs
    if game.critic.output != (expected,):
        raise ValueError(
            f"{who}: the critic's output has shape {game.critic.output}; expected ({expected},): "
            f"{why}. Change its last layer"
        )
    inputs = game.generator.input
    if len(inputs) != 1 or inputs[0] <= codes:
        raise ValueError(
            f"{who}: the generator's input has shape {inputs}; expected ({codes} + noise,): "
            f"{codes} inputs are codes, and at least 1 is noise"
        )
    check_feeds(who, "generator", game.generator, "critic", game.critic)
    check_batch(who, game.batch)


def one_hot_labels(game, labels, n, classes, dtype):
    """n labels as one-hot rows.

    Shapes: labels (n,), integers; returns (n, classes).
    Raises: TypeError for labels that are no integers; ValueError for another number of them, and
        for one outside 0..classes−1.
    """
    who = type(game).__name__
    if getattr(labels, "dtype", None) is None or labels.dtype.kind not in "iu":
        kind = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"{who}: labels are {kind}; expected an array of integers")
    if labels.shape != (n,):
        raise ValueError(f"{who}: labels of shape {labels.shape}; expected ({n},), one per sample")
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < classes:
        raise ValueError(
            f"{who}: labels from {low} to {high} for {classes} classes; expected 0 to "
            f"{classes - 1}. Number the classes from 0, or give the game and its networks "
            f"more classes"
        )
    return one_hot(labels, classes, dtype)

"""The exponential moving average of a network over its steps: what samples are often drawn from.

    a ← decay·a + (1 − decay)·p

p are the parameters after a step, and the statistics that batch norm uses with them. Decays are
near 1: .999 averages over about a thousand steps.

    average = ema.start(generator, params, z)
    average = ema.moved(generator, average, params, z, 0.999)              (after every step)
    images = ema.sample(generator, average, z)

Source: Yazıcı et al., The unusual effectiveness of averaging in GAN training (2019), section 3;
Karras et al., Progressive growing of GANs (2018), with decay .999.
"""

from typing import NamedTuple

from tinygan import tree as trees
from tinygan.optim import blend
from tinygan.spectral import refreshed


class Average(NamedTuple):
    """The averages of a network's parameters and of its batch norms' statistics, () for none."""

    params: object
    statistics: object


def start(net, params, x, noise=None):
    """The average before the first step: the parameters, and the statistics of the batch x.

    Both averages so begin at a true value, not at 0, and need no correction.

    Args:
        net: a model, with batch norm or without.
        x: inputs (N, *net.input), as in training; N of two or more for batch norm.
        noise: as of :meth:`tinygan.models.Net.draw`, for layers that draw.
    """
    return Average(params, _statistics(net, params, x, noise))


def moved(net, average, params, x, decay, noise=None):
    """The average after one more step, by primitives only.

    a ← decay·a + (1 − decay)·p, for the parameters p and the statistics of the batch x with them

    Batch norm's variance is the average of batches' biased variances, as in Ioffe & Szegedy (2015),
    without their factor n/(n − 1). (To have it of the averaged parameters instead:
    :func:`tinygan.models.standing_statistics`.) Spectral norms keep singular vectors of the
    averaged weights, refreshed in each step. In float32 the two parts of the blend round apart:
    decays beyond .9999 want float64.

    Args:
        average: of :func:`start`, or of the step before.
        params: arrays, after the step.
        x, noise: as in :func:`start`.
    Raises: ValueError for a decay outside [0, 1), and for parameters of another network.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"ema.moved: decay is {decay}; expected 0 or more and below 1")
    now = start(net, params, x, noise)
    new = trees.tree_map(lambda a, p: blend(a, p, decay=decay), average, now)
    return Average(refreshed(new.params), new.statistics)


def sample(net, average, x):
    """The network's result with the averaged parameters and statistics: each sample by itself.

    Shapes: as of the network.
    """
    given = (average.statistics,) if average.statistics else ()
    return net(average.params, x, *given)


def _statistics(net, params, x, noise):
    """{} of a network without batch norm is () like that of a model that cannot have any."""
    return (net.statistics(params, x, noise) if hasattr(net, "statistics") else ()) or ()

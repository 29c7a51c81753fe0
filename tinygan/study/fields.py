"""The critic as a landscape: its values and slopes on a grid of the plane."""

import numpy as np

from tinygan.backend import to_device, to_host
from tinygan.engine import grad_values, track
from tinygan.ops import sum


def grid_points(extent, n):
    """n×n points on the square [−extent, extent]², row by row from below.

    Shapes: (n·n, 2), float64.
    """
    ticks = np.linspace(-extent, extent, n)
    x, y = np.meshgrid(ticks, ticks)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def value_surface(critic, extent, n=100, of=None, device="cpu", dtype=np.float32):
    """The critic's values on :func:`grid_points`, as an image whose first row is the lowest.

    Args:
        critic: a function of points alone that gives one logit each.
        of: a function of the logit to show instead, such as :func:`tinygan.ops.sigmoid`.
    Shapes: (n, n).
    Source: the panels of P3's Figure 1.
    """
    y = critic(to_device(grid_points(extent, n).astype(dtype), device))
    return to_host(y if of is None else of(y)).reshape(n, n)


def gradient_field(critic, extent, n=20, of=None, device="cpu", dtype=np.float32):
    """Points of a grid and the critic's slope at each: ∇ₓ of(D(x)).

    Shapes: points and slopes (n·n, 2).
    Source: the panels of P3's Figure 2, where ``of`` is :func:`tinygan.ops.log_sigmoid`.
    """
    points = grid_points(extent, n).astype(dtype)
    x = track(to_device(points, device))
    y = critic(x)
    return points, to_host(grad_values(sum(y if of is None else of(y)), x))

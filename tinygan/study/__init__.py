"""Tools to look at networks and their gradients with."""

from tinygan.study.listing import listing

__all__ = ["listing"]

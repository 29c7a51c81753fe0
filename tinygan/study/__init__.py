"""Tools to look at networks, their gradients and their games with: docs/microscopes.md."""

from tinygan.study.explain import explain
from tinygan.study.inspect import inspect
from tinygan.study.listing import listing

__all__ = ["explain", "inspect", "listing"]

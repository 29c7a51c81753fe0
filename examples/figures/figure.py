"""What a figure of a paper is: the runs it needs, and how it is drawn and judged."""

from collections.abc import Callable
from typing import NamedTuple


class Figure(NamedTuple):
    """A figure or table of a paper.

    Args:
        title: what it shows, in a line.
        says: what the paper says that it shows.
        settings: those of the paper.
        short: what a short run changes in them; "" where the paper's own run takes CPU minutes.
        jobs: ``jobs(short, seeds)``, the runs it is drawn from, of :mod:`figures.runs`.
        draw: ``draw(short, seeds, root)``, the :class:`Claim` of the runs in the folder ``root``.
        seeds: fixed beforehand, all reported.
    """

    title: str
    says: str
    settings: str
    short: str
    jobs: Callable
    draw: Callable
    seeds: tuple = (0, 1, 2)


class Claim(NamedTuple):
    """What was measured.

    Args:
        pictures: PNG files as bytes by the end of their name; "" is the figure itself.
        measured: in words and tables, Markdown whose every number comes from ``numbers``.
        numbers: what the json holds.
        agrees: "yes", "in part" or "no", found by comparison of numbers; "" where the paper
            claims nothing that can be measured.
    """

    pictures: dict
    measured: str
    numbers: dict
    agrees: str

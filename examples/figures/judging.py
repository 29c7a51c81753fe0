"""From numbers of several seeds to a verdict, and to words."""

import math

REACHED = 0.05  # of the digits, by samples that are not one and the same, nor noise


def held(flags):
    """Whether something was found with more than half of the seeds."""
    return 2 * sum(map(bool, flags)) > len(flags)


def verdict(*claims):
    """ "yes" if all that the paper says was found, "no" if none of it, else "in part"."""
    return "yes" if all(claims) else "in part" if any(claims) else "no"


def share(flags, of="seeds"):
    """ "2 of 3 seeds"."""
    return f"{sum(map(bool, flags))} of {len(flags)} {of}"


def last_mark(run):
    """The last of the iterations whose players a run was to keep.

    Raises: ValueError for one that diverged before it.
    """
    if not ended(run):
        raise ValueError(
            f"{run.training.name} diverged before its last mark ({run.record['stopped']}); "
            "expected a run with players at its end. Take other seeds"
        )
    return run.last


def ended(run):
    """Whether a run came to its last mark: one that diverged before it has no scores of the end."""
    return bool(run.players) and run.last == max(run.training.marks)


def less(a, b):
    """Whether a < b; never where a run has no such number: one that diverged proves nothing."""
    return a is not None and b is not None and a < b


def lost(numbers):
    """The runs that diverged, in a sentence that goes before others; "" without any.

    Args:
        numbers: a dict for every run, by system and by seed; its ``stopped`` is the reason, if any.
    """
    runs = [
        f"{name}, seed {seed} ({found['stopped'].partition(':')[0]})"
        for name, by_seed in numbers.items()
        for seed, found in by_seed.items()
        if found.get("stopped")
    ]
    if not runs:
        return ""
    return f"Diverged, and counted for nothing: {'; '.join(runs)}. "


def spread(values, form=".2f"):
    """The mean and its standard error over the seeds: "0.41 ± 0.03".

    None, of a run that has no such number, is left out, and the rest counted: "0.41 (1 of 3)"; "–"
    without any. One seed has no error.
    """
    every = len(values)
    values = [value for value in values if value is not None]
    among = f" ({len(values)} of {every})" if len(values) < every else ""
    if not values:
        return "–"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:{form}}{among}"
    square = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return f"{mean:{form}} ± {math.sqrt(square / len(values)):{form}}{among}"


def table(heads, rows):
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

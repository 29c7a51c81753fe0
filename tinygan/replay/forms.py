"""Taking arguments apart and putting results together, by functions written for one nesting.

A call of a small step takes a fifth of a millisecond; walking its trees would be a tenth of that.
"""

from itertools import count

import numpy as np


def reader(tree):
    """A function from arguments nested like ``tree`` to the list of their leaves.

    It raises ValueError, TypeError or KeyError where they are nested otherwise; a dict must have
    the same keys in the same order.
    """
    lines, leaves, known = [], [], {}
    names = (f"x{i}" for i in count())

    def constant(x):
        known[f"k{len(known)}"] = x
        return f"k{len(known) - 1}"

    def visit(name, branch):
        children = branch
        if isinstance(branch, dict):
            lines.append(f"if tuple({name}) != {constant(tuple(branch))}: raise KeyError")
            children = branch.values()
        elif not isinstance(branch, (list, tuple)):
            leaves.append(name)
            return
        lines.append(f"if type({name}) is not {constant(type(branch))}: raise TypeError")
        mine = [next(names) for _ in children]
        values = f"{name}.values()" if children is not branch else name
        lines.append(f"[{', '.join(mine)}] = {values}")
        for each, child in zip(mine, children, strict=True):
            visit(each, child)

    visit("args", tree)
    body = [*lines, f"return [{', '.join(leaves)}]"]
    source = "def read(args):\n" + "\n".join(f"    {line}" for line in body)
    exec(compile(source, "<arguments>", "exec"), known)
    return known["read"]


def _as_array(a):
    return a if hasattr(a, "ndim") else np.asarray(a)


def writer(tree, places):
    """A function that puts results together: ``write(results, given)``, nested like ``tree``.

    ``places`` says for each leaf where it comes from: ("result", i) of the one list, ("copied
    result", i), ("input", i) of the other, as an array, ("constant", array) as a copy, or ("is",
    whatever it is).
    """
    known = {"asarray": _as_array}
    wanted = iter(places)

    def constant(x):
        known[f"k{len(known)}"] = x
        return f"k{len(known) - 1}"

    def write(branch):
        if isinstance(branch, dict):
            items = [f"{constant(key)}: {write(child)}" for key, child in branch.items()]
            return f"{{{', '.join(items)}}}"
        if isinstance(branch, list):
            return f"[{', '.join(map(write, branch))}]"
        if isinstance(branch, tuple):
            kind = constant(type(branch))
            parts = "".join(f"{write(child)}, " for child in branch)
            return f"{kind}({parts})" if hasattr(branch, "_fields") else f"({parts})"
        where, what = next(wanted)
        if where == "result":
            return f"results[{what}]"
        if where == "copied result":
            return f"results[{what}].copy()"
        if where == "input":
            return f"asarray(given[{what}])"
        return f"{constant(what)}.copy()" if where == "constant" else constant(what)

    exec(compile(f"def write(results, given): return {write(tree)}", "<results>", "exec"), known)
    return known["write"]

"""Taking arguments apart and putting results together, by functions written for one nesting.

A call of a small step takes a fifth of a millisecond; walking its trees would be a tenth of that.
"""

import numpy as np


def reader(tree):
    """A function from arguments nested like ``tree`` to the list of their leaves.

    It raises ValueError, TypeError or KeyError where they are nested otherwise; a dict must have
    the same keys in the same order.
    """
    lines, leaves, names = [], [], iter(f"x{i}" for i in range(1 << 30))

    def visit(name, branch):
        if isinstance(branch, dict):
            lines.append(f"if type({name}) is not dict: raise TypeError")
            lines.append(f"if tuple({name}) != {tuple(branch)!r}: raise KeyError")
            for key, child in branch.items():
                mine = next(names)
                lines.append(f"{mine} = {name}[{key!r}]")
                visit(mine, child)
        elif isinstance(branch, (list, tuple)):
            kind = f"k{len(kinds)}"
            kinds[kind] = type(branch)
            lines.append(f"if type({name}) is not {kind}: raise TypeError")
            mine = [next(names) for _ in branch]
            lines.append(f"[{', '.join(mine)}] = {name}")
            for each, child in zip(mine, branch, strict=True):
                visit(each, child)
        else:
            leaves.append(name)

    kinds = {}
    visit("args", tree)
    body = [*lines, f"return [{', '.join(leaves)}]"]
    source = "def read(args):\n" + "\n".join(f"    {line}" for line in body)
    exec(compile(source, "<arguments>", "exec"), kinds)
    return kinds["read"]


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

    def write(branch):
        if isinstance(branch, dict):
            return f"{{{', '.join(f'{key!r}: {write(child)}' for key, child in branch.items())}}}"
        if isinstance(branch, list):
            return f"[{', '.join(map(write, branch))}]"
        if isinstance(branch, tuple):
            kind = f"k{len(known)}"
            known[kind] = type(branch)
            parts = "".join(f"{write(child)}, " for child in branch)
            return f"{kind}({parts})" if hasattr(branch, "_fields") else f"({parts})"
        where, what = next(wanted)
        if where == "result":
            return f"results[{what}]"
        if where == "copied result":
            return f"results[{what}].copy()"
        if where == "input":
            return f"asarray(given[{what}])"
        name = f"c{len(known)}"
        known[name] = what
        return f"{name}.copy()" if where == "constant" else name

    exec(compile(f"def write(results, given): return {write(tree)}", "<results>", "exec"), known)
    return known["write"]

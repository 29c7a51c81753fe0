"""Trees of parameters: nested dicts, lists and tuples whose leaves are arrays or Tensors."""


def leaves(tree):
    """The leaves of ``tree``, a list, dicts in the order of their keys' insertion."""
    found = []
    _collect(tree, found)
    return found


def _collect(tree, found):
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        found.append(tree)
        return
    for branch in tree:
        _collect(branch, found)


def paths(tree, path="", fields=False):
    """(path, leaf) of every leaf: ``{"a": [x, y]}`` gives ("a.0", x), ("a.1", y).

    With ``fields``, those of a named tuple go by their names instead of their numbers.
    """
    if isinstance(tree, dict):
        items = tree.items()
    elif fields and hasattr(tree, "_fields"):
        items = zip(tree._fields, tree, strict=True)
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return [(path, tree)]
    dot = "." if path else ""
    return [found for key, branch in items for found in paths(branch, f"{path}{dot}{key}", fields)]


def tree_map(f, tree, *others):
    """The tree of f(leaf, *leaves of others at the same place), shaped like ``tree``.

    Raises: ValueError that describes the branches where another tree has a different shape.
    """
    if isinstance(tree, dict):
        for other in others:
            if not isinstance(other, dict) or other.keys() != tree.keys():
                raise _mismatch(tree, other)
        return {
            key: tree_map(f, branch, *[other[key] for other in others])
            for key, branch in tree.items()
        }
    if isinstance(tree, (list, tuple)):
        for other in others:
            if type(other) is not type(tree) or len(other) != len(tree):
                raise _mismatch(tree, other)
        return _like(tree, [tree_map(f, *column) for column in zip(tree, *others, strict=True)])
    for other in others:
        if isinstance(other, (dict, list, tuple)):
            raise _mismatch(tree, other)
    return f(tree, *others)


def rebuild(tree, new_leaves):
    """``tree`` with its leaves replaced, in the order of :func:`leaves`."""
    return _fill(tree, iter(new_leaves))


def _fill(tree, new_leaves):
    if isinstance(tree, dict):
        return {key: _fill(branch, new_leaves) for key, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return _like(tree, [_fill(branch, new_leaves) for branch in tree])
    return next(new_leaves)


def _like(sequence, branches):
    """``branches`` as a list, tuple or named tuple, whichever ``sequence`` is."""
    if isinstance(sequence, list):
        return branches
    return type(sequence)(*branches) if hasattr(sequence, "_fields") else tuple(branches)


def _mismatch(tree, other):
    return ValueError(
        f"trees differ: {_describe(tree)} against {_describe(other)}; expected the same nesting, "
        "keys and lengths"
    )


def _describe(tree):
    if isinstance(tree, dict):
        return f"dict with keys {list(tree)}"
    if isinstance(tree, (list, tuple)):
        return f"{type(tree).__name__} of {len(tree)}"
    return f"a leaf ({type(tree).__name__})"

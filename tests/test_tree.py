"""Trees of parameters: order, places, shapes that must agree."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygan import tree as trees

Layer = namedtuple("Layer", "weight bias")

forests = st.recursive(
    st.integers(),
    lambda branch: st.one_of(
        st.lists(branch, max_size=3),
        st.lists(branch, max_size=3).map(tuple),
        st.dictionaries(st.text("abc", min_size=1, max_size=3), branch, max_size=3),
    ),
    max_leaves=12,
)


def test_leaves_keep_the_order_of_insertion():
    assert trees.leaves({"b": 1, "a": [2, (3, {"z": 4, "y": 5})]}) == [1, 2, 3, 4, 5]


def test_a_leaf_is_a_tree():
    assert trees.leaves(3) == [3]
    assert trees.paths(3) == [("", 3)]
    assert trees.tree_map(lambda a: a + 1, 3) == 4


@pytest.mark.parametrize("empty", [{}, [], (), {"a": [], "b": ({},)}])
def test_empty_branches_have_no_leaves_and_survive(empty):
    assert trees.leaves(empty) == []
    assert trees.tree_map(lambda a: 1 / 0, empty) == empty
    assert trees.rebuild(empty, []) == empty


def test_paths_name_the_place():
    assert trees.paths({"a": [1, {"b": 2}], 3: (4,)}) == [("a.0", 1), ("a.1.b", 2), ("3.0", 4)]


def test_paths_start_with_the_name_given():
    assert trees.paths([1, 2], "D") == [("D.0", 1), ("D.1", 2)]
    assert trees.paths(1, "D") == [("D", 1)]


def test_arrays_and_none_are_leaves():
    a = np.ones((2, 2))
    (first, second) = trees.leaves([a, None])
    assert first is a and second is None


def test_tree_map_keeps_the_kinds_of_branches():
    tree = {"a": Layer(1, 2), "b": [3, (4,)]}
    got = trees.tree_map(lambda a: -a, tree)
    assert got == {"a": Layer(-1, -2), "b": [-3, (-4,)]}
    assert type(got["a"]) is Layer and type(got["b"]) is list and type(got["b"][1]) is tuple


def test_tree_map_walks_several_trees_together():
    got = trees.tree_map(lambda a, b, c: (a, b, c), {"a": [1]}, {"a": [2]}, {"a": [3]})
    assert got == {"a": [(1, 2, 3)]}


def test_tree_map_matches_dicts_by_key_and_keeps_the_first_ones_order():
    got = trees.tree_map(lambda a, b: (a, b), {"a": 1, "b": 2}, {"b": 20, "a": 10})
    assert got == {"a": (1, 10), "b": (2, 20)}
    assert list(got) == ["a", "b"]


def test_tree_map_leaves_its_argument_alone():
    tree = {"a": [1, 2]}
    trees.tree_map(lambda a: 0, tree)
    assert tree == {"a": [1, 2]}


@pytest.mark.parametrize(
    "one, other, what",
    [
        ({"a": [1, 2]}, {"a": [1]}, "list of 2 against list of 1"),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, "dict with keys ['b'] against dict with keys ['c']"),
        ({"a": {"b": 1}}, {"a": {"b": [1]}}, "a leaf (int) against list of 1"),
        ({"a": [1]}, {"a": (1,)}, "list of 1 against tuple of 1"),
        ([[1], [2]], [[1], 2], "list of 1 against a leaf (int)"),
        (1, [1], "a leaf (int) against list of 1"),
        ([1], 1, "list of 1 against a leaf (int)"),
        ({"a": 1}, {"a": 1, "b": 2}, "dict with keys ['a'] against dict with keys ['a', 'b']"),
        (Layer(1, 2), (1, 2), "Layer of 2 against tuple of 2"),
    ],
)
def test_trees_that_differ_are_an_error_that_describes_both(one, other, what):
    with pytest.raises(ValueError, match="trees differ") as caught:
        trees.tree_map(lambda a, b: a, one, other)
    assert what in str(caught.value)


def test_rebuild_needs_no_more_than_the_leaves():
    assert trees.rebuild({"a": [0, 0], "b": 0}, iter("xyz")) == {"a": ["x", "y"], "b": "z"}


@given(forests)
def test_rebuild_of_the_leaves_is_the_tree(tree):
    again = trees.rebuild(tree, trees.leaves(tree))
    assert again == tree and repr(again) == repr(tree)


@given(forests)
def test_tree_map_visits_the_leaves_in_order(tree):
    seen = []
    trees.tree_map(seen.append, tree)
    assert seen == trees.leaves(tree) == [leaf for _, leaf in trees.paths(tree)]


@given(forests)
def test_paths_are_the_way_to_the_leaf(tree):
    for path, leaf in trees.paths(tree):
        at = tree
        for step in path.split(".") if path else ():
            at = at[step] if isinstance(at, dict) else at[int(step)]
        assert at is leaf


def test_deep_trees_are_no_trouble():
    tree = 1
    for _ in range(100):
        tree = [tree, {"a": 2}]
    assert len(trees.leaves(tree)) == 101


def test_ordered_dicts_are_dicts():
    ordered = OrderedDict(a=1)
    assert trees.tree_map(lambda a: a, ordered) == {"a": 1}
    for other in (ordered, {"a": 1}):
        assert trees.tree_map(lambda a, b: a + b, ordered, other) == {"a": 2}
        assert trees.tree_map(lambda a, b: a + b, other, ordered) == {"a": 2}

"""The tape's listing: its text, its sections, its names, and the data behind it."""

import gc
import math
import subprocess
import sys
import weakref

import numpy as np
import pytest

import tinygan as tg
from tinygan import engine, nn, ops
from tinygan.engine import Primitive, Tensor, primitive
from tinygan.study import listing
from tinygan.study.listing import Line, formula

PRIMITIVES = {
    p.__name__: p
    for module in (engine, ops, nn)
    for p in vars(module).values()
    if isinstance(p, Primitive)
}


def leaf(*shape, name="", dtype=np.float64):
    return tg.track(np.arange(1.0, math.prod(shape) + 1, dtype=dtype).reshape(shape), name)


def calls(value):
    return [line.call for line in listing(value).lines if line.op]


# The text


def test_a_value():
    x, w = leaf(2, 3, name="x"), leaf(3, 1, name="w")
    expected = """\
value = %5
  %1  x  leaf               float64[2, 3]
  %2  w  leaf               float64[3, 1]
  %3     matmul(x, w)       float64[2, 1]  y = a·b, with aᵀ for a if ta, bᵀ for b if tb
  %4     sum(%3)            float64[]      y = Σ a
  %5     multiply(%4, 0.5)  float64[]      y = a·b
  3 calls, 4 elements, 32 bytes; 2 leaves"""
    assert str(listing(ops.mean(ops.matmul(x, w)))) == expected


def test_a_value_its_gradient_and_the_gradient_of_that():
    x = leaf(2, name="x", dtype=np.float32)
    y = ops.sum(ops.tanh(x))
    g = tg.grad(y, x)
    expected = """\
y = %3
  %1   x  leaf                            float32[2]
  %2      tanh(x)                         float32[2]  y = tanh a
  %3      sum(%2)                         float32[]   y = Σ a
  2 calls, 3 elements, 12 bytes; 1 leaf
g = %6
  %4      square(%2)                      float32[2]  y = a²
  %5      subtract(1, %4)                 float32[2]  y = a − b
  %6      multiply(float32[2] of 1, %5)   float32[2]  y = a·b
  3 calls, 6 elements, 24 bytes
h = %11
  %7      multiply(%2, 2)                 float32[2]  y = a·b
  %8      multiply(float32[2] of -1, %7)  float32[2]  y = a·b
  %9      square(%2)                      float32[2]  y = a²
  %10     subtract(1, %9)                 float32[2]  y = a − b
  %11     multiply(%8, %10)               float32[2]  y = a·b
  5 calls, 10 elements, 40 bytes"""
    assert str(listing({"y": y, "g": g, "h": tg.grad(ops.sum(g), x)})) == expected


def test_a_leaf_alone_and_its_repr():
    made = listing(leaf(2, name="x"))
    expected = "value = %1\n  %1  x  leaf  float64[2]\n  0 calls, 0 elements, 0 bytes; 1 leaf"
    assert repr(made) == str(made) == expected


def test_an_argument_without_a_rule_is_marked_and_explained():
    h = leaf(2, name="h")
    made = listing(ops.relu(h))
    assert made.lines[-1].call == "gate(h, h°, slope=0)"
    assert str(made).endswith("\n° no derivative passes through this argument")
    assert "°" not in str(listing(ops.tanh(h)))


def test_what_was_computed_below_an_argument_without_a_rule_is_listed():
    """The gradient needs the gate's input, though no derivative of it."""
    x, b = leaf(2, name="x"), leaf(2, name="b")
    slope = tg.grad(ops.sum(ops.square(ops.relu(ops.add(x, b)))), x)
    assert "add(x, b)" in calls(slope)


def test_a_wide_call_does_not_widen_the_others():
    x = leaf(2, name="x")
    text = str(listing(ops.sum(ops.concatenate(*[x] * 40)))).splitlines()
    assert len(text[2]) > 120 and len(text[3]) < 80


def test_no_line_ends_in_spaces():
    made = listing({"y": ops.relu(leaf(2, name="x")), "c": 1.0})
    assert all(line == line.rstrip() for line in str(made).splitlines())


# Constants


@pytest.mark.parametrize(
    "constant, written",
    [
        (2, "2"),
        (-0.5, "-0.5"),
        (1 / 3, "0.333333"),
        (np.float32(0.1), "0.1"),
        (np.asarray(0.25), "0.25"),
        (np.array([1.0, 2.0]), "float64[2]"),
        (np.full(2, 1.5), "float64[2] of 1.5"),
        (np.array([np.nan, np.nan]), "float64[2]"),
        (np.array([[7], [7]]), "int64[2, 1] of 7"),
        (np.array([True, False]), "bool[2]"),
        (np.ones((0, 2)), "float64[0, 2]"),
    ],
)
def test_constants(constant, written):
    assert calls(ops.multiply(leaf(2, name="x"), constant)) == [f"multiply(x, {written})"]


@pytest.mark.parametrize(
    "at, written",
    [
        ((slice(1, 3), slice(None, None, 2)), "(1:3, ::2)"),
        ((..., None, 0), "(..., None, 0)"),
        (slice(-1, None), "-1:"),
        ((1,), "(1,)"),
    ],
)
def test_indices_are_written_as_python_has_them(at, written):
    assert calls(ops.index(leaf(4, 5, name="x"), at=at)) == [f"index(x, at={written})"]


def test_parameters_at_their_default_are_left_out():
    x = leaf(2, 2, name="x")
    assert calls(ops.sum(x, axis=None, keepdims=False)) == ["sum(x)"]
    assert calls(ops.sum(x, axis=0, keepdims=True)) == ["sum(x, axis=0, keepdims=True)"]
    assert calls(ops.matmul(x, x, ta=False, tb=True)) == ["matmul(x, x, tb=True)"]


@pytest.mark.parametrize("value", [3, 1.5, np.ones(3), np.float64(2.0)])
def test_of_a_constant_nothing_is_recorded(value):
    made = listing({"c": value})
    assert made.lines == []
    assert str(made).splitlines()[1] == "  nothing new on the tape"
    assert str(made).startswith("c = float64[3] of 1\n" if np.ndim(value) else f"c = {value:g}\n")


def test_a_gradient_that_does_not_exist_is_a_leaf_of_zeros():
    x, b = leaf(2, name="x"), leaf(3, name="b")
    made = listing(tg.grad(ops.sum(ops.square(x)), b))
    assert made.lines == [Line(1, None, None, (), "leaf of 0", (3,), "float64", 24, "")]


# Names


def test_leaves_are_named_after_their_place():
    layers = nn.Linear(2, 3), nn.Linear(3, 1)
    d = tg.track([layer.init(tg.Stream(0), np.float64) for layer in layers], "D")
    y = layers[1](d[1], layers[0](d[0], np.zeros((4, 2))))
    assert calls(y) == [
        "affine(float64[4, 2] of 0, D.0.weight, D.0.bias)",
        "affine(%3, D.1.weight, D.1.bias)",
    ]


def test_a_name_can_be_given_to_an_intermediate():
    h = ops.exp(leaf(2, name="x"))
    h.name = "h"
    made = listing(ops.sum(h))
    assert [line.name for line in made.lines] == ["x", "h", None]
    assert made.lines[-1].call == "sum(h)"


def test_a_name_that_two_share_refers_to_neither():
    first, second = leaf(2, name="x"), leaf(2, name="x")
    made = listing({"a": ops.exp(first), "b": ops.add(first, second)})
    assert [line.name for line in made.lines if not line.op] == ["x", "x"]
    assert made.lines[-1].call == "add(%1, %3)"


# Sections


def test_each_line_stands_once_under_the_first_that_needs_it():
    x = leaf(2, name="x")
    a = ops.exp(x)
    b = ops.log(a)
    made = listing({"b": b, "a": a, "c": ops.multiply(a, b)})
    assert [[line.call for line in section.lines] for section in made.sections] == [
        ["leaf", "exp(x)", "log(%2)"],
        [],
        ["multiply(%2, %3)"],
    ]
    assert [section.results for section in made.sections] == [
        [("b", "%3")],
        [("a", "%2")],
        [("c", "%4")],
    ]
    assert "a = %2\n  nothing new on the tape\nc = %4" in str(made)


def test_a_tree_has_one_section_and_a_result_for_each_place():
    p = tg.track({"w": np.ones(2), "b": [np.ones(2)]})
    y = ops.sum(ops.multiply(p["w"], p["b"][0]))
    gradient = tg.grad(ops.square(y), p)
    (section,) = listing({"g": gradient}).sections
    assert [title for title, _ in section.results] == ["g.w", "g.b.0"]
    assert str(listing({"g": gradient})).startswith("g.w = %")
    assert [title for title, _ in listing([y, y]).sections[0].results] == ["value.0", "value.1"]


def test_totals_count_the_results_of_calls():
    x = leaf(3, 2, name="x", dtype=np.float32)
    (section,) = listing(ops.sum(ops.exp(x), axis=0)).sections
    assert (len(section.calls), section.elements, section.nbytes) == (2, 8, 32)
    assert section.totals() == "2 calls, 8 elements, 32 bytes; 1 leaf"


# The data


def test_lines_are_data():
    x = leaf(2, name="x")
    assert listing(ops.multiply(ops.exp(x), 2.0)).lines == [
        Line(1, "x", None, (), "leaf", (2,), "float64", 16, ""),
        Line(2, None, "exp", (1,), "exp(x)", (2,), "float64", 16, "y = eᵃ"),
        Line(3, None, "multiply", (2, None), "multiply(%2, 2)", (2,), "float64", 16, "y = a·b"),
    ]


def test_arguments_come_before_their_calls_and_numbers_count_up():
    x = leaf(4, 3, name="x")
    y = ops.sum(ops.log_softmax(ops.matmul(x, x, ta=True)))
    lines = listing({"y": y, "g": tg.grad(ops.sum(ops.square(tg.grad(y, x))), x)}).lines
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert all(n < line.number for line in lines for n in line.args if n is not None)


def test_the_data_determine_the_text():
    """Twice the same computation, twice the same text: no address or order of hashing in it."""

    def text():
        x = leaf(3, 2, name="x")
        y = ops.sum(ops.square(ops.norm(ops.relu(x), axis=1)))
        return str(listing({"y": y, "g": tg.grad(y, x)}))

    assert text() == text()


def test_the_lines_are_those_that_the_walk_visits_where_all_arguments_have_rules():
    x = leaf(4, 3, name="x")
    g = tg.grad(ops.sum(ops.softplus(ops.matmul(x, x, ta=True))), x)
    names = sorted(node.op.__name__ if node.op else "" for node in tg.tape([g]))
    assert sorted(line.op or "" for line in listing(g).lines) == names


def test_a_listing_keeps_nothing_alive():
    x = leaf(2, name="x")
    y = ops.exp(x)
    held = weakref.ref(y.data.base if y.data.base is not None else y.data)
    made = listing(y)
    del y
    gc.collect()
    assert held() is None and len(made.lines) == 2


def test_a_long_tape():
    y = leaf(2, name="x")
    for _ in range(20_000):
        y = ops.tanh(y)
    made = listing(y)
    assert len(made.lines) == 20_001
    assert str(made).splitlines()[-2] == "  %20001     tanh(%20000)  float64[2]  y = tanh a"


def test_a_tape_that_forks_and_joins_is_walked_once():
    y = leaf(2, name="x")
    for _ in range(200):  # 2²⁰⁰ ways down
        y = ops.add(ops.tanh(y), y)
    assert len(listing(y).lines) == 401


# Formulas


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_says_what_y_is(name):
    assert formula(PRIMITIVES[name]).startswith("y")
    assert "=" in formula(PRIMITIVES[name])


def test_an_op_without_a_formula_has_none():
    @primitive
    def twice(a):
        return a + a

    twice.vjp(lambda g, y, a: twice(g))
    assert str(listing(twice(leaf(2, name="x")))).splitlines()[2] == "  %2     twice(x)  float64[2]"


# Errors


def test_a_released_tape_is_an_error_that_says_so():
    x = leaf(2, name="x")
    h = ops.exp(x)
    y = ops.sum(h)
    tg.grad_values(y, x, release=True)
    with pytest.raises(RuntimeError, match=r"below a result of sum was released.*leave release"):
        listing(y)
    with pytest.raises(RuntimeError, match="below a result of exp was released"):
        listing(ops.square(h))


@pytest.mark.parametrize("value", [None, "y", {"y": object()}, [None]])
def test_what_is_no_value_is_an_error(value):
    with pytest.raises(TypeError, match="listing: .*expected a Tensor"):
        listing(value)


# Around it


def test_arrays_of_every_backend(xp):
    x = Tensor(xp.asarray(np.array([1.0, 2.0])), name="x")
    y = ops.sum(ops.multiply(ops.multiply(x, xp.asarray(np.ones(2))), 3.0))
    assert calls(y) == ["multiply(x, float64[2] of 1)", "multiply(%2, 3)", "sum(%3)"]
    assert [line.nbytes for line in listing(y).lines] == [16, 16, 16, 8]


def test_importing_it_brings_no_plots():
    code = "import tinygan.study, sys; print('matplotlib' in sys.modules, 'scipy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False False\n"

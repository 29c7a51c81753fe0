"""`explain`: the rules as they stand in the source, measured errors, and the samples for them."""

import ast
import itertools
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from test_house import PRIMITIVES

import tinygan as tg
from tinygan import conv, losses, norms, ops, optim
from tinygan.engine import grad_values, primitive, track
from tinygan.study.explain import explain
from tinygan.study.samples import numbers, sample_of, signed

module = sys.modules["tinygan.study.explain"]  # the package names the function so
DIFFERENTIABLE = {name: op for name, op in PRIMITIVES.items() if module._has_rules(op)}
each = pytest.mark.parametrize("name", DIFFERENTIABLE)


@cache
def made(name):
    return explain(DIFFERENTIABLE[name])


def rules_of(op):
    return [op.rules.rule] if not isinstance(op.rules, tuple) else list(op.rules)


# Of every primitive


def test_the_differentiable_primitives_are_found():
    assert len(DIFFERENTIABLE) > 40
    assert {"tinygan.engine.add", "tinygan.norms.project", "tinygan.ops.stack"} <= set(
        DIFFERENTIABLE
    )


@each
def test_every_differentiable_primitive_has_a_sample_and_is_right_on_it(name):
    found = made(name)
    assert found.report is not None, "give it one in written_samples of tinygan/study/samples.py"
    assert found.report.passed and sorted(found.errors) == [1, 2, 3], found
    assert max(found.errors.values()) < 1e-6 and "WRONG" not in str(found)


@each
def test_the_sample_reaches_every_rule(name, monkeypatch):
    op, called = DIFFERENTIABLE[name], set()

    def spy(i, rule):
        return rule and (lambda *args, **params: (called.add(i), rule(*args, **params))[1])

    sample = sample_of(op)
    if isinstance(op.rules, tuple):
        monkeypatch.setattr(op, "rules", tuple(spy(i, r) for i, r in enumerate(op.rules)))
        inputs = [track(a) if a.dtype.kind == "f" else a for a in sample.inputs]
        y = sample.call(*inputs, **sample.params)
        leaves = [a for a in inputs if type(a) is tg.Tensor]
        grad_values(y, leaves, np.ones(y.shape))
        assert called == {i for i, rule in enumerate(op.rules) if rule is not None}


@each
def test_the_text_of_a_rule_is_its_own_source(name):
    """Compiled by itself, it does what the rule does."""
    found, rules = made(name), rules_of(DIFFERENTIABLE[name])
    assert len(found.rules) == len(rules)
    for shown, rule in zip(found.rules, rules, strict=True):
        if rule is None:
            assert shown.source is None
            continue
        code = compile(shown.source, "text", "exec")
        own = next(c for c in code.co_consts if hasattr(c, "co_code"))
        assert module._work(own) == module._work(rule.__code__), shown.source
        assert shown.place.endswith(f":{rule.__code__.co_firstlineno}")
        assert shown.place.startswith("tinygan/")


@each
def test_equation_gradient_and_place(name):
    found, op = made(name), DIFFERENTIABLE[name]
    assert found.name == name and found.equation.startswith("y")
    assert found.gradient.startswith("Gradient: ")
    text = str(found)
    assert found.equation in text and found.measured.startswith(f"{op.__name__}(")
    assert text.count("\n\n\n") == 0 and not any(line != line.rstrip() for line in text.split("\n"))


def test_the_lines_of_a_rule_are_indented_from_its_start():
    assert made("tinygan.norms.standardise").rules[3].source.splitlines() == [
        "lambda g, y, a, mean, r, scale, shift, *, axes, eps: standard_dot(",
        "    g, a, mean, r, axes=axes, eps=eps",
        ")",
    ]


def test_a_gradient_of_two_lines_is_one():
    assert made("tinygan.norms.standardise").gradient.endswith("absent; s̄cale = Σ ȳ·â; s̄hift = Σ ȳ")


@pytest.mark.parametrize("op", [ops.equal, ops.sign, ops.stop_gradient, optim.descend])
def test_an_op_without_rules_says_so(op):
    found = explain(op)
    assert (found.rules, found.report, found.errors) == ([], None, {})
    assert "no rule: its derivative is zero or not defined" in str(found)
    assert found.equation in str(found)
    with pytest.raises(ValueError, match="inputs for .* There is nothing to measure"):
        explain(op, np.ones(2), np.ones(2))


def test_helpers_of_rules_are_shown():
    assert made("tinygan.ops.logsumexp").helpers[0].startswith("def _expand(g, a, axis):")
    assert "where\n  def _bend(" in str(made("tinygan.norms.project"))
    assert made("tinygan.ops.tanh").helpers == []


def test_names_find_their_primitives():
    assert explain("tanh").name == explain("ops.tanh").name == "tinygan.ops.tanh"
    assert explain("tinygan.conv.conv2d").name == explain("conv2d").name == "tinygan.conv.conv2d"
    for name in ("tangh", "conv.tanh", "s.tanh"):
        with pytest.raises(ValueError, match="no primitive is called"):
            explain(name)
    with pytest.raises(ValueError, match="nearest names are tanh"):
        explain("tanhh")


@pytest.mark.parametrize("given", ["relu", ops.relu])
def test_a_function_of_primitives_is_told_of_which(given):
    with pytest.raises(TypeError, match="relu is no primitive .* explain gate"):
        explain(given)


@pytest.mark.parametrize("given", [np.tanh, 3, losses.WASSERSTEIN])
def test_what_is_no_primitive_is_an_error(given):
    with pytest.raises(TypeError, match="expected a primitive"):
        explain(given)


# Sources


BY_OPERATOR = lambda g, y: g * y, lambda g, y: g + y, lambda g, y: g < y, lambda g, y: g > y  # noqa: E731
ON_ONE_LINE = lambda g, y, a: ops.exp(g), lambda g, y, a: ops.log(g), lambda g, y, a: y  # noqa: E731
NESTED = lambda g, y, a: (lambda g, y, a: g)(g, y, a)  # noqa: E731


def made_by_a_factory(op):
    return lambda g, y, a: ops.multiply(op(g), 2.0)


@pytest.mark.parametrize("with_columns", [True, False])
def test_lambdas_of_one_line_are_told_apart(with_columns, monkeypatch):
    if not with_columns:  # as in Python 3.10
        monkeypatch.setattr(
            module,
            "hasattr",
            lambda a, name: name != "co_positions" and hasattr(a, name),
            raising=False,
        )
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    for rule, body in zip(ON_ONE_LINE, ["ops.exp(g)", "ops.log(g)", "y"], strict=True):
        assert ast.unparse(module._lambda(tree, rule.__code__).body) == body
    for rule, operator in zip(BY_OPERATOR, "*+<>", strict=True):
        assert ast.unparse(module._lambda(tree, rule.__code__).body) == f"g {operator} y"
    assert ast.unparse(module._lambda(tree, NESTED.__code__).body).startswith("(lambda")


def test_rules_of_factories_and_without_a_source():
    @primitive
    def twice(a):
        """Twice a.

        y = 2a

        Gradient: ā = 2·ȳ
        """
        return 2 * a

    twice.vjp(made_by_a_factory(lambda g: g))
    found = explain(twice)
    assert found.rules[0].source == "lambda g, y, a: ops.multiply(op(g), 2.0)"
    assert found.report.passed and "tests/test_study_explain.py:" in found.rules[0].place
    twice.vjp(eval("lambda g, y, a: multiply(g, 2.0)", {"multiply": ops.multiply}))
    found = explain(twice)
    assert "whose source is not to be found" in found.rules[0].source and found.report.passed


# A user's own


def own(*, right=True, smooth=True):
    @primitive
    def cube(a, b=None, *, scale=1.0):
        """The cube.

        y = scale·a³

        Gradient: ā = ȳ·3·scale·a²
        """
        return scale * a**3

    factor = 3.0 if right else 2.0
    cube.vjp(lambda g, y, a, b=None, *, scale=1.0: ops.multiply(
        g, ops.multiply(ops.square(a), factor * scale)))  # fmt: skip
    return cube


def test_an_op_of_ones_own_is_measured_on_what_is_given():
    cube, a = own(), numbers(4)
    found = explain(cube, a, scale=0.5)
    assert found.report.passed and found.measured == "cube(float64[4], scale=0.5)"
    found = explain(cube, track(a), scale=0.5)
    assert found.report.passed
    assert explain(cube).measured == "cube(float64[2, 3], float64[2, 3])"  # a sample of ours


def test_a_wrong_rule_is_called_wrong():
    found = explain(own(right=False), numbers(4))
    assert not found.report.passed
    assert found.errors[1] == pytest.approx(1 / 3, rel=1e-6)
    assert "order 1: 3.3e-01 WRONG" in str(found) and "oracle says" in str(found)
    # to the next orders, derivatives of a wrong rule are its own: right ones
    assert found.errors[2] < 1e-6
    assert "<b>3.3e-01 WRONG</b>" in found._repr_html_()


def test_a_rule_that_gives_nan_is_called_wrong():
    @primitive
    def cube(a):
        """y = a³"""
        return a**3

    cube.vjp(lambda g, y, a: ops.multiply(g, np.nan))
    found = explain(cube)
    assert not found.report.passed and sorted(found.errors) == [1, 2, 3]
    for order in (1, 2):  # NaN does not depend on a: of order 3 both say 0
        assert f"order {order}: nan WRONG" in str(found)
    assert "<b>nan WRONG</b>" in found._repr_html_()


@pytest.mark.parametrize(
    "call",
    [
        lambda: explain("tanh", np.zeros((0,))),
        lambda: explain("index", numbers(3), at=(slice(0, 0),)),
    ],
    ids=["input", "result"],
)
def test_a_call_without_numbers_measures_nothing(call):
    with pytest.raises(ValueError, match="hold no number; expected arrays that are not empty"):
        call()


def test_one_empty_array_among_others_is_measured():
    found = explain("concatenate", numbers(2, 3), np.zeros((2, 0)), axis=1)
    assert found.report.passed and max(found.errors.values()) > 0


def test_an_absent_rule_has_to_be_a_zero():
    @primitive
    def half(a, b):
        """y = a·b"""
        return a * b

    half.vjp(lambda g, y, a, b: ops.multiply(g, b), None)
    found = explain(half)
    assert "none: the derivative is zero" in str(found) and not found.report.passed
    assert explain(half, numbers(3), 2.0).report.passed


def test_without_a_sample_the_rules_are_shown_and_it_says_so():
    @primitive
    def shifted(a, *, by):
        """y = a + by"""
        return a + by

    shifted.vjp(lambda g, y, a, *, by: g)
    found = explain(shifted)
    assert found.report is None and found.errors == {}
    assert "not measured: no sample fits; give one, explain(shifted, *inputs)" in str(found)
    assert "lambda g, y, a, *, by: g" in str(found)
    with pytest.raises(ValueError, match="explain: by for shifted and no inputs"):
        explain(shifted, by=1.0)
    assert explain(shifted, numbers(3), by=1.0).report.passed


def test_outside_its_domain_an_op_has_no_sample_of_ours():
    @primitive
    def arcosh(a):
        """y = arcosh a"""
        return np.arccosh(a)

    arcosh.vjp(lambda g, y, a: ops.multiply(g, ops.rsqrt(ops.subtract(ops.square(a), 1.0))))
    assert explain(arcosh).report is None
    assert explain(arcosh, 1.0 + numbers(3)).report.passed


def test_bad_inputs_are_errors():
    with pytest.raises(TypeError, match="input 0 of tanh is float32; expected float64"):
        explain(ops.tanh, np.ones(2, np.float32))
    with pytest.raises(ValueError, match="inputs int64.2. of tanh; expected a float64 array"):
        explain(ops.tanh, np.array([1, 2]))
    with pytest.raises(TypeError, match="tanh.float64.2., float64.2.."):
        explain(ops.tanh, np.ones(2), np.ones(2))
    a = numbers(2, 3)
    with pytest.raises(ValueError, match="inputs for standardise, some arguments of which"):
        explain(norms.standardise, a, a, a, a, a, axes=(0,), eps=0.1)
    geometry = conv.Geometry(3, 2)
    found = explain(conv.conv2d, signed(1, 3, 3, 1), signed(2, 2, 1, 2), geometry=geometry)
    assert found.report.passed and "2×2 stride 1 pad 0" in found.measured


def test_on_a_gpu(stand_in):
    found = explain(ops.tanh, stand_in.asarray(numbers(3)))
    assert found.report.passed and found.measured == "tanh(float64[3])"


# The samples' numbers


def test_numbers_stay_apart_and_away_from_zero():
    for shape in [(), (1,), (3,), (2, 3), (2, 1)]:
        arrays = [numbers(*shape, k=k) for k in range(3)]
        for a in arrays:
            assert a.shape == shape and a.min() >= 0.4 and a.max() < 1
            assert np.all(np.diff(np.sort(a, axis=None)) > 0.02)
        for a, b in itertools.combinations(arrays, 2):
            assert np.abs(a - b).min() > 0.02
    a, b = numbers(2, 3), numbers(2, 3, k=1)
    assert (a > b).any() and (a < b).any(), "maximum and minimum take from both"
    assert (signed(2, 3) > 0).any() and (signed(2, 3) < 0).any()

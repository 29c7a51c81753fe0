"""Compiled steps: the functions that they were, whatever the caller does with what they return."""

import copy
import gc
import pickle
import signal
import sys
import threading
import time
import tracemalloc
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_replay_cpu import (
    MOVING,
    OF_WHOLE_NUMBERS,
    all_same,
    blockwise,
    draw,
    drawn,
    inputs,
    instructions,
)  # fmt: skip

from tinygan import conv, losses, models, norms, ops, optim, parallel, penalties, tree
from tinygan.backend import Stream
from tinygan.engine import add, grad_values, observe, track
from tinygan.parallel import threads
from tinygan.replay import Program, compile, compiled, cpu, recipes
from tinygan.replay.compiled import BOUND, KEPT, SETS, Runner
from tinygan.replay.statistics import Statistics
from tinygan.train import GAN, critic_step, generator_step

USERS_SMALL = compiled.SMALL


@pytest.fixture(autouse=True)
def arrays_of_any_size_are_shared(monkeypatch):
    """The arrays here are tiny; as if they were not."""
    monkeypatch.setattr(compiled, "SMALL", -1)


def test_who_keeps_every_loss_keeps_no_sets(monkeypatch):
    monkeypatch.setattr(compiled, "SMALL", USERS_SMALL)
    fast = compile(lambda w: (ops.multiply(w, 0.5), ops.sum(w)))
    w, losses = np.ones(100), []
    for _ in range(4 * SETS):
        w, loss = fast(w)
        losses.append(loss)
    assert len(runner_of(fast).sets) <= 2
    assert [float(loss) for loss in losses] == [100 * 0.5**i for i in range(4 * SETS)]
    kept = losses[3]
    kept[...] = 7.0  # the caller's own
    assert_same(fast(w)[1], np.sum(w))
    assert float(kept) == 7.0


pytestmark = pytest.mark.numpy_path("a runner of its own")

Pair = namedtuple("Pair", "first second")


def step(params, x):
    """Some of everything: gradients, views, several results, one of them twice."""
    p = track(params)
    h = ops.tanh(ops.affine(x, p["weight"], p["bias"]))
    loss = ops.mean(ops.square(h))
    slopes = grad_values(loss, p)
    new, _ = optim.SGD(0.5).update(params, slopes, {})
    return {"params": new, "loss": loss.data, "h": [h.data, ops.transpose(h.data)], "x": x}


PARAMS = {"weight": draw(3, 4), "bias": draw(4, seed=1)}
X = draw(5, 3, seed=2)


def assert_same(found, wanted):
    """The same trees, and the same numbers to a few roundings."""
    assert repr(tree.tree_map(lambda a: 0, found)) == repr(tree.tree_map(lambda a: 0, wanted))
    for a, b in zip(tree.leaves(found), tree.leaves(wanted), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype
        if a.dtype.kind == "f":
            tolerance = 1e-12 if a.dtype == np.float64 else 1e-5
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(a, b)


def snapshot(results):
    return tree.tree_map(lambda a: a.copy() if hasattr(a, "copy") else a, results)


def runner_of(fast):
    (runner,) = fast.runners.values()
    return runner


# As the step


def test_a_compiled_step_is_the_step():
    fast = compile(step)
    for seed in range(20):
        params, x = tree.tree_map(lambda a, s=seed: a + s / 10, PARAMS), draw(5, 3, seed=seed)
        assert_same(fast(params, x), step(params, x))
    assert "step: 1 programs" in repr(fast)


def test_the_same_arguments_give_the_same_bits():
    fast = compile(step)
    first = snapshot(fast(PARAMS, X))
    for _ in range(5):
        fast(PARAMS, X + 1)
        assert all_same(fast(PARAMS, X), first)
    assert all_same(compile(step)(PARAMS, X), first)


def test_results_are_writable_arrays_in_c_order_that_share_no_memory():
    results = compile(step)(PARAMS, X)
    arrays = [a for a in tree.leaves(results) if a is not X]
    for i, a in enumerate(arrays):
        assert type(a) is np.ndarray and a.flags.writeable and a.flags.c_contiguous
        assert not any(np.shares_memory(a, b) for b in (*arrays[:i], X, *PARAMS.values()))


def test_arguments_are_not_changed():
    params, x = tree.tree_map(np.copy, PARAMS), X.copy()
    fast = compile(step)
    for _ in range(3):
        fast(params, x)
    assert all_same(params, PARAMS) and all_same(x, X)


def test_program_source_and_profile():
    fast = compile(step)
    assert type(fast.program(PARAMS, X)) is Program
    assert fast.source(PARAMS, X).startswith("def run():")
    rows = fast.profile(PARAMS, X, repeats=2)
    assert rows == sorted(rows, key=lambda row: -row[2])
    assert all(count > 0 and seconds >= 0 for _, count, seconds in rows)
    assert_same(fast(PARAMS, X), step(PARAMS, X))
    assert len(fast.runners) == 1


@given(
    instructions=instructions(OF_WHOLE_NUMBERS * 2 + MOVING),
    results=st.lists(st.integers(0, 30), min_size=2, max_size=6),
)
def test_steps_that_are_drawn(instructions, results):
    """On whole numbers no pass and no order of sums changes a result."""
    several = [[np.rint(2 * a) for a in inputs(np.float64, seed)] for seed in (0, 100, 200)]
    for args in several:
        args[3] = np.asarray(args[3])
    slow = drawn(instructions, results, bound=9.0)
    with blockwise():
        fast = compile(slow)
        for args in (*several, *several):
            for a, b in zip(tree.leaves(fast(*args)), tree.leaves(slow(*args)), strict=True):
                np.testing.assert_array_equal(a, b, strict=True)


# What the caller holds


def churn(fast, *args, calls=20):
    for i in range(calls):
        fast(*tree.tree_map(lambda a, i=i: a + i if isinstance(a, np.ndarray) else a, list(args)))


def test_results_that_are_held_are_never_changed():
    fast, held = compile(step), []
    for seed in range(4 * SETS):
        x = draw(5, 3, seed=seed)
        results = fast(PARAMS, x)
        held.append((results, snapshot(results)))
    churn(fast, PARAMS, X)
    for results, as_they_were in held:
        assert all_same(results, as_they_were)


HOLDS = {
    "one array": lambda r: r["h"][0],
    "a scalar array": lambda r: r["loss"],
    "a slice": lambda r: r["h"][0][1:3],
    "a slice of a slice": lambda r: r["h"][0][1:][:2, ::2],
    "transposed": lambda r: r["h"][0].T,
    "reshaped": lambda r: r["h"][0].reshape(-1),
    "a view of bytes": lambda r: r["h"][0].view(np.uint8),
    "a record view": lambda r: r["h"][0].view(np.recarray),
    "broadcast": lambda r: np.broadcast_to(r["loss"], (3,)),
    "strided": lambda r: np.lib.stride_tricks.as_strided(r["h"][0], (2, 2)),
    "a memoryview": lambda r: memoryview(r["h"][0]),
    "its data": lambda r: r["h"][0].data,
    "from its buffer": lambda r: np.frombuffer(r["h"][0]),
    "asarray": lambda r: np.asarray(r["h"][0]),
    "an iterator": lambda r: r["h"][0].flat,
    "a list": lambda r: [r["params"]["bias"]],
    "rows": lambda r: list(r["h"][0]),
    "a closure": lambda r: (lambda a=r["h"][0]: a),
}  # fmt: skip


def numbers(held):
    if isinstance(held, list):
        return [numbers(each) for each in held]
    if callable(held):
        return held().copy()
    return np.array(held)


@pytest.mark.parametrize("name", HOLDS)
def test_whatever_holds_a_result_keeps_it(name):
    fast = compile(step)
    for seed in range(2):
        held = HOLDS[name](fast(PARAMS, draw(5, 3, seed=seed)))
        before = numbers(held)
        churn(fast, PARAMS, X)
        assert all_same(numbers(held), before)
        del held


def test_memory_of_results_that_nobody_holds_is_used_again():
    fast, seen = compile(step), set()
    for seed in range(50):
        results = fast(PARAMS, draw(5, 3, seed=seed))
        seen.add(results["h"][0].__array_interface__["data"][0])
        previous = results  # two at a time
    assert len(seen) <= 3 and len(runner_of(fast).sets) <= 3
    del results, previous
    held = [fast(PARAMS, X) for _ in range(3 * SETS)]
    assert len(runner_of(fast).sets) == SETS
    del held
    seen = {id(fast(PARAMS, X)["loss"]) for _ in range(50)}
    assert len(seen) <= SETS


def test_a_count_of_references_that_is_off_is_caught(monkeypatch):
    """The tests above can fail: with the count off by one, held results are written over."""
    monkeypatch.setattr(compiled, "ALONE", compiled.ALONE + 1)
    with pytest.raises(AssertionError):
        test_results_that_are_held_are_never_changed()
    monkeypatch.setattr(compiled, "ALONE", compiled.ALONE - 2)
    with pytest.raises(AssertionError):
        test_memory_of_results_that_nobody_holds_is_used_again()


def test_only_one_result_of_many_being_held_keeps_all():
    def two(x):
        return ops.exp(x), ops.tanh(x)

    fast = compile(two)
    held = []
    for seed in range(SETS - 1):
        x = draw(4, seed=seed)
        held.append((x, seed % 2, fast(x)[seed % 2]))
    churn(fast, draw(4))
    for x, which, result in held:
        assert all_same(result, (np.exp, np.tanh)[which](x))


def test_results_may_be_changed_by_their_holder():
    fast = compile(step)
    params = fast(PARAMS, X)["params"]
    params["weight"] *= 2.0
    params["bias"][1:] = 7.0
    as_it_was = snapshot(params)
    for _ in range(3):
        assert_same(fast(params, X), step(as_it_was, X))


CHANGES = {
    "shape": lambda y: setattr(y, "shape", (15,)),
    "flags": lambda y: y.setflags(write=False),
    "dtype": lambda y: setattr(y, "dtype", np.int64),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
def test_what_a_holder_does_to_a_result_does_not_come_back(how):
    fast = compile(lambda x: ops.exp(x))
    for _ in range(2 * SETS):
        y = fast(X)
        assert y.shape == (5, 3) and y.flags.writeable and y.dtype == np.float64
        CHANGES[how](y)
        del y


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
def test_a_result_that_its_holder_gave_another_shape_is_an_argument_like_others():
    fast = compile(lambda x, z: (ops.negative(x), ops.exp(z)))
    x, z = draw(2, 3), draw(6)
    y, _ = fast(x, z)
    y.shape = (6,)
    wanted = -x, np.exp(y)
    assert_same(fast(x, y), wanted)


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
def test_a_result_that_its_holder_gave_another_dtype_is_an_argument_like_others():
    fast = compile(lambda x, n: (ops.negative(x), add(n, 1)))
    x, n = draw(6), np.arange(6)
    y, _ = fast(x, n)
    y.dtype = np.int64
    wanted = -x, y + 1
    assert_same(fast(x, y), wanted)


# Results as arguments


def training(fast, calls=40):
    params = PARAMS
    for seed in range(calls):
        params = fast(params, draw(5, 3, seed=seed % 7))["params"]
    return params


def test_results_are_fed_back():
    assert_same(training(compile(step)), training(step))


def test_results_are_fed_back_while_all_are_held():
    fast, params, held = compile(step), PARAMS, []
    wanted = PARAMS
    for seed in range(3 * SETS):
        results = fast(params, draw(5, 3, seed=seed))
        wanted = step(wanted, draw(5, 3, seed=seed))["params"]
        held.append((results, snapshot(results)))
        params = results["params"]
    assert_same(params, wanted)
    assert all(all_same(a, b) for a, b in held)


@given(st.lists(st.tuples(*[st.integers(0, 11)] * 3), min_size=1, max_size=25))
def test_results_of_several_steps_are_mixed_as_one_likes(picks):
    def one(a, b):
        return ops.multiply(ops.add(a, b), 0.5), ops.tanh(b), a

    def two(a, b):
        return {"y": ops.subtract(a, ops.tanh(b))}

    fast = [compile(one), compile(two), compile(one)]
    slow = [one, two, one]
    pool = [draw(3, 2, seed=i) for i in range(3)]
    plain = [a.copy() for a in pool]
    for which, i, j in picks:
        which, i, j = which % 3, i % len(pool), j % len(pool)
        pool += tree.leaves(fast[which](pool[i], pool[j]))
        plain += tree.leaves(slow[which](plain[i], plain[j]))
        if len(pool) > 12:  # drop some, keep others for long
            del pool[2:7], plain[2:7]
        assert_same(pool, plain)


def test_mixing_arguments_of_many_sets_stays_right_and_bounded():
    def mixed(a, b, c):
        return ops.add(a, b), ops.multiply(b, c), ops.subtract(c, a)

    fast, rng = compile(mixed), np.random.default_rng(0)
    pool = [draw(3, seed=i) for i in range(2 * SETS)]
    for _ in range(200):
        i, j, k = rng.integers(len(pool), size=3)
        results = fast(pool[i], pool[j], pool[k])
        assert_same(results, mixed(pool[i], pool[j], pool[k]))
        pool[rng.integers(len(pool))] = np.tanh(results[0]) if rng.random() < 0.2 else results[1]
        pool = [a if np.abs(a).max() < 100 else draw(3) for a in pool]
    runner = runner_of(fast)
    assert len(runner.bound) <= BOUND and len(runner.sets) <= SETS
    assert len(runner.owned) == sum(len(each.given) for each in runner.sets)


def test_an_id_that_is_used_again_is_another_array():
    """Results that their step has forgotten die, and arrays come into being where they were."""
    fast = compile(lambda x: ops.exp(x))
    held = [fast(X + i) for i in range(3 * SETS)]
    ids = {id(a) for a in held}
    del held
    many = [np.full((5, 3), i / 1000) for i in range(1000)]
    again = [a for a in many if id(a) in ids]
    assert again, "no id was used again; make more arrays"
    for x in again:
        assert_same(fast(x), np.exp(x))


def test_the_same_array_twice():
    def two(x, y):
        return ops.add(x, y), ops.subtract(x, y)

    fast = compile(two)
    assert_same(fast(X, X), two(X, X))
    assert_same(fast(X, 2 * X), two(X, 2 * X))
    z = fast(X, X)[0]
    assert_same(fast(z, z), two(z, z))
    assert_same(fast(z, X), two(z, X))


def test_arguments_that_come_back():
    fast = compile(lambda x, n, y: (x, n, ops.exp(y), x))
    y = draw(3)
    first = fast(X, 2, y)
    assert first[0] is X and first[3] is X and first[1] == 2
    result = first[2]
    as_it_was = result.copy()
    again = fast(X + 1, 3, y)
    assert all_same(again[0], X + 1) and again[1] == 3
    other = compile(lambda x, y: (x, y))(result, X)
    assert other[0] is result
    churn(fast, X, 2, y)
    assert all_same(result, as_it_was)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: np.asfortranarray(a), lambda a: a[::-1], lambda a: np.repeat(a, 2, 0)[::2],
        lambda a: a[:, ::-1], lambda a: np.broadcast_to(a[:1], a.shape), lambda a: a.T.copy().T,
        lambda a: np.frombuffer(b"0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    ],
)  # fmt: skip
def test_arguments_of_other_layouts_and_read_only(change):
    fast = compile(step)
    for params in (PARAMS, tree.tree_map(lambda a: a + 1, PARAMS)):
        x = change(X)
        if x.flags.writeable and x.base is None:
            x.flags.writeable = False
        assert_same(fast(params, x), step(params, x))
    assert len(fast.runners) == 1


def test_views_of_results_as_arguments():
    fast = compile(lambda x: (ops.exp(x), ops.tanh(x)))
    y, z = fast(X)
    assert_same(fast(y[::-1]), (np.exp(y[::-1]), np.tanh(y[::-1])))
    assert_same(fast(z[:]), (np.exp(z), np.tanh(z)))
    half = compile(lambda x: ops.negative(x))(z[:3])
    assert_same(half, -z[:3])


# Other arguments, other programs


def test_other_shapes_dtypes_and_trees_get_programs_of_their_own():
    fast = compile(step)
    cases = [(PARAMS, draw(n, 3)) for n in (1, 5, 2)]
    cases += [(tree.tree_map(lambda a: a.astype(np.float32), PARAMS), X.astype(np.float32))]
    cases += [({"bias": PARAMS["bias"], "weight": PARAMS["weight"]}, X)]
    for _ in range(3):
        for params, x in cases:
            assert_same(fast(params, x), step(params, x))
    assert len(fast.runners) == len(cases)


def test_the_oldest_program_is_forgotten_and_its_results_stay():
    fast = compile(lambda x: ops.exp(x))
    first = fast(draw(1))
    as_it_was = first.copy()
    for _ in range(2):
        for n in range(1, KEPT + 4):
            assert_same(fast(draw(n)), np.exp(draw(n)))
    assert len(fast.runners) == KEPT
    assert all_same(first, as_it_was)


def test_wrong_shapes_are_the_steps_own_error_and_leave_the_rest_working():
    fast = compile(step)
    wanted = fast(PARAMS, X)
    for wrong in [(PARAMS, draw(5, 4)), ({"weight": X}, X), (PARAMS,), (PARAMS, X, X), (X, X)]:
        with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
            fast(*wrong)
    assert_same(fast(PARAMS, X), wanted)
    assert len(fast.runners) == 1


def generic(args):
    """A step that uses whatever is there, and shows how it was nested."""

    def visit(branch):
        if isinstance(branch, dict):
            return {key: visit(child) for key, child in branch.items()}
        if isinstance(branch, tuple) and hasattr(branch, "_fields"):
            return type(branch)(*map(visit, branch))
        if isinstance(branch, (list, tuple)):
            return type(branch)(map(visit, branch))
        if hasattr(branch, "dtype"):
            return ops.add(branch, 1)
        return [repr(branch)]

    return visit(args)


LEAVES = st.sampled_from([
    np.ones(2), np.zeros((2, 1)), np.ones(2, np.float32), np.arange(3), np.array(1.5), np.array(2),
    1.5, 2, True, None, "a", 0.0, 1, False, np.float32(2.5), np.int8(3), 1 + 0j, float, int,
])  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda child: st.one_of(
        st.lists(child, max_size=3), st.lists(child, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", 1, "1"]), child, max_size=3),
        st.tuples(child, child).map(lambda pair: Pair(*pair)),
    ),
    max_leaves=6,
)  # fmt: skip


def described(branch):
    """A tree as text: kinds of nesting, keys in order, arrays with dtype; numbers as arrays."""
    if isinstance(branch, dict):
        return "{" + ", ".join(f"{k!r}: {described(v)}" for k, v in branch.items()) + "}"
    if isinstance(branch, (list, tuple)):
        return f"{type(branch).__name__}({', '.join(map(described, branch))})"
    return f"{branch.dtype}{branch.tolist()}" if hasattr(branch, "dtype") else repr(branch)


def as_arrays(tree_):
    def array(leaf):
        if isinstance(leaf, (int, float, np.generic)) and not isinstance(leaf, bool):
            return np.asarray(leaf, np.int64 if isinstance(leaf, (int, np.integer)) else float)
        return leaf

    return tree.tree_map(array, tree_)


@given(st.lists(TREES, min_size=2, max_size=5))
def test_trees_of_every_nesting(several):
    fast = compile(generic)
    for args in (*several, *several):
        assert described(fast(args)) == described(generic(as_arrays(args)))


def test_trees_that_differ_in_one_thing():
    base = {"a": [np.ones(2), 1.5], "b": (np.zeros(2), None, "x")}
    others = [
        {"a": [np.ones(2), 1.5], "b": (np.zeros(2), None, "y")},
        {"a": [np.ones(2), 1.5], "b": (np.zeros(2), None, "x"), "c": np.ones(1)},
        {"a": [np.ones(2), 1.5]},
        {"a": (np.ones(2), 1.5), "b": (np.zeros(2), None, "x")},
        {"a": [np.ones(2), 1.5, 2.5], "b": (np.zeros(2), None, "x")},
        {"a": [np.ones(2), 1], "b": (np.zeros(2), None, "x")},
        {"a": [np.ones(2), True], "b": (np.zeros(2), None, "x")},
        {"a": [np.ones(2), np.array(1.5)], "b": (np.zeros(2), None, "x")},
        {"a": [np.ones(2), np.ones(1)], "b": (np.zeros(2), None, "x")},
        {"a": Pair(np.ones(2), 1.5), "b": (np.zeros(2), None, "x")},
        {"b": (np.zeros(2), None, "x"), "a": [np.ones(2), 1.5]},
        {"a": [np.ones(3), 1.5], "b": (np.zeros(2), None, "x")},
        {"a": [np.ones(2, int), 1.5], "b": (np.zeros(2), None, "x")},
        {"a": [1.5, np.ones(2)], "b": (np.zeros(2), None, "x")},
        [base, base], {}, [], (), None, base["a"],
    ]  # fmt: skip
    for other in others:
        fast = compile(generic)
        for args in (base, other, base, other):
            assert described(fast(args)) == described(generic(as_arrays(args)))


def test_what_is_equal_but_not_the_same_kind_gets_a_program_of_its_own():
    def shown(x, how):
        return ops.negative(x), "an array" if hasattr(how, "dtype") else repr(how)

    fast = compile(shown)
    for how in (True, 1.0 + 0j, False, 0j, float, int, "1", None):
        for number in (1.0, 1, 0.0):
            assert fast(X, number)[1] == "an array"
        assert fast(X, how)[1] == repr(how)


def test_numbers_are_inputs():
    def scaled(x, rate, n):
        return ops.multiply(x, rate), add(n, 1)

    fast = compile(scaled)
    for rate, n in [(0.5, 1), (2.0, 7), (np.float64(3.0), np.int64(4)), (np.array(0.25), 2)]:
        y, m = fast(X, rate, n)
        assert_same(y, X * rate)
        assert m == n + 1 and m.dtype == np.int64
    for value in (np.inf, -0.0, 1e308, 5e-324):
        assert all_same(fast(X, value, 0)[0], X * value)
    assert np.isnan(fast(X, float("nan"), 0)[0]).all()


def test_arguments_that_cannot_be_taken():
    fast = compile(generic)
    for wrong in ({1, 2}, bytearray(b"12"), [np.ones(2), {3}]):
        with pytest.raises(TypeError, match="what can be hashed. Close over the rest"):
            fast(wrong)
    with pytest.raises(TypeError, match=r"given a Tensor \(shape \(5, 3\)\).*values"):
        fast([track(X)])
    assert described(fast(np.ones(2))) == "float64[2.0, 2.0]"


def test_arrays_of_another_byte_order_are_the_steps_own_error():
    x = X.astype(X.dtype.newbyteorder())
    with pytest.raises(TypeError) as eager:
        step(PARAMS, x)
    with pytest.raises(TypeError) as fast:
        compile(step)(PARAMS, x)
    assert str(fast.value) == str(eager.value)


def test_steps_without_arrays_or_results():
    assert compile(lambda: None)() is None
    assert compile(lambda x: {})(X) == {}
    assert compile(lambda x: [3, "a", (None,)])(X) == [3, "a", (None,)]
    ones = compile(lambda: np.ones(3))
    first = ones()
    first *= 5
    assert all_same(ones(), np.ones(3))
    empty = compile(lambda x: ops.exp(x))
    for _ in range(3):
        assert empty(np.zeros((0, 3))).shape == (0, 3)
        assert_same(empty(np.array(1.0)), np.exp(np.array(1.0)))


# What goes wrong


class Fault(Exception):
    pass


def broken_after(calls):
    """A ufunc's place-holder in the bound functions, which fails after so many calls."""
    count = [0]

    def tanh(*args, **kwargs):
        count[0] += 1
        if count[0] > calls:
            raise Fault
        return np.tanh(*args, **kwargs)

    return tanh


@pytest.mark.parametrize("calls", range(5))
def test_an_error_in_the_middle_of_a_call(calls, monkeypatch):
    def chain(x, n):
        for _ in range(4):
            x = ops.tanh(x)
        return x, ops.exp(x), add(n, 1)

    tanh = broken_after(calls)
    recipe = recipes._ufunc(tanh)
    monkeypatch.setitem(recipes.ELEMENTWISE, ops.tanh, recipe)
    fast, x, held = compile(chain), X.copy(), []
    failed = 0
    for seed in range(2 * SETS):
        try:
            held.append((fast(x, seed), seed))
        except Fault:
            failed += 1
            assert all_same(x, X)
    assert failed >= 2 * SETS - 1
    monkeypatch.undo()
    for results, seed in held:
        assert_same(results, chain(X, np.asarray(seed)))


def test_an_error_in_a_convolution_and_the_next_call(monkeypatch):
    geometry = conv.Geometry(image=(6, 6), kernel=(3, 3), pad=1)

    def convolved(x, w):
        y = conv.conv2d(ops.tanh(x), w, geometry=geometry)
        y = ops.gate(y, y, slope=0.2)
        return y, conv.conv2d_weight_grad(x, y, geometry=geometry)

    fast, x, w = compile(convolved), draw(4, 6, 6, 2), draw(3, 3, 2, 2)
    first = fast(x, w)
    wanted = snapshot(first)
    columns = conv.columns
    for count in (1, 2):
        with threads(count):
            monkeypatch.setattr(conv, "columns", lambda *args: [].pop())
            with pytest.raises(IndexError):
                fast(x + 1, w)
            monkeypatch.setattr(conv, "columns", columns)
            assert all_same(first, wanted)
            assert_same(fast(x, w), wanted)
            assert_same(fast(x + 1, w), convolved(x + 1, w))


@pytest.mark.parametrize("when", range(4))
def test_an_error_between_the_blocks_of_a_batch_whose_mean_is_gathered(when, monkeypatch):
    g = conv.Geometry(image=(4, 4), kernel=(3, 3), pad=1)

    def normalised(x, w, scale, shift):
        y = norms.batch_norm(conv.conv2d(x, w, geometry=g), scale, shift)
        return ops.gate(y, y, slope=0.2)

    args = draw(7, 4, 4, 2), draw(3, 3, 2, 2), draw(2), draw(2, seed=1)
    wanted = normalised(*args)
    gather, count = Statistics.__call__, [0]

    def failing(self, i, j):
        gather(self, i, j)
        count[0] += 1
        if count[0] == when + 1:
            raise Fault

    with blockwise():
        monkeypatch.setattr(conv, "PAYS", 1)
        fast = compile(normalised)
        monkeypatch.setattr(Statistics, "__call__", failing)
        with threads(3):
            for _ in range(2):
                try:
                    assert_same(fast(*args), wanted)
                except Fault:
                    pass
        assert count[0] > 3
        for threads_ in (2, 3, 1):
            with threads(threads_):
                assert_same(fast(*args), wanted)


def test_an_error_while_recording():
    bad = [True]

    def failing(x):
        y = ops.exp(x)
        if bad[0]:
            raise Fault
        return y

    fast = compile(failing)
    for _ in range(2):
        with pytest.raises(Fault):
            fast(X)
    bad[0] = False
    assert_same(fast(X), np.exp(X))


def interrupted(fast, args, delay):
    """Whether Ctrl-C, so many seconds from now, came in the middle of a call."""

    def handler(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        try:
            for _ in range(10_000):
                fast(*args)
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("count", [None, 2])
def test_ctrl_c_in_the_middle_of_a_call(count, monkeypatch):
    fast = compile(step)
    params, x = tree.tree_map(np.copy, PARAMS), X.copy()
    held = fast(params, x)
    wanted = snapshot(held)
    monkeypatch.setattr(gc, "callbacks", [])  # an interrupt within one would be lost
    with threads(count) if count else pytest.MonkeyPatch.context():
        for i in range(25):
            assert interrupted(fast, (held["params"], x), 0.002 + i * 0.00013)
            assert all_same(held, wanted) and all_same(params, PARAMS) and all_same(x, X)
            assert_same(fast(PARAMS, X), wanted)
    runner = runner_of(fast)
    assert set(runner.owned) == {id(a) for each in runner.sets for a in each.given}


LAYER = conv.Geometry(image=(4, 4), kernel=(3, 3), pad=1)
HALVES = {  # steps of one group each, of which a second thread has a half
    "a group": lambda x, w: ops.tanh(ops.multiply(ops.add(x, 1.0), 2.0)),
    "behind a convolution": lambda x, w: ops.tanh(conv.conv2d(x, w, geometry=LAYER)),
}


@pytest.mark.parametrize("name", HALVES)
def test_ctrl_c_while_a_second_thread_is_at_work(name, monkeypatch):
    """It comes while this thread waits for the other: nobody writes any more when it is raised."""
    x, w = draw(6, 4, 4, 2), draw(3, 3, 2, 2)
    here, made, ended, late = threading.get_ident(), threading.Event(), [], [False]
    work = cpu._Group.__call__

    def slow(self, i, j):
        if not late[0]:
            return work(self, i, j)
        if threading.get_ident() == here:
            work(self, i, j)
            return made.set()
        assert made.wait(10)
        time.sleep(0.05)  # until this part is waited for
        signal.pthread_kill(here, signal.SIGINT)
        time.sleep(0.1)
        work(self, i, j)
        ended.append((i, j))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with blockwise(block=1 << 10), threads(2):
            monkeypatch.setattr(conv, "PAYS", 1)
            monkeypatch.setattr(cpu, "BLOCK", x.size // 2)
            eager = HALVES[name]
            fast = compile(eager)
            held = fast(x, w)
            wanted = snapshot(held)
            monkeypatch.setattr(cpu._Group, "__call__", slow)
            for turn in range(2):
                made.clear()
                late[0] = True
                with pytest.raises(KeyboardInterrupt):
                    fast(x + 1, w)
                assert len(ended) == turn + 1
                late[0] = False
                assert_same(fast(x - turn, w), eager(x - turn, w))
                assert all_same(held, wanted)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", HALVES)
def test_ctrl_c_that_leaves_a_thread_at_work_is_caught(name, monkeypatch):
    def leaves(others):
        for other in others:
            other.exception()

    monkeypatch.setattr(parallel, "_wait_for_all", leaves)
    with pytest.raises(AssertionError):
        test_ctrl_c_while_a_second_thread_is_at_work(name, monkeypatch)


def test_an_interrupt_at_every_place_of_the_bookkeeping():
    """Raised before each of the instructions that a call executes in compiled.py, one by one."""
    file = compiled.__file__
    skipped = {"__call__"}  # where the lock is taken and given back, which Python does as one

    def run(n, call):
        """Whether the call met the n-th instruction, and was ended there."""
        count = [0]

        def tracer(frame, event, arg):
            if frame.f_code.co_filename != file or frame.f_code.co_name in skipped:
                return tracer if frame.f_code.co_filename == file else None
            frame.f_trace_opcodes = True
            if event == "opcode":
                count[0] += 1
                if count[0] == n:
                    raise KeyboardInterrupt
            return tracer

        sys.settrace(tracer)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    def small(x, y):
        return ops.tanh(x), ops.add(x, y)

    x, y = draw(3), draw(3, seed=1)
    n, met = 0, True
    while met:
        n += 1
        fast = compile(small)
        held = [fast(x + i, y) for i in range(SETS)]  # the next call forgets one of them
        wanted = snapshot(held)

        met = run(n, lambda fast=fast, held=held: fast(held[2][0], held[1][1]))
        assert all_same(held, wanted), n
        dropped = held.pop(0)
        ids = [id(a) for a in dropped]
        del dropped
        reborn = [np.full(3, float(i)) for i in range(5)]
        for a in [*reborn, held[1][0], held[-1][1]]:
            assert_same(fast(a, y), small(a, y))
        runner = runner_of(fast)
        alive = {id(a) for each in runner.sets for a in each.given}
        assert set(runner.owned) <= alive, (n, ids)
    assert n > 50


# Threads


def test_several_threads_call_one_step():
    fast, wrong = compile(step), []

    def work(which):
        params, plain = PARAMS, PARAMS
        held = []
        for i in range(25):
            x = draw(5 + i % 2, 3, seed=10 * which + i)
            results, wanted = fast(params, x), step(plain, x)
            held.append((results, snapshot(results)))
            params, plain = results["params"], wanted["params"]
            try:
                assert_same(results, wanted)
            except AssertionError as error:
                wrong.append(error)
        wrong.extend(1 for a, b in held if not all_same(a, b))

    several = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in several:
            thread.start()
        for thread in several:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert not wrong


def test_the_threads_of_a_block():
    g = conv.Geometry(image=(8, 8), kernel=(3, 3), pad=1)

    def wide(x, w):
        y = conv.conv2d(x, w, geometry=g)
        y = ops.gate(y, y, slope=0.2)
        z = ops.tanh(ops.multiply(y, x))
        return y, z, conv.conv2d_weight_grad(z, y, geometry=g), ops.sum(z)

    x, w = draw(6, 8, 8, 4), draw(3, 3, 4, 4)
    with pytest.MonkeyPatch.context() as patch, blockwise(large=64, block=256, pays=512):
        patch.setattr(conv, "PAYS", 1)
        fast = compile(wide)
        bits = {}
        for _ in range(2):
            for count in (1, 2, 3):
                with threads(count):
                    results = fast(x, w)
                    assert_same(results, wide(x, w))
                    assert all_same(results, bits.setdefault(count, snapshot(results)))
            assert_same(fast(x, w), wide(x, w))
        assert len(fast.runners) == 1


def test_threads_within_a_step_are_those_of_the_recording():
    def threaded(x):
        with threads(2):
            return ops.tanh(ops.exp(x))

    fast = compile(threaded)
    for count in (1, 2):
        with threads(count), blockwise():
            assert_same(fast(X + count), np.tanh(np.exp(X + count)))


def test_many_blocks_of_threads_leave_nothing_behind():
    with blockwise():
        fast = compile(lambda x: ops.tanh(ops.exp(x)))
        x = draw(8, 8)
        for i in range(40):
            with threads(2 + i % 2):
                fast(x)
        counts = [len(runner_of(fast).plan.temporaries)]
        for i in range(40):
            with threads(2 + i % 2):
                fast(x)
        counts.append(len(runner_of(fast).plan.temporaries))
    assert counts[1] <= counts[0] + 8


# Steps within steps, copies


def test_a_compiled_step_within_a_step():
    inner = compile(lambda p, x: ops.tanh(ops.matmul(x, p)))

    def outer(p, x):
        return ops.sum(ops.square(inner(p, x)))

    w = draw(3, 3)
    for _ in range(2):
        assert_same(outer(w, X), np.sum(np.tanh(X @ w) ** 2))
    fast = compile(outer)
    for i in range(3):
        assert_same(fast(w + i, X), np.sum(np.tanh(X @ (w + i)) ** 2))


def test_who_observes_sees_the_calls_of_a_compiled_step():
    fast, seen = compile(lambda x: ops.tanh(ops.exp(x))), []
    fast(X)
    with observe(lambda op, args, params, out: seen.append(op.__name__)):
        assert_same(fast(X), np.tanh(np.exp(X)))
    assert seen == ["exp", "tanh"]


def test_a_compiled_step_within_itself():
    def countdown(x, n):
        return x if n == "" else fast(ops.tanh(x), n[1:])

    fast = compile(countdown)
    found = []
    worker = threading.Thread(target=lambda: found.append(fast(X, "abc")), daemon=True)
    worker.start()
    worker.join(5)
    assert not worker.is_alive(), "it waits for itself"
    assert_same(found[0], np.tanh(np.tanh(np.tanh(X))))


def module_step(x):
    return ops.exp(x)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))]
)
def test_copies_record_anew(copied):
    fast = compile(module_step)
    y = fast(X)
    other = copied(fast)
    z = other(X)
    assert all_same(y, z) and not np.shares_memory(y, z)
    for i in range(3):
        assert_same(other(X + i), np.exp(X + i))
        assert_same(fast(X - i), np.exp(X - i))
    assert all_same(z, np.exp(X))


# A steady state


def game(units=16):
    pair = models.mlp_pair(2, 2, units, 2)
    adam = optim.Adam(1e-2, (0.5, 0.9))
    return GAN(*pair, adam, adam, losses.WASSERSTEIN, penalties.one_gp(0.1), one_batch=True)


def iteration_of(gan):
    def iteration(players, real, z, alpha):
        players, c = critic_step(gan, players, real, z, (alpha,))
        players, g = generator_step(gan, players, z)
        return players, c.loss, c.penalty, g.loss

    return iteration


@pytest.mark.parametrize("small", [-1, USERS_SMALL])
def test_memory_is_flat(small, monkeypatch):
    monkeypatch.setattr(compiled, "SMALL", small)
    fast, params, gc_was = compile(step), PARAMS, gc.isenabled()
    xs = [draw(5, 3, seed=i) for i in range(3)]
    for i in range(20):
        params = fast(params, xs[i % 3])["params"]
    gc.disable()  # what it frees is not of the calls
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(2000):
            params = fast(params, xs[i % 3])["params"]
        assert tracemalloc.get_traced_memory()[0] - before < 4096
    finally:
        tracemalloc.stop()
        if gc_was:
            gc.enable()
    runner = runner_of(fast)
    assert len(runner.sets) <= 3 and len(runner.bound) <= BOUND


def memory_of_a_call(call):
    """Bytes that a call has in use at most at once, beside those in use before it."""
    gc_was = gc.isenabled()
    gc.disable()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        if gc_was:
            gc.enable()


BUFFERS = 100_000  # bytes: NumPy's own, where it broadcasts, and what Python holds of a call


@pytest.mark.parametrize("units", [16, 64])
def test_no_large_array_is_made_in_a_steady_state(units, monkeypatch):
    """Not even for a moment: the arrays of this step are more than twice as large as the bound."""
    monkeypatch.setattr(compiled, "SMALL", USERS_SMALL)
    fast, players = compile(iteration_of(game(units))), game(units).init(Stream(0))
    rows = 4096 // units * 16
    batch = [draw(rows, n, dtype=np.float32) for n in (2, 2, 1)]
    assert rows * units * 4 > 2 * BUFFERS
    for _ in range(8):
        players = fast(players, *batch)[0]
    for _ in range(3):
        assert memory_of_a_call(lambda: fast(players, *batch)) < BUFFERS


def test_an_array_that_is_made_and_freed_within_a_call_is_seen():
    """A primitive without a recipe makes its result by itself, and it is copied."""
    fast, x = compile(lambda x: ops.tanh(ops.power(x, 1.5))), np.ones(100_000, np.float32)
    for _ in range(3):
        fast(x)
    assert memory_of_a_call(lambda: fast(x)) > x.nbytes > 2 * BUFFERS


def test_training_by_a_compiled_step_follows_the_eager_one():
    gan = game()
    iteration = iteration_of(gan)
    fast, players = compile(iteration), gan.init(Stream(0))
    for i in range(30):
        batch = [draw(16, n, seed=i, dtype=np.float32) for n in (2, 2, 1)]
        wanted = iteration(players, *batch)
        assert_same(fast(players, *batch), wanted)
        players = wanted[0]


# Faults, planted


def test_a_set_that_is_never_given_up_is_caught(monkeypatch):
    monkeypatch.setattr(compiled._Results, "free", lambda self: True)
    with pytest.raises(AssertionError):
        test_results_that_are_held_are_never_changed()


def test_views_that_do_not_hold_their_array_are_caught(monkeypatch):
    """A memoryview is looked through: views of an array on it rest on what it shows."""

    def arrays(values):
        ours = [np.empty(v.shape, v.dtype) for v in values]
        return ours, [np.ndarray(a.shape, a.dtype, memoryview(a)) for a in ours]

    monkeypatch.setattr(compiled, "_arrays", arrays)
    with pytest.raises(AssertionError):
        test_whatever_holds_a_result_keeps_it("a slice")


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # whatever lies in dead memory
def test_ids_that_are_not_forgotten_are_caught(monkeypatch):
    monkeypatch.setattr(Runner, "_forget", lambda self, old: None)
    with pytest.raises(AssertionError):
        test_mixing_arguments_of_many_sets_stays_right_and_bounded()
    with pytest.raises(AssertionError):
        test_an_id_that_is_used_again_is_another_array()


def test_a_function_bound_to_other_arrays_is_caught(monkeypatch):
    bind = Runner._bind

    def first(self, given, results):
        for bound in self.bound.values():
            return bound
        return bind(self, given, results)

    monkeypatch.setattr(Runner, "_bind", first)
    with pytest.raises(AssertionError):
        test_results_are_fed_back()
    with pytest.raises(AssertionError):
        test_a_compiled_step_is_the_step()

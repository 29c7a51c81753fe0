"""Passes over programs: each rule by itself, whole training steps, and programs that are drawn."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import record_dcgan_step as recorder
from hypothesis import given
from hypothesis import strategies as st

from tinygan import losses, models, ops, optim, penalties, tree
from tinygan.backend import Stream
from tinygan.engine import Tensor, grad_values, track
from tinygan.parallel import Scratch
from tinygan.replay import Value, algebra, cpu, evaluate, passes, trace
from tinygan.replay.merge import merge_batches
from tinygan.replay.passes import (
    common_subexpressions,
    dead_code,
    fold_constants,
    optimise,
    report,
    table,
)
from tinygan.train import GAN, critic_step, generator_step

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38, -3e38, 1.0]
BITWISE = [one for one in dict.fromkeys(passes.PASSES) if one is not merge_batches]


@pytest.fixture(scope="module", autouse=True)
def tensors_hold_the_arrays_they_are_given(tracked_arrays_are_read_only):
    """The recorder follows arrays by identity, and makes them read-only itself."""
    wrapped = Tensor.__init__
    Tensor.__init__ = inspect.getclosurevars(wrapped).nonlocals.get("build", wrapped)
    yield
    Tensor.__init__ = wrapped


def same_bits(a, b):
    """Equal in every bit, signs of zeros too; a NaN is as good as another."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    nan = np.isnan(a)
    same = (a == b) & (np.signbit(a) == np.signbit(b))
    return bool(np.where(nan, np.isnan(b), same).all())


def equal(a, b):
    """Equal as numbers: −0 is 0."""
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


def agree(program, other, *args, by=same_bits):
    """Whether two programs give the same for these arguments."""
    with np.errstate(all="ignore"):
        pairs = zip(
            tree.leaves(evaluate(program, *args)), tree.leaves(evaluate(other, *args)), strict=True
        )
        return all(by(np.asarray(a), np.asarray(b)) for a, b in pairs)


def draw(*shape, seed=0, dtype=np.float32):
    """Normal numbers among which each special one stands about as often as it can."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=shape).astype(dtype)
    special = rng.permutation(np.resize(SPECIAL, a.size)).reshape(shape).astype(dtype)
    return np.where(rng.random(shape) < 0.3, special, a)


def plain(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def names(program):
    return [line.op.__name__ for line in program.lines]


def snapshot(program):
    return (
        tuple(program.lines), list(program.constants.items()), program.inputs, program.outputs,
        [(line.op, line.args, dict(line.params), line.result) for line in program.lines],
    )  # fmt: skip


def apply(one, program):
    """The program after a pass, with a look at the program itself: no pass changes it."""
    before = snapshot(program)
    after = one(program)
    assert snapshot(program) == before
    return after


def by_rule(step, *args, rule=None, by=same_bits):
    """The names of the calls left by a rule, or by all, once the results are the same."""
    rules = algebra.RULES if rule is None else (rule,)
    program = trace(step, *args)

    def one(program):
        return algebra.rewrite(program, rules)

    after = apply(one, program)
    assert agree(program, after, *args, by=by)
    once_more = algebra.rewrite(after, rules)
    if rule is None:
        assert dead_code(once_more).lines == dead_code(algebra.simplify(once_more)).lines
    return names(dead_code(after))


# Dead code and constants


def test_dead_code_takes_lines_and_constants_that_nobody_needs():
    kept, lost = plain(3), plain(3, seed=1)

    def step(a):
        ops.exp(ops.multiply(a, lost))
        return ops.add(a, kept)

    program = trace(step, plain(3))
    after = apply(dead_code, program)
    assert names(program) == ["multiply", "exp", "add"]
    assert names(after) == ["add"]
    assert [a.tolist() for a in after.constants.values()] == [kept.tolist()]
    assert agree(program, after, draw(3))


def test_dead_code_leaves_inputs_that_nobody_needs():
    program = trace(lambda a, b: ops.exp(a), plain(3), plain(4))
    after = dead_code(program)
    assert after.inputs == program.inputs
    assert agree(program, after, draw(3), draw(4))


def test_constants_are_folded():
    c = plain(3)

    def step(a):
        return ops.add(a, ops.exp(ops.multiply(ops.broadcast_to(c, shape=(2, 3)), 2.0)))

    program = trace(step, plain(2, 3))
    after = apply(fold_constants, program)
    assert names(after) == ["add"]
    assert agree(program, after, draw(2, 3))
    assert names(dead_code(after)) == ["add"] and len(dead_code(after).constants) == 1


def test_a_folded_constant_is_no_view_of_another():
    c = plain(6, 4)
    program = trace(lambda a: ops.add(a, ops.index(c, at=slice(1, 3))), plain(2, 4))
    after = fold_constants(program)
    arrays = list(after.constants.values())
    assert len(arrays) == 2 and not np.shares_memory(*arrays)
    assert all(a.flags.c_contiguous for a in arrays)


def test_a_large_constant_is_not_made_of_a_small_one():
    small, large = plain(1, 1024), plain(512, 1024)

    def step(a):
        spread = ops.broadcast_to(small, shape=(512, 1024))
        return ops.add(ops.gate(spread, a, slope=0.0), ops.exp(large))

    program = trace(step, plain(512, 1024))
    assert names(fold_constants(program)) == ["broadcast_to", "gate", "add"]


def test_a_result_of_the_program_stays_a_line():
    c = plain(3)
    program = trace(lambda a: (ops.exp(c), ops.exp(a)), plain(3))
    assert names(optimise(program)) == ["exp", "exp"]


def test_folding_says_nothing_about_overflow():
    c = np.full(3, 3e38, np.float32)
    program = trace(lambda a: ops.add(a, ops.multiply(c, 10.0)), plain(3))
    assert names(fold_constants(program)) == ["add"]


# Common subexpressions


def test_equal_calls_are_made_once():
    def step(a, b):
        first = ops.exp(ops.add(a, b))
        second = ops.exp(ops.add(b, a))
        return ops.subtract(first, ops.multiply(second, 2.0))

    program = trace(step, plain(3), plain(3, seed=1))
    after = apply(common_subexpressions, program)
    assert names(after) == ["add", "exp", "multiply", "subtract"]
    assert agree(program, after, draw(3), draw(3, seed=2))


@pytest.mark.parametrize(
    "step",
    [
        lambda a, b: (ops.subtract(a, b), ops.subtract(b, a)),
        lambda a, b: (ops.maximum(a, b), ops.maximum(b, a)),
        lambda a, b: (ops.multiply(a, 0.0), ops.multiply(a, -0.0)),
        lambda a, b: (ops.gate(a, b, slope=0.0), ops.gate(a, b, slope=0.5)),
        lambda a, b: (ops.matmul(a, b, ta=True), ops.matmul(a, b, tb=True)),
        lambda a, b: (ops.index(a, at=(slice(0, 2),)), ops.index(a, at=(slice(1, 3),))),
    ],
)
def test_calls_that_differ_are_both_made(step):
    def sums(a, b):
        return [ops.multiply(y, 3.0) for y in step(a, b)]

    program = trace(sums, plain(3, 3), plain(3, 3, seed=1))
    assert len(common_subexpressions(program).lines) == 4


def test_arrays_among_static_arguments_are_compared_whole():
    def step(a):
        return ops.add(ops.index(a, at=(0,)), ops.index(a, at=(1,)))

    program = trace(step, plain(5000))
    at = np.arange(5000), np.arange(5000)
    for last in (4999, 0):
        at[1][2500] = 2500 if last else 0  # repr leaves the middle out
        first, second = (
            replace(line, params={"at": i}) for line, i in zip(program.lines, at, strict=False)
        )
        with_arrays = program.with_lines([first, second, program.lines[2]])
        assert len(common_subexpressions(with_arrays).lines) == (2 if last else 3)


def test_static_arguments_left_out_are_those_by_default():
    def step(a, b):
        return ops.add(ops.matmul(a, b), ops.square(ops.matmul(a, b, ta=False, tb=False)))

    program = trace(step, plain(3, 3), plain(3, 3, seed=1))
    assert names(common_subexpressions(program)) == ["matmul", "square", "add"]


def test_equal_results_stay_two_arrays():
    program = trace(lambda a: [ops.exp(a), ops.exp(a), ops.negative(ops.negative(a))], plain(3))
    after = apply(optimise, program)
    assert names(after) == ["exp", "broadcast_to", "broadcast_to"]
    assert len(after.outputs) == 3 and not set(after.outputs) & set(after.inputs)
    assert agree(program, after, draw(3))
    assert optimise(after) is not None and names(optimise(after)) == names(after)


def test_one_array_twice_among_the_results_stays_one():
    def step(a):
        y = ops.negative(ops.negative(ops.exp(a)))
        return y, {"again": y}

    program = trace(step, plain(3))
    after = optimise(program)
    assert names(after) == ["exp"] and len(after.outputs) == 1
    assert agree(program, after, draw(3))


def test_lines_of_a_pass_say_where_they_come_from():
    def step(w, x):
        t = track(w)
        y = ops.sum(ops.matmul(x, ops.transpose(ops.negative(ops.negative(t)))))
        return grad_values(y, t)

    program = trace(step, plain(3, 4), plain(2, 4))
    after = optimise(program)
    known = {(line.phase, line.layer, line.source) for line in program.lines}
    assert {(line.phase, line.layer, line.source) for line in after.lines} <= known


# The rules


def transposed(a, **how):
    return ops.transpose(a, **how)


def test_broadcasts_of_broadcasts():
    rule = algebra.nested_broadcasts

    def step(a, m):
        same = ops.broadcast_to(a, shape=(3, 1))
        twice = ops.broadcast_to(ops.broadcast_to(same, shape=(3, 4)), shape=(2, 3, 4))
        return ops.gate(twice, m, slope=0.0)

    left = by_rule(step, draw(3, 1), draw(2, 3, 4), rule=rule)
    assert left == ["broadcast_to", "gate"]


def left_factor(a, b):
    return ops.matmul(transposed(a), b)


def right_factor_of_many(a, b):
    return ops.matmul(a, transposed(b, axes=(0, -1, 1)), ta=True)


def test_a_transposed_factor_becomes_a_flag():
    rule = algebra.transposed_factor
    assert by_rule(left_factor, plain(5, 3), plain(5, 4), rule=rule) == ["matmul"]
    program = algebra.simplify(trace(left_factor, plain(5, 3), plain(5, 4)))
    assert dead_code(program).lines[0].params["ta"] is True
    many = plain(2, 5, 3), plain(2, 4, 5)
    assert by_rule(right_factor_of_many, *many, rule=rule) == ["matmul"]


def test_a_flag_and_a_transpose_cancel():
    def step(a, b):
        return ops.matmul(transposed(a), transposed(b), ta=True, tb=True)

    program = trace(step, plain(3, 5), plain(5, 4))
    (line,) = dead_code(algebra.simplify(program)).lines
    assert line.params == {"ta": False, "tb": False}
    assert agree(program, algebra.simplify(program), plain(3, 5, seed=2), plain(5, 4, seed=3))


def test_another_order_of_axes_is_no_flag():
    def step(a, b):
        return ops.matmul(transposed(a, axes=(1, 0, 2)), b)

    left = by_rule(step, plain(4, 2, 3), plain(2, 3, 5), rule=algebra.transposed_factor)
    assert left == ["transpose", "matmul"]


SUMS = {
    "all": lambda a: ops.sum(ops.broadcast_to(a, shape=(5, 3, 1, 7))),
    "some": lambda a: ops.sum(ops.broadcast_to(a, shape=(5, 3, 4, 7)), axis=(0, 2, -1)),
    "kept": lambda a: ops.sum(
        ops.broadcast_to(a, shape=(5, 3, 4, 7)), axis=(0, 2, 3), keepdims=True
    ),
    "to": lambda a: ops.sum_to(ops.broadcast_to(a, shape=(5, 3, 4, 7)), shape=(3, 1, 1)),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_of_a_broadcast_is_a_product_and_rounds_less(name):
    a = plain(3, 1, 1) if name != "all" else plain(1)[0].reshape(())
    program = trace(SUMS[name], a)
    after = dead_code(algebra.rewrite(program, (algebra.sum_of_broadcast,)))
    assert "multiply" in names(after) and "broadcast_to" not in names(after)
    exact = evaluate(trace(SUMS[name], a.astype(np.float64)), a.astype(np.float64))
    ours, eager = evaluate(after, a), evaluate(program, a)
    assert ours.shape == eager.shape and ours.dtype == eager.dtype
    assert abs(ours - exact).max() <= abs(exact).max() * 2.0**-24
    assert abs(eager - exact).max() <= abs(exact).max() * 140 * 2.0**-24


@pytest.mark.parametrize(
    "step",
    [
        lambda a: ops.sum(ops.broadcast_to(a, shape=(2, 3)), axis=1),
        lambda a: ops.sum(ops.broadcast_to(a, shape=(4, 2, 3)), axis=(0, 2)),
        lambda a: ops.sum_to(ops.broadcast_to(a, shape=(2, 3)), shape=(2, 1)),
        lambda a: ops.sum(ops.broadcast_to(a, shape=(0, 1, 3)), axis=0),
    ],
)
def test_a_sum_over_other_axes_than_a_broadcasts_stays(step):
    left = by_rule(step, plain(1, 3), rule=algebra.sum_of_broadcast)
    assert left == ["broadcast_to", left[1]]


def test_elementwise_calls_broadcast_by_themselves():
    rule = algebra.broadcast_operands

    def full(a, b):
        return ops.maximum(ops.broadcast_to(a, shape=(2, 3, 4)), b)

    def row_and_column(a, b):
        return ops.ratio(ops.broadcast_to(a, shape=(3, 4)), ops.broadcast_to(b, shape=(3, 4)))

    def smaller(a, b):
        return ops.exp(ops.multiply(ops.broadcast_to(a, shape=(2, 3, 4)), 2.0))

    a, b = draw(3, 1), draw(2, 3, 4, seed=1)
    assert by_rule(full, a, b, rule=rule) == ["maximum"]
    assert by_rule(row_and_column, a, draw(4), rule=rule) == ["ratio"]
    assert by_rule(smaller, a, b, rule=rule) == ["multiply", "exp", "broadcast_to"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "op", sorted(algebra.ELEMENTWISE, key=lambda op: op.__name__), ids=lambda op: op.__name__
)
def test_each_elementwise_call_of_a_broadcast_is_the_broadcast_of_the_call(op, dtype):
    count = op.fn.__code__.co_argcount
    how = {"power_number": {"exponent": 1.5}, "clip": {"low": -1.0, "high": 0.5}}
    how |= {"inside": how["clip"]}

    def step(*args):
        spread = [ops.broadcast_to(a, shape=(7, 37)) for a in args]
        if op is ops.where:
            spread[0] = ops.broadcast_to(ops.greater(args[0], 0.0), shape=(7, 37))
        return op(*spread, **how.get(op.__name__, {}))

    args = [draw(37, seed=i, dtype=dtype) for i in range(count)]
    left = by_rule(step, *args, rule=algebra.broadcast_operands)
    assert left[-1] == "broadcast_to" and left.count("broadcast_to") == 1
    columns = [draw(7, 1, seed=9, dtype=dtype), *args[1:]]
    left = by_rule(step, *columns, rule=algebra.broadcast_operands)
    assert left.count("broadcast_to") == (1 if count == 1 else 0)


def test_a_uniform_constant_is_a_number():
    rule = algebra.uniform_constant
    tenth = np.full((3, 4), 0.1, np.float32)

    def step(a, row):
        wide = ops.subtract(tenth, row)
        return ops.gate(ops.divide(ops.multiply(a, tenth), tenth), wide, slope=0.0)

    left = by_rule(step, draw(3, 4), draw(4), rule=rule)
    assert left == ["subtract", "broadcast_to", "multiply", "divide", "gate"]
    program = dead_code(algebra.rewrite(trace(step, plain(3, 4), plain(4)), (rule,)))
    assert not program.constants and program.lines[0].args[0] == float(np.float32(0.1))


@pytest.mark.parametrize(
    "constant",
    [
        np.array([0.0, -0.0], np.float32),
        np.array([1.0, np.nan], np.float32),
        np.array([np.nan, np.nan], np.float32),
        np.zeros((0, 2), np.float32),
    ],
    ids=str,
)
def test_a_constant_that_is_no_one_float_stays_an_array(constant):
    program = trace(lambda a: ops.multiply(a, constant), plain(2))
    assert algebra.rewrite(program, (algebra.uniform_constant,)) is program


def test_a_constant_of_integers_stays_an_array():
    counts = np.array([2, 2])
    program = trace(lambda a: ops.multiply(a, counts), np.arange(2))
    assert algebra.rewrite(program, (algebra.uniform_constant,)) is program


def test_neutral_numbers_go():
    def step(a):
        return ops.subtract(ops.divide(ops.multiply(ops.multiply(1.0, ops.exp(a)), 1), 1.0), 0.0)

    assert by_rule(step, draw(4, 5)) == ["exp"]
    rule = algebra.neutral_number
    assert by_rule(lambda a: ops.add(a, 0.0), draw(9), rule=rule) == ["add"]
    assert by_rule(lambda a: ops.subtract(a, -0.0), draw(9), rule=rule) == ["subtract"]
    counts = np.arange(3)
    assert by_rule(lambda a: ops.multiply(a, 1.0), counts, rule=rule) == ["multiply"]  # a float


def test_a_number_stands_second():
    def step(a):
        return ops.add(3.0, ops.multiply(2.0, a))

    program = algebra.rewrite(trace(step, plain(3)), (algebra.number_second,))
    assert [line.args[1] for line in program.lines] == [2.0, 3.0]
    assert agree(trace(step, plain(3)), program, draw(9)[:3])
    rule = algebra.number_second
    assert by_rule(lambda a: ops.subtract(2.0, a), draw(9), rule=rule) == ["subtract"]


def test_powers_of_two_join_the_next_factor():
    rule = algebra.doubled_factor

    def step(a):
        return ops.multiply(ops.multiply(a, -4.0), 0.1)

    small = draw(400)
    small[np.isfinite(small) & (abs(small) > 1e37)] = 1.5
    assert by_rule(step, small, rule=rule) == ["multiply"]
    tiny = (2.0 ** np.arange(-149, -100)).astype(np.float32)
    assert by_rule(step, tiny, rule=rule) == ["multiply"]
    # What is lost: nothing but an infinity on the way.
    large, program = np.full(3, 3e38, np.float32), trace(step, plain(3))
    with np.errstate(over="ignore"):
        assert np.isinf(evaluate(program, large)).all()
    assert np.isfinite(evaluate(dead_code(algebra.rewrite(program, (rule,))), large)).all()


@pytest.mark.parametrize("c, d", [(3.0, 0.1), (0.5, 0.1), (2.0, 1e-40), (2.0, 3e38), (2.0, 0.0)])
def test_other_factors_round_and_stay(c, d):
    def step(a):
        return ops.multiply(ops.multiply(a, c), d)

    left = by_rule(step, draw(40), rule=algebra.doubled_factor)
    assert left == ["multiply", "multiply"]


def test_negatives():
    def twice(a):
        return ops.exp(ops.negative(ops.negative(a)))

    def sums(a, b):
        one = ops.add(a, ops.negative(b))
        two = ops.add(ops.negative(ops.exp(a)), ops.exp(b))
        three = ops.subtract(ops.tanh(a), ops.negative(ops.tanh(b)))
        return one, two, three, ops.add(ops.negative(ops.sqrt(a)), 1.0)

    def products(a, b):
        one = ops.multiply(ops.negative(a), ops.negative(b))
        two = ops.multiply(ops.negative(ops.exp(a)), 0.3)
        return one, two, ops.negative(ops.multiply(ops.exp(b), 0.3))

    both = draw(200), draw(200, seed=1)
    assert by_rule(twice, both[0], rule=algebra.double_negative) == ["exp"]
    left = by_rule(sums, *both, rule=algebra.sum_with_negative)
    assert "negative" not in left and left.count("subtract") == 3 and left.count("add") == 1
    left = by_rule(products, *both, rule=algebra.product_of_negatives)
    assert "negative" not in left and left.count("multiply") == 3


def test_negatives_that_stay():
    def step(a, b):
        return (
            ops.subtract(ops.negative(a), b),
            ops.multiply(ops.negative(a), b),
            ops.negative(ops.subtract(a, b)),  # b − a would be 0 for −0
        )

    both = draw(200), draw(200, seed=1)
    assert by_rule(step, *both).count("negative") == 2  # −a is made once


def test_slices_are_written_one_way():
    def step(a):
        parts = [a[:2], a[0:2], a[-5:2], a[slice(0, 2), :], a[:2, 0:]]
        return [ops.multiply(part, float(i)) for i, part in enumerate(parts)]

    def tracked(a):
        return [y.data for y in step(track(a))]

    left = by_rule(tracked, plain(5, 3), rule=algebra.plain_slices)
    assert left.count("index") == 1
    for at in [
        (slice(1, 3), slice(0, 2)),
        (slice(None, None, 2),),
        (slice(None, None, -1),),
        (1,),
        (Ellipsis, slice(0, 2)),
    ]:
        assert by_rule(lambda a, at=at: ops.index(a, at=at), draw(5, 3)) == ["index"]


def test_parts_of_parts():
    rule = algebra.part_of_parts

    def part_of_part(a):
        return ops.exp(ops.index(ops.index(a, at=slice(1, 6)), at=(slice(1, 3), slice(None))))

    def whole(a):
        return ops.exp(ops.index(a, at=(slice(None), slice(0, 9))))

    def two_axes(a):
        return ops.exp(ops.index(ops.index(a, at=slice(1, 6)), at=(slice(None), slice(1, 2))))

    def part_of_joined(a, b):
        return ops.exp(ops.index(ops.concatenate(a, b, axis=1), at=(slice(None), slice(4, 6))))

    def across(a, b):
        return ops.exp(ops.index(ops.concatenate(a, b, axis=1), at=(slice(None), slice(2, 6))))

    def part_of_placed(a, b):
        placed = ops.place(a, at=slice(2, 9), shape=(11, 3))
        return ops.exp(ops.index(placed, at=slice(2, 9)))

    a, b = draw(7, 3), draw(7, 5, seed=1)
    assert by_rule(part_of_part, a, rule=rule) == ["index", "exp"]
    assert by_rule(whole, a, rule=rule) == ["exp"]
    assert by_rule(two_axes, a, rule=rule) == ["index", "index", "exp"]
    assert by_rule(part_of_joined, a, b, rule=rule) == ["index", "exp"]
    assert by_rule(across, a, b, rule=rule) == ["concatenate", "index", "exp"]
    assert by_rule(part_of_placed, a, b, rule=rule) == ["exp"]


def test_joined_parts():
    rule = algebra.joined_parts

    def all_of_it(a):
        parts = [ops.index(a, at=slice(i, i + 2)) for i in (0, 2, 4)]
        return ops.exp(ops.concatenate(ops.concatenate(*parts[:2]), parts[2]))

    def some_of_it(a):
        parts = [ops.index(a, at=(slice(None), slice(i, i + 1))) for i in (0, 1, 0)]
        return ops.exp(ops.concatenate(*parts, axis=-1))

    def swapped(a):
        return ops.exp(ops.concatenate(ops.index(a, at=slice(3, 6)), ops.index(a, at=slice(0, 3))))

    def other_axis(a):
        return ops.exp(
            ops.concatenate(ops.index(a, at=slice(0, 3)), ops.index(a, at=slice(3, 6)), axis=1)
        )

    def two_axes(a):
        pair = ops.concatenate(ops.exp(a), a, axis=1)
        return ops.concatenate(pair, ops.concatenate(a, a, axis=1))

    a = draw(6, 3)
    assert by_rule(two_axes, a, rule=rule) == ["exp", *["concatenate"] * 3]
    rules = (rule, algebra.part_of_parts)
    program = trace(all_of_it, a)
    after = algebra.rewrite(program, rules)
    assert names(dead_code(after)) == ["exp"] and agree(program, after, a)
    assert by_rule(all_of_it, a) == ["exp"]
    assert by_rule(some_of_it, a, rule=rule) == ["index", "index", "concatenate", "exp"]
    assert "concatenate" in by_rule(swapped, a)
    assert "concatenate" in by_rule(other_axis, a)
    assert by_rule(lambda a: ops.exp(ops.concatenate(a)), a, rule=rule) == ["exp"]


def test_places_that_are_added_are_joined():
    rule = algebra.joined_places

    def halves(a, b):
        first = ops.place(a, at=slice(2, 5), shape=(5, 3))
        return ops.add(first, ops.place(b, at=slice(None, 2), shape=(5, 3)))

    def thirds(a, b):
        at = [(slice(None), slice(i, i + 3)) for i in (0, 3, 6)]
        y = ops.add(*(ops.place(x, at=i, shape=(3, 9)) for x, i in zip((a, a), at, strict=False)))
        return ops.add(y, ops.place(ops.exp(a), at=at[2], shape=(3, 9)))

    def apart(a, b):
        first = ops.place(a, at=slice(3, 6), shape=(6, 3))
        return ops.add(first, ops.place(b, at=slice(0, 2), shape=(6, 3)))

    def over(a, b):
        first = ops.place(a, at=slice(1, 4), shape=(4, 3))
        return ops.add(first, ops.place(b, at=slice(0, 2), shape=(4, 3)))

    def crossed(a, b):
        rows = ops.place(b, at=slice(0, 2), shape=(5, 5))
        return ops.add(rows, ops.place(a, at=(slice(None), slice(2, 5)), shape=(5, 5)))

    assert by_rule(crossed, draw(5, 3), draw(2, 5), rule=rule) == ["place", "place", "add"]
    a, b = draw(3, 3), draw(2, 3, seed=1)
    assert by_rule(halves, a, b, rule=rule, by=equal) == ["concatenate"]
    assert by_rule(thirds, a, b, by=equal) == ["exp", "concatenate"]
    assert by_rule(apart, a, b, rule=rule) == ["place", "place", "add"]
    assert by_rule(over, a, b, rule=rule) == ["place", "place", "add"]


def test_what_slices_leave_behind_in_a_gradient_goes():
    def step(a):
        t = track(a)
        upper, lower = t[:3], t[3:]
        return grad_values(ops.sum(ops.square(upper)) + ops.sum(ops.exp(lower)), t)

    left = names(optimise(trace(step, plain(5, 2))))
    assert left == ["index", "exp", "index", "multiply", "concatenate"]


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("own", [0.0, 0.2, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gate_is_opened_by_the_activation(own, slope, dtype):
    def step(m, g):
        x = ops.multiply(m, 0.5)
        y = ops.gate(x, x, slope=own)
        return y, ops.gate(g, x, slope=slope)

    m = np.repeat(np.array(SPECIAL, dtype), 20)
    program = trace(step, m, m)
    after = algebra.rewrite(program, (algebra.mask_of_activation,))
    assert after.lines[2].args[1] is after.lines[1].result
    for seed in range(3):
        assert agree(program, after, m, draw(len(m), seed=seed, dtype=dtype))


def test_masks_that_stay():
    def below(m, g):  # −2m is positive where m is not
        return ops.gate(m, m, slope=-2.0), ops.gate(g, m, slope=0.0)

    def later(m, g):
        return ops.gate(g, m, slope=0.0), ops.gate(m, m, slope=0.0)

    def of_itself(m, g):  # gate(y, y) would be a maximum: 0 and not −0
        y = ops.gate(m, m, slope=0.2)
        return y, ops.gate(y, m, slope=0.0)

    for step in (below, later, of_itself):
        program = trace(step, plain(50), plain(50, seed=1))
        assert algebra.simplify(program) is program
        assert agree(program, program, draw(50), draw(50))


def test_every_rule_has_a_source_of_its_own_and_says_whether_it_is_exact():
    assert len(set(algebra.RULES)) == len(algebra.RULES)
    for rule in algebra.RULES:
        assert "xact" in rule.__doc__ or "Not the same bits" in rule.__doc__, rule.__name__


def test_an_exact_rule_that_is_wrong_is_caught():
    def drops_a_sign(writer, line):
        return line.args[0] if line.op is ops.negative else None

    def reads_no_flag(writer, line):
        turn = writer.by(line.args[0], ops.transpose)
        params = line.params | {"ta": True}
        return turn and writer.call(
            line.op, (turn.args[0], line.args[1]), line.result.shape, params
        )

    def adds_zero(writer, line):
        return line.args[0] if line.op is ops.add and line.args[1] == 0 else None

    program = trace(lambda a: ops.negative(ops.exp(a)), plain(5))
    assert not agree(program, algebra.rewrite(program, (drops_a_sign,)), plain(5))
    program = trace(lambda a, b: ops.matmul(transposed(a), b, ta=True), *[plain(4, 4)] * 2)
    assert not agree(program, algebra.rewrite(program, (reads_no_flag,)), *[plain(4, 4)] * 2)
    program = trace(lambda a: ops.exp(ops.add(ops.sign(a), 0.0)), plain(5))
    assert agree(program, algebra.rewrite(program, (adds_zero,)), plain(5))
    program = trace(lambda a: ops.add(ops.multiply(a, 1.5), 0.0), plain(5))
    zeros = np.array([0.0, -0.0, 1, 2, 3], np.float32)
    assert not agree(program, algebra.rewrite(program, (adds_zero,)), zeros)
    assert agree(program, algebra.rewrite(program, (adds_zero,)), zeros, by=equal)


# Whole steps


def toy(loss, penalty, optimizer, one_batch=False, clip=None):
    g, d = models.mlp_pair(2, 2, 16, 2)
    return GAN(g, d, optimizer, optimizer, loss, penalty, one_batch=one_batch, clip=clip)


def dcgan(name):
    game = recorder.GAMES[name]
    g, d = models.dcgan32(width=1 / 16, **({} if game.norm else {"norm": None}))
    adam = optim.Adam(game.rate, game.betas)
    if game.penalty is None:
        return GAN(g, d, adam, adam, losses.NON_SATURATING)
    return GAN(g, d, adam, adam, losses.WASSERSTEIN, penalties.one_gp(10.0))


SGD, ADAM = optim.SGD(1e-2), optim.Adam(1e-3, (0.5, 0.9))
ZERO_GP = penalties.zero_gp(10.0, ops.sigmoid)
STEPS = {
    "0-gp, sgd": lambda: toy(losses.NON_SATURATING, ZERO_GP, SGD),
    "0-gp, one batch, adam": lambda: toy(losses.NON_SATURATING, ZERO_GP, ADAM, one_batch=True),
    "wgan-gp, adam": lambda: toy(losses.WASSERSTEIN, penalties.one_gp(0.1), ADAM),
    "wgan-gp, one batch, sgd": lambda: toy(
        losses.WASSERSTEIN, penalties.one_gp(10.0), SGD, one_batch=True
    ),
    "one-sided": lambda: toy(losses.MINIMAX, penalties.lp(), SGD),
    "wgan, clipped, rmsprop": lambda: toy(losses.WASSERSTEIN, None, optim.RMSProp(1e-3), clip=0.1),
    "dcgan, wgan-gp": lambda: dcgan("wgan-gp"),
    "dcgan, batch norm": lambda: dcgan("batch norm"),
}


def iteration(name, dtype):
    """A step of both players as a function of arrays, and arguments for it, twice."""
    gan, image = STEPS[name](), name.startswith("dcgan")

    def step(players, real, z, noise, other_z, rate):
        players, critic = critic_step(gan, players, real, z, noise, rate)
        players, generator = generator_step(gan, players, other_z, rate)
        return players, critic.loss, critic.penalty, generator.loss

    def arguments(seed):
        stream, n = Stream(seed), 3 if image else 12
        players = gan.init(stream.child(0), dtype)
        real = stream.normal((n, 32, 32, 3) if image else (n, 2), dtype)
        z, other_z = (stream.normal((n, 100 if image else 2), dtype) for _ in range(2))
        noise = gan.penalty.draw(stream, real) if gan.penalty else ()
        return players, real, z, noise, other_z, 1e-3

    return step, arguments(0), arguments(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", STEPS)
def test_passes_keep_every_bit_of_a_training_step(name, dtype):
    step, first, second = iteration(name, dtype)
    program = trace(step, *first)
    with np.errstate(all="ignore"):
        expected = tree.leaves(step(*second))
    lines = len(program.lines)
    for one in (*BITWISE, dead_code):
        program = apply(one, program)
        found = tree.leaves(evaluate(program, *second))
        for a, b in zip(found, expected, strict=True):
            assert a is b is None or same_bits(np.asarray(a), np.asarray(b)), one.__name__
    assert len(program.lines) < lines
    assert algebra.simplify(program) is program
    assert names(dead_code(program)) == names(program)


@pytest.mark.parametrize("name", STEPS)
def test_all_passes_keep_a_training_step_to_rounding(name):
    step, first, second = iteration(name, np.float64)
    after = apply(optimise, trace(step, *first))
    for a, b in zip(tree.leaves(evaluate(after, *second)), tree.leaves(step(*second)), strict=True):
        if a is not None:
            assert np.max(abs(a - b)) <= 1e-11 * max(1.0, np.max(abs(b)))


def test_what_the_passes_are_for_is_gone_from_a_step():
    step, first, _ = iteration("0-gp, one batch, adam", np.float32)
    program = trace(step, *first)
    after = program
    for one in (*BITWISE, dead_code):
        after = one(after)
    before, left = program.counts(), after.counts()
    assert before["place"] == 2 and "place" not in left
    assert before["broadcast_to"] > 5 and "broadcast_to" not in left
    assert before["negative"] > 5 and left["negative"] <= 4
    masks = [
        line.args[1] for line in after.lines if line.op is ops.gate and len(set(line.args)) > 1
    ]
    activations = {line.result for line in after.lines if line.op is ops.gate}
    assert masks and set(masks) <= activations


# Other arrays than NumPy's


def test_constants_stay_on_their_device(xp):
    half = xp.asarray(np.full((3, 4), 0.5, np.float32))
    row = xp.asarray(np.arange(4, dtype=np.float32))

    def step(a):
        wide = ops.exp(ops.broadcast_to(row, shape=(3, 4)))
        return ops.add(ops.multiply(ops.exp(a), half), wide)

    after = optimise(trace(step, xp.asarray(plain(3, 4))))
    assert names(after) == ["exp", "multiply", "add"] and after.lines[1].args[1] == 0.5
    (wide,) = after.constants.values()
    np.testing.assert_allclose(xp.get(wide), np.exp(np.tile(np.arange(4.0), (3, 1))), 1e-6)


# The report


def test_the_report_has_a_row_for_each_pass():
    step, first, _ = iteration("0-gp, sgd", np.float32)
    program = trace(step, *first)
    rows = report(program)
    assert [row.name for row in rows] == [
        "as traced",
        *[one.__name__.replace("_", " ") for one in passes.PASSES],
        "share masks",
        "fuse",
        "memory in turns",
    ]
    after, run = optimise(program), cpu.Plan(optimise(program), Scratch())
    assert rows[0][1:] == (len(program.lines), program.flops, program.nbytes)
    assert rows[-4][1:] == (len(after.lines), after.flops, after.nbytes)
    assert rows[-4].lines < rows[0].lines
    assert rows[-2][1:] == (len(run.program.lines), run.program.flops, run.program.nbytes)
    assert rows[-1].nbytes == run.storage.nbytes < after.nbytes
    text = table(rows)
    assert len(text.splitlines()) == len(rows) + 1 and "fold constants" in text
    assert len({len(line) for line in text.splitlines()}) == 1


# Programs that are drawn


SIZES = st.sampled_from([1, 2, 3, 4])
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -4.0, 0.1, 3.0])
UNARY = [ops.negative, ops.square, ops.abs, ops.sign, ops.sqrt, ops.exp]
BINARY = [ops.add, ops.subtract, ops.multiply, ops.divide, ops.ratio]


@st.composite
def moves(draw, shape):
    """(primitive, static arguments) of one argument of that shape, which moves its elements."""
    kind = draw(st.sampled_from(["reshape", "transpose", "index", "broadcast", "relu"]))
    if kind == "reshape":
        shapes = [shape[::-1], (-1,), (*shape, 1), (1, *shape), shape]
        return ops.reshape, {"shape": draw(st.sampled_from(shapes))}
    if kind == "transpose":
        return ops.transpose, {"axes": tuple(draw(st.permutations(range(len(shape)))))}
    if kind == "index":
        at = []
        for n in shape[: draw(st.integers(0, len(shape)))]:
            start = draw(st.integers(0, n - 1))
            stop = draw(st.one_of(st.none(), st.integers(start + 1, n)))
            at.append(slice(draw(st.sampled_from([start, start - n])), stop))
        return ops.index, {"at": tuple(at)}
    if kind == "broadcast":
        axis = shape.index(1) if 1 in shape else len(shape)
        to = (*shape[:axis], 3, *shape[axis + 1 :]) if 1 in shape else (2, *shape)
        return ops.broadcast_to, {"shape": to}
    return ops.gate, {"slope": 0.2}


class Drawn:
    """A step whose calls are drawn while it is traced, and then made again."""

    def __init__(self, data, calls, zeros_have_signs):
        self.data, self.calls, self.zeros_have_signs = data, calls, zeros_have_signs
        self.made = None

    def __call__(self, *args):
        found = list(args)
        if self.made is not None:
            for op, positions, params in self.made:
                found.append(op(*[found[p] if type(p) is int else p for p in positions], **params))
            return found[-1], found[-2], found[len(args)]
        self.made = []
        for _ in range(self.calls):
            self._call(found)
        return found[-1], found[-2], found[len(args)]

    def _call(self, found):
        draw = self.data.draw
        last = st.integers(max(0, len(found) - 5), len(found) - 1)
        i = draw(last)
        kind = draw(st.sampled_from(["move", "move", "unary", "number", "binary", "join", "place"]))
        if kind == "place" and self.zeros_have_signs:
            kind = "join"
        if kind == "move" and len(found[i].shape) < 4:
            op, params = draw(moves(found[i].shape))
            return self._make(found, op, (i, i) if op is ops.gate else (i,), params)
        if kind == "number":
            op, number = draw(st.sampled_from(BINARY[:3])), draw(NUMBERS)
            return self._make(found, op, draw(st.permutations([i, number])), {})
        fitting = [k for k, b in enumerate(found) if self._meet(found[i].shape, b.shape)]
        if kind == "binary":
            j = draw(st.sampled_from(fitting))
            op = draw(st.sampled_from(BINARY if self.zeros_have_signs else BINARY[:3]))
            return self._make(found, op, draw(st.permutations([i, j])), {})
        if kind == "join" and found[i].ndim:
            axis = draw(st.integers(0, found[i].ndim - 1))
            if found[i].shape[axis] > 1 and draw(st.booleans()):  # cut here to be joined here
                cut = draw(st.integers(1, found[i].shape[axis] - 1))
                lead = (slice(None),) * axis
                self._make(found, ops.index, (i,), {"at": (*lead, slice(cut))})
                self._make(found, ops.index, (i,), {"at": (*lead, slice(cut, None))})
                pair = draw(st.permutations([len(found) - 2, len(found) - 1]))
                return self._make(found, ops.concatenate, pair, {"axis": axis})
            return self._make(found, ops.concatenate, (i, i), {"axis": axis})
        if kind == "place" and found[i].ndim and len(found[i]) > 1:
            whole, cut = found[i].shape, draw(st.integers(1, len(found[i]) - 1))
            sum_of = []
            for at in (slice(0, cut), slice(cut, None)):
                self._make(found, ops.index, (i,), {"at": at})
                self._make(found, ops.place, (len(found) - 1,), {"at": at, "shape": whole})
                sum_of.append(len(found) - 1)
            return self._make(found, ops.add, draw(st.permutations(sum_of)), {})
        return self._make(found, draw(st.sampled_from(UNARY)), (i,), {})

    def _make(self, found, op, positions, params):
        self.made.append((op, tuple(positions), params))
        found.append(op(*[found[p] if type(p) is int else p for p in positions], **params))

    def _meet(self, a, b):
        try:
            np.broadcast_shapes(a, b)
        except ValueError:
            return False
        return True


@pytest.mark.parametrize("zeros_have_signs", [True, False])
@given(data=st.data(), seed=st.integers(0, 1 << 20))
def test_drawn_programs_keep_their_results(zeros_have_signs, data, seed):
    rng = np.random.default_rng(seed)
    shapes = data.draw(st.lists(st.lists(SIZES, min_size=1, max_size=3), min_size=2, max_size=3))
    args = [
        rng.choice([0.0, -0.0, 1.0, -1.0, 0.1, 2.5, -7.0, np.inf, np.nan], tuple(shape))
        for shape in shapes
    ]
    step = Drawn(data, data.draw(st.integers(2, 14)), zeros_have_signs)
    with np.errstate(all="ignore"):
        step(*args)
        program = trace(step, *args)
    for one in passes.PASSES:
        after = apply(one, program)
        assert agree(program, after, *args, by=same_bits if zeros_have_signs else equal)
        program = after
    assert all(type(a) is Value for a in program.outputs)

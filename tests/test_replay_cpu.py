"""The CPU's runner: recipes, storage and groups give what the calls give, bit for bit."""

import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_ops import SAMPLES

from tinygan import conv, losses, models, norms, ops, optim, penalties, tree
from tinygan.backend import Stream
from tinygan.conv import Geometry, conv2d, conv2d_transpose, conv2d_weight_grad
from tinygan.engine import add, broadcast_to, grad, grad_values, stop_gradient, sum_to, track
from tinygan.parallel import Scratch, threads
from tinygan.replay import Value, cpu, evaluate, fuse, masks, recipes, storage, trace
from tinygan.replay.passes import optimise
from tinygan.train import GAN, critic_step, generator_step

pytestmark = pytest.mark.numpy_path("a runner of its own")

SPECIAL = [
    0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-310, 1e38, -3e38, 90.0, -90.0
]  # fmt: skip


def same_bits(a, b):
    """Equal in every bit, signs of zeros too; a NaN is as good as another."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    same = (a == b) & (np.signbit(a) == np.signbit(b))
    return bool(np.where(np.isnan(a), np.isnan(b), same).all())


def all_same(found, expected):
    pairs = zip(tree.leaves(found), tree.leaves(expected), strict=True)
    return all(same_bits(a, b) for a, b in pairs)


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def special(*shape, seed=0, dtype=np.float64):
    """Normal numbers, and the special ones among them."""
    rng = np.random.default_rng([seed, *shape])
    with np.errstate(over="ignore"):
        a = np.where(rng.random(shape) < 0.5, rng.choice(SPECIAL, shape), rng.normal(size=shape))
        return np.asarray(a).astype(dtype)


class Run:
    """A program bound to memory; a call fills all memory with NaN before it runs."""

    def __init__(self, program):
        self.program = program
        self.plan = cpu.Plan(program, Scratch())
        self.inputs = [
            storage.aligned(v.nbytes).view(v.dtype).reshape(v.shape) for v in program.inputs
        ]
        self.made = self.plan.storage.results
        self.results = [storage.aligned(v.nbytes).view(v.dtype).reshape(v.shape) for v in self.made]
        self.function, self.source, self.calls = self.plan.bind(self.inputs, self.results)[:3]

    def __call__(self, *args):
        given = [
            a
            for a, v in zip(tree.leaves(args), tree.leaves(self.program.arguments), strict=True)
            if type(v) is Value
        ]
        for place, a in zip(self.inputs, given, strict=True):
            place[...] = a
        rooms = [b for room in self.plan.scratch.rooms for b in room.buffers.values()]
        for memory in (*self.plan.memory, *rooms, *self.plan.temporaries.values()):
            memory.reshape(-1).view(np.uint8)[...] = 255
        for y in self.results:
            y.reshape(-1).view(np.uint8)[...] = 255
        with np.errstate(all="ignore"):
            self.function()
        found = dict(self.program.constants)
        found.update(zip(self.program.inputs, self.inputs, strict=True))
        found.update(zip(self.made, self.results, strict=True))
        return tree.tree_map(
            lambda v: found[v].copy() if type(v) is Value else v, self.program.results
        )


def expected(program, *args):
    with np.errstate(all="ignore"):
        return evaluate(program, *args)


def agrees(program, *args):
    """Whether the program replayed, twice, gives what its lines give one by one."""
    run = Run(program)
    wanted = expected(program, *args)
    return all_same(run(*args), wanted) and all_same(run(*args), wanted)


@contextmanager
def blockwise(large=2, block=4, pays=6):
    """Groups and blocks already for arrays of a few numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuse, "LARGE", large)
        patch.setattr(cpu, "BLOCK", block)
        patch.setattr(cpu, "PAYS", pays)
        yield


def assert_agrees_in_all_ways(step, *args):
    """Alone, in groups, in small blocks, on one to three threads."""
    program = trace(step, *args)
    assert agrees(program, *args)
    with blockwise():
        assert agrees(program, *args)
        for count in (1, 2, 3):
            with threads(count):
                assert agrees(program, *args), f"{count} threads"


# Every primitive


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.label)
def test_every_sample_of_a_primitive_and_its_gradient(s, dtype):
    inputs = [np.asarray(a, dtype) if np.asarray(a).dtype.kind == "f" else a for a in s.inputs]

    def step(*xs):
        tracked = [track(x) if x.dtype.kind == "f" else x for x in xs]
        wanted = [x for x in tracked if hasattr(x, "edges")]
        y = s.call(*tracked)
        if not hasattr(y, "edges"):
            return y
        return y.data, grad_values(ops.sum(ops.multiply(y, y)), wanted)

    program = trace(step, *inputs)
    assert agrees(program, *inputs)
    with blockwise():
        assert agrees(program, *inputs)


UNARY = [
    ops.negative, ops.square, ops.exp, ops.expm1, ops.log, ops.log1p, ops.sqrt, ops.rsqrt, ops.tanh,
    ops.sigmoid, ops.softplus, ops.sign, ops.abs,
]  # fmt: skip
BINARY = [add, ops.subtract, ops.multiply, ops.divide, ops.maximum, ops.minimum, ops.ratio]
WITH_PARAMS = [
    *[(ops.gate, {"slope": s}, 2) for s in (0, 0.0, 0.2, 1, 1.0, 0.5, -0.5, 1.5)],
    *[(masks.gate_mask, {"slope": s}, 1) for s in (0, 0.2, 1.0)],
    *[(optim.accumulate, {"momentum": m}, 2) for m in (0.0, 0.9)],
    *[(op, {"decay": d}, 2) for op in (optim.blend, optim.blend_square) for d in (0.9, 0.0)],
]
CALLS = [
    *[(op, {}, 1) for op in UNARY], *[(op, {}, 2) for op in BINARY], *WITH_PARAMS,
    (optim.descend, {}, 3), (optim.descend_scaled, {"eps": 1e-8}, 5),
]  # fmt: skip
each_call = pytest.mark.parametrize(
    "op, params, arity", CALLS, ids=[f"{op.__name__}{list(p.values())}" for op, p, _ in CALLS]
)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


def arguments(op, arity, shape, dtype, seed=0):
    """Special numbers; what an optimiser is given as rate and root are 0-d."""
    found = [special(*shape, seed=seed + i, dtype=dtype) for i in range(arity)]
    if op is optim.descend:
        found[2] = np.asarray(0.1, dtype)
    if op is optim.descend_scaled:
        found[3:] = [np.asarray(0.1, dtype), np.asarray(1.5, dtype)]
    return found


def test_every_elementwise_recipe_is_called():
    assert {op for op, _, _ in CALLS} == set(recipes.ELEMENTWISE)


@each_dtype
@each_call
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (7,), (67,), (5, 3), (2, 3, 5)], ids=str)
def test_elementwise_recipes_on_special_numbers(op, params, arity, shape, dtype):
    args = arguments(op, arity, shape, dtype)
    program = trace(lambda *xs: op(*xs, **params), *args)
    assert agrees(program, *args)
    with blockwise():
        assert agrees(program, *args)


@each_dtype
@pytest.mark.parametrize("op", [*BINARY, ops.gate], ids=lambda op: op.__name__)
@pytest.mark.parametrize(
    "shapes",
    [
        ((4, 3), (3,)), ((3,), (4, 3)), ((4, 3), (4, 1)), ((4, 1), (1, 3)), ((4, 3), ()),
        ((), (4, 3)), ((2, 4, 3), (4, 1)), ((4, 3), (1, 1)), ((1,), (4, 1)), ((0, 3), (3,)),
        ((4, 3), (4, 3)), ((2, 2, 2), (2, 2)), ((2, 2, 2), (2, 1, 1)), ((1, 4), (3, 1, 4)),
    ],
    ids=str,
)  # fmt: skip
def test_broadcasting(op, shapes, dtype):
    args = [special(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    params = {"slope": 0.2} if op is ops.gate else {}
    program = trace(lambda a, b: ops.negative(op(a, b, **params)), *args)
    assert agrees(program, *args)
    with blockwise():
        assert agrees(program, *args)
        with threads(2):
            assert agrees(program, *args)


@each_dtype
@pytest.mark.parametrize(
    "op", [op for op in BINARY if op is not ops.ratio], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("x", [0.0, -0.0, 2, 0.1, -3.5, np.inf, 1e-50, 1e300, np.nan], ids=str)
def test_numbers_among_the_arguments(op, x, dtype):
    a = special(5, 4, dtype=dtype)
    with np.errstate(all="ignore"):  # 1e300 is no float32
        program = trace(lambda a: (op(a, x), op(x, a)), a)
        assert agrees(program, a)
        with blockwise():
            assert agrees(program, a)


def test_the_same_number_beside_arrays_of_two_dtypes():
    def step(x, y):
        return ops.multiply(x, 0.1), ops.multiply(y, 0.1), ops.sigmoid(x), ops.sigmoid(y)

    assert_agrees_in_all_ways(step, draw(4, 3, dtype=np.float32), draw(4, 3))
    assert_agrees_in_all_ways(step, draw(4, 3), draw(4, 3, dtype=np.float32))


# In the memory of an argument


def in_place_of(op, params, k, args):
    """(whether the result shares memory with argument k, whether all is as it should be)."""

    def step(*xs):
        xs = list(xs)
        xs[k] = ops.negative(xs[k])  # a value of the program's own, that dies at the call
        return ops.negative(op(*xs, **params))

    program = trace(step, *args)
    run = Run(program)
    line = program.lines[1]
    buffers = run.plan.storage.buffer_of
    shared = buffers[line.args[k]] == buffers[line.result]
    return shared, all_same(run(*args), expected(program, *args))


@each_dtype
@each_call
def test_a_result_in_the_memory_of_each_argument(op, params, arity, dtype):
    for k in range(arity):
        args = arguments(op, arity, (6, 5), dtype)
        if args[k].ndim == 0 or (op is ops.gate and not 0 <= params["slope"] <= 1):
            continue
        shared, right = in_place_of(op, params, k, args)
        assert shared and right


def test_a_recipe_that_writes_too_early_is_caught(monkeypatch):
    def subtract(emit, y, a, b):
        emit(np.negative, b, out=y)
        emit(np.add, y, a, out=y)

    args = [special(6, 5), special(6, 5, seed=1)]
    monkeypatch.setitem(recipes.ELEMENTWISE, ops.subtract, subtract)
    assert in_place_of(ops.subtract, {}, 0, args) == (True, False)


def test_a_value_that_is_used_again_is_not_written_over():
    def step(x):
        y = ops.exp(x)
        z = ops.tanh(y)
        return ops.add(ops.negative(z), ops.square(y))

    x = draw(4, 3)
    assert_agrees_in_all_ways(step, x)


def test_arguments_and_constants_are_not_written_to():
    constant = draw(4, 3, seed=5)
    kept = constant.copy()

    def step(x, y):
        return ops.negative(ops.exp(ops.add(ops.exp(x), constant))), ops.tanh(y)

    x, y = draw(4, 3), draw(4, 3, seed=1)
    program = trace(step, x, y)
    with blockwise():
        run = Run(program)
        run(x, y)
        assert same_bits(run.inputs[0], x) and same_bits(run.inputs[1], y)
        assert all(same_bits(a, kept) for a in run.plan.program.constants.values())


def test_a_view_of_a_dying_value_keeps_it():
    def step(x):
        y = ops.exp(x)
        v = ops.reshape(y, shape=(3, 4))
        z = ops.tanh(ops.negative(x))  # the last use of y itself was before
        return ops.add(ops.reshape(z, shape=(3, 4)), ops.square(v)), ops.index(v, at=slice(1, None))

    assert_agrees_in_all_ways(step, draw(4, 3))


# The rest, each in its ways


GEOMETRIES = [
    Geometry(image=(6, 5), kernel=(3, 3), stride=1, pad=1),
    Geometry(image=(8, 8), kernel=(4, 4), stride=2, pad=1),
    Geometry(image=(4, 4), kernel=(4, 4)),
    Geometry(image=(5, 5), kernel=(2, 3), stride=(2, 1), pad=((1, 0), (0, 2))),
]


@each_dtype
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["3x3", "4x4/2", "whole", "odd"])
def test_convolutions_with_what_follows_them(geometry, bias, dtype):
    x = draw(5, *geometry.image, 2, dtype=dtype)
    z = draw(5, *geometry.grid, 3, seed=1, dtype=dtype)
    w, b, c = (draw(*s, seed=2, dtype=dtype) for s in [(*geometry.kernel, 2, 3), (3,), (2,)])

    def step(x, z, w, b, c):
        y = conv2d(x, w, *[b][:bias], geometry=geometry)
        y = ops.gate(y, y, slope=0.2)
        image = conv2d_transpose(z, w, *[c][:bias], geometry=geometry)
        image = ops.multiply(ops.gate(image, x, slope=0.2), 2.0)
        return ops.add(y, z), image, conv2d_weight_grad(image, y, geometry=geometry)

    assert_agrees_in_all_ways(step, x, z, w, b, c)


@each_dtype
def test_products(dtype):
    shapes = [(6, 4), (4, 5), (5, 4), (4, 1), (1, 6), (5,)]
    args = [draw(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]

    def step(a, b, c, column, row, v):
        return (
            ops.matmul(a, b), ops.matmul(a, c, tb=True), ops.matmul(column, row),
            ops.matmul(row, row, ta=True), ops.affine(a, b, v), ops.matmul(ops.stack(a, a), b),
            ops.matmul(a, column), ops.matmul(row, a), ops.matmul(a, a, ta=True),
            ops.matmul(b, column, ta=True),
        )  # fmt: skip

    assert_agrees_in_all_ways(step, *args)


@each_dtype
@pytest.mark.parametrize("rows", [1, 5, 1023, 1024, 1025, 3000])
def test_sums_over_rows(rows, dtype):
    x = draw(rows, 3, dtype=dtype)

    def step(x):
        y = ops.exp(x)
        return sum_to(y, shape=(3,)), ops.sum(y, axis=0), ops.sum(y), sum_to(y, shape=())

    program = trace(step, x)
    assert agrees(program, x)


@each_dtype
def test_sums_to_other_shapes(dtype):
    x = special(2, 3, 4, dtype=dtype)

    def step(x):
        y = ops.negative(x)
        shapes = [(), (4,), (1,), (3, 4), (1, 4), (3, 1), (2, 1, 1), (1, 3, 4), (2, 3, 4)]
        sums = [
            ops.sum(y, axis=a, keepdims=k) for a in (0, -1, (0, 2), None) for k in (False, True)
        ]
        return [sum_to(y, shape=s) for s in shapes], sums

    assert_agrees_in_all_ways(step, x)


@each_dtype
@pytest.mark.parametrize("shape", [(5, 4), (1, 7), (3, 1), (2, 3, 4)], ids=str)
def test_other_recipes_on_special_numbers(shape, dtype):
    def step(x, y):
        z = ops.negative(x)
        axes = (None, 0, -1, tuple(range(len(shape))))
        return (
            [f(z, axis=a, keepdims=k) for f in (ops.norm, ops.sum) for a in axes for k in (0, 1)],
            ops.clip(z, low=-0.5), ops.clip(z, low=-1.0, high=1e30), ops.matmul(z, y, tb=True),
            sum_to(z, shape=shape[-1:]), ops.max(z, axis=0), ops.concatenate(z, y, axis=-1),
        )  # fmt: skip

    with np.errstate(all="ignore"):
        for seed in range(4):
            args = special(*shape, seed=seed, dtype=dtype), special(*shape, seed=9, dtype=dtype)
            assert_agrees_in_all_ways(step, *args)
            zeros = -np.zeros(shape, dtype), np.zeros(shape, dtype)  # z is +0: −0 adds up to 0
            assert_agrees_in_all_ways(step, *zeros)


def test_views_copies_and_parts():
    def step(x, rows):
        y = ops.exp(x)
        t = ops.transpose(y)
        parts = [ops.tanh(x), ops.index(y, at=slice(1, 3)), ops.negative(x)]
        whole = ops.concatenate(*parts)
        beside = ops.concatenate(y, ops.square(y), axis=1)
        placed = ops.place(t, at=(slice(1, 4), slice(0, 4)), shape=(5, 6))
        return {
            "transposed": t, "copied": ops.reshape(t, shape=(12,)), "whole": whole,
            "beside": beside, "placed": placed, "part": ops.index(whole, at=slice(3, 6)),
            "stacked": ops.stack(y, parts[0], axis=1), "rows": ops.gather(y, rows),
            "stopped": stop_gradient(y), "wide": broadcast_to(ops.index(y, at=0), shape=(2, 3)),
            "clipped": ops.clip(y, low=0.5, high=1.5),
            "turned": ops.index(y, at=(..., slice(None, None, -1))),
            "one": ops.index(y, at=(1, 2)), "new": ops.index(y, at=(None, 1)),
            "mean": ops.mean(y), "norm": ops.norm(y, axis=1), "max": ops.max(y, axis=0),
            "where": ops.where(ops.greater(x, 0.0), y, x),
        }  # fmt: skip

    assert_agrees_in_all_ways(step, draw(4, 3), np.array([2, 0, 3]))


def test_single_elements():
    def step(x):
        y = ops.exp(x)
        one, total = ops.index(y, at=(1, 2)), ops.negative(ops.sum(y))
        placed = ops.place(total, at=(1, 2), shape=(3, 3))
        return one, ops.index(x, at=(0, -1)), ops.stack(total, one), ops.negative(one), placed

    assert_agrees_in_all_ways(step, draw(4, 3))


def test_sums_and_products_of_transposed_arrays_to_rounding():
    """The eager result has the transposed layout, in which NumPy adds in another order."""

    def step(x):
        y = ops.exp(ops.transpose(x))
        return y, ops.sum(y), ops.sum(y, axis=1), ops.matmul(y, x), sum_to(y, shape=(13,))

    x = draw(13, 9)
    program = trace(step, x)
    for one in (program, optimise(program)):
        for a, b in zip(Run(one)(x), expected(program, x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)


def test_a_part_that_a_concatenation_has_twice_or_that_is_used_elsewhere():
    def step(x):
        y, z = ops.exp(x), ops.tanh(x)
        both = ops.concatenate(y, y, z)
        other = ops.concatenate(z, y)
        return ops.negative(both), ops.square(other), ops.add(y, z), ops.concatenate(both, other)

    assert_agrees_in_all_ways(step, draw(4, 3))


def test_a_part_that_is_an_argument_a_constant_or_a_result():
    constant = draw(2, 3, seed=4)

    def step(x):
        y = ops.exp(x)
        return y, ops.negative(ops.concatenate(x, constant, y, ops.index(x, at=slice(0, 1))))

    assert_agrees_in_all_ways(step, draw(4, 3))


def test_parts_of_parts():
    def step(x):
        inner = ops.concatenate(ops.exp(x), ops.tanh(x))
        outer = ops.concatenate(ops.negative(x), inner, ops.square(x))
        return ops.sum(outer, axis=0), ops.negative(inner)

    assert_agrees_in_all_ways(step, draw(4, 3))


def test_parts_that_are_written_before_the_whole_and_read_after_other_memory_is_reused():
    def step(x):
        first = ops.exp(x)
        for _ in range(5):
            x = ops.tanh(ops.matmul(x, x))
        whole = ops.concatenate(first, x)
        for _ in range(5):
            x = ops.tanh(ops.matmul(x, x))
        return ops.matmul(whole, x)

    assert_agrees_in_all_ways(step, draw(4, 4))


def test_empty_programs_and_results_that_are_arguments():
    x = draw(4, 3)
    program = trace(lambda x, n: (x, np.ones(2), 3, None, x), x, 2)
    run = Run(program)
    assert "pass" in run.source
    assert all_same(run(x, 2), expected(program, x, 2))


def test_results_that_are_views_of_others():
    def step(x):
        y = ops.exp(x)
        return (
            y,
            ops.transpose(y),
            ops.reshape(y, shape=(12,)),
            ops.index(y, at=1),
            ops.reshape(x, shape=(3, 4)),
        )

    program = trace(step, draw(4, 3))
    run = Run(program)
    assert agrees(program, draw(4, 3))
    for i, a in enumerate(run.results):
        for b in run.results[:i]:
            assert not np.shares_memory(a, b)


@pytest.mark.parametrize("low, high", [(-np.inf, 1.0), (np.nan, 1.0), (None, np.inf), (0, 1)])
def test_bounds_that_are_no_finite_numbers(low, high):
    assert_agrees_in_all_ways(lambda x: ops.clip(x, low=low, high=high), special(4, 3))


def test_integer_and_bool_arrays():
    def step(x, rows, on):
        taken = ops.gather(x, ops.index(rows, at=slice(1, None)))
        return ops.where(ops.reshape(on, shape=(1, 3)), taken, ops.negative(taken)), add(rows, 1)

    args = draw(4, 3), np.array([3, 1, 0]), np.array([True, False, True])
    assert_agrees_in_all_ways(step, *args)


# Memory


def test_a_chain_needs_two_buffers():
    def step(x):
        for _ in range(50):
            x = ops.matmul(x, x)
            x = ops.tanh(x)
        return ops.sum(x)

    x = draw(8, 8)
    plan = Run(trace(step, x)).plan.storage
    assert plan.nbytes == sum(plan.sizes) and plan.nbytes <= 2 * x.nbytes


def test_values_within_a_group_have_no_memory():
    def step(x):
        y = x
        for _ in range(10):
            y = ops.tanh(ops.add(y, x))
        return y

    x = draw(8, 8)
    with blockwise():
        run = Run(trace(step, x))
    assert run.plan.storage.nbytes == 0
    assert len(run.calls) == 1


def test_views_are_made_once_and_cost_no_call():
    x = draw(4, 3)
    run = Run(trace(lambda x: ops.exp(ops.transpose(ops.reshape(x, shape=(3, 4)))), x))
    assert len(run.calls) == 1 and run.plan.storage.nbytes == 0


def test_the_text_of_the_function():
    def step(x, w):
        return ops.tanh(ops.matmul(ops.square(x), w))

    run = Run(trace(step, draw(4, 3), draw(3, 2)))
    lines = run.source.splitlines()
    assert lines[0] == "def run():" and len(lines) == 4
    assert [line.split("(")[0].strip() for line in lines[1:]] == ["multiply", "matmul", "tanh"]


# Groups


def group_sizes(program):
    found = {}
    for line in program.lines:
        if line.group is not None:
            found[line.group] = found.get(line.group, 0) + 1
    return list(found.values())


def test_small_arrays_are_not_grouped():
    x = draw(4, 3)
    program = trace(lambda x: ops.exp(ops.tanh(x)), x)
    assert group_sizes(fuse.fuse(program)) == []
    with blockwise(large=13):
        assert group_sizes(fuse.fuse(program)) == []
    with blockwise(large=12):
        assert group_sizes(fuse.fuse(program)) == [2]


def test_groups_do_not_change_what_lines_there_are():
    def step(x, w):
        y = ops.exp(x)
        z = ops.matmul(y, w)
        u = ops.tanh(y)  # moves up, before the product
        return ops.add(z, u), ops.negative(u)

    program = trace(step, draw(4, 4), draw(4, 4, seed=1))
    with blockwise():
        fused = fuse.fuse(program)
        assert {line.result for line in fused.lines} == {line.result for line in program.lines}
        assert all_same(
            expected(fused, draw(4, 4), draw(4, 4, seed=1)),
            expected(program, draw(4, 4), draw(4, 4, seed=1)),
        )
        assert [line.op.__name__ for line in fused.lines][:3] == ["exp", "tanh", "negative"]
    known = set(fused.inputs)
    for line in fused.lines:
        assert set(line.operands) <= known
        known.add(line.result)


def test_a_line_waits_for_what_it_needs():
    def step(x):
        y = ops.exp(x)
        s = ops.sum(y, axis=0)  # needs all of y
        return ops.multiply(y, s), ops.subtract(ops.tanh(y), s)

    assert_agrees_in_all_ways(step, draw(6, 3))


def test_groups_behind_a_convolution_that_also_read_other_arrays():
    g = Geometry(image=(4, 4), kernel=(3, 3), pad=1)

    def step(x, w, b):
        y = conv2d(x, w, geometry=g)
        m = ops.gate(y, y, slope=0.2)
        n = ops.multiply(m, x)
        s = ops.sum(n)
        o = ops.add(ops.multiply(m, b), s)
        image = conv2d_transpose(o, w, geometry=g)
        return ops.gate(image, y, slope=0.2), o

    assert_agrees_in_all_ways(step, draw(5, 4, 4, 2), draw(3, 3, 2, 2), draw(2))


def test_threads_have_temporary_memory_of_their_own(monkeypatch):
    """Two threads meet between the lines of a group, when both have written what is within."""
    meeting = threading.Barrier(2)

    def exp(a, out):
        np.exp(a, out=out)
        meeting.wait(timeout=20)

    def recipe(emit, y, a):
        emit(exp, a, out=y)

    monkeypatch.setitem(recipes.ELEMENTWISE, ops.exp, recipe)
    x = draw(4, 4)
    program = trace(lambda x: ops.negative(ops.exp(x)), x)
    with blockwise(block=8), threads(2):
        run = Run(program)
        for _ in range(3):
            assert all_same(run(x), -np.exp(x))


def test_masks_are_shared_from_the_second_use():
    def step(x, g, h):
        once = ops.gate(g, h, slope=0.2)
        return ops.gate(g, x, slope=0.2), ops.gate(h, x, slope=0.2), ops.gate(x, x, slope=0.2), once

    args = [special(5, 4, seed=i, dtype=np.float32) for i in range(3)]
    program = trace(step, *args)
    shared = masks.share_masks(program)
    assert shared.counts() == {"gate": 2, "multiply": 2, "gate_mask": 1}
    assert all_same(expected(shared, *args), expected(program, *args))
    other = trace(lambda x, g: (ops.gate(g, x, slope=0.2), ops.gate(g, x, slope=0.0)), *args[:2])
    assert masks.share_masks(other).counts() == {"gate": 2}
    assert_agrees_in_all_ways(step, *args)


# Norms


def close(found, wanted, dtype):
    """Equal to some roundings of the largest number."""
    tolerance = 1e-11 if dtype == np.float64 else 1e-4
    for a, b in zip(tree.leaves(found), tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(initial=1))


def normalised(x, w, scale, shift):
    g = Geometry(image=(4, 4), kernel=(3, 3), pad=1)
    t = track((w, scale, shift))
    y = norms.batch_norm(conv2d(x, t[0], geometry=g), t[1], t[2])
    y = ops.gate(y, y, slope=0.2)
    y = norms.batch_norm(conv2d_transpose(y, t[0], geometry=g), t[1], t[2])
    z = norms.layer_norm(ops.tanh(y), t[1], t[2])
    return z.data, y.data, grad_values(ops.mean(ops.square(z)), t)


@each_dtype
def test_norms_behind_convolutions(dtype):
    """The statistics gathered while a convolution runs round otherwise than by themselves."""
    args = [draw(*s, seed=4, dtype=dtype) for s in [(7, 4, 4, 2), (3, 3, 2, 2), (2,), (2,)]]
    args[0] += 3  # means that are large beside the deviations
    program = trace(normalised, *args)
    wanted = expected(program, *args)
    assert agrees(program, *args)
    with blockwise(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "PAYS", 1)
        for one in (program, optimise(program)):
            run = Run(one)
            bits = {}
            for count in (1, 2, 3, 1, 3, 2):
                with threads(count):
                    found = run(*args)
                    close(found, wanted, dtype)
                    assert all_same(found, bits.setdefault(count, found))


@each_dtype
@pytest.mark.parametrize("shape", [(6, 3), (4, 2, 2, 3)], ids=str)
@pytest.mark.parametrize("norm", [norms.batch_norm, norms.layer_norm])
def test_norms_and_their_gradients_to_second_order(norm, shape, dtype):
    def step(x, scale, shift):
        t = track((x, scale, shift))
        slopes = grad(ops.sum(ops.tanh(norm(*t))), t[0])
        return slopes.data, grad_values(ops.sum(ops.square(slopes)), t)

    args = [draw(*s, seed=i, dtype=dtype) for i, s in enumerate((shape, (3,), (3,)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "BLOCK", 16)
        patch.setattr(norms, "PAYS", 1)
        assert_agrees_in_all_ways(step, *args)


SAME = Geometry(image=(4, 4), kernel=(3, 3), pad=1)
MIXED = (0, 1, 2)


def statistics_only_the_deviation(x, w, scale, shift):
    y = conv2d(x, w, geometry=SAME)
    mean = norms.block_mean(y, axes=MIXED)
    return norms.block_inverse_deviation(y, mean, axes=MIXED, eps=1e-5)


def statistics_unused(x, w, scale, shift):
    y = conv2d(x, w, geometry=SAME)
    norms.block_mean(y, axes=MIXED)
    return ops.tanh(y)


def statistics_of_two_norms(x, w, scale, shift):
    y = conv2d(x, w, geometry=SAME)
    return norms.batch_norm(y, scale, shift), norms.batch_norm(y, scale, shift, eps=1e-2)


def statistics_of_two_kinds(x, w, scale, shift):
    y = conv2d(x, w, geometry=SAME)
    means = [norms.block_mean(y, axes=axes) for axes in (MIXED, (1, 2), MIXED)]
    return means, norms.layer_norm(y, scale, shift), norms.batch_norm(y, scale, shift)


def statistics_between_other_lines(x, w, scale, shift):
    y = conv2d(x, w, geometry=SAME)
    z = ops.tanh(y)
    mean = norms.block_mean(y, axes=MIXED)
    u = ops.subtract(y, mean)
    v = ops.multiply(z, 2.0)
    return ops.add(u, v), ops.sum(z), norms.block_mean(ops.exp(y), axes=MIXED)


@pytest.mark.parametrize(
    "step",
    [f for name, f in list(globals().items()) if name.startswith("statistics_")],
    ids=lambda f: f.__name__,
)
def test_statistics(step):
    args = draw(7, 4, 4, 2), draw(3, 3, 2, 2), draw(2), draw(2, seed=1)
    program = trace(step, *args)
    wanted = expected(program, *args)
    assert agrees(program, *args)
    with blockwise():
        for one in (program, optimise(program)):
            close(Run(one)(*args), wanted, np.float64)


# Programs that are drawn

GEOMETRY = Geometry(image=(4, 4), kernel=(3, 3), pad=1)
PICK = st.integers(0, 30)


def _broadcastable(a, b):
    try:
        return np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return None


def apply_unary(pool, i, j, k):
    op = [*UNARY, ops.exp, ops.tanh][j % (len(UNARY) + 2)]
    return op(pool[i])


def apply_binary(pool, i, j, k):
    ops_ = [*BINARY, lambda a, b: ops.gate(a, b, slope=[0.0, 0.2, 1.0][i % 3])]
    if _broadcastable(pool[i], pool[j]) is not None:
        return ops_[k % len(ops_)](pool[i], pool[j])


def apply_number(pool, i, j, k):
    return [add, ops.multiply, ops.subtract, ops.divide][k % 4](pool[i], [0.5, -2.0, 3][j % 3])


def apply_gate(pool, i, j, k):
    slope = [0.0, 0.2][k % 2]
    same = [a for a in pool if a.shape == pool[i].shape]
    return ops.gate(pool[i], same[j % len(same)], slope=slope)


def apply_optimiser(pool, i, j, k):
    same = [a for a in pool if a.shape == pool[i].shape]
    a, b = same[j % len(same)], same[k % len(same)]
    rate = np.asarray(0.125, a.dtype)
    return [
        lambda: optim.descend(a, b, rate),
        lambda: optim.accumulate(a, b, momentum=0.9),
        lambda: optim.blend(a, b, decay=0.5),
        lambda: optim.blend_square(a, b, decay=0.5),
        lambda: optim.descend_scaled(a, b, ops.abs(a), rate, rate, eps=1e-3),
    ][(i + j + k) % 5]()


def apply_product(pool, i, j, k):
    a, b = pool[i], pool[j]
    if a.ndim == b.ndim == 2:
        ta, tb = bool(k & 1), bool(k & 2)
        if a.shape[0 if ta else 1] == b.shape[1 if tb else 0]:
            return ops.matmul(a, b, ta=ta, tb=tb)


def apply_sum(pool, i, j, k):
    a = pool[i]
    axes = [None, 0, -1, (0,)][j % 4] if a.ndim else None
    return add(ops.sum(a, axis=axes, keepdims=bool(k & 1)), 0.0)  # of zeros: 0, never −0


def apply_sum_to(pool, i, j, k):
    a = pool[i]
    shape = tuple(1 if (k >> n) & 1 else size for n, size in enumerate(a.shape))
    return sum_to(a, shape=shape[j % (a.ndim + 1) :])


def apply_reshape(pool, i, j, k):
    a = pool[i]
    shape = [(a.size,), (1, a.size), (a.size, 1), (a.shape[0], -1) if a.ndim else (1,)][j % 4]
    return ops.reshape(a, shape=shape) if a.size else None


def apply_transpose(pool, i, j, k):
    a = pool[i]
    return (
        ops.transpose(a)
        if k % 2 or a.ndim < 2
        else ops.transpose(a, axes=(1, 0, *range(2, a.ndim)))
    )


def apply_index(pool, i, j, k):
    a = pool[i]
    if a.ndim:
        at = [slice(1, None), slice(0, 2), 0, slice(None, None, -1), (..., slice(0, 2)), None]
        return ops.index(a, at=at[j % 6]) if len(a) else None


def apply_place(pool, i, j, k):
    a = pool[i]
    if a.ndim:
        return ops.place(a, at=slice(1, 1 + len(a)), shape=(len(a) + 2, *a.shape[1:]))


def apply_concatenate(pool, i, j, k):
    same = [a for a in pool if a.ndim == pool[i].ndim and a.shape[1:] == pool[i].shape[1:]]
    if pool[i].ndim:
        return ops.concatenate(pool[i], same[j % len(same)], same[k % len(same)])


def apply_concatenate_last(pool, i, j, k):
    same = [a for a in pool if a.ndim and a.shape[:-1] == pool[i].shape[:-1]]
    if pool[i].ndim:
        return ops.concatenate(pool[i], same[j % len(same)], axis=-1)


def apply_stack(pool, i, j, k):
    same = [a for a in pool if a.shape == pool[i].shape]
    return ops.stack(pool[i], same[j % len(same)], axis=k % (pool[i].ndim + 1))


def apply_broadcast(pool, i, j, k):
    shape = _broadcastable(pool[i], pool[j])
    return None if shape is None else broadcast_to(pool[i], shape=shape)


def apply_convolution(pool, i, j, k):
    images = [a for a in pool if a.ndim == 4 and a.shape[1:] == (4, 4, 2)]
    kernels = [a for a in pool if a.shape == (3, 3, 2, 2)]
    x, w = images[i % len(images)], kernels[j % len(kernels)]
    if k % 3 == 2:
        same = [a for a in images if len(a) == len(x)]
        return conv2d_weight_grad(x, same[j % len(same)], geometry=GEOMETRY)
    return (conv2d, conv2d_transpose)[k % 3](x, w, geometry=GEOMETRY)


def apply_other(pool, i, j, k):
    return [
        lambda a: ops.clip(a, low=-1.0, high=1.0), stop_gradient, lambda a: ops.where(True, a, a),
        lambda a: ops.where(ops.greater(a, 0.0), a, 1.0),
    ][j % 4](pool[i])  # fmt: skip


def apply_whole_unary(pool, i, j, k):
    return [ops.negative, ops.square, ops.sign, ops.abs][j % 4](pool[i])


def apply_whole_binary(pool, i, j, k):
    if _broadcastable(pool[i], pool[j]) is not None:
        op = [add, ops.subtract, ops.multiply, ops.maximum, ops.minimum][k % 5]
        return op(pool[i], pool[j])


def apply_whole_gate(pool, i, j, k):
    same = [a for a in pool if a.shape == pool[i].shape]
    return ops.gate(pool[i], same[j % len(same)], slope=float(k % 2))


KINDS = {
    name.removeprefix("apply_"): f for name, f in globals().items() if name.startswith("apply_")
}
ELEMENTWISE = ["unary", "binary", "gate", "number", "optimiser"]
MOVING = [
    "reshape", "index", "place", "concatenate", "concatenate_last", "stack", "broadcast", "other",
    "product", "sum", "sum_to", "convolution",
]  # fmt: skip
GROWING = {"whole_unary", "whole_binary", "product", "sum", "sum_to", "convolution"}
OF_WHOLE_NUMBERS = ["whole_unary", "whole_binary", "whole_gate", "transpose"]


def instructions(kinds):
    one = st.tuples(st.sampled_from(kinds), PICK, PICK, PICK)
    return st.lists(one, min_size=12, max_size=40)


def drawn(instructions, results, bound=None):
    """The step that follows the instructions; sizes stay small, and numbers within the bound."""

    def step(*args):
        pool = list(args)
        for kind, i, j, k in instructions:
            recent = min(len(pool), 12)  # the latest first, so that long chains come about
            i, j = -1 - i % recent, -1 - j % len(pool)
            y = KINDS[kind](pool, i, j, k)
            if y is not None and 0 < y.size <= 2000:
                if bound and kind in GROWING:
                    y = ops.maximum(ops.minimum(y, bound), -bound)
                pool.append(y)
        return [pool[-1 - r % len(pool)] for r in results], pool[-1]

    return step


def inputs(dtype, seed=0):
    shapes = [(4, 6), (4, 6), (6,), (), (6, 4), (4, 4, 4, 2), (3, 3, 2, 2), (4, 1), (2,)]
    return [draw(*s, seed=seed + i, dtype=dtype) for i, s in enumerate(shapes)]


def assert_all_forms_agree(program, count, block, args, others):
    """As traced, and after the passes; nothing is left over from the call before."""
    with blockwise(block=block), threads(count):
        for one in (program, optimise(program)):
            run = Run(one)
            for values in (args, others, args):
                assert all_same(run(*values), expected(one, *values))


WAYS = {
    "results": st.lists(PICK, min_size=2, max_size=6),
    "dtype": st.sampled_from([np.float32, np.float64]),
    "count": st.sampled_from([1, 2, 3]),
    "block": st.sampled_from([1, 3, 16]),
}


@given(instructions=instructions(ELEMENTWISE * 2 + MOVING), **WAYS)
def test_programs_that_are_drawn(instructions, results, dtype, count, block):
    with np.errstate(all="ignore"):
        args, others = inputs(dtype), inputs(dtype, seed=100)
        program = trace(drawn(instructions, results), *args, again=others)
        assert_all_forms_agree(program, count, block, args, others)


@given(instructions=instructions(OF_WHOLE_NUMBERS * 3 + MOVING), **WAYS)
def test_programs_that_are_drawn_with_transposed_arrays(instructions, results, dtype, count, block):
    """On whole numbers: the order of sums over transposed arrays is not the eager one."""
    args, others = (
        [np.asarray(np.rint(2 * a), dtype) for a in inputs(dtype, seed)] for seed in (0, 100)
    )
    program = trace(drawn(instructions, results, bound=9.0), *args, again=others)
    assert_all_forms_agree(program, count, block, args, others)


# Whole steps


def toy(loss, penalty, optimizer, one_batch):
    pair = models.mlp_pair(2, 2, 8, 2)
    return GAN(*pair, optimizer, optimizer, loss, penalty, one_batch=one_batch)


GAMES = {
    "wgan-gp": (losses.WASSERSTEIN, penalties.one_gp(0.1), optim.Adam(1e-2, (0.5, 0.9)), True),
    "0-gp": (losses.NON_SATURATING, penalties.zero_gp(1.0, ops.sigmoid), optim.SGD(0.1), False),
    "momentum": (losses.NON_SATURATING, None, optim.SGD(0.1, 0.9, True), False),
    "rmsprop": (losses.HINGE, None, optim.RMSProp(1e-2), True),
}


@each_dtype
@pytest.mark.parametrize("name", GAMES)
def test_training_iterations(name, dtype):
    gan = toy(*GAMES[name])
    players = tree.tree_map(
        lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, gan.init(Stream(0))
    )
    real, z, alpha = (draw(6, n, seed=n, dtype=dtype) for n in (2, 2, 1))

    def iteration(players, real, z, alpha):
        players, c = critic_step(gan, players, real, z, (alpha,) if gan.penalty else ())
        players, g = generator_step(gan, players, z)
        return players, c.loss, g.loss

    assert_agrees_in_all_ways(iteration, players, real, z, alpha)
    with blockwise():
        program = optimise(trace(iteration, players, real, z, alpha))
        assert agrees(program, players, real, z, alpha)


# Faults, planted: each is caught by one of these steps


def late_view(x):
    y = ops.exp(x)
    v = ops.index(y, at=slice(1, None))
    z = ops.tanh(ops.negative(ops.matmul(x, x)))
    w = ops.matmul(z, z)
    return ops.matmul(v, w), ops.matmul(w, w)


def chain(x):
    for _ in range(4):
        y = ops.tanh(x)
        x = ops.add(ops.matmul(y, x), y)
    return ops.subtract(x, y)


def joined(x):
    y = ops.exp(x)
    both = ops.concatenate(y, ops.tanh(x), y)
    return ops.sum(ops.square(both), axis=0), both


def broadcast(x):
    y = ops.exp(x)
    row = ops.index(ops.negative(y), at=0)
    z = ops.multiply(y, row)
    return ops.add(z, ops.tanh(y)), ops.sum(ops.subtract(z, y), axis=0)


def shifted(x):
    """Views that overlap: a block of one is another block of the other."""
    y = ops.exp(x)
    upper, lower = ops.index(y, at=slice(0, 7)), ops.index(y, at=slice(1, None))
    a = ops.add(upper, 1.0)
    b = ops.multiply(lower, a)
    return ops.negative(b), ops.sum(b)


def turned(x):
    y = ops.exp(x)
    z = ops.multiply(ops.transpose(y), y)
    return ops.matmul(z, z)


def reversed_rows(x):
    y = ops.exp(x)
    p = ops.tanh(ops.add(ops.index(y, at=slice(None, None, -1)), x))
    return ops.matmul(p, p)


def needing_all(x):
    y = ops.exp(x)
    s = ops.sum(y)
    t = ops.tanh(y)
    return ops.add(ops.multiply(t, s), y)


def convolved(x):
    image = ops.exp(ops.reshape(x, shape=(2, 4, 4, 2)))
    w = ops.reshape(ops.index(ops.concatenate(x, x), at=slice(0, 9)), shape=(3, 3, 2, 4))
    y = conv2d(image, w, geometry=GEOMETRY)
    y = ops.gate(y, y, slope=0.2)
    back = conv2d_transpose(y, w, geometry=GEOMETRY)
    return ops.negative(ops.add(back, image)), ops.sum(ops.square(back))


WITNESSES = [
    late_view, chain, joined, broadcast, shifted, turned, reversed_rows, needing_all, convolved,
]  # fmt: skip


def failing():
    """The names of the witnesses that are computed wrongly."""
    found, x = [], draw(8, 8)
    with blockwise():
        for step in WITNESSES:
            program = trace(step, x)
            try:
                right = agrees(program, x)
            except (ValueError, KeyError):
                right = False
            if not right:
                found.append(step.__name__)
    return found


def views_forgotten(self):
    return {
        v: i for i, line in enumerate(self.program.lines) for v in (*line.operands, line.result)
    }


def one_line_early(self, honest=storage.Storage._last_uses):
    return {home: max(i - 1, 0) for home, i in honest(self).items()}


def inherits_anything(self, i, line, home, held):
    same = [a for a in line.operands if a in held and a.nbytes == home.nbytes]
    return same[0] if same else None


def inherits_without_a_look(self, i, line, home, held):
    if line.op not in recipes.ELEMENTWISE or home is not line.result:
        return None
    for a in line.operands:
        if a in held and self.last_use[a] == i and a.nbytes == home.nbytes:
            return a
    return None


def one_buffer_for_all(self, free, nbytes):
    self.sizes = self.sizes or [1 << 16]
    return 0


def alone(program):
    return program.with_lines([replace(line, group=None) for line in program.lines])


def joins_too_early(line, units, *_):
    for i, unit in enumerate(units):
        first = unit[0]
        if first.result.shape == line.result.shape and recipes.elementwise(first):
            return i
    return None


def forgets_what_is_read_outside(program, groups):
    heads = {g[0].result for g in groups.values() if g[0].op in recipes.EPILOGUES}
    made = {line.result for lines in groups.values() for line in lines[:-1]}
    return frozenset(made - heads - set(program.outputs))


FAULTS = {
    "views-forgotten": (storage.Storage, "_last_uses", views_forgotten),
    "freed-one-line-early": (storage.Storage, "_last_uses", one_line_early),
    "inherits-anything": (storage.Storage, "_inherit", inherits_anything),
    "inherits-without-a-look": (storage.Storage, "_inherit", inherits_without_a_look),
    "freed-within-a-group": (cpu, "Storage", lambda p, w: storage.Storage(alone(p), w)),
    "one-buffer-for-all": (storage.Storage, "_take", one_buffer_for_all),
    "joins-too-early": (fuse, "_unit_for", joins_too_early),
    "forgets-uses-outside": (cpu, "_within", forgets_what_is_read_outside),
    "reads-the-wrong-block": (recipes, "takes", lambda line: line.op in recipes.ELEMENTWISE),
}


def test_without_a_fault_nothing_fails():
    assert failing() == []


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name, monkeypatch):
    monkeypatch.setattr(*FAULTS[name])
    assert failing() != []

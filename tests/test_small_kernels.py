"""The small kernels in the emulator: gate, sums, norms, optimisers, random numbers."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinygan as tg
from tinygan import norms, ops, optim
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import grad_values, observe, sum_to, track
from tinygan.kernels import Kernel, columns, compile, emulated, fused, norm, random
from tinygan.kernels import optim as steps

DTYPES = [np.float32, np.float64]
ORDERS = ["ascending", "descending", "random"]
UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
INSTANCES = {
    instance.kernel: instance
    for module in (fused, norm, steps, random)
    for instance in module.instances()
}

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
each_norm = pytest.mark.parametrize("name", ["batch", "layer"])
dtypes = st.sampled_from(DTYPES)
fewer = settings(max_examples=max(20, settings.default.max_examples // 3))


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def misaligned(a):
    """A C-contiguous copy of ``a`` that begins one element after a boundary of 16 bytes."""
    room = np.empty(a.size + 32 // a.itemsize, a.dtype)
    start = (-room.ctypes.data // a.itemsize) % (16 // a.itemsize) + 1
    view = room[start : start + a.size].reshape(a.shape)
    view[...] = a
    assert view.ctypes.data % 16 == a.itemsize
    return view


@contextmanager
def launches():
    """The kernels that the block launches, in their order; all must be among the instances."""
    names, call = [], Kernel.__call__

    def launch(self, grid, block, args, shared=0):
        assert INSTANCES[self].threads == math.prod(block) and INSTANCES[self].shared == shared
        names.append(self.name.partition("<")[0])
        call(self, grid, block, args, shared)

    Kernel.__call__ = launch
    try:
        yield names
    finally:
        Kernel.__call__ = call


def same_in_every_order(f):
    """f() in the emulator, which must be the same bits in every order of threads and blocks."""
    found = []
    for order in ORDERS:
        with emulated(order=order, seed=3):
            found.append(f())
    for other in found[1:]:
        for a, b in zip(tree_leaves(found[0]), tree_leaves(other), strict=True):
            assert a.tobytes() == b.tobytes()
    return found[0]


def tree_leaves(a):
    return [a] if isinstance(a, np.ndarray) else list(a)


def norm_error(y, exact):
    """‖y − exact‖ over ‖exact‖."""
    return np.linalg.norm(y.astype(np.float64) - exact) / max(np.linalg.norm(exact), 1e-300)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """All kernels by all processors, rather than one by one where they are met."""
    compile.compile_all(INSTANCES)


def test_no_kernel_is_listed_twice():
    count = sum(len(module.instances()) for module in (fused, norm, steps, random))
    assert len(INSTANCES) == count


# The gate

ODD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40, 3.0, -3.0]


@each_dtype
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0, 1.5, -0.5])
def test_the_gate_is_numpys_at_every_pair_of_odd_numbers(slope, dtype):
    a, m = (x.ravel() for x in np.array(np.meshgrid(ODD, ODD), dtype))
    with np.errstate(invalid="ignore"):
        of_other, of_itself = ops.gate(a, m, slope=slope), ops.gate(a, a, slope=slope)
    with emulated(), launches() as names:
        np.testing.assert_array_equal(ops.gate(a, m, slope=slope), of_other)
        np.testing.assert_array_equal(ops.gate(a, a, slope=slope), of_itself)
    assert names == ["gate", "gate"]


@fewer
@given(
    st.lists(st.integers(0, 9), max_size=4),
    st.sampled_from([0.0, 0.2, 1.5]),
    dtypes,
    st.booleans(),
    st.tuples(*[st.booleans()] * 2),
)
def test_the_gate_is_numpys_for_every_shape_and_place(shape, slope, dtype, own, moved):
    a = normal(*shape, dtype=dtype)
    m = a if own else normal(*shape, dtype=dtype, seed=1)
    expected = ops.gate(a, m, slope=slope)
    a, m = (misaligned(x) if move and x.size else x for x, move in zip((a, m), moved, strict=True))
    y = same_in_every_order(lambda: fused.gate(a, a if own else m, slope))
    assert y.dtype == a.dtype and y.shape == a.shape
    np.testing.assert_array_equal(y, expected)


@each_dtype
def test_the_gate_goes_on_where_the_grid_ends(dtype):
    a = normal(600_001 * 4 // np.dtype(dtype).itemsize, dtype=dtype)
    with emulated():
        np.testing.assert_array_equal(fused.gate(a, a, 0.2), np.maximum(a, dtype(0.2) * a))


def test_gates_that_the_kernel_does_not_take_go_numpys_way():
    a, wide = normal(4, 6), normal(6, 4).T
    with emulated(), launches() as names:
        for x, m in ((wide, a), (a, wide), (a, normal(6)), (a.astype(complex), a)):
            np.testing.assert_array_equal(ops.gate(x, m, slope=0.2), x * np.where(m > 0, 1, 0.2))
    assert not names


@pytest.mark.parametrize(
    "a, m, error, words",
    [
        (np.ones((2, 3)), np.ones((3, 2)), ValueError, r"m has shape \(3, 2\); expected \(2, 3\)"),
        (np.ones(3), np.ones(3, np.float32), TypeError, "m is float32, others are float64"),
        (np.ones(3, int), np.ones(3, int), TypeError, "a is int64; expected a float32 or float64"),
        (np.ones((2, 3)).T, np.ones((3, 2)), ValueError, "expected C-contiguous memory"),
    ],
)
def test_what_the_gate_refuses(a, m, error, words):
    with emulated(), pytest.raises(error, match=words):
        fused.gate(a, m, 0.2)


# Sums of rows


@fewer
@given(st.integers(0, 700), st.integers(0, 70), dtypes, st.booleans())
@example(0, 5, np.float32, False)
@example(5, 0, np.float32, False)
@example(1, 1, np.float32, True)
@example(1025, 33, np.float32, True)
@example(4097, 3, np.float64, False)
def test_column_sums(rows, columns, dtype, moved):
    a = normal(rows, columns, dtype=dtype)
    a = misaligned(a) if moved and a.size else a
    y = same_in_every_order(lambda: fused.column_sum(a))
    assert y.dtype == a.dtype and y.shape == (columns,)
    exact = np.array([math.fsum(column) for column in a.T.tolist()])
    assert norm_error(y, exact) <= math.sqrt(max(rows, 1)) * UNIT[y.dtype]


@pytest.mark.parametrize("rows, columns", [(1 << 20, 1), (300_001, 3), (2100, 257)])
def test_long_column_sums_round_little_even_where_all_errors_point_one_way(rows, columns):
    a = np.full((rows, columns), 0.1, np.float32)
    exact = np.full(columns, rows * float(np.float32(0.1)))
    with emulated():
        found = norm_error(fused.column_sum(a), exact)
    assert found <= 64 * 2.0**-24  # a chain's length, not the number of rows
    in_a_row = np.add.accumulate(a[:, :1])[-1]
    assert norm_error(in_a_row, exact[:1]) > 64 * 2.0**-24


def test_sum_to_the_last_axis_goes_through_the_kernel():
    a = normal(3, 5, 4, 6, dtype=np.float32)
    with emulated(), launches() as names:
        y = sum_to(a, shape=(6,))
        assert names == ["column_sum"]
        sum_to(a, shape=(4, 6)), sum_to(a, shape=()), sum_to(a.T, shape=(3,))
        assert names == ["column_sum"]
    assert norm_error(y, a.astype(np.float64).sum((0, 1, 2))) <= math.sqrt(60) * 2.0**-24


def test_nan_and_infinity_stay_in_their_column():
    a = np.ones((1000, 5), np.float32)
    a[3, 1], a[900, 2], a[7, 3], a[8, 3] = math.nan, math.inf, math.inf, -math.inf
    with emulated():
        np.testing.assert_array_equal(
            fused.column_sum(a), [1000, math.nan, math.inf, math.nan, 1000]
        )


def test_a_sum_of_what_is_no_matrix_is_refused():
    with emulated(), pytest.raises(ValueError, match=r"shape \(3,\); expected a matrix"):
        fused.column_sum(np.ones(3))


def test_more_blocks_than_a_grid_has_are_refused():
    with pytest.raises(ValueError, match=r"would take 4294967296 blocks; expected 1 to 2\*\*31"):
        columns.cut(1 << 32, 1, 1)


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 40), st.integers(1, 1 << 20))
def test_a_cut_covers_every_row_and_column_once(groups, rows, count):
    try:
        struct, (blocks,), splits = columns.cut(groups, rows, count)
    except ValueError:
        return
    s = struct[0]
    assert blocks == groups * s["tiles"] * splits and splits == s["splits"]
    assert (splits - 1) * s["chunk"] < rows <= splits * s["chunk"]
    assert (int(s["tiles"]) - 1 << s["width"]) < count <= int(s["tiles"]) << s["width"]
    assert s["chunk"] <= columns.CHAIN * columns.FLIGHT * (columns.THREADS >> s["width"])


# Norms

shapes = st.tuples(
    st.integers(1, 9), st.lists(st.integers(1, 6), max_size=2), st.integers(1, 40)
).map(lambda s: (s[0], *s[1], s[2]))
LARGE = [(40, 17, 11, 3), (3, 40, 41, 5), (700, 64), (2, 3000)]


def axes_of(name, shape):
    return tuple(range(len(shape) - 1)) if name == "batch" else tuple(range(1, len(shape)))


def exact_norm(h, a, scale, shift, axes, eps):
    """Of each primitive what it is, and what it would be if no term cancelled another."""
    h, a, scale, shift = (np.asarray(x, np.longdouble) for x in (h, a, scale, shift))

    def mean_of(x):
        return x.mean(axes, keepdims=True)

    def dot(x):
        return x.sum(tuple(range(a.ndim - 1)))

    mean = mean_of(a)
    r = 1 / np.sqrt(mean_of((a - mean) ** 2) + eps)
    unit, k, sizes = r * (a - mean), h * scale, r * (abs(a) + abs(mean))
    on, at_most = mean_of(k * unit), mean_of(abs(k) * sizes)
    return {
        "block_mean": (mean, mean_of(abs(a))),
        "block_inverse_deviation": (r, r),
        "standardise": (scale * unit + shift, abs(scale) * sizes + abs(shift)),
        "project": (
            r * (k - mean_of(k) - unit * on),
            r * (abs(k) + mean_of(abs(k)) + sizes * at_most),
        ),
        "standard_dot": (dot(h * unit), dot(abs(h) * sizes)),
    }


def primitives(h, a, scale, shift, axes, eps):
    mean = norms.block_mean(a, axes=axes)
    r = norms.block_inverse_deviation(a, mean, axes=axes, eps=eps)
    return {
        "block_mean": mean,
        "block_inverse_deviation": r,
        "standardise": norms.standardise(a, mean, r, scale, shift, axes=axes, eps=eps),
        "project": norms.project(h, a, mean, r, scale, axes=axes, eps=eps),
        "standard_dot": norms.standard_dot(h, a, mean, r, axes=axes, eps=eps),
    }


def check_norms(name, shape, dtype, numbers, moved=False, level=1.0):
    a, h = level + 1.5 * normal(*shape, seed=1), normal(*shape, seed=2)
    a, h = a.astype(dtype), h.astype(dtype)
    scale, shift = 0.7, -0.3
    if not numbers:
        scale = (1 + 0.2 * normal(shape[-1], seed=3)).astype(dtype)
        shift = normal(shape[-1], seed=4).astype(dtype)
    if moved:
        a, h = misaligned(a), misaligned(h)
    given = h, a, scale, shift, axes_of(name, shape), 1e-2
    with launches() as names:
        found = dict(
            zip(
                exact_norm(*given),
                same_in_every_order(lambda: primitives(*given).values()),
                strict=True,
            )
        )
    assert names
    for key, (exact, size) in exact_norm(*given).items():
        assert found[key].dtype == a.dtype and found[key].shape == exact.shape, key
        error = np.linalg.norm(found[key] - exact)
        assert error <= 8 * UNIT[a.dtype] * np.linalg.norm(size), key
    return names


@fewer
@given(st.sampled_from(["batch", "layer"]), shapes, dtypes, st.booleans(), st.booleans())
def test_norms_of_every_shape(name, shape, dtype, numbers, moved):
    check_norms(name, shape, dtype, numbers, moved)


@each_norm
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_norms_over_many_blocks(name, shape):
    for dtype in DTYPES:
        check_norms(name, shape, dtype, numbers=False)


@each_norm
def test_norms_keep_their_digits_far_from_zero(name):
    check_norms(name, (300, 7, 6), np.float32, numbers=False, level=1000.0)


@each_norm
def test_a_norm_is_few_launches(name):
    shape = (8, 6, 6, 4)
    x, scale, shift = normal(*shape), normal(4, seed=1), normal(4, seed=2)
    layer = getattr(norms, f"{name}_norm")
    with emulated():
        x, scale, shift = track([x, scale, shift])
        with launches() as names:
            y = layer(x, scale, shift)
        assert names == ["reduce", "reduce", "standardise"]
        with launches() as names:
            grad_values(y, [x, scale, shift], normal(*shape, seed=3))
        assert sorted(names) == ["column_sum", "project", "reduce", "reduce"]


def test_norms_that_the_kernels_do_not_take_go_numpys_way():
    a = normal(4, 6, 5)
    calls = [(a, (1,)), (a.swapaxes(0, 1), (0, 1)), (a.astype(complex), (0, 1))]
    with emulated(), launches() as names:
        for x, axes in calls:
            mean = norms.block_mean(x, axes=axes)
            np.testing.assert_allclose(mean, x.mean(axes, keepdims=True), atol=1e-15)
            norms.block_inverse_deviation(x, mean, axes=axes, eps=0.1)
    assert "reduce" not in names


def test_what_norms_refuse():
    a, one = np.ones((3, 4)), np.ones((1, 4))
    with emulated():
        with pytest.raises(ValueError, match=r"axes \(0, 1\) of shape \(3, 4\); expected all axes"):
            norm.mean(a, (0, 1))
        with pytest.raises(ValueError, match=r"r has shape \(3, 1\); expected \(1, 4\)"):
            norm.standardise(a, one, np.ones((3, 1)), 1.0, 0.0, (0,))
        with pytest.raises(TypeError, match="h is float32, others are float64"):
            norm.project(a.astype(np.float32), a, one, one, 1.0, (0,))
        with pytest.raises(ValueError, match=r"scale has shape \(3,\); expected \(4,\)"):
            norm.standardise(a, one, one, np.ones(3), 0.0, (0,))


@each_norm
def test_norms_have_their_derivatives_to_order_three_on_kernels(name):
    shape = (3, 2, 2) if name == "layer" else (4, 3)
    axes, how = axes_of(name, shape), {"axes": axes_of(name, shape), "eps": 0.1}
    h, a, c = normal(*shape), 1.5 * normal(*shape, seed=1), normal(shape[-1], seed=2)

    def statistics(a):
        mean = norms.block_mean(a, axes=axes)
        return mean, norms.block_inverse_deviation(a, mean, **how)

    calls = {
        "standardise": lambda x: norms.standardise(x[1], *statistics(x[1]), x[2], x[2], **how),
        "project": lambda x: norms.project(x[0], x[1], *statistics(x[1]), x[2], **how),
        "standard_dot": lambda x: norms.standard_dot(x[0], x[1], *statistics(x[1]), **how),
    }
    for key, f in calls.items():
        with emulated(guard=False), launches() as names:
            report = check_gradients(f, [h, a, c], order=3, directions=1)
        assert {"reduce", "project", "standardise"} <= set(names), key
        assert report.passed and sorted(report.worst) == [1, 2, 3]


# Optimisers

OPTIMISERS = [
    optim.SGD(0.1),
    optim.SGD(0.1, momentum=0.9),
    optim.SGD(0.1, momentum=0.9, nesterov=True),
    optim.RMSProp(0.01, decay=0.9),
    optim.Adam(0.01, betas=(0.5, 0.9)),
]
LAUNCHED = ["sgd", "momentum", "momentum", "rmsprop", "adam"]


def walk(optimiser, dtype, steps, shapes=((33, 7), (5,), (), (0, 3), (2, 3, 4))):
    """Parameters and state after ``steps`` steps, some by a rate of the caller's."""
    params = {str(i): normal(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)}
    state = optimiser.init(params)
    for t in range(steps):
        grads = {k: np.asarray(np.sin(p * (t + 1)) + p.dtype.type(0.1)) for k, p in params.items()}
        grads["4"] = np.asfortranarray(grads["4"])
        rate = 0.02 / (1 + t) if t % 2 else None
        params, state = optimiser.update(params, grads, state, rate)
    return [*params.values(), *(a for part in state.values() for a in _arrays(part))]


def _arrays(part):
    return list(part.values()) if isinstance(part, dict) else [np.asarray(part)]


@each_dtype
@pytest.mark.parametrize("optimiser, kernel", list(zip(OPTIMISERS, LAUNCHED, strict=True)), ids=str)
def test_fifty_steps_are_numpys_to_the_bit(optimiser, kernel, dtype):
    expected = walk(optimiser, dtype, 50)
    with emulated(guard=False), launches() as names:
        found = walk(optimiser, dtype, 50)
    assert names == [kernel] * (50 * 4)  # a leaf without numbers is not launched
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=str)
def test_a_step_on_guarded_memory_in_every_order(optimiser):
    shapes = [(1025,), (3,), (), (7, 5), (256,)]
    expected = walk(optimiser, np.float32, 1, shapes)
    for a, b in zip(
        same_in_every_order(lambda: walk(optimiser, np.float32, 1, shapes)), expected, strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_steps_are_primitives_on_a_cpu_too():
    p, g, m, v = (normal(5, 3, seed=i) for i in range(4))
    v, rate, root = abs(v), np.array(0.1), np.array(1.2)
    calls = [
        lambda: optim.momentum_step(p, g, m, rate, momentum=0.9, nesterov=False),
        lambda: optim.momentum_step(p, g, m, rate, momentum=0.9, nesterov=True),
        lambda: optim.rmsprop_step(p, g, v, rate, decay=0.9, eps=1e-8),
        lambda: optim.adam_step(p, g, m, v, rate, root, beta1=0.5, beta2=0.9, eps=1e-8),
    ]
    for call in calls:
        expected = call()
        with emulated():
            np.testing.assert_array_equal(call(), expected)


def test_an_observer_sees_a_step_and_where_its_rows_go():
    p, seen = {"w": normal(4, 3)}, []
    optimiser = optim.Adam(0.1)
    with emulated(), observe(lambda op, args, params, out: seen.append(op)):
        optimiser.update(p, p, optimiser.init(p))
    numbers = [ops.add, optim.corrected_rate, optim.corrected_root]
    assert seen == [*numbers, optim.adam_step, ops.index, ops.index, ops.index]


def test_what_optimisers_steps_refuse():
    p, rate = np.ones(3), np.array(0.1)
    with emulated():
        with pytest.raises(ValueError, match=r"array 1 has shape \(2,\); expected \(3,\)"):
            steps.sgd(p, np.ones(2), rate)
        with pytest.raises(TypeError, match="number 0 is float; expected a float32 or float64"):
            steps.sgd(p, p, 0.1)
        with pytest.raises(TypeError, match="number 0 is float32, others are float64"):
            steps.sgd(p, p, np.array(0.1, np.float32))


# Random numbers

keys = st.integers(0, (1 << 128) - 1)
near_a_carry = st.builds(
    lambda word, offset: max(0, (1 << 64 * word) - offset),
    st.sampled_from([1, 2]),
    st.integers(0, 9),
)
counters = st.one_of(st.integers(0, (1 << 192) - 1), near_a_carry)
sizes = st.integers(0, 1100)


@given(keys, counters, sizes)
@example(0, (1 << 64) - 1, 9)
@example(1, (1 << 128) - 1, 9)
@example((1 << 128) - 1, (1 << 192) - 1, 9)
def test_bits_are_the_streams(key, counter, n):
    expected = Stream(key, counter).bits(n)
    with emulated():
        y = np.empty(n, np.uint64)
        assert random.fill_bits(y, key, counter) == -(-n // 4)
    np.testing.assert_array_equal(y, expected)


@fewer
@given(keys, st.integers(0, (1 << 256) - 1), st.integers(0, (1 << 256) - 1))
@example(5, (1 << 64) - 1, (1 << 256) - 1)
@example(5, (1 << 192) - 1, 1)
@example(5, (1 << 256) - (1 << 192) - 1, (1 << 192) - 1)
def test_the_counter_may_be_in_memory_in_part(key, counter, base):
    words = np.array([base >> 64 * i & (1 << 64) - 1 for i in range(4)], np.uint64)
    from tinygan.backend import _philox

    expected = _philox(key, (counter + base) % (1 << 256)).random_raw(20)
    y = np.empty(20, np.uint64)
    with emulated():
        random.fill_bits(y, key, counter, words)
    np.testing.assert_array_equal(y, expected)


@fewer
@given(keys, counters, sizes, dtypes, st.integers(1, 1 << 32))
def test_uniforms_and_integers_are_the_streams_and_normals_nearly(key, counter, n, dtype, high):
    cpu, gpu = Stream(key, counter), Stream(key, counter)
    for draw in (
        lambda s: s.uniform(n, dtype),
        lambda s: s.integers((n,), high),
        lambda s: s.normal((n,), dtype),
        lambda s: s.uniform((n, 1), dtype),
        lambda s: s.bits(3),
        lambda s: s.permutation(5),
    ):
        expected = draw(cpu)
        with emulated():
            found = draw(gpu)
        assert found.dtype == expected.dtype and found.shape == expected.shape
        if draw.__code__.co_names == ("normal",):
            np.testing.assert_allclose(found, expected, rtol=6 * 2 * UNIT[found.dtype])
        else:
            np.testing.assert_array_equal(found, expected)
        assert gpu.state == cpu.state


def ulps(a, b):
    """How many numbers of float32 lie between."""

    def place(x):
        bits = x.view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return abs(place(a) - place(b))


def test_a_million_normals():
    n = 1_000_001
    numpys = Stream(11).normal(n)
    with emulated(guard=False), launches() as names:
        y = Stream(11).normal(n)
    assert names == ["normal"]
    u, v = Stream(11).uniform((2, (n + 1) // 2))
    rest = (np.float32(1) - u).astype(np.float64)
    angle = (np.float32(2 * math.pi) * v).astype(np.float64)
    radius = np.sqrt(-2 * np.log(rest))
    exact = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]
    assert ulps(y, exact.astype(np.float32)).max() <= 1
    assert ulps(y, numpys).max() <= 6  # NumPy's float32 logarithm is off by up to 4
    assert (ulps(y, numpys) > 2).mean() < 0.01


def test_random_numbers_in_every_order():
    def draw():
        stream = Stream(3, 5)
        return [
            stream.normal(2051),
            stream.normal(1022, np.float64),
            stream.uniform(777),
            stream.integers(300, 7),
        ]

    same_in_every_order(draw)


@pytest.mark.parametrize("n", [*range(1, 40), 2047, 2048, 2049, 4099])
def test_normals_of_odd_counts_have_their_pairs_where_numpy_has_them(n):
    for dtype in DTYPES:
        expected = Stream(n, 7).normal(n, dtype)
        with emulated():
            y = Stream(n, 7).normal(n, dtype)
        np.testing.assert_allclose(y, expected, rtol=12 * UNIT[y.dtype])


def test_a_stream_on_a_gpu_draws_by_the_kernels(stand_in):
    stream = Stream(1, device="gpu")
    with launches() as names:
        for draw in (stream.uniform(9), stream.normal((2, 3)), stream.integers(4, 10)):
            assert type(draw) is stand_in.ndarray
    assert names == ["uniform", "normal", "integers"]
    assert stream.state == (1, 4)


def test_what_random_numbers_refuse():
    with emulated():
        with pytest.raises(TypeError, match="fill_uniform: y is int64, which this does not fill"):
            random.fill_uniform(np.empty(3, np.int64), 0, 0)
        with pytest.raises(TypeError, match=r"base is int64\[4\]; expected uint64\[4\]"):
            random.fill_bits(np.empty(3, np.uint64), 0, 0, np.zeros(4, np.int64))


# All of it together


def test_a_step_of_a_net_with_norms_is_numpys():
    def step():
        stream = Stream(2)
        x = stream.normal((16, 12), np.float64)
        params = [stream.normal(12, np.float64) for _ in range(4)]
        optimiser = tg.optim.Adam(0.1)
        leaves = track(params)
        y = ops.leaky_relu(norms.batch_norm(x, *leaves[:2]))
        y = norms.layer_norm(ops.multiply(y, y), *leaves[2:])
        grads = grad_values(ops.mean(ops.square(y)), leaves)
        return optimiser.update(params, grads, optimiser.init(params))[0]

    expected = step()
    for a, b in zip(same_in_every_order(step), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_parameters_of_other_dtypes_go_numpys_way():
    p, g = (np.ones(5, np.float16) * v for v in (np.float16(1), np.float16(0.5)))
    for optimizer in (optim.SGD(0.1), optim.SGD(0.1, 0.5), optim.RMSProp(0.1), optim.Adam(0.1)):
        right, _ = optimizer.update(p, g, optimizer.init(p))
        with emulated():
            found, _ = optimizer.update(p, g, optimizer.init(p))
        assert found.dtype == np.float16 and np.array_equal(found, right)

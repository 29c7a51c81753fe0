"""Programs as CUDA graphs, on the stand-in for CuPy, whose kernels the emulator runs."""

import gc
import inspect
import signal
import sys
import weakref
from dataclasses import replace

import fake_cupy
import numpy as np
import pytest

import tinygan as tg
from tinygan import conv, ops, optim, penalties, tree
from tinygan.engine import Tensor, grad_values, primitive, track
from tinygan.replay import Line, Program, Value, compiled, evaluate, gpu, gpu_fuse, trace
from tinygan.replay.ring import empty_ring, latest, put_row, record
from tinygan.train import GAN, critic_step, generator_step

pytestmark = pytest.mark.usefixtures("nothing_emulated")


@pytest.fixture(scope="module", autouse=True)
def tensors_hold_the_arrays_they_are_given(tracked_arrays_are_read_only):
    """The recorder follows arrays by identity."""
    wrapped = Tensor.__init__
    Tensor.__init__ = inspect.getclosurevars(wrapped).nonlocals.get("build", wrapped)
    yield
    Tensor.__init__ = wrapped


@pytest.fixture
def cp(stand_in):
    """The stand-in as a module."""
    return stand_in.module


def there(nested):
    """A tree with NumPy's arrays on the stand-in."""
    cupy = sys.modules["cupy"]
    return tree.tree_map(lambda a: cupy.asarray(a) if type(a) is np.ndarray else a, nested)


def here(nested):
    """A tree with the stand-in's arrays as NumPy's."""
    return tree.tree_map(lambda a: a.get() if type(a) is fake_cupy.ndarray else a, nested)


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def addresses(nested):
    return [a.data.ptr for a in tree.leaves(nested)]


def assert_close(found, expected, limit=1e-6):
    for a, b in zip(tree.leaves(here(found)), tree.leaves(here(expected)), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=limit, atol=limit * max(1, np.abs(b).max()))


def assert_same(found, expected):
    for a, b in zip(tree.leaves(here(found)), tree.leaves(here(expected)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def is_a_graph(step):
    return repr(step).endswith(" programs, a CUDA graph>")


# The stand-in's streams, graphs and memory


def captured(cp, function):
    """The graph of what a function does, and its result."""
    stream = cp.cuda.Stream(non_blocking=True)
    pool = cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        function()  # fills the pool
        stream.begin_capture()
        result = function()
        return stream.end_capture(), result


def test_a_captured_stream_computes_nothing_until_the_graph_is_launched(cp):
    x = cp.asarray(np.array([1.0, 2.0]))
    total = cp.zeros(2)

    def work():
        np.add(total, x * 3, out=total)
        total[0] += 1
        return total - x

    graph, y = captured(cp, work)
    assert_same(total, np.array([4.0, 6.0]))  # once, before the capture
    graph.launch()
    assert_same(y, np.array([7.0, 10.0]))
    x[...] = cp.asarray(np.array([0.0, -1.0]))
    graph.launch()
    assert_same(total, np.array([9.0, 9.0]))
    assert_same(y, np.array([9.0, 10.0]))


def test_views_in_a_capture_are_of_the_same_memory(cp):
    x = cp.asarray(np.arange(6.0))
    graph, y = captured(cp, lambda: x.reshape(2, 3).T[1:].swapaxes(0, 1))
    assert graph.calls == []
    assert y.base is x and y.data.ptr == x.data.ptr + 8
    assert x[3].data.ptr == x.data.ptr + 24 and x[3].base is x


FORBIDDEN = {
    "get": (lambda cp, a: a.get(), "synchronous"),
    "item": (lambda cp, a: a[0, 0].item(), "synchronous"),
    "float": (lambda cp, a: float(a[0, 0]), "synchronous"),
    "bool": (lambda cp, a: bool((a > 0).all()), "synchronous"),
    "asnumpy": (lambda cp, a: cp.asnumpy(a), "synchronous"),
    "nonzero": (lambda cp, a: cp.nonzero(a), "synchronous"),
    "where with one argument": (lambda cp, a: cp.where(a), "synchronous"),
    "a mask as index": (lambda cp, a: a[a > 0], "synchronous"),
    "sort": (lambda cp, a: cp.argsort(a), "synchronous"),
    "matmul": (lambda cp, a: a @ a, "cuBLAS"),
    "dot": (lambda cp, a: a.dot(a), "cuBLAS"),
    "einsum": (lambda cp, a: cp.einsum("ij,jk", a, a), "cuBLAS"),
    "data of the host": (lambda cp, a: cp.asarray(np.ones(2)), "the host"),
    "nine arrays": (lambda cp, a: cp.concatenate([a] * 9), "the host"),
    "synchronize": (lambda cp, a: cp.cuda.get_current_stream().synchronize(), "Unsupported"),
    "the device": (lambda cp, a: cp.cuda.Device().synchronize(), "Unsupported"),
    "memory": (lambda cp, a: cp.empty(1 << 20), "new memory"),
    "a second capture": (lambda cp, a: cp.cuda.get_current_stream().begin_capture(), "already"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_capture_forbids_is_refused_there_and_only_there(cp, name):
    call, message = FORBIDDEN[name]
    a = cp.asarray(normal(3, 3))
    stream, pool = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        if name not in ("memory", "a second capture"):
            call(cp, a)
        stream.begin_capture()
        with pytest.raises((RuntimeError, NotImplementedError), match=message):
            call(cp, a)
    assert stream.is_capturing()


def test_a_stream_that_was_waited_for_ends_its_capture_with_an_error(cp):
    stream = cp.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="Unsupported"):
        stream.synchronize()
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="Invalidated"):
        stream.end_capture()
    assert not stream.is_capturing()
    stream.synchronize()


def test_the_default_stream_cannot_be_captured(cp):
    with pytest.raises(RuntimeError, match="default"):
        cp.cuda.get_current_stream().begin_capture()
    with pytest.raises(RuntimeError, match="not capturing"):
        cp.cuda.Stream().end_capture()


def test_a_kernel_is_not_loaded_in_a_capture(cp):
    x = cp.asarray(normal(4, 4))
    tg.kernels.gemm._matmul.cache_clear()  # a kernel knows what it has loaded
    stream, pool = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        cp.empty((4, 4), np.float32)
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="synchronous"):
            tg.kernels.matmul(x, x)


def test_a_pools_memory_is_used_again_and_is_garbage_until_written(cp):
    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc):
        a = cp.ones(100)
        address, view = a.data.ptr, a[10:]
        del a
        assert cp.zeros(100).data.ptr != address  # the view holds it
        del view
        b = cp.ndarray(100, np.float64, pool.malloc(800))
        assert b.data.ptr in (address, address + 0) or pool.total_bytes() == 2048
        assert np.isnan(b.get()).all()
        assert pool.used_bytes() == 1024
    assert pool.total_bytes() == 2048


# Passes


def product_and_gate(op, shapes, result, params, slope, masked, dtype):
    """The program of a product and a gate behind it, and numbers to run it on."""
    dtype = np.dtype(dtype)
    values = [Value(shape, dtype, f"x{i}") for i, shape in enumerate(shapes)]
    p, y, m = (Value(result, dtype, name) for name in (None, None, "m"))
    lines = (
        Line(op, tuple(values), params, p),
        Line(ops.gate, (p, m if masked else p), {"slope": slope}, y),
    )
    inputs = (*values, m)
    arrays = [normal(*v.shape, seed=i, dtype=dtype) for i, v in enumerate(inputs)]
    arrays[-1].reshape(-1)[:4] = [0, -0.0, np.nan, -np.inf]
    return Program(inputs, {}, lines, y), arrays


AT = conv.Geometry((6, 6), 4, 2, 1)
PRODUCTS = {
    "affine": (ops.affine, [(5, 3), (3, 4), (4,)], (5, 4), {}),
    "matmul": (ops.matmul, [(5, 3), (3, 4)], (5, 4), {}),
    "aᵀ·b": (ops.matmul, [(3, 5), (3, 4)], (5, 4), {"ta": True}),
    "a·bᵀ": (ops.matmul, [(5, 3), (4, 3)], (5, 4), {"ta": False, "tb": True}),
    "a long sum": (ops.matmul, [(1100, 3), (1100, 4)], (3, 4), {"ta": True}),
    "conv2d": (conv.conv2d, [(2, 6, 6, 3), (4, 4, 3, 4), (4,)], (2, 3, 3, 4), {"geometry": AT}),
    "no bias": (conv.conv2d, [(2, 6, 6, 3), (4, 4, 3, 4)], (2, 3, 3, 4), {"geometry": AT}),
    "conv2d_transpose": (
        conv.conv2d_transpose, [(2, 3, 3, 4), (4, 4, 3, 4), (3,)], (2, 6, 6, 3), {"geometry": AT},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.2, -0.5, 1.5])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_and_its_gate_become_one_call_with_the_same_bits(cp, name, slope, masked, dtype):
    program, arrays = product_and_gate(*PRODUCTS[name], slope, masked, dtype)
    fused = gpu_fuse.fuse_gates(program)
    assert list(fused.counts()) == ["gated"]
    assert fused.flops == program.lines[0].flops
    assert_same(evaluate(fused, *there(arrays)), evaluate(program, *there(arrays)))
    assert_close(evaluate(fused, *arrays), evaluate(program, *arrays))  # NumPy's own way


def test_the_result_of_a_gate_serves_as_the_mask_of_the_gradients(cp):
    def step(w, x, g):
        w = track(w)
        h = ops.leaky_relu(ops.matmul(x, w))
        return grad_values(ops.sum(ops.multiply(ops.matmul(h, w), g)), w)

    arrays = there([normal(4, 4), normal(4, 4, seed=1), normal(4, 4, seed=2)])
    program = tg.replay.passes.optimise(trace(step, *arrays))
    assert program.counts()["gate"] == 2
    fused = gpu_fuse.fuse_gates(program)
    assert fused.counts()["gated"] == 2 and "gate" not in fused.counts()
    assert_same(evaluate(fused, *arrays), evaluate(program, *arrays))


def gates(*lines, results, inputs):
    return Program(tuple(inputs), {}, tuple(lines), results)


def test_gates_stay_where_the_product_is_needed_or_its_sign_is_lost(cp):
    f = np.dtype(np.float32)
    a, b, p, y, z = (Value((3, 3), f, name) for name in ("a", "b", None, None, None))
    product = Line(ops.matmul, (a, b), {}, p)
    own = Line(ops.gate, (p, p), {"slope": 0.2}, y)
    later = Line(ops.gate, (b, p), {"slope": 0.2}, z)
    arrays = there([normal(3, 3), normal(3, 3, seed=1)])
    for lines, results, count in [
        ([product, own], (y, p), 0),  # a result
        ([product, own, Line(ops.add, (y, p), {}, z)], z, 0),  # used elsewhere
        ([product, replace(own, params={"slope": -0.2}), later], (y, z), 0),  # y > 0 says less
        ([product, later, own], (y, z), 0),  # the mask comes before its substitute
        ([product, own, later], (y, z), 1),
    ]:
        program = gates(*lines, results=results, inputs=(a, b))
        fused = gpu_fuse.fuse_gates(program)
        assert fused.counts().get("gated", 0) == count
        assert_same(evaluate(fused, *arrays), evaluate(program, *arrays))


@pytest.mark.parametrize("also", [False, True])
def test_rows_of_a_product_are_masks_too_unless_they_are_used_otherwise(cp, also):
    f = np.dtype(np.float32)
    a, b, p, y = (Value((3, 3), f) for _ in range(4))
    c, rows, z, last = (Value((2, 3), f) for _ in range(4))
    lines = [
        Line(ops.matmul, (a, b), {}, p),
        Line(ops.gate, (p, p), {"slope": 0.2}, y),
        Line(ops.index, (p,), {"at": slice(1, 3)}, rows),
        Line(ops.gate, (c, rows), {"slope": 0.2}, z),
        Line(ops.add, (z, rows if also else c), {}, last),
    ]
    program = gates(*lines, results=(y, last), inputs=(a, b, c))
    arrays = there([normal(3, 3), normal(3, 3, seed=1), normal(2, 3, seed=2)])
    fused = gpu_fuse.fuse_gates(program)
    assert fused.counts().get("gated", 0) == (not also)
    assert_same(evaluate(fused, *arrays), evaluate(program, *arrays))


@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("op", [ops.stack, ops.concatenate])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_arrays_are_joined_one_by_one(cp, op, n, axis):
    arrays = [normal(2, 3, seed=i) for i in range(n)]
    given = {} if axis is None else {"axis": axis}
    expected = op(*arrays, **given)
    assert_same(gpu_fuse.JOINS[op](*there(arrays), **given), expected)
    assert_same(gpu_fuse.JOINS[op](*arrays, **given), expected)


def joins(a, b):
    """Results that are joined, and joined again, and used by themselves too; an argument."""
    p, q = ops.multiply(a, 2.0), ops.exp(b)
    first = ops.concatenate(ops.stack(p, q), ops.stack(q, q))
    second = ops.concatenate(ops.stack(a, ops.add(a, b)), first, first)
    return second, ops.sum(q), ops.stack(ops.negative(p), ops.negative(q))


def test_what_is_joined_is_made_in_its_place(cp, monkeypatch):
    arguments = there([normal(4, 4), normal(4, 4, seed=1)])
    count = []
    for parts in (gpu.Plan._parts, lambda *args: {}):
        monkeypatch.setattr(gpu.Plan, "_parts", parts)
        step = tg.compile(joins)
        results = [step(*arguments) for _ in range(3)]
        for found in results:
            assert_close(found, joins(*here(arguments)))
        assert is_a_graph(step)
        count.append(len(launches(step).calls))
    # p and q; a + b; the three stacks of them; both of the last.
    assert count[1] - count[0] == 8


def test_parts_that_would_begin_at_odd_places_are_copied(cp):
    def step(a):
        return ops.concatenate(ops.exp(a), ops.negative(a), ops.multiply(a, 2.0))

    a = cp.asarray(normal(3))
    step = tg.compile(step)
    for _ in range(2):
        assert_same(step(a), np.concatenate([np.exp(here(a)), -here(a), here(a) * 2]))
    plan = step.latest.plan
    assert [list(parts.values()) for parts in plan._joins.values()] == [[0]]


PARTS = {
    "along another axis": lambda a: ops.concatenate(ops.exp(a), ops.negative(a), axis=1),
    "rows of something larger": lambda a: ops.concatenate(
        ops.index(ops.exp(a), at=(slice(0, 2),)), ops.index(ops.negative(a), at=(slice(0, 1),))
    ),
    "one thing twice": lambda a: ops.concatenate(ops.exp(a), ops.exp(a)),
    "a result": lambda a: (y := ops.exp(a), ops.concatenate(ops.negative(a), y)),
    "arguments": lambda a: ops.concatenate(a, a),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_cannot_be_made_in_their_place(cp, name):
    a, step = normal(4, 4), tg.compile(PARTS[name])
    for _ in range(2):
        assert_close(step(cp.asarray(a)), PARTS[name](a))
    assert is_a_graph(step)


def test_a_part_that_comes_in_another_order_is_copied(cp):
    @primitive
    def turned(a):
        return a.T * 2

    def step(a):
        return ops.concatenate(turned(a), a)

    a = cp.asarray(normal(4, 4))
    step = tg.compile(step)
    for _ in range(2):
        assert_same(step(a), np.concatenate([here(a).T * 2, here(a)]))


def test_a_join_of_nine_is_captured(cp):
    arrays = there([normal(3, seed=i) for i in range(9)])
    step = tg.compile(lambda *arrays: ops.stack(*arrays))
    assert_same(step(*arrays), ops.stack(*here(arrays)))
    assert is_a_graph(step)


# Training steps


def game(penalty, optimizer, pair, sample, clip=None, batch=2):
    """(a step, players, a function that draws its other arguments)."""
    gan = GAN(*pair, optimizer, optimizer, tg.losses.WASSERSTEIN, penalty, clip)

    def step(players, real, z, noise, rate):
        players, critic = critic_step(gan, players, real, z, noise, rate)
        players, generator = generator_step(gan, players, z)
        return players, ops.stack(critic.loss, generator.loss)

    stream = tg.Stream(0)

    def draw(i):
        real, z = stream.normal((batch, *sample)), stream.normal((batch, pair.latent))
        return real, z, penalty.draw(stream, real) if penalty else (), 1e-4 / (i + 1)

    return step, gan.init(stream), draw


# With an eps that small gradients do not come near: else their last bits show in the parameters.
ADAM = optim.Adam(1e-4, (0.5, 0.9), eps=1e-4)
TOY = tg.models.mlp_pair(2, 2, 8, 2)
WGAN_GP = penalties.one_gp(10.0)


def dcgan(**options):
    return tg.models.dcgan32(width=1 / 32, **options)


GAMES = {
    "zero-centred, SGD": lambda: game(
        penalties.zero_gp(10.0, ops.sigmoid), optim.SGD(1e-3), TOY, (2,)
    ),
    "WGAN-GP, Adam": lambda: game(WGAN_GP, ADAM, TOY, (2,)),
    "clip, Nesterov": lambda: game(None, optim.SGD(1e-3, 0.9, True), TOY, (2,), clip=0.01),
    "RMSProp": lambda: game(None, optim.RMSProp(1e-4), TOY, (2,)),
    "DCGAN, WGAN-GP": lambda: game(WGAN_GP, ADAM, dcgan(norm=None), (32, 32, 3)),
    "DCGAN, layer norm": lambda: game(WGAN_GP, ADAM, dcgan(norm=tg.nn.LayerNorm), (32, 32, 3)),
    "DCGAN, batch norm": lambda: game(None, ADAM, dcgan(), (32, 32, 3)),
}


@pytest.mark.parametrize("name", GAMES)
def test_a_training_step_is_one_graph_and_equals_the_step_on_the_cpu(cp, name):
    step, players, draw = GAMES[name]()
    replayed = tg.compile(step)
    on_gpu = there(players)
    for i in range(5):
        arguments = draw(i)
        expected = step(here(on_gpu), *arguments)
        on_gpu, losses = replayed(on_gpu, *there(arguments))
        assert_close((on_gpu, losses), expected, 1.5e-6)  # by the BLAS
    assert repr(replayed) == "<compiled step: 1 programs, a CUDA graph>"
    runner = replayed.latest
    assert len(runner.sets) == 2 and len(runner.bound) <= 3


@pytest.fixture
def toy(cp):
    """A step of WGAN-GP with Adam, compiled; players; a function that draws its arguments."""
    step, players, draw = GAMES["WGAN-GP, Adam"]()
    return tg.compile(step), step, there(players), lambda i: there(draw(i))


def test_addresses_are_the_same_over_twenty_launches_and_no_memory_is_taken(toy, monkeypatch):
    monkeypatch.setattr("tinygan.replay.compiled.SMALL", -1)  # copies have any address
    replayed, _, players, draw = toy
    seen = []
    for i in range(4):
        players, losses = replayed(players, *draw(i))
        seen.append(addresses((players, losses)))
    runner = replayed.latest
    bytes_, inputs = runner.plan.pool.total_bytes(), addresses(runner.inputs)
    graphs = list(runner.bound.values())
    for i in range(20):
        players, losses = replayed(players, *draw(i))
        assert addresses((players, losses)) == seen[i % 2 + 2 if i % 2 == 0 else 3]
    assert seen[2] != seen[3]
    assert runner.plan.pool.total_bytes() == bytes_ and addresses(runner.inputs) == inputs
    assert list(runner.bound.values()) == graphs


def test_memory_of_graphs_stays_even_if_the_pool_runs_short(toy):
    replayed, _, players, draw = toy
    replayed(players, *draw(0))
    pool = replayed.latest.plan.pool
    kept = [weakref.ref(memory) for memories in pool.kept.values() for memory in memories]
    pool.free_all_blocks()  # as it does before it gives up
    gc.collect()
    assert len(kept) > 10 and all(memory() is not None for memory in kept)


def test_a_plan_that_nobody_needs_gives_its_memory_back_at_once(toy):
    replayed, _, players, draw = toy
    for i in range(3):
        players, _ = replayed(players, *draw(i))
    memory = [weakref.ref(block.mem) for block in replayed.latest.plan._blocks]
    gc.disable()
    try:
        replayed.runners.clear()
        replayed.latest = None
        assert not any(block() for block in memory)
    finally:
        gc.enable()


def launches(replayed):
    """The graph that was captured last."""
    return list(replayed.latest.bound.values())[-1][0].__self__


def test_no_result_is_copied(toy, monkeypatch):
    given, find = [], gpu.Plan._given
    monkeypatch.setattr(
        gpu.Plan, "_given", lambda self, *args: given.append(find(self, *args)) or given[-1]
    )
    replayed, step, players, draw = toy
    for i in range(3):
        players, _ = replayed(players, *draw(i))
    assert [len(found) for found in given] == [len(replayed.latest.plan._sizes)] * 3
    monkeypatch.setattr(gpu.Plan, "_given", lambda *args: {})
    copying = tg.compile(step)
    copying(players, *draw(0))
    few, many = (len(launches(each).calls) for each in (replayed, copying))
    assert many - few == len(copying.latest.results)


def test_results_are_right_even_if_none_is_made_in_its_place(toy, monkeypatch):
    monkeypatch.setattr(gpu.Plan, "_given", lambda *args: {})
    replayed, step, players, draw = toy
    for i in range(4):
        arguments = draw(i)
        expected = step(players, *arguments)
        players, losses = replayed(players, *arguments)
        assert_close((players, losses), expected)


def test_the_same_arguments_give_the_same_bits_wherever_results_go(toy):
    replayed, _, players, draw = toy
    arguments = draw(0)
    kept = [replayed(players, *arguments) for _ in range(4)]  # all held: each in a set of its own
    for other in kept[1:]:
        assert_same(other, kept[0])
    first = kept[0][0]
    again = [replayed(first, *arguments) for _ in range(2)]
    assert_same(again[0], again[1])


def test_results_that_are_held_are_not_written_to(toy):
    replayed, _, players, draw = toy
    kept, copies, views = [], [], []
    for i in range(10):
        players, losses = replayed(players, *draw(i))
        kept.append(losses)
        copies.append(here(losses))
        views.append((players.critic[0]["weight"].T[1:], here(players.critic[0]["weight"].T[1:])))
    assert_same(kept, copies)
    for view, copy in views:
        assert_same(view, copy)


def test_a_set_is_used_again_once_nobody_holds_a_view_of_it(cp):
    step = tg.compile(lambda x: ops.multiply(x, 2.0))
    view = step(cp.asarray(normal(3)))[1:]
    first = view.data.ptr - 4
    assert step(cp.asarray(normal(3))).data.ptr != first
    del view
    gc.collect()
    assert first in {step(cp.asarray(normal(3, seed=i))).data.ptr for i in range(2)}


def test_more_results_are_held_than_there_are_sets(cp):
    step = tg.compile(lambda x: ops.add(x, 1.0))
    kept = [step(cp.asarray(np.full(3, i, np.float32))) for i in range(3 * compiled.SETS)]
    for i, y in enumerate(kept):
        assert_same(y, np.full(3, i + 1, np.float32))


def test_counters_rates_and_data_are_not_baked_in(toy):
    replayed, step, players, draw = toy
    eager = players
    for i in range(5):
        real, z, noise, _ = draw(i)
        rate = (1e-2, 1e-5, 0.0, 3e-3, np.float64(1e-3))[i]
        expected, _ = step(eager, real, z, noise, rate)
        players, _ = replayed(players, real, z, noise, rate)
        assert_close(players, expected)
        assert int(players.critic_state["step"]) == i + 1
        eager = there(here(players))
    players, _ = replayed(players, real, z, noise, there(np.asarray(1e-3)))  # a rate on the device
    assert len(replayed.runners) == 1


# What a graph cannot hold


def falls_back(step, *arguments, reason):
    """The step is right, line by line, and says why."""
    replayed = tg.compile(step)
    for seed in range(3):
        given = [there(normal(*a.shape, seed=seed)) if a.dtype.kind == "f" else there(a)
                 for a in arguments]  # fmt: skip
        assert_close(replayed(*given), step(*given))
    for text in (repr(replayed), replayed.source(*given)):
        assert f"line by line, for a CUDA graph cannot hold {reason}" in text
    return replayed


def test_batched_products_go_to_cublas_and_run_line_by_line(cp):
    def step(a, b):
        return ops.multiply(ops.matmul(a, b), 2.0)

    falls_back(step, normal(2, 3, 3), normal(2, 3, 3), reason="matmul, called from test_replay_gpu")


def test_a_scatter_reads_the_device_and_runs_line_by_line(cp):
    def step(a, places):
        y = track(a)
        return grad_values(ops.sum(ops.square(ops.gather(y, places))), y)

    reason = "scatter_add, called from test_replay_gpu.py"
    falls_back(step, normal(5, 2), np.array([0, 3, 3]), reason=reason)


def test_a_planted_read_by_the_host_is_found(cp):
    @primitive
    def doubled(a):
        return a * float(a[0]) / float(a[0]) * 2

    replayed = falls_back(lambda a: doubled(a), normal(3), reason="doubled, called from")
    assert "synchronous" in repr(replayed)


def test_a_planted_host_read_in_the_optimiser_is_found(toy, monkeypatch):
    replayed, _, players, draw = toy
    monkeypatch.setattr(optim, "_number", lambda a: a if type(a) is float else a.item())
    replayed(players, *draw(0))
    assert "cannot hold corrected_rate" in repr(replayed)


def test_a_planted_array_of_the_host_is_found(cp):
    @primitive
    def shifted(a):
        return a + cp.asarray(np.ones(3, np.float32))

    falls_back(lambda a: shifted(a), normal(3), reason="shifted, called from")


def test_an_error_without_words_is_a_reason_too(cp):
    @primitive
    def wordless(a):
        if fake_cupy.current_stream().is_capturing():
            raise MemoryError
        return a + 1

    replayed = falls_back(lambda a: wordless(a), normal(3), reason="wordless, called from")
    assert repr(replayed).endswith(": MemoryError>")


def test_a_planted_allocation_is_found(cp):
    sizes = iter(range(1000))

    @primitive
    def growing(a):
        return a + cp.zeros(1000 * next(sizes) + 3, np.float32)[:3]

    replayed = falls_back(lambda a: growing(a), normal(3), reason="growing, called from")
    assert "new memory" in repr(replayed)


def test_a_planted_baked_number_shows_in_the_results(cp):
    calls = iter(range(1000))

    @primitive
    def counted(a):
        return a * next(calls)

    replayed = tg.compile(lambda a: counted(a))
    a = cp.asarray(np.ones(3, np.float32))
    with pytest.raises(AssertionError):  # what compares a graph with eager calls sees it
        for _ in range(2):
            before = next(calls)
            assert_same(replayed(a), np.full(3, before + 1, np.float32))


# Devices, streams, numbers


def test_a_program_that_only_passes_things_on(cp):
    x, table = cp.asarray(normal(3)), cp.asarray(normal(2, seed=1))
    step = tg.compile(lambda x: (x, ops.reshape(x, shape=(3, 1)), table, "name"))
    for seed in range(3):
        x = cp.asarray(normal(3, seed=seed))
        same, column, constant, name = step(x)
        assert_same((same, column, constant), (x, here(x).reshape(3, 1), table))
        assert column.data.ptr != x.data.ptr and constant is not table and name == "name"


def test_arrays_of_no_elements(cp):
    step = tg.compile(lambda x: ops.multiply(x, 2.0))
    assert here(step(cp.asarray(np.zeros((0, 3), np.float32)))).shape == (0, 3)


def test_strided_arguments_are_taken(cp):
    step = tg.compile(lambda a: ops.matmul(a, a))
    a = cp.asarray(normal(4, 4))
    assert_close(step(a.T), here(a).T @ here(a).T)
    assert_close(step(step(a.T)), np.linalg.matrix_power(here(a).T, 4), 1e-5)


def test_results_that_come_in_another_order_than_the_first_are_copied(cp):
    @primitive
    def turned(a):
        return a.T * 2

    def step(a):
        y = turned(a)
        return y, ops.index(y, at=(0, 0))

    a = normal(3, 3)
    step = tg.compile(step)
    y, expected = cp.asarray(a), a
    for _ in range(4):
        y, corner = step(y)
        expected = 2 * expected.T
        assert_same((y, corner), (expected, expected[0, 0]))
    assert is_a_graph(step)


def test_an_array_is_not_copied_to_its_own_memory(cp):
    a = cp.asarray(normal(3, 3))
    a[...] = a
    with pytest.raises(RuntimeError, match="its own memory"):
        a[...] = a.T
    with pytest.raises(RuntimeError, match="its own memory"):
        a[1:] = a[:-1]


def test_the_programs_of_two_devices_are_apart(cp):
    step = tg.compile(lambda a: ops.add(a, 1.0))
    assert type(step(normal(3))) is np.ndarray
    assert type(step(cp.asarray(normal(3)))) is fake_cupy.ndarray
    assert type(step(normal(3))) is np.ndarray
    assert len(step.runners) == 2


def test_a_graph_keeps_the_precision_it_was_captured_in(cp):
    x = cp.asarray(normal(64, 64))
    step = tg.compile(lambda x: ops.matmul(x, x))
    fine = here(step(x))
    with tg.precision("tf32"):
        coarse = here(step(x))
    assert_same(step(x), fine)
    exact = here(x).astype(np.float64) @ here(x)
    errors = [np.linalg.norm(y - exact) / np.linalg.norm(exact) for y in (fine, coarse)]
    assert errors[0] < 1e-6 < 1e-5 < errors[1]


def test_another_stream_waits_for_the_last_one(cp, monkeypatch):
    waited = []
    monkeypatch.setattr(fake_cupy.Stream, "synchronize", lambda self: waited.append(self))
    step, x = tg.compile(lambda x: ops.add(x, 1.0)), cp.asarray(normal(3))
    other = cp.cuda.Stream()
    for _ in range(3):
        step(x)
    # The arguments may not be there yet when a plan is made and when it is bound.
    assert waited.count(fake_cupy.Stream.null) == 2
    waited.clear()
    step(x)
    assert waited == []
    with other:
        step(x)
    assert waited == [fake_cupy.Stream.null]
    with other:
        step(x)
    step(x)
    assert waited == [fake_cupy.Stream.null, other]


def test_source_and_profile_say_what_runs(toy):
    replayed, _, players, draw = toy
    arguments = draw(0)
    text = replayed.source(players, *arguments)
    assert text.startswith("a CUDA graph\n") and "gated" in text
    ((name, count, seconds),) = replayed.profile(players, *arguments, repeats=2)
    assert (name, count) == ("launch", 1) and seconds > 0


# Interrupted


MOMENTS = {
    "recording": (tg.replay.compiled, "trace"),
    "the first runs": (gpu.Plan, "_lay_out"),
    "a run": (gpu.Plan, "_run"),
    "the capture": (fake_cupy.Stream, "begin_capture"),
    "its end": (fake_cupy.Stream, "end_capture"),
    "a launch": (fake_cupy.Graph, "launch"),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_error_leaves_arguments_as_they_were_and_the_next_call_works(
    toy, monkeypatch, moment, error
):
    replayed, step, players, draw = toy
    arguments = draw(0)
    before, expected = here((players, arguments)), step(players, *arguments)
    owner, name = MOMENTS[moment]
    function = getattr(owner, name)

    def broken(*args, **kwargs):
        if moment == "its end" or not armed:
            result = function(*args, **kwargs)
        if armed:
            raise error
        return result

    monkeypatch.setattr(owner, name, broken)
    armed = True
    with pytest.raises(error):
        replayed(players, *arguments)
    armed = False
    assert_same((players, arguments), before)
    for _ in range(2):
        assert_close(replayed(players, *arguments), expected)
    assert is_a_graph(replayed)


def test_ctrl_c_in_the_middle_of_a_capture_ends_it(toy, monkeypatch):
    replayed, step, players, draw = toy
    arguments = draw(0)
    expected = step(players, *arguments)
    fn = ops.sum.fn

    def interrupted(*args, **kwargs):
        if fake_cupy.current_stream().is_capturing():
            signal.raise_signal(signal.SIGINT)
        return fn(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ops.sum, "fn", interrupted)
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                replayed(players, *arguments)
        finally:
            signal.signal(signal.SIGINT, handler)
    assert not replayed.latest.plan.stream.is_capturing()
    assert_close(replayed(players, *arguments), expected)
    assert is_a_graph(replayed)


# The ring


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_ring_keeps_the_latest_rows(stand_in, device):
    put = there if device == "gpu" else lambda a: a

    def step(ring, a):
        total = ops.sum(a)
        return record(ring, ops.stack(total, ops.square(total)))

    step = tg.compile(step)
    ring, expected = empty_ring(3, 2, like=put(normal(1))), []
    assert latest(ring, 0, 0).shape == (0, 2)
    for count in range(1, 9):
        a = normal(4, seed=count)
        ring = step(ring, put(a))
        expected.append((a.sum(), a.sum() ** 2))
        n = min(3, count)
        np.testing.assert_allclose(latest(ring, n, count), expected[-n:], rtol=1e-6)
        assert int(ring.count) == count
    if device == "gpu":
        assert is_a_graph(step)


@pytest.mark.parametrize("n, count", [(4, 10), (3, 2), (-1, 2)])
def test_a_ring_does_not_give_what_it_does_not_have(n, count):
    with pytest.raises(ValueError, match="at most"):
        latest(empty_ring(3, 1, like=normal(1)), n, count)


def test_a_ring_has_room():
    with pytest.raises(ValueError, match="at least 1"):
        empty_ring(0, 1, like=normal(1))


def test_one_row_is_put_and_the_others_stay(cp):
    rows, row = normal(4, 2), normal(2, seed=1)
    for count in (0, 3, 6):
        expected = rows.copy()
        expected[count % 4] = row
        assert_same(put_row(rows, row, np.asarray(count)), expected)
        assert_same(put_row(*there([rows, row, np.asarray(count)])), expected)

"""The products' kernels, run by the emulator: right for every instance, in every thread order."""

import itertools
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_conv import (
    CORNERS,
    NAIVE,
    empty_arrays_hold_nan,
    geometries,
    inputs_of,
    seeds,
)

from tinygan import conv, engine, kernels, losses, models, ops, optim, penalties, train, tree
from tinygan.backend import Stream
from tinygan.conv import Geometry
from tinygan.engine import observe
from tinygan.kernels import compile, gemm, launch, tiles
from tinygan.kernels import conv as conv_kernels

unwritten_results_show = empty_arrays_hold_nan  # a fixture of test_conv, for this file too
HERE = Path(kernels.__file__).parent
ORDERS = ("ascending", "descending", "random")
OPS = {
    "conv2d": (kernels.conv2d, conv.conv2d, "xwb"),
    "conv2d_transpose": (kernels.conv2d_transpose, conv.conv2d_transpose, "zwc"),
    "conv2d_weight_grad": (kernels.conv2d_weight_grad, conv.conv2d_weight_grad, "xz"),
}
each_op = pytest.mark.parametrize("op", OPS)
each_precision = pytest.mark.parametrize("precision", launch.PRECISIONS)


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def distance(found, exact):
    """‖found − exact‖/‖exact‖, infinite if anything is NaN or a shape differs."""
    assert found.shape == exact.shape
    error = np.linalg.norm((found - exact).astype(np.float64))
    size = np.linalg.norm(exact)
    return np.inf if np.isnan(error) else error / size if size else np.inf * error if error else 0


def bound(precision, dtype, terms):
    """What a sum of so many terms may be off by, norm-wise."""
    if dtype == np.float64:
        return math.sqrt(terms) * 2.0**-53
    return 1e-3 if precision == "tf32" else math.sqrt(max(1, terms)) * 2.0**-24


def terms_of(op, inputs, geometry):
    if op == "conv2d_weight_grad":
        return len(inputs[0]) * math.prod(geometry.grid)
    channels = inputs[1].shape[2 if op == "conv2d" else 3]
    across = geometry.stride if op == "conv2d_transpose" else (1, 1)
    taps = (-(-k // s) for k, s in zip(geometry.kernel, across, strict=True))
    return channels * math.prod(taps)


def exact(op, inputs, geometry):
    return NAIVE[OPS[op][1]](*(a.astype(np.float64) for a in inputs), geometry=geometry)


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that ran."""
    names = []
    run = launch.run_emulated

    def note(kernel, *args):
        names.append(kernel.name)
        return run(kernel, *args)

    monkeypatch.setattr(launch, "run_emulated", note)
    return names


# Every instance

INSTANCES = {i.kernel.name: i for i in conv_kernels.instances() + gemm.instances()}
PATTERN = re.compile(r"(\w+)<(\w+),(\d),Tile<(\d+),(\d+),(\d+),(\d),(\d),(\d)>,(.*)>")


def of_name(name):
    """(op, dtype, precision, tile, the other arguments) of an instance."""
    op, dtype, code, *sizes, rest = PATTERN.fullmatch(name).groups()
    precision = next(p for p, c in tiles.CODE.items() if c == int(code))
    precision = "fp64" if dtype == "double" else precision
    return op, np.dtype(dtype.replace("float", "float32")), precision, tuple(map(int, sizes)), rest


def tile_of(precision, sizes):
    known = (*tiles.TILES[precision], tiles.SINGLE[precision])
    return next(t for t in known if t[:6] == sizes)


@cache
def convolution(op, below, above, dtype):
    """Inputs with a tail in every direction, and the naive loops' result."""
    geometry = Geometry((13, 14), 3, 2, ((1, 0), (0, 1)))
    inputs = inputs_of(OPS[op][2], geometry, 3, (below, above), dtype=dtype)
    return inputs, geometry, exact(op, inputs, geometry)


@cache
def product(ta, tb, rows, columns, terms, dtype):
    a = normal(*((terms, rows) if ta else (rows, terms)), dtype=dtype)
    b = normal(*((columns, terms) if tb else (terms, columns)), seed=1, dtype=dtype)
    bias = normal(columns, seed=2, dtype=dtype)
    exact = np.zeros((rows, columns))
    left, right = (a.T if ta else a).astype(float), (b.T if tb else b).astype(float)
    for k in range(terms):
        exact += left[:, k, None] * right[k]
    return (a, b, bias), exact + bias


PRODUCTS = [name for name in INSTANCES if not name.startswith("add_parts")]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """All kernels by all processors, rather than one by one where they are met."""
    compile.compile_all(instance.kernel for instance in INSTANCES.values())


def problem(name):
    """(run(choice), the exact result, terms of the sum) of a product that only ``name`` can do."""
    op, dtype, precision, sizes, rest = of_name(name)
    tile = tile_of(precision, sizes)
    fours = "4" in rest  # operands are copied four elements at a time, as channels in fours allow
    few = 8 if fours else 3
    if op == "matmul":
        ta, tb = (flag == "true" for flag in rest.split(",")[:2])
        columns = few if tile.columns == tiles.NARROW else 132 if fours else 69
        rows, terms = (140, 200) if fours else (139, 201)
        inputs, right = product(ta, tb, rows, columns, terms, dtype)

        def run(choice):
            return kernels.matmul(*inputs, ta=ta, tb=tb, precision=asked(precision), choice=choice)

        return run, right, terms
    inner, outer = 20 if rest[0] == "4" else 21, 132 if fours else 69
    if tile.columns == tiles.NARROW:
        outer = few
    channels = (outer, inner) if op == "conv2d_transpose" else (inner, outer)
    inputs, geometry, right = convolution(op, *channels, dtype)

    def run(choice):
        return OPS[op][0](*inputs, geometry=geometry, precision=asked(precision), choice=choice)

    return run, right, terms_of(op, inputs, geometry)


def asked(precision):
    """What a caller says for it: float64 is never asked for, it is the arrays'."""
    return None if precision == "fp64" else precision


def cut(tile, terms, parts):
    """A choice: the sum in so many parts, or in as many as there are slices for."""
    slices = -(-terms // tile.terms)
    of_part = -(-slices // parts)
    return tile, -(-terms // (of_part * tile.terms)), of_part * tile.terms


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_instance_is_right_in_every_order_and_cut(name, launched):
    _, dtype, precision, sizes, _ = of_name(name)
    tile = tile_of(precision, sizes)
    run, right, terms = problem(name)
    for parts in (1, 3):
        found = []
        for order in ORDERS:
            with kernels.emulated(order=order):
                found.append(run(cut(tile, terms, parts)))
        assert launched.count(name) == 3, launched
        assert distance(found[0], right) <= bound(precision, dtype, terms)
        assert all(np.array_equal(found[0], other) for other in found[1:])
        launched.clear()


@pytest.mark.parametrize("name", [n for n in PRODUCTS if "double" not in n])
def test_no_access_to_shared_memory_meets_a_bank_twice(name):
    _, _, precision, sizes, _ = of_name(name)
    run, _, terms = problem(name)
    with kernels.emulated(count_banks=True):
        run(cut(tile_of(precision, sizes), terms, 1))
        report = kernels.bank_report()
    kinds = {row["kind"].split()[0] for row in report}
    assert "copy_async" in kinds and kinds & {"load_shared", "ldmatrix_x4"}
    conflicts = [row for row in report if row["wavefronts"] > row["ideal"]]
    assert not conflicts, conflicts


@pytest.mark.parametrize("architecture", [60, *launch.LIMITS, 87, 130])
def test_choices_are_listed_fit_the_chip_and_cover_the_sum(architecture):
    most = launch.limits(architecture).shared_per_block
    for precision in tiles.TILES if architecture >= 80 else ["fp32", "fp64"]:
        itemsize = 8 if precision == "fp64" else 4
        for rows, columns, terms, grids, single in itertools.product(
            (1, 100, 4096, 100_000), (1, 8, 9, 64, 1024), (0, 1, 48, 65536), (1, 4), (True, False)
        ):
            tile, parts, of_part = tiles.choose(
                precision, rows, columns, terms, grids, single, architecture, 132
            )
            if columns <= tiles.NARROW:
                assert tile == tiles.TILES[precision][-1]
            elif single:
                assert tile == tiles.SINGLE[precision]
            else:
                assert tile in tiles.TILES[precision][:-1]
            assert max(tile.shared(a, b, itemsize) for a in (0, 1) for b in (0, 1)) <= most
            assert of_part % tile.terms == 0 < of_part
            assert (parts - 1) * of_part < max(1, terms) <= parts * of_part


def test_work_is_spread_over_the_chip_and_large_work_takes_large_tiles():
    def blocks(precision, rows, columns, terms):
        tile, parts, _ = tiles.choose(precision, rows, columns, terms, 1, False, 90, 132)
        return -(-rows // tile.rows) * -(-columns // tile.columns) * parts

    for precision in launch.PRECISIONS:
        large = tiles.choose(precision, 1 << 17, 1024, 4096, 1, False, 90, 132)
        assert large[:2] == (tiles.TILES[precision][0], 1)
        assert blocks(precision, 1024, 128, 16384) >= 100  # a weight gradient: in parts
        assert blocks(precision, 4096, 128, 1024) >= 100


# Every geometry


@each_op
@each_precision
@pytest.mark.parametrize("geometry", CORNERS.values(), ids=CORNERS)
def test_corners_are_right(op, precision, geometry):
    for channels in ((4, 8), (3, 9)):
        inputs = inputs_of(OPS[op][2], geometry, channels=channels, dtype=np.float32)
        with kernels.emulated(order="random"):
            found = OPS[op][0](*inputs, geometry=geometry, precision=precision)
        limit = bound(precision, np.float32, terms_of(op, inputs, geometry))
        assert distance(found, exact(op, inputs, geometry)) <= 2 * limit  # few terms, few results


@each_op
@given(
    geometry=geometries(),
    samples=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    precision=st.sampled_from(launch.PRECISIONS),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=seeds,
)
def test_any_geometry_is_right(op, geometry, samples, channels, precision, dtype, seed):
    inputs = inputs_of(OPS[op][2], geometry, samples, channels, seed, dtype)
    with kernels.emulated():
        found = OPS[op][0](*inputs, geometry=geometry, precision=precision)
    sizes = [np.abs(a) for a in inputs]  # a few results may nearly cancel: measure by the terms
    scale = np.linalg.norm(exact(op, sizes, geometry))
    error = np.linalg.norm(found - exact(op, inputs, geometry))
    terms = terms_of(op, inputs, geometry)
    assert found.dtype == dtype and error <= 2 * bound(precision, dtype, terms) * scale


# What follows the product


@pytest.mark.parametrize("op", ["conv2d", "conv2d_transpose"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("channels", [(16, 12), (5, 3), (4, 70)])
def test_bias_leaky_relu_and_its_backward_are_fused(op, parts, channels):
    geometry = Geometry(7, 4, 2, 1)
    inputs = inputs_of(OPS[op][2], geometry, channels=channels, dtype=np.float32)
    s = exact(op, inputs, geometry)
    mask = normal(*s.shape, seed=5)
    tile = tiles.choose("fp32", 1, s.shape[-1], 1, 1, any(c % 4 for c in channels), 90, 132)[0]
    choice = cut(tile, terms_of(op, inputs, geometry), parts)
    with kernels.emulated():
        run = OPS[op][0]
        leaky = run(*inputs, geometry=geometry, slope=0.2, choice=choice)
        relu = run(*inputs, geometry=geometry, slope=0.0, choice=choice)
        gated = run(*inputs, geometry=geometry, slope=0.2, mask=mask, choice=choice)
    np.testing.assert_allclose(leaky, np.where(s > 0, s, 0.2 * s), atol=1e-4)
    np.testing.assert_allclose(relu, np.maximum(s, 0), atol=1e-4)
    np.testing.assert_allclose(gated, np.where(mask > 0, s, 0.2 * s), atol=1e-4)


def test_a_kernel_that_covers_the_image_is_a_matrix_product(launched):
    geometry = Geometry(4, 4)
    mask = normal(3, 4, 4, 12, seed=5)
    for op in OPS:
        inputs = inputs_of(OPS[op][2], geometry, channels=(12, 20), dtype=np.float32)
        keep = {"mask": mask, "slope": 0.2} if op == "conv2d_transpose" else {}
        with kernels.emulated():
            found = OPS[op][0](*inputs, geometry=geometry, **keep)
        right = exact(op, inputs, geometry)
        right = np.where(mask > 0, right, 0.2 * right) if keep else right
        assert distance(found, right) < 1e-6
    assert launched and all(name.startswith(("matmul", "add_parts")) for name in launched)


def test_empty_sums_and_empty_results():
    with kernels.emulated():
        for op, shape in (("conv2d", (0, 2, 2, 3)), ("conv2d_transpose", (0, 4, 4, 2))):
            inputs = inputs_of(OPS[op][2], Geometry(4, 2, 2), samples=0, dtype=np.float32)
            assert OPS[op][0](*inputs, geometry=Geometry(4, 2, 2)).shape == shape
        x, z = inputs_of("xz", Geometry(4, 2, 2), samples=0, dtype=np.float32)
        found = kernels.conv2d_weight_grad(x, z, geometry=Geometry(4, 2, 2))
        assert found.shape == (2, 2, 2, 3) and not found.any()
        bias = normal(5)
        found = kernels.matmul(np.ones((3, 0), np.float32), np.ones((0, 5), np.float32), bias)
        assert np.array_equal(found, np.broadcast_to(bias, (3, 5)))


# Planted faults: each is in a copy of the sources, and the checks above must see it.

CONV = "conv2d<float,1,Tile<64,64,32,2,2,4>,4,4>"
TRANSPOSE = "conv2d_transpose<float,1,Tile<64,64,32,2,2,4>,4>"
WEIGHTS = "conv2d_weight_grad<float,0,Tile<64,64,16,2,2,4>,4,4>"
GEMM = "matmul<float,3,Tile<64,64,16,2,2,4>,false,false,4,4>"
HIGH = "tg::mma<MT, NT>(slice_sum, left, right);"
PLANTED = {
    "nothing": (CONV, "tile.cuh", "", ""),
    "no barrier": (CONV, "tile.cuh", "    __syncthreads();\n    fetch", "    fetch"),
    "a slice fetched before the barrier": (
        CONV,
        "tile.cuh",
        "    tg::copy_wait<AHEAD - 1>();\n    __syncthreads();\n    fetch(step + AHEAD);",
        "    fetch(step + AHEAD);\n    tg::copy_wait<AHEAD>();\n    __syncthreads();",
    ),
    "a wait too few": (CONV, "tile.cuh", "copy_wait<AHEAD - 1>", "copy_wait<AHEAD>"),
    "halo above": (CONV, "load.cuh", "(unsigned)row < (unsigned)height", "row < height"),
    "halo on the right": (
        CONV, "load.cuh", "(unsigned)column < (unsigned)width", "(unsigned)column <= width",
    ),
    "halo of the transpose": (TRANSPOSE, "load.cuh", "(unsigned)row <", "(unsigned)row <="),
    "parities: the first pixel": (TRANSPOSE, "conv.cu", "max(0, (s.top", "max(1, (s.top"),
    "parities: the pixels' number": (
        TRANSPOSE, "conv.cu", "s.left - tap_across + s.stride_across - 1", "s.left - tap_across",
    ),
    "no tail of terms": (TRANSPOSE, "load.cuh", "tap.high < taps_down", "true"),
    "two limits that cancel": (CONV, "load.cuh", "ABOVE = -0x8000", "ABOVE = -0x4000"),
    "no tail of columns": (CONV, "load.cuh", "ks(x < xs ? ks_ : 0)", "ks(ks_)"),
    "no tail of rows": (CONV, "conv.cu", "if (m < rows) out", "out"),
    "no tail of places": (WEIGHTS, "load.cuh", "place.high < images", "true"),
    "a carry lost": (CONV, "load.cuh", "high += step_high + carry", "high += step_high"),
    "a part left out": (GEMM, "gemm.cu", "int part = 0; part <", "int part = 1; part <"),
    "the low halves dropped": (
        GEMM, "multiply.cuh", "tg::mma<MT, NT>(slice_sum, left, right_low);", "",
    ),
    "the tensor cores' sum carried on": (
        GEMM, "multiply.cuh", HIGH, HIGH.replace("slice_sum", "sum"),
    ),
}  # fmt: skip


def caught(name, inputs, run, right):
    """How the checks of this file see a fault: an error, a wrong result, or one that moves."""
    _, dtype, precision, sizes, _ = of_name(name)
    terms = inputs[0].shape[-1] if name == GEMM else terms_of(name.partition("<")[0], *inputs)
    first = None
    for order in ORDERS:
        for parts in (1, 2):
            try:
                with kernels.emulated(order=order):
                    found = run(cut(tile_of(precision, sizes), terms, parts))
            except RuntimeError as error:
                return f"error: {error}"
            if not distance(found, right) <= bound(precision, dtype, terms):
                return f"wrong by {distance(found, right)}"
            if parts == 1:
                first = found if first is None else first
                if not np.array_equal(first, found):
                    return "order matters"
    return ""


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_caught(fault, tmp_path, monkeypatch):
    name, file, old, new = PLANTED[fault]
    for source in (*HERE.glob("*.cu"), *HERE.glob("*.cuh"), *HERE.glob("*.hpp")):
        text = source.read_text()
        assert source.name != file or not old or old in text, f"nothing to plant: {old}"
        changed = text.replace(old, new) if source.name == file and old else text
        (tmp_path / source.name).write_text(changed)

    def elsewhere(instance):
        kernel = launch.Kernel(str(tmp_path / instance.kernel.source), instance.kernel.name)
        return launch.Instance(kernel, instance.threads, instance.shared)

    run, add_parts = gemm.run, gemm._add_parts

    def planted(make, *rest):
        run(lambda *given: elsewhere(make(*given)), *rest)

    for module in (gemm, conv_kernels):
        monkeypatch.setattr(module, "run", planted)
    monkeypatch.setattr(gemm, "_add_parts", lambda dtype: elsewhere(add_parts(dtype)))

    if name == GEMM:
        inputs = normal(64, 4096), normal(4096, 64, seed=1)
        right = inputs[0].astype(float) @ inputs[1].astype(float)

        def play(choice):
            return kernels.matmul(*inputs, precision="3xtf32", choice=choice)
    else:
        op, _, precision, _, _ = of_name(name)
        inputs = convolution(op, 20, 132, np.dtype(np.float32))
        inputs, right = inputs[:2], inputs[2]

        def play(choice):
            tensors, geometry = inputs
            return OPS[op][0](
                *tensors, geometry=geometry, precision=asked(precision), choice=choice
            )

    found = caught(name, inputs, play, right)
    assert bool(found) == (fault != "nothing"), found


# As the library calls them


def one_critic_step(dtype):
    """The players after one WGAN-GP step of DCGAN-32 at half width, batch 2, and the gradients."""
    g, d = models.dcgan32(width=0.5, norm=None)
    adam = optim.Adam(1e-4, (0.5, 0.9))
    penalty = penalties.Penalty(10.0, penalties.INTERPOLATES, 1.0, one_sided=False)
    gan = train.GAN(g, d, adam, adam, loss=losses.WASSERSTEIN, penalty=penalty)
    before = gan.init(Stream(3), np.float64)
    before = tree.tree_map(lambda a: a.astype(dtype) if hasattr(a, "dtype") else a, before)
    real, z = normal(2, 32, 32, 3, dtype=dtype), normal(2, 100, seed=1, dtype=dtype)
    alpha = np.array([0.3, 0.8], dtype).reshape(2, 1, 1, 1)
    return train.critic_step(gan, before, real, z, (alpha,))


def test_a_wgan_gp_critic_step_runs_wholly_through_the_kernels(launched):
    products = {conv.conv2d, conv.conv2d_transpose, conv.conv2d_weight_grad, ops.matmul, ops.affine}
    asked = []
    with kernels.emulated(), observe(lambda op, *_: asked.append(op) if op in products else None):
        players, found = one_critic_step(np.float32)
    ran = [n.partition("<")[0] for n in launched]
    assert len(asked) == sum(n in ("matmul", *OPS) for n in ran) > 20
    assert {"conv2d", "conv2d_transpose", "conv2d_weight_grad", "matmul"} <= set(ran)

    host_players, host = one_critic_step(np.float32)
    exact_players, right = one_critic_step(np.float64)
    assert abs(found.loss - right.loss) <= 4e-6 * abs(right.loss)
    for mine, numpys, exact in zip(
        *map(tree.leaves, (found.tree, host.tree, right.tree)), strict=True
    ):
        assert distance(mine, exact) <= 2 * distance(numpys, exact) + 4 * 2.0**-24
        assert distance(mine, numpys.astype(np.float64)) <= 1e-5
    for mine, numpys, gradient in zip(
        *map(tree.leaves, (players.critic, host_players.critic, right.tree)), strict=True
    ):
        sizes = abs(gradient)  # Adam's first step is nearly a sign, steep where the gradient is 0
        clear = sizes > max(1e-3 * sizes.max(), 1e-6)
        assert abs(mine - numpys)[clear].max(initial=0) <= 1e-7


def test_precision_is_the_contexts_and_reaches_derivatives():
    geometry = Geometry(8, 4, 2, 1)
    x, w = inputs_of("xw", geometry, channels=(8, 16), dtype=np.float32)

    def second(dtype):
        t, u = engine.track(x.astype(dtype)), engine.track(w.astype(dtype))
        inner = engine.grad(ops.sum(ops.square(conv.conv2d(t, u, geometry=geometry))), t)
        return engine.grad_values(ops.sum(ops.square(inner)), u)

    right = second(np.float64)
    with kernels.emulated():
        distances = {}
        for name in launch.PRECISIONS:
            with kernels.precision(name):
                distances[name] = distance(second(np.float32), right)
    assert distances["fp32"] < 1e-6 and distances["3xtf32"] < 1e-6
    assert 1e-5 < distances["tf32"] < 2e-3


@each_op
def test_cupy_arrays_go_the_same_way(op, stand_in):
    """The launch code for CuPy, on its stand-in: the same instances, so the same bits."""
    geometry = Geometry((9, 8), (4, 5), 2, 1)
    inputs = inputs_of(OPS[op][2], geometry, channels=(12, 7), dtype=np.float32)
    found = OPS[op][1].fn(*map(stand_in.asarray, inputs), geometry=geometry)
    with kernels.emulated():
        assert np.array_equal(stand_in.get(found), OPS[op][0](*inputs, geometry=geometry))


@each_op
def test_nothing_is_chosen_or_compiled_after_the_first_call(op, stand_in, monkeypatch):
    geometry = Geometry((9, 8), (4, 5), 2, 1)
    inputs = [*map(stand_in.asarray, inputs_of(OPS[op][2], geometry, dtype=np.float32))]
    compiled, make = [], stand_in.module.RawModule

    def raw_module(*args, **kwargs):
        compiled.append(kwargs)
        return make(*args, **kwargs)

    monkeypatch.setattr(stand_in.module, "RawModule", raw_module)
    OPS[op][1].fn(*inputs, geometry=geometry)
    first, misses = len(compiled), tiles.choose.cache_info().misses
    assert first >= 1
    OPS[op][1].fn(*inputs, geometry=geometry)
    assert len(compiled) == first and tiles.choose.cache_info().misses == misses


@each_op
def test_views_are_packed_by_the_primitives_and_refused_by_the_kernels(op):
    geometry = Geometry(6, 3)
    inputs = inputs_of(OPS[op][2], geometry, channels=(4, 4), dtype=np.float32)
    views = [np.asfortranarray(inputs[0]), *inputs[1:]]
    with kernels.emulated():
        found = OPS[op][1].fn(*views, geometry=geometry)
        assert np.array_equal(found, OPS[op][0](*inputs, geometry=geometry))
        with pytest.raises(ValueError, match="not C-contiguous; pass numpy.ascontiguousarray"):
            OPS[op][0](*views, geometry=geometry)


@each_op
def test_a_shift_by_one_element_falls_to_the_general_kernel(op, launched):
    geometry = Geometry(6, 3, 2, 1)
    inputs = inputs_of(OPS[op][2], geometry, channels=(8, 16), dtype=np.float32)
    shifted = []
    for a in inputs:
        memory = np.empty(a.size + 4, np.float32)
        first = 1 + (-memory.ctypes.data // 4) % 4  # one element past 16 bytes' boundary
        view = memory[first : first + a.size].reshape(a.shape)
        view[:] = a
        shifted.append(view)
    with kernels.emulated():
        found = OPS[op][0](*shifted, geometry=geometry)
    assert ",1>" in launched[0]
    limit = bound("fp32", np.float32, terms_of(op, inputs, geometry))
    assert distance(found, exact(op, inputs, geometry)) <= limit


@each_op
@pytest.mark.parametrize(
    "geometry", [Geometry((1, 16380), (1, 3), (1, 7)), Geometry((2, 7), (1, 2), (700, 2))], ids=str
)
def test_what_the_kernels_do_not_take_goes_the_general_way(op, geometry, launched):
    assert not kernels.fits(geometry)
    inputs = inputs_of(OPS[op][2], geometry, channels=(1, 2), dtype=np.float32)
    with kernels.emulated():
        found = OPS[op][1].fn(*inputs, geometry=geometry)
    assert not launched and distance(found, exact(op, inputs, geometry)) < 1e-5


def test_a_long_image_still_goes_through_the_kernels(launched):
    geometry = Geometry((1, 16000), (1, 5), (1, 2), ((0, 0), (200, 100)))
    for op in OPS:
        inputs = inputs_of(OPS[op][2], geometry, 1, (2, 3), dtype=np.float32)
        with kernels.emulated():
            found = OPS[op][1].fn(*inputs, geometry=geometry)
        assert distance(found, exact(op, inputs, geometry)) < 1e-5
    assert len([n for n in launched if "add_parts" not in n]) == 3


def test_relu_of_minus_infinity_is_0_and_of_nan_is_nan():
    a = np.array([[-np.inf], [np.nan], [np.inf], [-1.0], [2.0]], np.float32)
    one = np.ones((1, 1), np.float32)
    with kernels.emulated():
        found = kernels.matmul(a, one, slope=0.0)
        gated = ops.gate.fn(a, a, slope=0)
    np.testing.assert_array_equal(found, [[0], [np.nan], [np.inf], [0], [2]])
    np.testing.assert_array_equal(gated, found)


# Bad input


@pytest.mark.usefixtures("nothing_emulated")
def test_bad_input_is_one_clear_error():
    geometry = Geometry(6, 3)
    x, w, b, z = inputs_of("xwbz", geometry, channels=(4, 8), dtype=np.float32)
    with pytest.raises(RuntimeError, match="outside 'with tinygan.kernels.emulated"):
        kernels.conv2d(x, w, b, geometry=geometry)
    with kernels.emulated():
        for wrong, message in [
            ((x[..., :3], w), r"x has shape .*; expected \(3, 6, 6, 4\)"),
            ((x, w[:2]), "w has shape .* with kernel"),
            ((x, w, b[:3]), r"bias has shape \(3,\); expected \(8,\)"),
        ]:
            with pytest.raises(ValueError, match=message):
                kernels.conv2d(*wrong, geometry=geometry)
        with pytest.raises(TypeError, match="x float32, w float64; expected all"):
            kernels.conv2d(x, w.astype(float), geometry=geometry)
        with pytest.raises(TypeError, match="int64.*expected all float32 or all float64"):
            kernels.matmul(np.ones((2, 2), int), np.ones((2, 2), int))
        with pytest.raises(ValueError, match="z has shape"):
            kernels.conv2d_weight_grad(x, z[:2], geometry=geometry)
        with pytest.raises(ValueError, match="3 axes; expected 4"):
            kernels.conv2d_weight_grad(x[0], z, geometry=geometry)
        with pytest.raises(ValueError, match="a has 3 columns and b 2 rows"):
            kernels.matmul(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
        with pytest.raises(ValueError, match="precision is 'bf16'; expected one of"):
            kernels.conv2d(x, w, geometry=geometry, precision="bf16")
        with pytest.raises(TypeError, match="a is a list; expected an array"):
            kernels.matmul([[1.0]], w)
        large = Geometry((1 << 14, 1), 1)
        with pytest.raises(ValueError, match="too large for the kernels.*pieces"):
            kernels.conv2d(
                np.ones((1, 1 << 14, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32),
                geometry=large,
            )  # fmt: skip
        strides = Geometry(300, 1, 300)
        with pytest.raises(ValueError, match="a smaller stride"):
            kernels.conv2d_transpose(
                np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32),
                geometry=strides,
            )  # fmt: skip
    with kernels.emulated(architecture=75):
        assert (
            distance(
                kernels.conv2d(x, w, b, geometry=geometry), exact("conv2d", (x, w, b), geometry)
            )
            < 1e-6
        )
        for name in ("tf32", "3xtf32"):
            with pytest.raises(RuntimeError, match=f"{name}.* needs .*8.0.*has 7.5.*fp32"):
                kernels.conv2d(x, w, b, geometry=geometry, precision=name)
            with kernels.precision(name), pytest.raises(RuntimeError, match="8.0"):
                ops.matmul.fn(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001, 0x7F800000])
def test_nan_and_infinity_reach_every_result_they_touch(bits):
    """Whatever bits a NaN has: the tensor cores' rounding must not make a number of one."""
    geometry = Geometry(6, 3)
    x, w = inputs_of("xw", geometry, channels=(8, 16), dtype=np.float32)
    x[1, 2, 2, 5] = np.array([bits], np.uint32).view(np.float32)[0]
    with np.errstate(invalid="ignore"):
        right = conv.conv2d.fn(x, w, geometry=geometry)
    assert not np.isfinite(right).all() and np.isfinite(right).any()
    for name in launch.PRECISIONS:
        with kernels.emulated():
            found = kernels.conv2d(x, w, geometry=geometry, precision=name)
        assert np.array_equal(np.isfinite(found), np.isfinite(right)), name
        if name != "3xtf32":  # which splits infinity into infinity and NaN
            assert np.array_equal(np.isnan(found), np.isnan(right)), name

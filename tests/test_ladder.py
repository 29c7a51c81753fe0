"""The ladder: every step right, its counts right, and README's tables what the module prints."""

import math
import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from test_conv import NAIVE
from test_kernels import ORDERS, bound, distance

from tinygan import conv, kernels
from tinygan.kernels import compile, ladder, report
from tinygan.kernels.launch import Instance, Kernel

HERE = Path(kernels.__file__).parent
README = (HERE / "README.md").read_text(encoding="utf-8")
STEPS = {step.name: step for step in ladder.steps()}
FIRST_TWO = ["naive", "shared memory"]
# Nothing divides anything: tails in rows, columns and terms, and a padding that is not even.
ODD = ladder.Layer((7, 6), (3, 3), (2, 1), ((1, 0), (0, 1)), (3, 5), 5, 7)
each_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


def exact(step, inputs, layer):
    op = getattr(conv, step.op)
    return NAIVE[op](*(a.astype(np.float64) for a in inputs), geometry=layer)


def run(step, layer, images=1, order="ascending"):
    inputs = step.inputs(images, layer)
    with kernels.emulated(order=order, seed=3):
        return step.run(*inputs, layer=layer), inputs


# Results


@each_step
def test_a_step_is_right_and_the_same_in_every_order(step):
    found, inputs = run(step, ladder.LAYER)
    terms = ladder.LAYER.product(step.op, 1)[2]
    right = exact(step, inputs, ladder.LAYER)
    assert distance(found, right) <= bound(step.precision, np.float32, terms)
    for order in ORDERS[1:]:
        assert np.array_equal(run(step, ladder.LAYER, order=order)[0], found)


@pytest.mark.parametrize("name", FIRST_TWO)
@pytest.mark.parametrize("order", ORDERS)
def test_the_first_two_take_any_layer(name, order):
    found, inputs = run(STEPS[name], ODD, images=3, order=order)
    assert distance(found, exact(STEPS[name], inputs, ODD)) < 1e-6


def test_steps_in_float32_add_in_one_order():
    """From the naive kernel to the largest tile: the terms in their order, each sum rounded."""
    names = [*FIRST_TWO, "registers", "stages", "larger tile"]
    results = [run(STEPS[name], ladder.LAYER)[0] for name in names]
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("layer", [ladder.THIN, ODD], ids=["thin", "odd"])
@pytest.mark.parametrize("op", ["conv2d", "conv2d_transpose", "conv2d_weight_grad"])
def test_the_reference_is_the_naive_loops(op, layer):
    step = next(step for step in ladder.steps() if step.op == op)
    inputs = step.inputs(2, layer)
    np.testing.assert_allclose(
        ladder.reference(op, inputs, layer), exact(step, inputs, layer), rtol=1e-12, atol=1e-12
    )


PLANTED = {
    "nothing": ("naive", "", ""),
    "a pixel above": ("naive", "row < 0 ||", "row < -1 ||"),
    "the padding": ("naive", "k - s.top", "k"),
    "the tail of results": ("naive", "if (at >= ", "if (at > 255 + "),
    "no barrier before the products": ("shared memory", "__syncthreads();\n#", "#"),
    "no barrier after them": ("shared memory", "__syncthreads();  // before", "// before"),
    "a column beyond the image": ("shared memory", "column < s.width", "column <= s.width"),
    "the tail of terms": ("shared memory", "weight = first + down < terms &&", "weight ="),
    "the tail of columns": ("shared memory", "m < rows && o < s.outputs)", "m < rows)"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_caught(fault, tmp_path, monkeypatch):
    name, right, wrong = PLANTED[fault]
    text = (HERE / "naive.cu").read_text()
    assert text.count(right) == 1 or not right
    (tmp_path / "naive.cu").write_text(text.replace(right, wrong) if right else text)
    for attribute in ("_NAIVE", "_SHARED"):
        whole = getattr(ladder, attribute)
        kernel = Kernel(str(tmp_path / "naive.cu"), whole.kernel.name)
        monkeypatch.setattr(ladder, attribute, Instance(kernel, whole.threads, whole.shared))

    def caught():
        for order in ORDERS:
            try:
                found, inputs = run(STEPS[name], ODD, 3, order)
            except RuntimeError as error:
                return str(error)
            if not distance(found, exact(STEPS[name], inputs, ODD)) < 1e-6:
                return "wrong"
        return None

    assert (caught() is None) == (fault == "nothing")


# Counts


def test_the_counts_of_one_step_by_hand():
    """64 images of 16 x 16 x 64, a kernel of 4 x 4 to 128 channels, 64 x 64 x 16 tiles."""
    step = STEPS["registers"]
    assert ladder.LAYER.product("conv2d", 64) == (4096, 128, 1024, 1)
    assert step.flops() == 2 * 4096 * 128 * 1024 == 1_073_741_824
    x, w, b, y = 64 * 16 * 16 * 64, 4 * 4 * 64 * 128, 128, 64 * 8 * 8 * 128
    assert step.bytes() == 4 * (x + w + b + y)
    assert step.grid() == (64, 2, 1)
    blocks, terms = 128, 1024
    assert step.loaded() == blocks * terms * (64 + 64) * 4 == 67_108_864
    assert step.slices() == 1024 // 16
    # A slice is 2 · 64 · 16 words; 32 lanes write 16 bytes each, 4 wavefronts of 32 words.
    written = 2 * 64 * 16 // 32
    # A thread has 8 rows and 4 columns. For 4 terms it reads 16 bytes of each row, and 16 bytes,
    # its 4 columns, of each term: 12 reads, each 4 wavefronts of 8 lanes, in each of 4 warps.
    read = 16 // 4 * (8 + 4) * 4 * 4
    assert ladder.wavefronts(step) == written + read == 832


def test_the_counts_of_the_first_two_by_hand():
    naive, shared = (STEPS[name] for name in FIRST_TWO)
    warps = 4096 * 128 // 32
    assert naive.loaded() == warps * 1024 * (1 + 32) * 4
    assert naive.grid() == (4096 * 128 // 256,) and ladder.wavefronts(naive) == 0
    assert shared.grid() == (4096 // 32, 128 // 32, 1) and shared.slices() == 32
    # 32 warps write two words a lane, and read two for each of 32 terms.
    assert ladder.wavefronts(shared) == 32 * (2 + 2 * 32)


@each_step
@pytest.mark.parametrize("layer", [ladder.LAYER, ODD], ids=["layer", "odd"])
def test_what_blocks_load_is_what_their_tiles_hold(step, layer):
    rows, columns, terms, several = layer.product(step.op, 5)
    parts = step.cut(terms)[0] if step.tile else 1
    again = 4 * parts * rows * columns * several if parts > 1 else 0
    if step.tile is None:
        return
    loaded = 0
    for m in range(0, rows, step.tile.rows):
        for n in range(0, columns, step.tile.columns):
            held = min(step.tile.rows, rows - m) + min(step.tile.columns, columns - n)
            loaded += 4 * held * terms * several
    assert step.loaded(5, layer) == loaded + again
    assert math.prod(step.grid(5, layer)) % (parts * several) == 0


def test_all_three_ops_are_the_same_arithmetic():
    """Of the transpose, the terms that are zero by construction are left out."""
    assert len({step.flops() for step in ladder.steps()}) == 1
    rows, columns, terms, parities = ladder.LAYER.product("conv2d_transpose", 64)
    assert rows * parities == 64 * 16 * 16  # all pixels
    assert terms * 4 == 4 * 4 * 128  # of all taps, those that meet a pixel of the parity


def test_wavefronts_of_a_slice_do_not_depend_on_the_layer(monkeypatch):
    step = STEPS["shared memory"]
    monkeypatch.setattr(ladder, "THIN", ladder.LAYER._replace(channels=16, outputs=40))
    assert ladder.wavefronts.__wrapped__(step) == ladder.wavefronts(step)


def test_no_step_meets_a_bank_twice():
    for step in ladder.steps()[1:]:
        with kernels.emulated(count_banks=True):
            step.run(*step.inputs(1, ladder.THIN), layer=ladder.THIN)
            rows = kernels.bank_report()
        assert rows and all(row["wavefronts"] == row["ideal"] for row in rows), step.name


# What is printed, and README


def test_the_report_knows_the_kernels_of_the_ladder():
    assert set(ladder.instances()) <= set(report.instances())
    assert {i.kernel.name for i in ladder.instances()} >= {"conv2d_naive", "conv2d_shared"}


def test_the_command_without_a_compiler_for_gpus(monkeypatch, capsys):
    def missing(architecture=90):
        raise RuntimeError("neither NVRTC nor nvcc")

    monkeypatch.setattr(ladder, "compiled", missing)
    ladder.main()
    printed = capsys.readouterr().out
    assert ladder.markdown(ladder.counted()) in printed
    assert "Not compiled: neither NVRTC nor nvcc" in printed
    assert "Time: not measured: no GPU was at hand." in printed
    assert all(f"{step.name}: {step.reason}." in printed for step in ladder.steps())


@pytest.mark.skipif(
    not (compile.nvrtc_library() or shutil.which("nvcc")),
    reason="neither nvidia-cuda-nvrtc nor nvcc is installed",
)
def test_no_step_spills():
    rows = [dict(zip(ladder.compiled()[0], row, strict=True)) for row in ladder.compiled()[1:]]
    assert [row["step"] for row in rows] == list(STEPS)
    for row in rows:
        assert row["spill bytes"] == "0" and 16 <= int(row["registers"]) <= 255


def tables(text):
    """The tables of a Markdown page, as lists of rows of texts without their backquotes."""
    found, before = [], False
    for line in text.splitlines():
        if line.startswith("|"):
            if not before:
                found.append([])
            found[-1].append([cell.strip(" `") for cell in line.strip("|").split("|")])
        before = line.startswith("|")
    return found


def table(*heading):
    return next(rows[2:] for rows in tables(README) if rows[0][: len(heading)] == list(heading))


def test_readme_has_the_table_that_the_command_prints():
    assert ladder.markdown(ladder.counted()) in README


def test_readme_tells_every_step():
    steps = table("step", "what is new", "kernel")
    assert [row[0] for row in steps] == ["reference", *STEPS]
    for (_, _, kernel), step in zip(steps[1:], ladder.steps(), strict=True):
        assert kernel == step.instance.kernel.name


def test_readme_says_what_the_machine_code_is_of():
    code = table("step", "threads", "shared bytes", "registers")
    for row, step in zip(code, ladder.steps(), strict=True):
        assert row[:3] == [step.name, str(step.instance.threads), str(step.instance.shared)]
        multiplies, instructions = int(row[5]), int(row[6])
        assert row[7] == f"{100 * multiplies / instructions:.0f} %"


def test_readme_names_every_file():
    named = [name for row in table("file", "what is in it") for name in row[0].split("`, `")]
    there = [path.name for path in HERE.iterdir() if path.is_file()]
    assert sorted(named) == sorted(there)


def test_the_sample_of_readme_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", README, re.S | re.M)
    source, host = (
        next(textwrap.dedent(text) for of, text in blocks if of == language and "blend" in text)
        for language in ("cuda", "python")
    )
    monkeypatch.chdir(tmp_path)
    Path("blend.cu").write_text(source)
    exec(host, {})
    monkeypatch.setattr(compile, "_libraries", {})  # which know kernels by their names
    Path("blend.cu").write_text(source.replace("if (i < n)", "if (i <= n)"))
    with pytest.raises(RuntimeError, match="byte 4000 of argument 0"):
        exec(host, {})

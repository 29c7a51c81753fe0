"""benchmarks/gpu.py without a GPU: emulated from end to end, its arithmetic, what goes wrong."""

import inspect
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tinygan import kernels
from tinygan.engine import Tensor
from tinygan.kernels import ceilings as ceiling_kernels
from tinygan.kernels import launch, report

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu.py"
# Slow together: they test how speed is measured, and most start processes of their own.
pytestmark = pytest.mark.slow
LAYER = "32/D3"  # 4²×256 → 1: a matrix product, and the fewest kernels to compile


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The benchmarks' folder on the path, as where they run; torch's switches as they were."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    if "torch" in sys.modules:
        sys.modules["torch"].set_grad_enabled(True)


def options(*arguments):
    import gpu

    return gpu.parse(arguments)


# Counts and the roofline


def test_counts_of_a_layer_by_hand():
    from roofline import layer_counts, layers, matmul_counts, terms

    layer = layers()["32/D1"]  # 64 channels at 16×16 to 128 at 8×8
    flops = 2 * 64 * 8 * 8 * 4 * 4 * 64 * 128
    image, weight, grid = 64 * 16 * 16 * 64, 4 * 4 * 64 * 128, 64 * 8 * 8 * 128
    assert layer_counts(layer, 64) == (flops, 4 * (image + weight + grid))
    assert flops == 1_073_741_824 and 4 * (image + weight + grid) == 6_815_744
    assert terms(layer, "forward", 64) == 1024
    assert terms(layer, "input gradient", 64) == 2 * 2 * 128  # a pixel has a quarter of the taps
    assert terms(layer, "weight gradient", 64) == 64 * 8 * 8
    transposed = layers()["32/G2"]  # the same sizes the other way
    assert layer_counts(transposed, 64) == layer_counts(layer, 64)
    assert terms(transposed, "forward", 64) == 512
    assert terms(transposed, "input gradient", 64) == 1024
    assert terms(layers()["32/D3"], "input gradient", 64) == 1  # one grid point, one feature
    assert matmul_counts(3, 5, 7) == (2 * 3 * 5 * 7, 4 * (15 + 35 + 21))


def test_the_nets_of_both_sizes_are_there():
    from roofline import layers

    names = [f"32/{side}{i}" for side in "DG" for i in range(4)]
    names += [f"64/{side}{i}" for side in "DG" for i in range(5)]
    assert list(layers()) == names
    assert layers()["64/D0"].channels == layers()["64/G4"].channels == 3


def test_roofline():
    from roofline import Ceilings, Counts, bound, floor, geometric_mean

    chip = Ceilings(bandwidth=2e12, fp32=50e12, tf32=300e12)
    counts = Counts(flops=10**9, bytes=10**7)
    assert floor(counts, "fp32", chip) == pytest.approx(20e-6)  # 1e9/50e12; memory 5 µs
    assert bound(counts, "fp32", chip) == "arithmetic"
    assert floor(counts, "tf32", chip) == pytest.approx(5e-6)  # 1e7/2e12; arithmetic 3.3 µs
    assert bound(counts, "tf32", chip) == "memory"
    assert floor(counts, "3xtf32", chip) == pytest.approx(10e-6)  # 3e9/300e12
    assert geometric_mean([1, 4]) == pytest.approx(2)
    assert geometric_mean([]) is None


# The kernels of the ceilings


def test_ceilings_are_right_and_count_what_they_do():
    rng = np.random.default_rng(0)
    with kernels.emulated(order="random"):
        x = rng.normal(size=4 * 1000).astype(np.float32)
        y = np.full_like(x, np.nan)
        ceiling_kernels.copy(x, y)
        assert np.array_equal(x, y)

        chain = rng.normal(size=ceiling_kernels.ADDS_VALUES).astype(np.float32)
        chain[0] = 0.5
        y, flops = ceiling_kernels.multiply_adds(chain, 2, 3)
        v = chain[2:, None].astype(np.float64) + np.arange(256)
        for _ in range(2 * ceiling_kernels.LINKS):
            v = v * 0.5 + chain[1]
        np.testing.assert_allclose(y, np.tile(v.sum(0), (3, 1)), rtol=1e-5)
        assert flops == 2 * v.size * 32 * 3

        words = rng.integers(-8, 8, ceiling_kernels.MMA_VALUES).astype(np.float32)
        y, flops = ceiling_kernels.mma_tf32(words, 3, 2)
        np.testing.assert_array_equal(y, np.tile(3 * sums_by_lane(words), (2, 8)))
        assert flops == 2 * 64 * 8 * 32 * 3 * 8 * 2  # 64 x 8 by 8 x 32; repeats, warps, blocks


def sums_by_lane(words):
    """mma.m16n8k8's places, one lane and one tile after the other: PTX ISA."""
    mt, nt = ceiling_kernels.MT, ceiling_kernels.NT
    words, sums = words.reshape(-1, 32), np.zeros(32)
    for m in range(mt):
        for n in range(nt):
            a, b = np.zeros((16, 8)), np.zeros((8, 8))
            for lane in range(32):
                g, t = divmod(lane, 4)
                for e, (row, column) in enumerate([(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)]):
                    a[row, column] = words[4 * m + e, lane]
                for e, row in enumerate((t, t + 4)):
                    b[row, g] = words[4 * mt + 2 * n + e, lane]
            d = a @ b
            for lane in range(32):
                g, t = divmod(lane, 4)
                sums[lane] += d[[g, g + 8], 2 * t : 2 * t + 2].sum()
    return sums


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda x: ceiling_kernels.copy(x[:6], x[:6]), "copy: x has 6 elements; expected a mult"),
        (lambda x: ceiling_kernels.copy(x, x[:8]), "copy: y has shape"),
        (lambda x: ceiling_kernels.multiply_adds(x, 1, 1), "multiply_adds: x has shape"),
        (lambda x: ceiling_kernels.mma_tf32(x, 1, 1), "mma_tf32: x has shape"),
    ],
)
def test_ceilings_refuse_other_arrays(call, match):
    with kernels.emulated(), pytest.raises(ValueError, match=match):
        call(np.zeros(12, np.float32))


# Every kernel once


def watched_launches(monkeypatch, found):
    def launched(self, grid, block, args, shared=0):
        found.add((self, math.prod(block), shared))

    monkeypatch.setattr(launch.Kernel, "__call__", launched)


def test_every_instance_is_launched_once(monkeypatch):
    """With its own threads and shared memory; nothing is compiled here."""
    import gpu_once
    from gpu_place import Emulator

    found = set()
    watched_launches(monkeypatch, found)
    with kernels.emulated():
        for _, call in gpu_once.cases(Emulator()):
            call()
    assert found == {(i.kernel, i.threads, i.shared) for i in report.instances()}


def test_an_instance_that_no_case_launches_is_named(monkeypatch):
    import gpu_once
    from gpu_place import Emulator
    from gpu_report import wrong

    watched_launches(monkeypatch, set())
    monkeypatch.setattr(gpu_once, "cases", lambda place: [])
    made = options("--emulate")
    monkeypatch.setattr(gpu_once, "FEW", "")
    rows = list(gpu_once.once_rows(Emulator(), made, None))
    assert len(rows[-1]["missing"]) == len({i.kernel.name for i in report.instances()})
    assert "instances never ran: adam<double>" in wrong("once", rows)[0]


def test_kernels_once_sees_numbers_that_are_none(monkeypatch):
    import gpu_once
    from gpu_place import Emulator
    from gpu_report import wrong

    cases = [("good", lambda: [np.ones(2)]), ("bad", lambda: [np.ones(2), np.array([0, np.nan])])]
    monkeypatch.setattr(gpu_once, "cases", lambda place: cases)
    monkeypatch.setattr(gpu_once, "FEW", "good|bad")
    rows = list(gpu_once.once_rows(Emulator(), options("--emulate"), None))
    assert rows[0] == {"case": "bad", "problem": "1 results with NaN or infinity"}
    assert rows[-1]["cases"] == 2 and rows[-1]["failures"] == 1
    assert wrong("once", rows) == ["once: bad: 1 results with NaN or infinity"]


# The references, and PyTorch as the benchmark calls it


def test_references_are_those_of_numpy():
    from gpu_layers import OPERATIONS, arrays, error, reference, scaled
    from nets import KERNEL
    from roofline import layers

    from tinygan.conv import Geometry, conv2d, conv2d_transpose, conv2d_weight_grad

    for name, layer in layers().items():
        layer = scaled(layer)
        x, w, _, g = arrays(layer, 2)
        at = {"geometry": Geometry(layer.image, (KERNEL, KERNEL), layer.stride, layer.pad)}
        forward, back, pair = conv2d, conv2d_transpose, (x, g)
        if layer.transposed:
            forward, back, pair = back, forward, (g, x)
        found = forward(x, w, **at), back(g, w, **at), conv2d_weight_grad(*pair, **at)
        for operation, y in zip(OPERATIONS, found, strict=True):
            exact = reference(layer, operation, x, w, g)
            assert exact.dtype == np.float64
            assert error(y, exact) < 1e-6, (name, operation)
            assert error(y[..., :-1], exact) == math.inf
            assert error(y + 1, exact) > 0.01


def test_pytorch_is_called_right_in_both_layouts():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from gpu_layers import OPERATIONS, _torch, arrays, error, reference, scaled
    from gpu_place import Emulator
    from roofline import layers

    for last in (False, True):
        who = _torch(Emulator(), last, False)
        for name, layer in layers().items():
            layer = scaled(layer)
            x, w, _, g = arrays(layer, 2)
            calls = who.calls(layer, [(x, w, g)])
            for operation in OPERATIONS:
                y = who.read[operation](calls[operation][0]())
                exact = reference(layer, operation, x, w, g)
                assert error(y, exact) < 1e-5, (name, operation, last)
        x, w, g = (np.random.default_rng(0).normal(size=s) for s in ((3, 4), (4, 5), (3, 5)))
        found = [call[0]() for call in who.products([(x, w, g)]).values()]
        for y, exact in zip(found, (x @ w, g @ w.T, x.T @ g), strict=True):
            assert error(y.numpy(), exact) < 1e-12


def test_tf32_is_switched_and_restored():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from gpu_place import tf32

    def settings():
        return (
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cuda.matmul.fp32_precision,
            torch.backends.cudnn.benchmark,
        )

    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("PyTorch before 2.9 has other names")
    before = settings()
    with tf32(True):
        assert settings() == ("tf32", "tf32", True)
        with tf32(False):
            assert settings() == ("ieee", "ieee", True)
    assert settings() == before


# Where turns are timed: the GPU's side over the stand-in for CuPy


class Clock:
    """CUDA events over a clock that a test moves; ``late`` events have passed when queried."""

    def __init__(self, late=0):
        self.now, self.late, self.asked = 0.0, late, 0

    def event(self):
        return Event(self)


class Event:
    def __init__(self, clock):
        self.clock = clock

    def record(self, stream=None):
        self.at = self.clock.now

    @property
    def done(self):
        self.clock.asked += 1
        return self.clock.asked <= self.clock.late

    def synchronize(self):
        pass


@pytest.fixture
def gpu(stand_in, monkeypatch):
    """The place "GPU" on the stand-in; its clock is ``place.clock``."""
    import gpu_place

    clock, cuda = Clock(), stand_in.module.cuda
    cuda.Event = clock.event
    cuda.get_elapsed_time = lambda start, end: 1e3 * (end.at - start.at) or 1.0
    monkeypatch.setattr(
        cuda.Device, "attributes", {"MultiProcessorCount": 2, "L2CacheSize": 1 << 16}
    )
    stand_in.module.copyto = lambda y, x: y.__setitem__(slice(None), x)
    monkeypatch.setattr(gpu_place, "TRIAL", 1)
    place = gpu_place.place(False)
    place.clock = clock
    return place


def test_a_turn_is_the_mean_of_its_calls(gpu):
    def call():
        gpu.clock.now += 0.25

    assert gpu.turn([call] * 4) == pytest.approx(0.25)
    assert gpu.steps(call, 8) == pytest.approx(0.25)


def test_a_turn_that_the_host_was_too_slow_for_is_repeated(gpu):
    made = []
    gpu.clock.late, gpu.clock.asked, delay = 2, 0, gpu.delay
    gpu.turn([lambda: made.append(1)] * 3)
    assert len(made) == 9  # twice in vain
    assert gpu.delay == 4 * delay


def test_calls_that_wait_for_the_device_are_refused(gpu):
    gpu.clock.late, gpu.clock.asked = 99, 0
    with pytest.raises(RuntimeError, match="queue 1 calls, or one of them waits for the device"):
        gpu.turn([lambda: None])


def test_steps_on_the_stand_in(gpu, monkeypatch):
    """Call by call and as a graph: the same losses; PyTorch finds no GPU."""
    import gpu_steps

    plain = inspect.getclosurevars(Tensor.__init__).nonlocals.get("build", Tensor.__init__)
    monkeypatch.setattr(Tensor, "__init__", plain)  # a recording follows arrays by identity
    case = gpu_steps._scaled(gpu_steps.CASES["critic-32"])
    monkeypatch.setattr(gpu_steps, "CASES", {"critic-32": case})
    monkeypatch.setattr(gpu_steps, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(gpu_steps, "TURN", 0)
    monkeypatch.setattr(gpu_steps, "CALLS", 1)
    made = options("--quick", "--nets", "critic-32")
    made.rounds = 1
    note, row = gpu_steps.step_rows(gpu, made, lambda: 1)
    assert "SKIPPED" in note["note"] and row["failed"] == {}
    assert list(row["times"]) == list(row["host"]) == ["tinygan fp32", "tinygan fp32, compiled"]
    for found in row["differences"].values():
        assert max(found.values()) < 1e-5
    from gpu_report import step_table

    assert "tinygan fp32, compiled" in step_table([row], None)


def test_a_step_that_is_no_graph_is_reported(gpu, monkeypatch):
    import gpu_steps
    from step_peers import Contender

    broken = Contender(None, None, profile=lambda: [("run", 1, 0.1)])
    monkeypatch.setattr(gpu_steps, "tinygan_step", lambda *args, **kwargs: broken)
    with pytest.raises(RuntimeError, match="no CUDA graph"):
        gpu_steps._graph(None, None, 1, None, "gpu")


def test_layers_and_ceilings_on_the_stand_in(gpu, monkeypatch):
    """The very code that runs on a GPU, on arrays that refuse what CuPy's refuse."""
    import gpu_layers

    made = options("--quick", "--batch", "2", "--layers", LAYER)
    made.calls = 1
    monkeypatch.setattr(gpu_layers, "layers", lambda: {LAYER: small_layer()})
    rows = list(gpu_layers.layer_rows(gpu, made, lambda: 1))
    assert "SKIPPED: PyTorch" in rows[0]["note"]  # it is not there, or finds no GPU
    assert [row["operation"] for row in rows[1:]] == list(gpu_layers.OPERATIONS)
    for row in rows[1:]:
        assert row["failed"] == {}
        assert {name: len(times) for name, times in row["times"].items()} == {
            f"tinygan {precision}": 2 for precision in kernels.launch.PRECISIONS
        }
        assert all(row["errors"][name] <= most for name, most in row["limits"].items())
    json.dumps(rows)
    monkeypatch.setattr(gpu_layers, "COPIED", 1 << 12)
    monkeypatch.setattr(gpu_layers, "REPEATS", 2)
    rows = list(gpu_layers.ceiling_rows(gpu, made, None))
    assert len(rows) == 4 and all(row["right"] and len(row["rates"]) == 2 for row in rows)
    assert rows[0]["rates"][0] == pytest.approx(8 * 4096 / 1e-3)  # the stand-in's millisecond
    assert list(gpu_layers.layer_rows(gpu, made, lambda: -1))[-1]["note"].startswith("NOT REACHED")


def small_layer():
    from gpu_layers import scaled
    from roofline import layers

    return scaled(layers()[LAYER])


def test_steps_of_tinygan_go_through_the_kernels(monkeypatch):
    import gpu_once
    import gpu_steps
    from gpu_place import Emulator

    with gpu_once.launched() as found:
        rows = list(gpu_steps.step_rows(Emulator(), options("--emulate"), lambda: 1))
    row = rows[-1]
    assert row["net"] == "critic-32" and row["failed"] == {} and row["times"] == {}
    names = {kernel.name.partition("<")[0] for kernel in found}
    assert {"conv2d", "conv2d_transpose", "conv2d_weight_grad", "matmul", "adam"} <= names
    for name, losses in row["differences"].items():
        assert set(losses) == {"critic", "penalty"}
        assert max(losses.values()) < 1e-4, name
    assert "tinygan fp32" in row["differences"]


def test_chosen_tiles_are_found_among_the_candidates(monkeypatch):
    """Each candidate is really the one that runs; what cannot run is left out."""
    import gpu_layers
    from gpu_place import Emulator
    from roofline import layers

    from tinygan.kernels import gemm, tiles

    found, place = set(), Emulator()
    watched_launches(monkeypatch, found)
    made = options("--emulate", "--layers", "32/D1")
    monkeypatch.setattr(gpu_layers, "scaled", lambda layer: layers()["32/D1"])
    rows = list(gpu_layers.tile_rows(place, made, lambda: 1))
    assert len(rows) == 9
    for row in rows:
        labels = {name.partition(",")[0] for name in row["candidates"]}
        *wide, _ = tiles.TILES[row["precision"]]  # the narrow one is not for 64 channels and more
        assert labels == {f"{tile.rows}×{tile.columns}×{tile.terms}" for tile in wide}
        assert row["chosen"] in row["candidates"]
        if row["operation"] == "forward":  # 1024 terms, 128 a part at least
            parts = {name.partition(", ")[2] for name in row["candidates"]}
            assert {f"{n} parts" for n in (1, 2, 4, 8)} <= parts and "16 parts" not in parts
    instances = {(i.kernel, i.threads, i.shared) for i in report.instances()}
    assert found <= instances
    assert gemm.choose is tiles.choose


# Reports


def layer_row(layer, operation, channels=64, error=1e-8, **times):
    """A row as layer_rows makes it; 1 GFLOP and 10 MB."""
    names = {"ours": "tinygan fp32", "tf32": "tinygan tf32", "off": "PyTorch a, TF32 off"}
    names |= {"last": "PyTorch b, TF32 off", "on": "PyTorch a, TF32 on"}
    precisions = {
        names[key]: "tf32" if key in ("tf32", "on") else "fp32" for key in (*times, "ours")
    }
    return {
        "layer": layer, "shown": "sizes", "channels": channels, "operation": operation,
        "flops": 10**9, "bytes": 10**7, "precisions": precisions, "failed": {},
        "limits": {"tinygan fp32": 1e-7}, "errors": dict.fromkeys(precisions, error),
        "times": {names[key]: [t * 1e-6] * 3 for key, t in times.items()},
    }  # fmt: skip


CEILINGS = [
    {"ceiling": what, "unit": "bytes", "work": 1, "rates": [rate], "right": True}
    for what, rate in (
        ("copy by our kernel", 1e12), ("copy by the runtime", 2e12), ("FFMA", 50e12),
        ("mma.sync TF32", 300e12),
    )
]  # fmt: skip


def cells(text):
    """The rows of a Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_ratios_are_like_for_like_against_the_better_layout():
    from gpu_report import speedup_table, speedups

    rows = [
        layer_row("a", "forward", ours=10, tf32=2, off=20, last=15, on=3),
        layer_row("b", "forward", channels=3, ours=10, tf32=2, off=60, last=80, on=1),
    ]
    assert speedups(rows, "fp32", "forward") == pytest.approx({"a": 1.5, "b": 6})
    assert speedups(rows, "tf32", "forward") == pytest.approx({"a": 1.5, "b": 0.5})
    table = cells(speedup_table(rows))
    assert table[2][:5] == ["fp32 against TF32 off", "forward", "3.00", "6.00", "1.50 (a)"]
    assert table[3][:5] == ["tf32 against TF32 on", "forward", "0.87", "0.50", "0.50 (b)"]
    assert table[2][5] == "1.1, 2, 0.8"
    assert "No times" in speedup_table([layer_row("a", "forward", ours=10)])


def test_shares_of_the_roofline():
    from gpu_report import dense_shares, measured_ceilings, time_table

    rows = [layer_row("a", "forward", ours=40, tf32=10, off=20)]
    found = measured_ceilings(CEILINGS)
    assert found == (2e12, 50e12, 300e12)  # the better of the two copies
    (header, _, row) = cells(time_table(rows, found))
    shown = dict(zip(header, row, strict=True))
    assert shown["floor fp32, µs"] == "20" and shown["floor TF32, µs"] == "5"
    assert shown["tinygan fp32, µs"] == "40 (50%)" and shown["tinygan tf32, µs"] == "10 (50%)"
    assert dense_shares(rows, found) == {("a", "forward"): pytest.approx(1 / 3)}
    assert measured_ceilings(CEILINGS[:-1]) is None
    (header, _, row) = cells(time_table(rows, None))
    assert dict(zip(header, row, strict=True))["tinygan fp32, µs"] == "40"


def test_what_is_wrong_is_said():
    from gpu_report import wrong

    good = layer_row("a", "forward", ours=1)
    assert wrong("layers", [good, *CEILINGS, {"note": "SKIPPED: x"}]) == []
    for value in (2e-7, math.nan, math.inf):
        (found,) = wrong("layers", [layer_row("a", "forward", ours=1, error=value)])
        assert "layers: a forward: tinygan fp32 is off by" in found
    (found,) = wrong("layers", [{**good, "failed": {"PyTorch a": "no memory"}}])
    assert found == "layers: a forward: PyTorch a failed: no memory"
    (found,) = wrong("ceilings", [{**CEILINGS[0], "right": False}])
    assert "copy by our kernel gave a wrong result" in found
    step = {"net": "n", "precisions": {"x": "fp32"}, "differences": {"x": {"critic": 0.1}}}
    assert wrong("steps", [step]) == ["steps: n: x's critic loss differs by 1.0e-01"]


def test_steps_and_tiles_in_tables():
    from gpu_report import measured_ceilings, step_table, tile_table

    names = {"tinygan fp32": "fp32", "PyTorch a": "fp32", "PyTorch b": "fp32", "broken": "fp32"}
    step = {
        "net": "n", "flops": 10**11, "precisions": names, "failed": {"broken": "no"},
        "differences": {name: {"critic": 1e-6} for name in names if name != "broken"},
        "times": {"tinygan fp32": [0.004] * 3, "PyTorch a": [0.008] * 3, "PyTorch b": [0.006] * 3},
        "host": {"tinygan fp32": 12e-6},
    }  # fmt: skip
    table = cells(step_table([step], measured_ceilings(CEILINGS)))
    assert table[2] == ["n", "tinygan fp32", "4 (4–4)", "1.50", "50%", "12", "1e-06"]
    assert table[5][:3] == ["n", "broken", "FAILED"]
    tile = {"layer": "a", "operation": "forward", "precision": "fp32", "chosen": "64×64, 1 parts"}
    tile["times"] = {"64×64, 1 parts": [2e-6, None], "64×64": [2.1e-6], "128×64": [1e-6]}
    text = tile_table([tile])
    assert "geometric means: fp32 2.000" in text
    assert cells(text)[2] == ["a, forward, fp32", "64×64, 1 parts", "128×64", "2", "1", "2.00"]


# The command


def run(*arguments, status=0):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_emulated_from_end_to_end(tmp_path):
    given = ["--emulate", "--layers", LAYER, "--match", "^copy", "--out", tmp_path]
    given += ["--parts", "compile", "once", "ceilings", "layers", "tests", "sanitizer"]
    printed = run(*given, "--budget", *(f"{p}=300" for p in ("once", "ceilings", "layers")))
    saved = json.loads((tmp_path / "gpu.json").read_text())
    text = (tmp_path / "gpu.md").read_text()
    ends = {name: (part["status"], part["reason"]) for name, part in saved["parts"].items()}
    skipped = "SKIPPED", "it needs a GPU; this run is emulated"
    done = "done", None
    assert ends == {
        "compile": skipped, "once": done, "ceilings": done, "layers": done, "tests": skipped,
        "sanitizer": skipped,
    }  # fmt: skip
    for shown in (printed, text):
        assert "emulated: times mean nothing" in shown
        assert shown.count("it needs a GPU; this run is emulated") >= 3
    assert saved["about"]["device"] == "none: the emulator" and saved["about"]["date"]
    rows = [row for row in saved["parts"]["layers"]["rows"] if "layer" in row]
    assert [row["operation"] for row in rows] == ["forward", "input gradient", "weight gradient"]
    for row in rows:
        assert row["times"] == {}
        assert row["flops"] == 2 * 2 * 16 * 16  # batch 2, 4×4 taps, 16 channels to 1
        assert row["bytes"] == 4 * (2 * 16 * 16 + 16 * 16 + 2)
    table = cells(text[text.index("| layer |") :])
    assert table[0][:5] == ["layer", "operation", "limit fp32", "limit TF32", "tinygan fp32"]
    assert len(table) == 5 and all(len(line) == len(table[0]) for line in table)
    assert all(float(line[4]) < float(line[2]) for line in table[2:])
    assert "µs" not in text


def test_without_a_gpu_all_is_skipped_with_the_reason():
    if "cupy" in sys.modules:
        pytest.skip("CuPy is installed here")
    printed = run("--parts", "layers", "tests")
    assert "SKIPPED: all that needs a GPU: device 'gpu' needs" in printed
    assert printed.count("| SKIPPED | device 'gpu' needs") == 2


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["--layers", "32/D9"], "--layers 32/D9: expected of 32, 64, 32/D0"),
        (["--budget", "layers=x"], "--budget layers=x: expected PART=SECONDS"),
        (["--seconds", "0"], "--seconds is 0.0; expected a number above 0"),
    ],
)
def test_bad_options(arguments, match, capsys):
    with pytest.raises(SystemExit):
        options(*arguments)
    assert match in capsys.readouterr().err


def test_a_failing_part_is_reported_and_the_rest_goes_on(tmp_path):
    import gpu

    def good(name, options, seconds, record):
        record({"case": name})
        return "done", None

    def bad(name, options, seconds, record):
        record({"case": "before"})
        raise OSError("planted")

    def finds(name, options, seconds, record):
        record({"case": "x", "problem": "planted too"})
        return "done", None

    parts = {
        name: gpu.Part(name.title(), 10, True, run)
        for name, run in (("first", good), ("broken", bad), ("wrong", finds), ("last", good))
    }
    made = options("--emulate", "--out", str(tmp_path))
    gpu.run_parts(parts, {"emulated": True}, None, made)
    saved = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["status"] for name, part in saved.items()} == {
        "first": "done", "broken": "FAILED", "wrong": "FAILED", "last": "done",
    }  # fmt: skip
    assert saved["broken"]["reason"] == "OSError: planted"
    assert saved["broken"]["rows"] == [{"case": "before"}]  # what it had is kept
    text = (tmp_path / "gpu.md").read_text()
    assert "| Broken | FAILED | OSError: planted |" in text and "wrong: x: planted too" in text


def test_a_process_that_dies_or_hangs_loses_no_rows(tmp_path, monkeypatch):
    import gpu

    script = tmp_path / "part.py"
    script.write_text(
        "import sys, time, json, os\n"
        "name, file, left = sys.argv[-3:]\n"
        "open(file, 'a').write(json.dumps({'case': 'kept'}) + '\\n' + '{\"half')\n"
        "print('said', flush=True)\n"
        "os._exit(3) if name == 'dies' else time.sleep(60)\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    parts = {name: gpu.Part(name, 3, True, gpu.run_rows) for name in ("dies", "hangs")}
    start, made = time.monotonic(), options("--emulate")
    made.budgets = dict.fromkeys(parts, 2)
    found = gpu.run_parts(parts, {"emulated": True}, None, made)
    assert time.monotonic() - start < 30
    assert [part["rows"] for part in found.values()] == [[{"case": "kept"}]] * 2
    assert found["dies"]["status"] == "FAILED"
    assert found["dies"]["reason"] == "exit status 3: said"
    assert found["hangs"]["status"] == "CUT OFF"
    assert "longer than its 2 s" in found["hangs"]["reason"]


def test_no_part_starts_without_time(monkeypatch):
    import gpu

    def never(*_):
        raise AssertionError("it ran")

    made = options("--emulate", "--seconds", "6")
    found = gpu.run_parts({"p": gpu.Part("P", 10, True, never)}, {"emulated": True}, None, made)
    assert found["p"]["status"] == "SKIPPED" and found["p"]["reason"] == "no time left of 6 s"


def test_the_tests_are_counted(tmp_path):
    import gpu

    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('x', ['cupy', 'numpy'])\n"
        "@pytest.mark.parametrize('good', [True, False])\n"
        "def test_it(x, good):\n    assert good\n"
        "def test_skip_cupy():\n    pytest.skip('no')\n"
    )
    rows = []
    made = options("--tests", str(file))
    status, reason = gpu.run_tests("tests", made, 60, rows.append)
    assert status == "FAILED"
    assert reason == "1 failed, 1 passed, 1 skipped"
    assert (rows[0]["passed"], rows[0]["failed"], rows[0]["skipped"]) == (1, 1, 1)
    assert len(rows[0]["which"]) == 1 and "test_it" in rows[0]["which"][0]
    file.write_text("def test_skip_cupy():\n    import pytest; pytest.skip('no')\n")
    assert gpu.run_tests("tests", made, 60, rows.append) == ("FAILED", "1 skipped")


SANITIZER = """#!/bin/sh
case "$2" in
  memcheck) echo "========= ERROR SUMMARY: 0 errors"; exit 0;;
  racecheck) echo "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors)"; exit 77;;
  *) sleep 60;;
esac
"""


def test_the_sanitizer_is_run_and_read(tmp_path, monkeypatch):
    import gpu

    made, rows = options(), []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.run_sanitizer("s", made, 5, rows.append) == (
        "SKIPPED",
        "compute-sanitizer is not installed",
    )
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    status, reason = gpu.run_sanitizer("s", made, 3.3, rows.append)
    assert status == "FAILED"
    assert "racecheck: exit status 77: RACECHECK SUMMARY: 2 hazards" in reason
    assert "synccheck: cut off" in reason and "memcheck" not in reason
    assert [row["exit"] for row in rows] == [0, 77, None]


def test_a_command_ends_with_all_that_it_started(tmp_path, monkeypatch):
    import gpu_process

    monkeypatch.setattr(gpu_process, "PATIENCE", 0.2)
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(2.2); open({str(mark)!r}, 'w')"
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "time.sleep(60)"
    )
    start = time.monotonic()
    assert gpu_process.run_command([sys.executable, "-c", code], 1) is None
    time.sleep(max(0, start + 3 - time.monotonic()))
    assert not mark.exists()


def test_the_ladder_is_a_part(tmp_path):
    from gpu_report import ladder_table

    from tinygan.kernels import ladder

    command = [sys.executable, SCRIPT, "--emulate", "--parts", "ladder", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["parts"]["ladder"]["rows"]
    assert [row["layer"] for row in rows] == [step.name for step in ladder.steps()]
    assert all(0 < row["errors"]["kernel"] <= row["limits"]["kernel"] for row in rows)
    assert "| naive | `conv2d_naive` | – |" in (tmp_path / "gpu.md").read_text()
    timed = rows[0] | {"times": {"kernel": [2e-6, 3e-6, 5e-6]}}
    assert "| naive | `conv2d_naive` | 3 |" in ladder_table([timed], None)


def test_banks_are_met_twice_only_where_the_page_of_the_kernels_says_so():
    import gpu_once
    from gpu_place import Emulator

    with kernels.emulated(count_banks=True):
        for _, call in gpu_once.cases(Emulator()):
            call()
        report = kernels.bank_report()
    conflicts = {
        (row["kernel"].partition("<")[0], "double" in row["kernel"], row["kind"]): round(
            row["wavefronts"] / row["ideal"], 2
        )
        for row in report
        if row["wavefronts"] > row["ideal"]
    }
    reads = {(name, True, "load_shared 16") for name in ("conv2d_transpose", "matmul")}
    stores = {("normal", False, "store_shared 4"), ("normal", True, "store_shared 8")}
    assert set(conflicts) == reads | stores
    assert all(conflicts[where] <= 1.34 for where in reads)
    assert conflicts["normal", False, "store_shared 4"] <= 8

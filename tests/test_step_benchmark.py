"""benchmarks/step.py and step_curves.py: that all do the same work, and what the figures become."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinygan import tree
from tinygan.replay import evaluate, trace

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
CASES = ["wgan-gp", "0-gp-512", "0-gp-64", "critic-32", "iteration-64", "standard-32"]
# Slow together: they test how speed is measured, and most start processes of their own.
pytestmark = [pytest.mark.usefixtures("nothing_emulated"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The benchmarks' folder on the path, as where they run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def small(name):
    """A case with few units or channels and a batch of 4.

    Not fewer: of a weight whose gradient is rounding, the critic's last bias, Adam makes as large a
    step as of any, and it may not be one of too few.
    """
    from step import CASES

    case = CASES[name]
    if hasattr(case, "hidden"):
        return replace(case, hidden=64, batch=4)
    down, up = (tuple(n // 16 for n in side) for side in (case.down, case.up))
    return replace(case, down=down, up=up, batch=4)


def started(name, case):
    """What a contender finds in its first iterations."""
    from step import Worker

    worker = Worker(name, case, 1)
    with worker.life:
        return worker.start()


def run(script, *arguments):
    """A benchmark run as users run it."""
    return subprocess.run(
        [sys.executable, FOLDER / script, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


# The same work


def test_the_six_steps():
    import step

    assert list(step.CASES) == CASES


def test_products_counted_by_hand():
    from step_peers import product_flops

    n, h = 4, 16
    case = replace(small("wgan-gp"), depth=1, hidden=h, batch=n, critic_steps=1)
    fake = 2 * h + h * 2
    twice = 2 * ((2 * h + h) + h + h + 2 * h)  # forward, then back: two weights, one input
    penalty = (2 * h + h) + (h + 2 * h) + (2 * h + 2 * h + h)  # forward, the slope, second order
    generator = fake + 3 * h + 3 * h + (2 * h + 2 * h + 2 * h)
    found = product_flops(case)
    assert found["matrix products"] == 2 * n * (fake + twice + penalty + generator)
    assert sum(found.values()) == found["matrix products"]


def test_convolutions_counted_by_hand():
    from step_peers import product_flops

    case = small("critic-32")
    counted = product_flops(case)
    first, *others = [layer.flops(case.batch) for layer in case.critic()]
    # Real and fake, twice the batch, forward; the interpolates forward; and the second order, which
    # goes from the image up as the forward pass does, but for the last layer's result: nothing
    # depends on it. The last layer covers its image: its lowering is another, its count the same.
    products = sum(others)
    assert counted["convolutions"] == 4 * (first + products) - others[-1]
    # Back through the layers: for real and fake down to the first, the slope down to the image.
    assert counted["transposed"] == 3 * products + first
    assert counted["weight gradients"] == 2 * (first + products) + (first + products)


@pytest.mark.parametrize("name", CASES)
def test_an_iteration_can_be_recorded(name):
    from step_peers import game, iteration, players

    case = small(name)
    gan, batch = game(case), case.batches(1)[0]
    start = players(case, gan)
    program = trace(iteration(gan), start, batch)
    expected = iteration(gan)(start, batch)
    found = evaluate(program, start, batch)
    for (path, a), b in zip(tree.paths(found), tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)


@pytest.mark.parametrize("name", CASES)
def test_eager_and_compiled_do_the_same(name):
    from step import compare
    from step_peers import COMPILED, EAGER

    case = small(name)
    found = {who: started(who, case) for who in (EAGER, COMPILED)}
    compare(case.title, found, case.betas)
    other = replace(case, rate=1.5 * case.rate)
    with pytest.raises(SystemExit, match="do not do the same work"):
        compare(case.title, found | {COMPILED: started(COMPILED, other)}, case.betas)


PEERS = {
    "torch": ["PyTorch", "PyTorch tuned"],
    "torch.compile": ["torch.compile"],
    "jax": ["jax.jit"],
    "autograd": ["HIPS autograd"],
}
COMPILERS = ("torch.compile", "jax")


@pytest.mark.parametrize(
    "library",
    [pytest.param(p, marks=pytest.mark.slow if p in COMPILERS else ()) for p in PEERS],
)
def test_other_libraries_do_the_same(library, tmp_path, monkeypatch):
    """In a process of its own, for their threads and their warnings."""
    pytest.importorskip(library.partition(".")[0], exc_type=ImportError)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # PyTorch's compiler takes half a minute for each.
    cases = ["0-gp-64", "critic-32"] if library == "torch.compile" else CASES
    code = f"""if True:
        import sys
        sys.path[:0] = [{str(FOLDER)!r}, {str(FOLDER.parent / "tests")!r}]
        from test_step_benchmark import small, started
        from step import compare, contenders
        for name in {cases}:
            case = small(name)
            who = contenders(name, {["tinygan", *PEERS[library]]})
            found = {{one: started(one, case) for one in who}}
            print(name, compare(case.title, found, case.betas))
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(cases)


def found(losses=(1.0, 2.0), movement=(3.0, 4.0)):
    return {"losses": {"critic": list(losses)}, "movement": np.array(movement)}


def test_what_differs_is_measured_in_the_size_of_the_first():
    from step import compare

    near = {"a": found(), "b": found((1.001, 2.0), (3.0, 4.0001))}
    assert compare("t", near, None) == {
        "a": (0, 0),
        "b": (pytest.approx(0.0005), pytest.approx(0.00002)),
    }


@pytest.mark.parametrize(
    "other, adam, what",
    [
        (found((1.003, 2.0)), None, "the losses of b and a differ by 1.5e-03"),
        (
            found(movement=(3.0, 4.001)),
            None,
            "movement of the weights of b and a .* 2.0e-04",
        ),
        (found(movement=(3.0, 4.6)), (0.5, 0.9), "differ by 1.2e-01"),
        (found((float("nan"), 2.0)), None, "the losses of b and a differ by nan"),
    ],
)
def test_other_work_is_an_error(other, adam, what):
    from step import compare

    with pytest.raises(SystemExit, match=what):
        compare("t", {"a": found(), "b": other}, adam)


def test_a_contender_that_may_fail_says_why(monkeypatch):
    import step
    from step_peers import Entry

    def build(case, batches, threads, life):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setitem(step.CONTENDERS, "x", Entry(build, "tinygan", may_fail=True))
    assert started("x", small("0-gp-64")) == {"failed": "RuntimeError: no compiler"}
    monkeypatch.setitem(step.CONTENDERS, "x", Entry(build, "tinygan"))
    with pytest.raises(RuntimeError, match="no compiler"):
        started("x", small("0-gp-64"))


# Memory


def test_steady_sees_what_a_step_keeps_and_what_it_asks_for():
    from step import Worker

    kept, size = [], 100_000

    def steady(step):
        one = Worker("tinygan", small("0-gp-64"), 1)
        one.contender, one.done = SimpleNamespace(step=step, finish=lambda: None), 0
        return one.steady(50)

    def traced(r):
        return r["traced_bytes"][1] - r["traced_bytes"][0]

    leaking = steady(lambda i: kept.append(np.ones(size, np.uint8)))
    assert 5 * size <= traced(leaking) < 6 * size
    passing = steady(lambda i: np.ones(size, np.uint8))
    assert traced(passing) < size / 10 and size <= passing["asked_bytes"][0] < 2 * size
    calm = steady(lambda i: None)
    assert traced(calm) < size / 10 and calm["asked_bytes"][1] < size / 10


@pytest.mark.parametrize("name", ["0-gp-64", "critic-32"])
def test_a_compiled_step_keeps_nothing(name):
    from step import Worker
    from step_peers import COMPILED

    worker = Worker(COMPILED, small(name), 1)
    with worker.life:
        worker.start()
        first, last = worker.steady(100)["traced_bytes"]
    assert last - first < 2000


# Figures


def of_one(ms, unit):
    return {
        "quartiles_ms": [0.9 * ms, ms, 1.1 * ms],
        "ratios": {"PyTorch": [ms / unit] * 3} if unit else {},
        "until_warm_s": 1.5,
        "memory_mib": [30.0, 100.0],
        "differences": [1e-7, 1e-6],
        "losses": {"critic": [1.0, 2.0]},
    }


@pytest.fixture
def figures():
    return {
        "sgemm_gflops": {"NumPy": 100.0, "JAX": 200.0},
        "steps": {
            "0-gp-64": {
                "title": "a toy",
                "flops": {"matrix products": 4e8, "convolutions": 0},
                "contenders": {
                    "tinygan": of_one(5.0, 10.0),
                    "PyTorch": of_one(10.0, 10.0),
                    "torch.compile": {"failed": "RuntimeError: no"},
                    "HIPS autograd": of_one(40.0, 10.0),
                },
            },
            "critic-32": {
                "title": "a critic",
                "flops": {"convolutions": 2e9},
                "contenders": {"tinygan": of_one(12.0, 20.0), "PyTorch": of_one(20.0, 20.0)},
            },
        },
        "import_seconds": {"numpy": [0.05], "tinygan": [0.03, 0.04, 0.05]},
    }


def test_the_tables(figures):
    import step_report

    text = step_report.text(figures)
    assert "0.4 GFLOP (matrix products 0.4), a floor of 2 ms" in text
    assert "| 0-gp-64 | 2 | 5 (0.50) | 10 (1.00) | failed | 40 (4.00) |" in text
    assert "| critic-32 | 10 | 12 (0.60) | 20 (1.00) | – | – |" in text
    assert "| 0-gp-64 | tinygan | 5 (4.5–5.5) | 0.50 (0.50–0.50) | 40% | 1.5 | 70 | 100 |" in text
    assert "failed: RuntimeError: no" in text
    assert "| `tinygan` | 40 | 35–45 |" in text


def test_a_chart_needs_pytorch(figures, tmp_path):
    import step_report

    step_report.chart(figures, tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes()[:4] == b"\x89PNG"
    for one in figures["steps"].values():
        del one["contenders"]["PyTorch"]
    with pytest.raises(SystemExit, match="no step has figures of PyTorch"):
        step_report.chart(figures, tmp_path / "step.png")


def test_earlier_figures_are_read(figures, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(figures))
    done = run("step.py", "--read", tmp_path / "a.json", "--chart", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    assert "| critic-32 | 10 | 12 (0.60) |" in done.stdout and (tmp_path / "a.png").exists()


def test_a_run(tmp_path):
    file = tmp_path / "a.json"
    done = run(
        "step.py", "--quick", "--steps", "0-gp-64", "--contenders", "tinygan compiled",
        "--threads", "1", "--json", file,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one = json.loads(file.read_text())["steps"]["0-gp-64"]["contenders"]
    assert list(one) == ["tinygan", "tinygan compiled"]
    for result in one.values():
        assert len(result["seconds"]) == 2 and min(result["seconds"]) > 0
    assert "| 0-gp-64 | tinygan compiled |" in done.stdout


@pytest.mark.parametrize("option, told", [("--steady=20", "KiB held"), ("--where", "calls")])
def test_a_look_inside(option, told):
    done = run("step.py", option, "--steps", "0-gp-64", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert told in done.stdout and "| 0-gp-64 |" in done.stdout


@pytest.mark.parametrize("option", ["--steady=0", "--rounds=0", "--json=/no/such/folder/a"])
def test_a_wrong_option_is_told_before_any_work(option):
    done = run("step.py", option)
    assert done.returncode == 2 and option.partition("=")[0] in done.stderr


# Curves


def of_point(size, flops, ours, torch):
    of = {"tinygan compiled": ours, "PyTorch": torch, "PyTorch tuned": 2 * torch}
    contenders = {name: {"quartiles_ms": [ms] * 3} for name, ms in of.items()}
    return {"size": size, "flops": flops, "contenders": contenders}


def test_a_curve_ends_before_steps_that_take_too_long(monkeypatch):
    import step_curves

    ran = []

    def run_case(case, *_):
        ran.append(case.batch)
        return {"PyTorch": {"quartiles_ms": [10.0 * case.batch] * 3}}

    monkeypatch.setattr(step_curves, "run_case", run_case)
    case = small("0-gp-64")
    points = [(n, replace(case, batch=n)) for n in (4, 8, 16, 32)]
    options = SimpleNamespace(threads=1, rounds=1, seconds=1, longest=0.2)
    curve = step_curves.run_curve(points, ["PyTorch"], options, None)
    assert ran == [4, 8, 16] and [point["size"] for point in curve] == ran


def test_the_curves_of_given_figures(tmp_path):
    import step_curves

    points = [of_point(16, 1e9, 3.0, 4.0), of_point(32, 2e9, 5.0, 8.0)]
    figures = {"curves": {"batch": {"critic-32": points, "a toy": points[:1]}}}
    text = step_curves.report(figures)
    assert "| critic-32: batch | 32 | 2 | 5 | 8 | 16 | 0.62 |" in text
    step_curves.chart(figures, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_what_grows():
    from step_curves import curves
    from step_peers import product_flops

    wanted = curves()
    assert [n for n, _ in wanted["batch"]["critic-32"]] == [16, 32, 64, 128, 256, 512, 1024]
    for panel in wanted.values():
        for curve, ((_, one), (_, other), *_) in panel.items():
            assert sum(product_flops(one).values()) < sum(product_flops(other).values()), curve
    (_, first), *_, (_, last) = wanted["image"]["critic of the image, batch 64"]
    assert [layer.grid for layer in first.critic()][-1] == 1
    assert [layer.grid for layer in last.critic()] == [32, 16, 8, 4, 1]


def test_curves_run(tmp_path):
    done = run(
        "step_curves.py", "--quick", "--contenders", "tinygan compiled", "--threads", "1",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (points,) = json.loads((tmp_path / "a.json").read_text())["curves"]["batch"].values()
    assert [point["size"] for point in points] == [16, 32]

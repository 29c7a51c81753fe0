"""The examples as a user runs them: small runs, every option, bad input."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinygan import metrics, train

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))  # where the examples find common.py
FILES = {"samples.npy", "history.csv", "metrics.json", "summary.png", "evolution.gif"}
SMALL = ["--hidden", "8", "--depth", "2", "--batch", "16", "--steps", "6", "--quiet"]


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = load("toy_gaussians")


@pytest.fixture
def quick(monkeypatch):
    """Fewer samples to score, and no pictures: for tests of everything else."""
    monkeypatch.setattr(toy, "SAMPLES", 100)
    monkeypatch.setattr(toy, "draw", lambda *args: (b"", b""))


def run(out, *options):
    toy.main([*SMALL, *options, "--out", str(out)])
    return json.loads((out / "metrics.json").read_text())


def read_history(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_writes_its_five_files_and_nothing_else(tmp_path):
    report = run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (2500, 2) and samples.dtype == np.float32
    rows = read_history(tmp_path)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert list(rows[0]) == list(train.Record._fields)
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "evolution.gif").read_bytes().startswith(b"GIF89a")
    assert report["steps_done"] == 6 and report["stopped"] is None and report["seed"] == 0
    assert report["mode"] == "compiled"
    assert report["settings"]["hidden"] == 8 and report["versions"]["numpy"] == np.__version__


def test_the_scores_are_those_of_the_samples(tmp_path, quick):
    report = run(tmp_path)
    dataset = toy.data.eight_gaussians(2.0)
    samples = np.load(tmp_path / "samples.npy")
    offsets = np.linalg.norm(samples[:, None] - dataset.centres, axis=2).min(axis=1)
    assert report["share_within_5_percent"] == np.mean(offsets <= 0.05 * dataset.radius)
    assert report["high_quality"] == np.mean(offsets <= 3 * dataset.deviation)
    assert report["modes"] == metrics.mode_coverage(samples, dataset).modes


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path, quick):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        run(tmp_path / name, "--seed", seed)
    a, b, c = ((tmp_path / name / "samples.npy").read_bytes() for name in "abc")
    assert a == b != c
    histories = [(tmp_path / name / "history.csv").read_text() for name in "ab"]
    assert histories[0] == histories[1]


def test_an_eager_run_is_the_compiled_one_to_rounding(tmp_path, quick, monkeypatch):
    seen = []
    monkeypatch.setattr(
        toy, "train", lambda *args, **kwargs: seen.append(kwargs) or train.train(*args, **kwargs)
    )
    reports = [run(tmp_path / "compiled"), run(tmp_path / "eager", "--eager")]
    assert [report["mode"] for report in reports] == ["compiled", "eager"]
    assert [kwargs["compiled"] for kwargs in seen] == [True, False]
    samples = [np.load(tmp_path / name / "samples.npy") for name in ("compiled", "eager")]
    np.testing.assert_allclose(*samples, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dataset", toy.DATASETS)
def test_every_dataset_runs(tmp_path, quick, dataset):
    report = run(tmp_path, "--dataset", dataset)
    assert (report["modes"] is None) == (dataset == "swissroll")
    assert report["w1"] > 0


@pytest.mark.parametrize("loss", toy.LOSSES)
@pytest.mark.parametrize("penalty", toy.PENALTIES)
def test_every_loss_runs_with_every_penalty(tmp_path, quick, loss, penalty):
    report = run(tmp_path, "--loss", loss, "--penalty", penalty, "--steps", "2")
    rows = read_history(tmp_path)
    assert report["steps_done"] == 2
    assert (float(rows[0]["penalty"]) > 0) == (penalty != "none")


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
@pytest.mark.parametrize("init", toy.INITS)
@pytest.mark.parametrize("activation", toy.ACTIVATIONS)
def test_every_optimizer_init_and_activation_runs(tmp_path, quick, optimizer, init, activation):
    options = ["--optimizer", optimizer, "--init", init, "--activation", activation]
    assert run(tmp_path, *options, "--steps", "2")["steps_done"] == 2


@pytest.mark.parametrize("preset", toy.PRESETS)
def test_every_preset_runs(tmp_path, quick, preset):
    assert run(tmp_path, "--preset", preset, "--steps", "2")["steps_done"] == 2


def test_an_option_goes_before_the_preset_and_the_preset_before_the_default(tmp_path):
    out = ["--out", str(tmp_path)]
    args = toy.parse(["--preset", "p3-ring", "--penalty", "1-gp", *out])
    assert (args.penalty, args.scale, args.hidden, args.latent) == ("1-gp", 10.0, 512, 2)
    assert (args.optimizer, args.lr_g, args.lr_d, args.decay) == ("sgd", 3e-3, 3e-3, False)
    assert toy.parse(out).scale is None and toy.parse(out).hidden == 128


def test_the_preset_of_the_paper_is_the_network_of_the_models():
    args = toy.parse(["--preset", "p3-ring"])
    gan = toy.build(args)
    assert (gan.generator, gan.critic) == tuple(toy.models.zero_gp_toy(512))
    args = toy.parse(["--preset", "wgan-gp"])
    assert (toy.build(args).generator, toy.build(args).critic) == tuple(toy.models.wgan_gp_toy())


def test_clip_limits_the_critic(tmp_path, quick, monkeypatch):
    seen = []
    monkeypatch.setattr(
        toy, "train", lambda gan, *args, **kwargs: seen.append(gan) or train.train(
            gan, *args, **kwargs
        )
    )  # fmt: skip
    run(tmp_path, "--preset", "wgan", "--steps", "1")
    assert seen[0].clip == 0.01


@pytest.mark.parametrize(
    "options, message",
    [
        (["--steps", "0"], "--steps: 0 is not a number above 0"),
        (["--batch", "-1"], "--batch: -1 is not a number above 0"),
        (["--lr-g", "0"], "--lr-g: 0 is not a number above 0"),
        (["--lr-d", "nan"], "--lr-d: nan is not a number above 0"),
        (["--lr-d", "inf"], "--lr-d: inf is not a number above 0"),
        (["--weight", "-2"], "--weight: -2 is not a number above 0"),
        (["--scale", "0"], "--scale: 0 is not a number above 0"),
        (["--clip", "0"], "--clip: 0 is not a number above 0"),
        (["--hidden", "2.5"], "--hidden: invalid int value"),
        (["--betas", "0.5", "1"], "--betas: 1 is not in"),
        (["--seed", "-1"], "--seed: -1 is no seed"),
        (["--loss", "gan"], "--loss: invalid choice: 'gan'"),
        (["--penalty", "gp"], "--penalty: invalid choice: 'gp'"),
        (["--dataset", "cifar"], "--dataset: invalid choice: 'cifar'"),
        (["--preset", "p9"], "--preset: invalid choice: 'p9'"),
        (["--optimiser", "sgd"], "unrecognized arguments: --optimiser"),
    ],
)
def test_bad_options_are_one_clear_error_before_any_work(tmp_path, capsys, options, message):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        toy.main([*options, "--out", str(out)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        toy.main(["--out", str(tmp_path / "file")])
    assert stop.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_asking_for_a_gpu_without_one_is_a_clear_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import of it fails
    with pytest.raises(SystemExit) as stop:
        toy.main(["--device", "gpu", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "pip install 'tinygan[cuda13]'" in capsys.readouterr().err


def test_a_run_on_the_stand_in_for_a_gpu_equals_the_run_on_the_cpu(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(toy, "SAMPLES", 100)
    run(tmp_path / "gpu", "--device", "gpu", "--depth", "1")
    run(tmp_path / "cpu", "--device", "cpu", "--depth", "1")
    gpu, cpu = (np.load(tmp_path / name / "samples.npy") for name in ("gpu", "cpu"))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-4, atol=1e-5)


def test_ctrl_c_keeps_what_was_done(tmp_path, quick, monkeypatch):
    def interrupted(*args, watch, **kwargs):
        def stop(step, players):
            watch(step, players)
            if step == 4:
                raise KeyboardInterrupt

        return train.train(*args, watch=stop, **kwargs)

    monkeypatch.setattr(toy, "train", interrupted)
    report = run(tmp_path)
    assert report["steps_done"] == 4 and report["stopped"] == "Ctrl-C"
    assert len(read_history(tmp_path)) == 4


def test_a_run_that_diverges_says_why_and_keeps_what_was_finite(tmp_path, quick):
    options = ["--loss", "wasserstein", "--penalty", "none", "--optimizer", "sgd", "--no-decay"]
    with np.errstate(all="ignore"), pytest.raises(SystemExit) as stop:
        toy.main([*SMALL, *options, "--lr-d", "100", "--steps", "50", "--out", str(tmp_path)])
    assert "no longer finite" in stop.value.code
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert "Lower the" in report["stopped"] and 0 < report["steps_done"] < 50


def test_an_old_file_survives_a_failed_write(tmp_path, monkeypatch):
    target = tmp_path / "metrics.json"
    target.write_bytes(b"old")

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        toy.write_whole(target, b"new")
    assert target.read_bytes() == b"old"


def test_the_study_of_the_ring_keeps_finished_runs_and_tables_all(tmp_path):
    command = [sys.executable, str(EXAMPLES / "p3_ring.py"), "--steps", "4", "--seeds", "0", "1"]
    command += ["--out", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    files = {path.name for path in tmp_path.iterdir()}
    assert len(files) == 7 and "1-gp-1-4.json" in files
    stamp = (tmp_path / "0-gp-0-4.json").stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
    assert (tmp_path / "0-gp-0-4.json").stat().st_mtime_ns == stamp
    assert first.stdout.count("\n") == 2 + 3 * 3 + 1
    subprocess.run([*command, "--eager"], capture_output=True, check=True)
    runs = sorted(tmp_path.glob("*-eager.json"))  # beside the compiled ones, not instead
    assert len(runs) == 6 and len(files) == 7
    assert all(json.loads(path.read_text())["mode"] == "eager" for path in runs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_default_run_finds_all_modes(tmp_path, seed):
    toy.main(["--seed", str(seed), "--out", str(tmp_path), "--quiet"])
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["modes20"] == 8 and report["share_within_5_percent"] > 0.7

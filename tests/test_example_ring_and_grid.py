"""The study of the ring and the grid, with runs of a few iterations."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan import metrics

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPT = EXAMPLES / "ring_and_grid.py"


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(EXAMPLES))  # where the examples find common.py
    spec = importlib.util.spec_from_file_location("ring_and_grid", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_keeps_finished_runs_and_tables_and_draws_all(tmp_path, study):
    command = [sys.executable, str(SCRIPT), "--steps", "4", "--seeds", "7", "--out", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    runs = sorted(tmp_path.glob("*.json"))
    assert len(runs) == len(list(tmp_path.glob("*.npy"))) == 10
    stamps = [path.stat().st_mtime_ns for path in runs]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout == (tmp_path / "table.md").read_text() + "\n"
    assert [path.stat().st_mtime_ns for path in runs] == stamps
    assert first.stdout.count("\n| ring of 8 |") == first.stdout.count("\n| grid of 25 |") == 5
    for path in runs:  # what the record says is what the samples say
        record = json.loads(path.read_text())
        assert [row["step"] for row in record["rows"]] == [1, 2, 3, 4]
        found = metrics.mode_coverage(np.load(path.with_suffix(".npy")), study.SETS[record["data"]])
        last = record["rows"][-1]
        assert (found.modes, found.modes20) == (last["modes"], last["modes20"])
        assert found.high_quality == last["high_quality"]
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (1560, 676)


def test_a_mean_has_its_standard_error(study):
    values = [7, 8, 8, 6, 8]
    error = np.sqrt(np.sum((np.array(values) - 7.4) ** 2) / 4 / 5)
    assert study.summary(values, 1) == f"7.4 ± {error:.1f}" == "7.4 ± 0.4"
    assert study.summary([1.234], 2) == "1.23" and study.summary([], 2) == "–"


def test_a_run_without_a_sample_of_high_quality_has_no_reverse_kl(study):
    def record(where, system, kl):
        row = {"modes": 1, "modes20": 0, "high_quality": 0.5, "reverse_kl": kl}
        return {"data": where, "system": system, "steps": 4, "cpu_seconds": 1.0, "rows": [row]}

    records = [
        record(where, system, kl)
        for where in study.SETS
        for system in study.SYSTEMS
        for kl in (0.25, 0.75, None)
    ]
    text = study.table(records, [0, 1, 2])
    assert text.count("| 0.50 ± 0.25 (2 of 3) |") == 10
    assert text.count("| 50.0 ± 0.0 |") == 10


@pytest.mark.parametrize(
    "options, message",
    [
        (["--steps", "3"], "--steps 3; expected at least 4"),
        (["--steps", "0"], "--steps: 0 is not a number above 0"),
        (["--jobs", "0"], "--jobs: 0 is not a number above 0"),
        (["--seeds", "1", "-2"], "--seeds: -2 is no seed; expected 0 to"),
        (["--step", "8"], "unrecognized arguments: --step 8"),
        (["--out", "{}/file"], "/file cannot be written: "),
        (["--out", "{}/file/below"], "/file/below cannot be written: "),
    ],
)
def test_bad_input_is_one_clear_error_before_any_work(
    tmp_path, capsys, monkeypatch, study, options, message
):
    def no(*args):
        raise AssertionError("training was not to begin")

    monkeypatch.setattr(study, "ProcessPoolExecutor", no)
    (tmp_path / "file").write_text("")
    out = [] if "--out" in options else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        study.main([*(option.format(tmp_path) for option in options), *out])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("error:") == 1 and message in said

"""P3's Figures 2, 5 and 6: drawn from tiny runs, and judged by fabricated numbers."""

import copy
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from figures import p3, plane  # noqa: E402
from figures.runs import complete, trained  # noqa: E402

from tinygan.study.paths import path_slopes  # noqa: E402

SMALL = {"hidden": 16}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def tiny(monkeypatch, root):
    """Runs of 16 units, few samples, and up to 4 iterations; each mark becomes one of these."""
    short = {0: 0, 1000: 1, 2000: 2, 5000: 3, 8000: 2, 10000: 3, 13334: 4, 15000: 3, 20000: 4}

    def of(training):
        marks = tuple(sorted({short[mark] for mark in training.marks}))
        return replace(training, steps=marks[-1], marks=marks, changes=training.changes | SMALL)

    ring, swiss = p3.ring, p3.swiss
    monkeypatch.setattr(p3, "ring", lambda *given: of(ring(*given)))
    monkeypatch.setattr(p3, "swiss", lambda *given: of(swiss(*given)))
    nine = tuple((key, variant, short[step]) for key, variant, step in p3.NINE)
    monkeypatch.setattr(p3, "NINE", nine)
    monkeypatch.setattr(p3, "EVOLUTION", (0, 1, 2, 3, 4))
    equal = {at: {v: short[s] for v, s in steps.items()} for at, steps in p3.EQUAL.items()}
    monkeypatch.setattr(p3, "EQUAL", equal)
    monkeypatch.setattr(p3, "PAIRS", 8)
    for module in (p3, plane):
        monkeypatch.setattr(module, "SAMPLES", 60)
        monkeypatch.setattr(module, "ASSIGNED", 30)

    def ensured(jobs):
        for job in jobs:
            if not (root / job.name / "run.json").exists():
                complete(job, root)
        return jobs

    return ensured


def opened(picture):
    image = Image.open(io.BytesIO(picture))
    image.load()
    return image


def test_figure_2_is_drawn_from_its_runs(tiny, root):
    tiny(p3.nine_runs(True, (0,)))
    claim = p3.draw_nine(True, (0,), root)
    assert min(opened(claim.pictures[""]).size) > 600
    assert list(claim.numbers) == ["seeds", *"abcdefghi"]
    assert claim.measured.count("\n| (") == 9 and "(g) 0-GP, TTUR, 4" in claim.measured
    json.dumps(claim.numbers, allow_nan=False)


def test_the_table_has_all_seeds_at_equal_iterations_and_batches(tiny, root):
    tiny(p3.rings(True, (0, 1)))
    claim = p3.draw_rings(True, (0, 1), root)
    opened(claim.pictures[""])
    for at, variants in p3.EQUAL.items():
        assert claim.numbers[at].keys() == variants.keys()
        for row in claim.numbers[at].values():
            assert all(len(values) == 2 for values in row.values())
    iterations, batches, last = (claim.numbers[at] for at in p3.EQUAL)
    assert iterations["0-GP"] == batches["0-GP"] and last.keys() < iterations.keys()
    assert iterations["no GP"] != batches["no GP"]  # at 4 instead of 3
    run = trained(p3.ring("1-GP", 1), root)
    row = p3.ring_numbers(run, 3)
    assert row == {k: v[1] for k, v in iterations["1-GP"].items()}
    slopes = path_slopes(
        plane.critic_at(run, 3), plane.real_points(run, 60)[:8], run.samples(3, 60)[:8], p3.PLACES
    )
    assert (row["largest_logit"], row["cv_logit"]) == (slopes.largest, slopes.variation)
    assert row["largest"] <= row["largest_logit"] / 4 and row["cv_probability"] != row["cv_logit"]
    json.dumps(claim.numbers, allow_nan=False)


def test_figure_6_shows_a_run_that_diverged_as_it_was_before(tiny, root, monkeypatch):
    jobs = tiny([p3.swiss(n, s, True, 0) for s in p3.SWISS_SCALES for n in p3.SWISS])

    def read(job, where):
        run = trained(job, where)
        if job == jobs[-1]:
            record = run.record | {"stopped": "iteration 4: not finite"}
            run = run._replace(players={3: run.players[3]}, record=record)
        return run

    monkeypatch.setattr(p3, "trained", read)
    claim = p3.draw_swiss(True, (0,), root)
    opened(claim.pictures[""])
    lost = claim.numbers["1-GP, scale 10"]
    assert lost == {"w1": [None], "toward_data": [None], "stopped": ["iteration 4: not finite"]}
    assert "| 1-GP, scale 10 | – | – |" in claim.measured
    assert "- 0-GP learns the roll" in claim.measured and claim.agrees != "yes"  # after 4 steps
    json.dumps(claim.numbers, allow_nan=False)


def test_figure_5_is_drawn_from_its_runs(tiny, root, monkeypatch):
    tiny(p3.evolutions(True, (0, 1)))
    monkeypatch.setattr(p3, "judge_evolution", lambda numbers: {"planted": True})
    claim = p3.draw_evolution(True, (0, 1), root)
    opened(claim.pictures[""])
    assert claim.agrees == "yes" and claim.measured.startswith("- planted: yes")
    assert np.shape(claim.numbers["w1"]) == np.shape(claim.numbers["modes20"]) == (2, 5)


def test_figure_5_shows_what_there_was_before_a_run_diverged(tiny, root, monkeypatch):
    tiny(p3.evolutions(True, (0,)))

    def read(job, where):
        run = trained(job, where)
        players = {step: run.players[step] for step in (0, 1)}
        return run._replace(players=players, record=run.record | {"stopped": "iteration 2"})

    monkeypatch.setattr(p3, "trained", read)
    monkeypatch.setattr(p3, "judge_evolution", lambda numbers: {"planted": False})
    claim = p3.draw_evolution(True, (0,), root)
    opened(claim.pictures[""])
    assert claim.numbers["w1"][0][2:] == [None] * 3 and "1 of 1 runs diverged" in claim.measured
    json.dumps(claim.numbers, allow_nan=False)


# The probes


def test_the_faint_part_counts_slopes_below_a_hundredth_of_the_largest():
    slopes = np.array([[3.0, 4.0], [0.04, 0.0], [0.0, 0.06], [0.0, 0.0]])
    assert plane.faint((slopes, slopes)) == 0.5


def test_a_field_toward_the_data_has_cosine_1():
    points = np.array([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    data = np.array([[0.0, 0.0], [9.0, 9.0]])
    toward = np.array([[-1.0, 0.0], [0.0, -3.0], [0.5, 0.5]])
    assert plane.toward_data((points, toward), data) == pytest.approx(1)
    across = np.array([[0.0, 1.0], [2.0, 0.0], [-1.0, -1.0]])
    assert plane.toward_data((points, across), data) == pytest.approx(-1 / 3)
    assert plane.toward_data((points, 0 * toward), data) == 0


def test_distances_are_in_radii_and_of_fresh_points(monkeypatch):
    """Samples moved by 3 along an axis are 3 from the data, in radii of 6 that is half."""
    monkeypatch.setattr(plane, "ASSIGNED", 50)
    ring = SimpleNamespace(
        training=SimpleNamespace(seed=0),
        what=SimpleNamespace(
            plane=SimpleNamespace(radius=6.0), sample=lambda n, stream: stream.normal((n, 2)) * 1e-3
        ),
    )
    moved = plane.real_points(ring, 60, which=1) + np.float32([3, 0])
    assert plane.w1(ring, moved) == pytest.approx(0.5, abs=1e-3)
    assert 0 < plane.floor(ring) < 1e-3


def test_a_diverged_run_has_no_modes_and_no_other_numbers():
    row = p3.ring_numbers(SimpleNamespace(players={}), 10000)
    assert row.pop("modes20") == row.pop("modes") == 0 and set(row.values()) == {None}


def test_numbers_of_all_seeds_and_their_mean():
    assert p3.each([7, 6, 7], "d") == "7, 6, 7 (6.7)"
    assert p3.each([0.125, None], ".2f") == "0.12, – (–)"
    assert p3.each([1234.5], ".3g") == "1.23e+03"
    assert p3.below(1, 2) and not p3.below(1, None) and not p3.below(None, 1) and not p3.below(2, 2)


# Judging: numbers as the paper has them, then each part against it


def answers(judge, numbers):
    return list(judge(numbers).values())


def test_figure_2_is_judged_by_modes_and_faint_parts():
    held = {"modes20": [7, 6], "faint": [0.1, 0.2]}
    lost = {"modes20": [2, 3], "faint": [0.5, 0.6]}
    numbers = {key: held if key in "efg" else lost for key in "abcdefghi"}
    assert answers(p3.judge_nine, numbers) == [True, True, True]
    assert answers(p3.judge_nine, numbers | {"h": held}) == [True, False, False]
    few = {"modes20": [4, 4], "faint": [0.1, None]}
    assert answers(p3.judge_nine, numbers | {"g": few}) == [False, True, False]
    assert answers(p3.judge_nine, numbers | {"b": {"modes20": [0], "faint": [None]}}) == [
        True, True, False,
    ]  # fmt: skip


def test_figure_5_is_judged_by_what_comes_first():
    numbers = {
        "iterations": [0, 5000, 20000],
        "w1": [[1.0, 0.3, 0.2], [1.1, 0.4, 0.2]],
        "share": [[0.0, 0.1, 0.5], [0.0, 0.2, 0.5]],
        "modes20": [[0, 1, 6], [0, 2, 7]],
    }
    assert answers(p3.judge_evolution, numbers) == [True, True, True]
    late = numbers | {"w1": [[1.0, 0.9, 0.2]] * 2, "share": [[0, 0.3, 0.5]] * 2}
    assert answers(p3.judge_evolution, late) == [False, False, True]
    worse = numbers | {"w1": [[1.0, 2.0, 3.0]] * 2, "modes20": [[0, 1, 4]] * 2}
    assert answers(p3.judge_evolution, worse) == [False, True, False]
    gone = numbers | {key: [[*numbers[key][0][:2], None], numbers[key][1]] for key in
                      ("w1", "share", "modes20")}  # fmt: skip
    assert answers(p3.judge_evolution, gone) == [False, False, False]


def test_the_table_is_judged_part_by_part():
    good = {"modes20": [6], "modes": [8], "w1": [0.1], "largest": [1.0]}
    good |= {"cv_probability": [0.5], "cv_logit": [0.6], "largest_logit": [1.0]}
    bad = {"modes20": [2], "modes": [3], "w1": [0.5], "largest": [50.0]}
    bad |= {"cv_probability": [3.0], "cv_logit": [0.8], "largest_logit": [2.0]}
    numbers = {
        at: {v: dict(good if v.startswith("0-GP") and "sample" not in v else bad) for v in steps}
        for at, steps in p3.EQUAL.items()
    }
    later = list(p3.EQUAL)[2]
    numbers[later]["no GP"]["largest"], numbers[later]["0-GP"]["largest"] = [80.0], [0.5]
    assert answers(p3.judge_rings, numbers) == [True] * 7

    def changed(at, variant, **values):
        found = copy.deepcopy(numbers)
        found[list(p3.EQUAL)[at]][variant].update({key: [x] for key, x in values.items()})
        return [i for i, holds in enumerate(answers(p3.judge_rings, found)) if not holds]

    assert changed(2, "0-GP, TTUR", modes20=4) == [0]
    assert changed(2, "0-GP, λ 100", modes20=4) == [1]
    assert changed(0, "1-GP", modes20=6) == [2]
    assert changed(1, "no GP", modes20=6) == [3]
    assert changed(0, "0-GP-sample", cv_probability=0.4) == [4]
    assert changed(0, "0-GP", cv_probability=None) == [4]
    assert changed(0, "1-GP", cv_probability=None) == [4]  # no number is no evidence
    assert changed(2, "no GP", largest=50.0) == changed(2, "0-GP", largest=1.0) == [5]
    assert changed(2, "no GP", largest=None) == [5]
    assert changed(0, "no GP, TTUR", largest=9.0) == changed(0, "no GP, TTUR", largest=None) == [6]
    assert changed(0, "0-GP, TTUR", largest=None) == [6]
    assert changed(0, "0-GP", cv_logit=9.0, largest_logit=1e9) == []  # not the paper's D
    assert changed(0, "0-GP, λ 100", modes20=0, cv_logit=9.0) == []  # another figure's


def test_figure_6_is_judged_by_who_learned_the_roll():
    def row(w1, cosine, stopped=None):
        return {"w1": [w1] * 3, "toward_data": [cosine] * 3, "stopped": [stopped] * 3}

    numbers = {
        "0-GP, scale 1": row(0.1, 0.7), "1-GP, scale 1": row(0.12, 0.4),
        "0-GP, scale 10": row(0.1, 0.5), "1-GP, scale 10": row(None, None, "iteration 4"),
    }  # fmt: skip

    def parts(changes):
        found = list(p3.judge_swiss(numbers | changes, [0.2] * 3).values())
        return [i for i, holds in enumerate(found) if not holds]

    assert parts({}) == []
    assert parts({"1-GP, scale 10": row(0.14, 0.1)}) == [3]
    assert parts({"1-GP, scale 10": row(None, None)}) == [3]  # no number, and no reason
    assert parts({"1-GP, scale 1": row(0.3, 0.8)}) == [1, 2]
    assert parts({"1-GP, scale 1": row(0.12, None)}) == [2]
    neither = {"0-GP, scale 1": row(0.9, 0.7), "1-GP, scale 1": row(0.95, 0.4)}
    assert parts(neither) == [0, 1]
    assert parts({"0-GP, scale 10": row(None, 0.5, "iteration 4")}) == [0, 3]


def test_marks_of_equal_batches_are_those_of_40000():
    """Batches through D in an iteration: real, fake, penalised points, and fake for G."""
    through = {"no GP": 3, "no GP, TTUR": 3, "0-GP-sample": 5}
    for variant, step in p3.EQUAL["40,000 batches through D"].items():
        of_one = through.get(variant, 4)
        assert step in p3.RING[variant][2] and (step - 1) * of_one < 40000 <= step * of_one


def test_every_figure_is_whole():
    for figure in p3.FIGURES.values():
        assert figure.title and figure.says and figure.settings and figure.seeds == (0, 1, 2)
        jobs = figure.jobs(True, (0,))
        assert jobs and {job.name for job in jobs} <= {
            job.name for job in [*p3.rings(True, (0,)), *p3.swisses(True, (0,))]
        }

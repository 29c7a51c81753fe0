"""P3 on digits and its appendices: tiny runs drawn, and verdicts that turn with the numbers."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from figures import p3_digits as figures  # noqa: E402
from figures import scoring  # noqa: E402
from figures.runs import complete, finished, trained  # noqa: E402

GOOD = {"inception_style_score": 6.0, "classes": 10, "recall": 0.3, "frechet_distance": 12.0}
NOISE = {"inception_style_score": 1.1, "classes": 2, "recall": 0.0, "frechet_distance": 45.0}
GONE = dict.fromkeys(GOOD)


def drawn(name, seeds, root):
    """A figure's claim, whose json is one and whose pictures are PNG."""
    claim = figures.FIGURES[name].draw(True, seeds, root)
    json.dumps(claim.numbers, allow_nan=False)
    assert all(png.startswith(b"\x89PNG") for png in claim.pictures.values())
    assert claim.agrees in ("yes", "in part", "no") and "nan" not in claim.measured
    return claim


def copied(jobs, root):
    """The first job done; its folder under the names of the others, which saves their time."""
    first, *others = jobs
    complete(first, root)
    for job in others:
        shutil.copytree(root / first.name, root / job.name)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Runs of four iterations, in a folder, and the functions that name them."""
    root, right = tmp_path_factory.mktemp("runs"), figures.digits

    def digits(*args):
        job = right(*args)
        return replace(job, steps=4, marks=(2, 4), changes={**job.changes, "hidden": 8})

    jobs = [digits(v, True, s) for v in figures.DIGITS for s in (0, 1)]
    copied(jobs + [digits(v, True, 0, (0.9, 0.99)) for v in figures.ROBUST], root)
    return root, digits


def light(run, step):
    """Numbers of a few images in place of scores, which take seconds."""
    images = scoring.shown(run, step, 10)
    return {
        "inception_style_score": float(images.mean()), "classes": step, "recall": 0.0,
        "frechet_distance": float(images.std()),
    }  # fmt: skip


@pytest.fixture
def patched(tiny, monkeypatch):
    root, digits = tiny
    monkeypatch.setattr(figures, "digits", digits)
    monkeypatch.setattr(figures, "EARLY", 2)
    monkeypatch.setattr(scoring, "scores", light)
    return root


def test_the_sheets_of_digits_are_drawn_from_tiny_runs(patched):
    early = drawn("P3.F3", (0, 1), patched)
    assert early.agrees == "no" and "0 of 2 seeds" in early.measured
    assert list(early.numbers["variants"]) == list(figures.DIGITS)
    run = trained(figures.digits("1-GP", True, 1), patched)
    assert early.numbers["variants"]["1-GP"][1] == light(run, 2) != light(run, 4)
    assert early.numbers["0-GP later"]["found"][0] == light(run, 4)  # a copy
    idle = np.mean(run.history["generator_gradient"] == 0)
    assert early.numbers["1-GP, generator idle"][1] == idle
    assert drawn("P3.F7", (0,), patched).numbers["iteration"] == 4
    robust = drawn("P3.F8", (0,), patched)
    assert list(robust.numbers["variants"]) == list(figures.ROBUST)


def test_a_run_that_diverged_is_told_and_lost(patched, monkeypatch):
    right = figures.trained

    def diverged(training, root):
        run = right(training, root)
        return run._replace(players={}) if training.changes.get("penalty") == "none" else run

    monkeypatch.setattr(figures, "trained", diverged)
    claim = drawn("P3.F7", (0,), patched)
    assert claim.numbers["variants"]["no GP"] == [GONE] and "| no GP | – |" in claim.measured


def test_score_curves_are_drawn_from_tiny_runs(tmp_path, monkeypatch):
    right = figures.scored

    def scored(*args):
        job = right(*args)
        return replace(job, steps=2, marks=(0, 1, 2), changes={**job.changes, "width": 0.0625})

    monkeypatch.setattr(figures, "scored", scored)
    monkeypatch.setattr(figures, "curve_of", partial(figures.curve_of, n=40))
    copied(figures.scored_all(True, (0, 1)), tmp_path)
    claim = drawn("P3.F4", (0, 1), tmp_path)
    curves = claim.numbers["curves"]
    assert [len(curves[name]) for name in figures.SCORED] == [2, 2]
    assert [mark["iteration"] for mark in curves["0-GP"][1]] == [0, 1, 2]
    run = trained(figures.scored("0-GP", True, 0), tmp_path)
    score = scoring.scores(run, 2, 40)["inception_style_score"]
    assert curves["0-GP"][0][2]["inception_style_score"] == pytest.approx(score)
    assert f"| 2 | {score:.2f} ± 0.00 |" in claim.measured
    lost = figures.curve_of(run._replace(players={0: run.players[0]}))
    assert [mark["inception_style_score"] is None for mark in lost] == [False, True, True]


def test_the_verdict_on_who_learned_turns_with_the_numbers():
    others = {"no GP": [NOISE, NOISE], "1-GP": [NOISE, GONE]}
    assert figures.learned(GOOD) and not figures.learned(NOISE) and not figures.learned(GONE)
    assert not figures.learned({**GOOD, "classes": 9})
    fair = {**GOOD, "recall": 0.1, "frechet_distance": 20.0}
    assert figures.alone({**others, "0-GP": [GOOD, GOOD]}) == "yes"
    assert figures.alone({**others, "0-GP": [GOOD, NOISE]}) == "no"  # half of them
    three = {name: [*found, NOISE] for name, found in others.items()}
    assert figures.alone({**three, "0-GP": [GOOD, GOOD, NOISE]}) == "yes"
    assert figures.alone({**others, "1-GP": [fair, GOOD], "0-GP": [GOOD, GOOD]}) == "in part"
    assert figures.alone({**others, "1-GP": [GOOD, GOOD], "0-GP": [NOISE, NOISE]}) == "no"
    assert figures.alone({**others, "0-GP": [NOISE, NOISE]}) == "no"  # nobody learned
    assert figures.ahead({"1-GP": [NOISE, fair], "0-GP": [GOOD, GOOD]}) == "yes"
    assert figures.ahead({"1-GP": [NOISE, GOOD], "0-GP": [GOOD, fair]}) == "in part"
    assert figures.ahead({"1-GP": [GOOD, GOOD], "0-GP": [fair, fair]}) == "no"
    assert figures.ahead({"1-GP": [NOISE, NOISE], "0-GP": [GOOD, GONE]}) == "no"
    assert figures.ahead({"1-GP": [{**NOISE, "frechet_distance": 9.0}], "0-GP": [GOOD]}) == "no"


def curve(*scores):
    return [
        {"iteration": i, "inception_style_score": x, "frechet_distance": x}
        for i, x in enumerate(scores)
    ]


def test_the_verdict_on_score_curves_turns_with_the_numbers():
    def agrees(mine, other):
        return figures.consistent(figures.differences({"0-GP": mine, "0-GP-sample": other}))

    other = [curve(1, 4, 5, 6), curve(1, 6, 7, 8)]  # the seeds differ by more than the penalties
    assert agrees([curve(1, 5, 6, 7), curve(1, 7, 8, 8.5)], other) == "yes"
    assert agrees([curve(1, 3.8, 6, 7), curve(1, 6, 7, 9)], other) == "in part"  # a mark below
    assert agrees([curve(1, 5, 6, 7), curve(1, 5.1, 6.1, 7.1)], other) == "no"  # +1, -.9: noise
    assert agrees([curve(1, 3, 4, 5), curve(1, 5, 6, 7.5)], other) == "no"  # reversed
    assert agrees([curve(1, 5, 6, 7), curve(1, 7, 8, None)], other) == "no"  # diverged: scores 1
    assert agrees(other, other) == "no"
    assert agrees([curve(1, 5, 6, 7)], other[:1]) == "in part"  # one seed has no error
    assert agrees([curve(1, 3, 6, 7)], other[:1]) == "no"
    found = figures.differences(
        {"0-GP": [curve(1, 5, 6, 7), curve(1, 7, 8, 8.5)], "0-GP-sample": other}
    )
    each = [1.0, 2.5 / 3]
    assert found["seeds"] == pytest.approx(each)
    assert found["error"] == pytest.approx(abs(each[0] - each[1]) / 2)
    assert "+0.917 ± 0.083 (+1.000, +0.833): beyond" in figures.compared_in_pairs(found)
    reverse = {**found, "mean": -0.9}
    assert "the other way round" in figures.compared_in_pairs(reverse)
    assert "no difference" in figures.compared_in_pairs({**found, "error": 1.0})


def test_the_construction_is_told_from_what_it_is_not(tmp_path):
    claim = drawn("P3.AppA", (0,), tmp_path)
    assert claim.agrees == "yes"
    for name, (samples, components) in {
        "points of the circle": (8, 2), "digits": (200, 784),
    }.items():  # fmt: skip
        (found,) = claim.numbers[name]
        assert found["parameters"] == (components + 1) * samples
        assert found["slope"] >= found["bound"] == pytest.approx(0.6 / found["nearest"])
        assert f"| {samples} {name} | 0 | {found['k']:.4g} |" in claim.measured
        for fault in ({"margin": -0.01}, {"parameters": 1}, {"least slope over bound": 0.9}):
            assert figures.holds(found) and not figures.holds({**found, **fault})


def test_the_linear_games_path_is_the_closed_one(tmp_path):
    """With θ_D and x − y in one line, a pair of numbers moves by a matrix."""
    game = figures.LinearGame(3, seed=1, steps=40)
    complete(game, tmp_path)
    assert finished(game, tmp_path)["cpu_seconds"] > 0
    path = figures.path_of(game, tmp_path)
    z = path["generator_gradient"][0] / path["steepness"][0]  # ‖∂L/∂θ_G‖ = ‖θ_D‖·‖z‖
    slope, gap = figures.GAP / figures.DISTANCE, figures.DISTANCE
    for i in range(41):
        assert path["steepness"][i] == pytest.approx(abs(slope), rel=1e-9)
        assert path["distance"][i] == pytest.approx(abs(gap), rel=1e-9)
        assert path["told"][i] == pytest.approx(slope * gap, rel=1e-9)
        assert path["critic_gradient"][i] == pytest.approx(path["distance"][i])
        slope += 3 * figures.RATE * gap
        gap -= figures.RATE * slope * z**2
    with pytest.raises(FileNotFoundError, match="path.csv is missing.*Remove the folder"):
        figures.path_of(figures.LinearGame(3, seed=2, steps=40), tmp_path)


def test_an_interrupted_game_is_not_a_finished_one(tmp_path, monkeypatch):
    right = figures.run

    def stopped_at_two(*args, watch, **more):
        def at(step, players):
            watch(step, players)
            if step == 2:
                raise KeyboardInterrupt

        return right(*args, watch=at, **more)

    monkeypatch.setattr(figures, "run", stopped_at_two)
    game = figures.LinearGame(1, steps=5)
    with pytest.raises(KeyboardInterrupt):
        complete(game, tmp_path)
    assert finished(game, tmp_path) is None and not list(tmp_path.glob("*/path.csv"))


def test_the_linear_game_is_judged_on_its_way(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "ALTERNATIONS", (5, 25))
    jobs = [replace(job, steps=400) for job in figures.linear_games(True, (0,))]
    monkeypatch.setattr(figures, "LinearGame", partial(figures.LinearGame, steps=400))
    for job in jobs:
        complete(job, tmp_path)
    with pytest.raises(FileNotFoundError):
        drawn("P3.AppB", (1,), tmp_path)
    path = figures.path_of(jobs[0], tmp_path)
    found = figures.approach(path, 5)
    assert figures.cannot_keep(found) and found["lost"] < found["nearest"]["iteration"]
    at = found["lost"]
    assert path["told"][at] < figures.GAP <= path["told"][at - 1]
    kept = {name: path[name] for name in figures.COLUMNS} | {"told": np.full(401, 2.0)}
    assert not figures.cannot_keep(figures.approach(kept, 5))
    flat = {name: path[name] for name in figures.COLUMNS}
    flat["generator_gradient"] = np.linspace(1, 0.5, 401)
    assert not figures.cannot_keep(figures.approach(flat, 5))

"""P4's figures: drawn from tiny runs, and verdicts that turn with the numbers."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan.study import latent

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from figures import p4, p4_latent, runs  # noqa: E402

FIGURES = p4.FIGURES | p4_latent.FIGURES
SCORES = {
    "frechet_distance": 5.0, "precision": 0.5, "recall": 0.5, "inception_style_score": 7.0,
    "classes": 10,
}  # fmt: skip


def tiny(make):
    """Three iterations of networks of a channel or a few."""

    def job(short, seed, data=None):
        changes = {"width": 0.01, "batch": 4}
        return replace(make(short, seed), steps=3, marks=(0, 3), changes=changes)

    return job


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for make in (p4.dcgan, p4.wgan, p4.ac_gan):
        runs.complete(tiny(make)(True, 0), folder)
    return folder


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_drawn_from_tiny_runs(root, monkeypatch, name):
    """One seed twice is as good as two."""
    for maker in ("dcgan", "wgan", "ac_gan"):
        small = tiny(getattr(p4, maker))
        for module in (p4, p4_latent):
            monkeypatch.setattr(module, maker, small, raising=False)
    monkeypatch.setattr(p4, "equal_wgan", lambda short: (3, 3))
    monkeypatch.setattr(p4, "equal_ac_gan", lambda short: (3, 3))
    monkeypatch.setattr(p4, "scores", lambda run, step: SCORES)
    monkeypatch.setattr(p4, "floor", lambda: SCORES)
    for module, name_of, few in [
        (p4, "NAMED", 20), (p4_latent, "NAMED", 3), (p4_latent, "PAIRS", 2),
        (p4_latent, "POOL", 40),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name_of, few)
    claim = FIGURES[name].draw(True, (0, 0), root)
    assert Image.open(io.BytesIO(claim.pictures[""])).width > 300
    json.dumps(claim.numbers, allow_nan=False)
    assert claim.measured and claim.agrees in ("yes", "in part", "no", "")


def test_the_jobs_of_a_figure_are_what_it_is_drawn_from():
    names = [job.name for job in FIGURES["P4.F4"].jobs(True, (0, 1))]
    assert names == [make(True, seed).name for seed in (0, 1) for make in (p4.dcgan, p4.wgan)]
    assert FIGURES["P4.F1"].jobs(True, (0,)) == []
    assert sorted(FIGURES) == [f"P4.F{i}" for i in range(1, 10)]
    i, j = p4.equal_wgan(True)
    assert i in p4.dcgan(True, 0).marks and j in p4.wgan(True, 0).marks
    for short in (True, False):
        i, j = p4.equal_ac_gan(short)
        assert i in p4.dcgan(short, 0).marks and j in p4.ac_gan(short, 0).marks


# Gradients


def gradients(*courses):
    """Numbers as of ``gradients_of``: 10 weights a layer, the same course in all."""
    sizes = [10] * 5
    return [
        {
            "steps": list(range(len(course))), "sizes": sizes, "thresholds": list(thresholds()),
            "layers": [f"conv{i}" for i in range(5)],
            "below": [[[count] * len(thresholds())] * 5 for count in course],
            "zeros": [[0] * 5 for _ in course],
        }
        for course in courses
    ]  # fmt: skip


def thresholds():
    return sorted({*p4.SWEEP, p4.THRESHOLD})


@pytest.mark.parametrize(
    "dcgan, wgan, agrees",
    [
        ([1, 3, 5, 7], [2, 2, 9, 2], "yes"),  # in between WGAN may do what it likes
        ([1, 3, 5, 7], [2, 2, 2, 8], "in part"),
        ([7, 5, 3, 1], [2, 2, 2, 2], "in part"),
        ([7, 5, 3, 7], [8, 2, 2, 2], "no"),
    ],
)
def test_vanishing_gradients_are_judged_by_their_shares(dcgan, wgan, agrees):
    numbers = {"dcgan": gradients(dcgan, dcgan, dcgan), "wgan": gradients(wgan, wgan, wgan)}
    numbers["wgan_with_scales_of_1"] = gradients([1, 4, 4, 4])
    measured, found, said = p4.judge_gradients(numbers)
    assert said == agrees
    first, last = found["early_share_first_and_last"]["DCGAN"][2]
    assert (first, last) == pytest.approx((dcgan[0] / 10, dcgan[-1] / 10))
    assert f"up to {max(wgan) / 10:.2f} ± 0.00" in measured and "at most 0.40 below" in measured


def test_most_seeds_decide():
    up, down, flat = [1, 3, 5, 7], [7, 5, 3, 1], [2, 2, 2, 2]
    for courses, agrees in [((up, up, down), "yes"), ((up, down, down), "in part")]:
        numbers = {"dcgan": gradients(*courses), "wgan": gradients(flat, flat, flat)}
        numbers["wgan_with_scales_of_1"] = gradients(flat)
        assert p4.judge_gradients(numbers)[2] == agrees


# Samples and losses


def scored(distance, precision, score=7.0):
    return [SCORES | {"frechet_distance": distance, "precision": precision}
            | {"inception_style_score": score}] * 3  # fmt: skip


def test_samples_are_judged_by_their_scores(monkeypatch):
    monkeypatch.setattr(p4, "floor", lambda: SCORES | {"frechet_distance": 1.0})
    real = p4.floor()
    for after, agrees in [(10.0, "yes"), (1.5, "in part"), (60.0, "in part")]:
        numbers = {"iterations": 9, "before": scored(50.0, 0), "after": scored(after, 0.5)}
        assert p4.judge_dcgan({**numbers, "other_real": real})[2] == agrees
    times = {"dcgan_cpu_seconds_per_iteration": [1.0] * 3}
    for wgan, slow, agrees in [
        ((9, 0.4), 2, "yes"),
        ((9, 0.6), 2, "in part"),
        ((4, 0.6), 0.5, "no"),
    ]:
        numbers = {"dcgan_iterations": 9, "wgan_iterations": 9, "dcgan": scored(5, 0.5)}
        numbers |= {"wgan": scored(*wgan), "wgan_cpu_seconds_per_iteration": [slow] * 3, **times}
        assert p4.judge_wgan(numbers)[2] == agrees
    for ac, agrees in [((4, 0.6, 8), "yes"), ((6, 0.6, 8), "in part"), ((6, 0.4, 6), "no")]:
        numbers = {"dcgan_iterations": 9, "ac_gan_iterations": 9, "last_iteration": 9}
        numbers |= {"dcgan": scored(5, 0.5), "ac_gan": scored(*ac), "ac_gan_last": scored(*ac)}
        assert p4.judge_ac_gan({**numbers, "named_as_asked": [0.9] * 3})[2] == agrees


def test_roughness_of_losses_in_closed_form():
    steps = np.arange(1000)
    found = p4.roughness(np.where(steps % 2, 1.0, -1.0) + 3)  # jumps of ±2
    assert found == pytest.approx({"to_mean": 2 / 3, "to_range": 1, "to_deviation": 2}, rel=1e-5)
    assert p4.roughness(steps.astype(float))["to_range"] == 0  # a straight line is smooth
    noise = np.random.default_rng(0).normal(size=100000)
    assert p4.roughness(noise)["to_deviation"] == pytest.approx(2**0.5, rel=0.01)
    with pytest.raises(ValueError, match="never changes"):
        p4.roughness(np.ones(9))


def test_losses_are_compared_at_gaps_as_equal_as_can_be():
    def history(every, n):
        return np.array([(i,) for i in range(every, every * n + 1, every)], [("step", float)])

    kept, gaps = p4.evened({"DCGAN": [history(39, 30)] * 2, "WGAN": [history(15, 30)] * 2})
    assert gaps == {"DCGAN": 39, "WGAN": 45} and len(kept["DCGAN"][0]) == 30
    assert np.unique(np.diff(kept["WGAN"][1]["step"])) == [45]
    assert "39 iterations of DCGAN and 45 iterations of WGAN" in p4.from_to(gaps)
    assert p4.from_to({"DCGAN": 1, "WGAN": 1}) == "From one iteration to the next"


def test_a_run_that_diverged_is_not_scored_by_an_earlier_mark(root, monkeypatch):
    def read(job, where):
        run = runs.trained(job, where)
        return run._replace(players={0: run.players[0]}, record={"stopped": "iteration 2: nan"})

    monkeypatch.setattr(p4, "trained", read)
    with pytest.raises(
        ValueError, match="diverged .iteration 2: nan.; expected a run of all its 3"
    ):
        p4.runs_of(tiny(p4.dcgan), True, (0,), root)


@pytest.mark.parametrize("name", FIGURES)
def test_the_stand_in_for_the_papers_images_is_named_in_both_modes(name):
    assert "5,000 digits" in FIGURES[name].settings
    assert bool(FIGURES[name].short) == (name != "P4.F1")
    if any(job.name.startswith("ablation-gan") for job in FIGURES[name].jobs(True, (0,))):
        assert p4.DCGAN_SHORT in FIGURES[name].short


def test_losses_are_judged_by_their_roughness():
    def numbers(*factors):
        one = {"to_mean": 1.0, "to_range": 1.0, "to_deviation": 1.0}
        other = {key: factor for key, factor in zip(one, factors, strict=True)}
        sides = ("critic", "generator")
        found = {"DCGAN": {s: [one] * 3 for s in sides}, "WGAN": {s: [other] * 3 for s in sides}}
        return found | {"gaps": {"DCGAN": 1, "WGAN": 1}}

    assert p4.judge_losses(numbers(0.5, 0.5, 0.5))[2] == "yes"
    assert p4.judge_losses(numbers(0.5, 2.0, 0.5))[2] == "in part"
    assert p4.judge_losses(numbers(2.0, 2.0, 1.0))[2] == "no"
    assert "|" not in p4.judge_losses(numbers(1, 1, 1))[0].partition("\n\n")[0]
    up, down = [0.1, 0.9], [0.9, 0.1]
    ac = {"critic_loss": [down] * 3, "generator_loss": [down] * 3, "real_accuracy": [up] * 3}
    rough = {"roughness": [{"to_mean": 0.1}] * 3, "dcgan_roughness": [{"to_mean": 0.2}] * 3}
    rough["gaps"] = {"AC-GAN": 1, "DCGAN": 1}
    assert p4.judge_ac_losses({**ac, "fake_accuracy": [up] * 3, **rough})[2] == "yes"
    assert p4.judge_ac_losses({**ac, "fake_accuracy": [down] * 3, **rough})[2] == "in part"


# The latent space


def paths(narrow, wide, step=1.5):
    rows = {p4_latent.P4S: narrow, p4_latent.PRIORS: wide, p4_latent.ARC: wide}
    rest = {"largest_step": step, "middle": 0.7, "ends_own_statistics": 1.0}
    return [{kind: {"ends": ends, **rest} for kind, ends in rows.items()}] * 3


def test_walks_are_judged_by_how_far_and_how_evenly_images_change():
    assert p4_latent.judge_dcgan(paths(1.0, 1.0))[2] == "yes"
    assert p4_latent.judge_dcgan(paths(0.01, 1.0))[2] == "in part"
    assert p4_latent.judge_dcgan(paths(1.0, 1.0, step=15.0))[2] == "no"  # a jump
    names = ("one noise", *p4_latent.SUMS)
    for right, columns, agrees in [(0.2, 0.8, "yes"), (0.9, 0.8, "in part"), (0.9, 0.1, "in part")]:
        variance = [{"rows": 1 - columns, "columns": columns, "both": 0.0}] * 3
        numbers = {"paths": paths(0.01, 1.0), "variance": variance}
        numbers["named_as_asked"] = dict.fromkeys(names, [right] * 3) | {"one noise": [0.9] * 3}
        assert p4_latent.judge_ac_gan(numbers)[2] == agrees
    numbers["paths"] = paths(0.01, 0.1)
    assert p4_latent.judge_ac_gan(numbers)[2] == "no"
    numbers["named_as_asked"] = dict.fromkeys(names, [0.3] * 3)  # a G that no class is asked of
    assert p4_latent.judge_ac_gan(numbers)[2] == "no"


def test_a_walker_makes_each_image_by_itself(root):
    run = runs.trained(tiny(p4.ac_gan)(True, 0), root)
    walk = p4_latent.walker(run)
    assert (walk.classes, walk.noise) == (10, 100)
    z = latent.endpoints(p4_latent.tg.Stream(0), 100, 5)
    np.testing.assert_allclose(walk(z, 3)[2:3], walk(z[2:3], 3), atol=1e-5)
    assert abs(walk(z, 3) - walk(z, 4)).max() > 1e-4
    assert abs(walk(z, 3, own=True)[:2] - walk(z[:2], 3, own=True)).max() > 1e-3

"""P3's Figure 1: small runs of its jobs, and what is judged of their numbers."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from figures import p3_surface
from figures.runs import complete

from tinygan import Stream, grad_values, losses, nn, ops, track
from tinygan.penalties import gradient_penalty, interpolates


@pytest.fixture
def small(monkeypatch):
    """Every variant at 4 steps, on a coarse grid and few held-out points."""
    monkeypatch.setattr(p3_surface, "GRID", 8)
    monkeypatch.setattr(p3_surface, "HELD_OUT", 50)
    variants = {
        name: replace(job, points=40, steps=8 if name == p3_surface.LONGER else 4, measured=3)
        for name, job in p3_surface.VARIANTS.items()
    }
    more = {
        name: replace(variants[name], points=60) for name in (p3_surface.MORE, p3_surface.LONGER)
    }
    monkeypatch.setattr(p3_surface, "VARIANTS", variants | more)


def test_the_figures_are_drawn_from_small_runs(small, tmp_path):
    jobs = p3_surface.jobs(True, (3,))
    assert len({job.name for job in jobs}) == len(jobs) == 6
    for job in jobs:
        complete(job, tmp_path)
    assert {job.steps for job in p3_surface.curve_jobs(True, (3,))} == {4}
    for figure in p3_surface.FIGURES.values():
        claim = figure.draw(True, (3,), tmp_path)
        assert claim.pictures[""].startswith(b"\x89PNG") and claim.agrees in (
            "yes",
            "in part",
            "no",
        )
        assert claim.numbers["seeds"] == [3]
        for name in p3_surface.PANELS:
            assert f"| {name} |" in claim.measured
    curves = claim.numbers["variants"]["0-GP"]["loss"]
    assert claim.numbers["step"] == [0, 1, 2, 4] and np.shape(curves) == (1, 4)
    run = p3_surface.learned(jobs[0], tmp_path)
    loss, accuracy = p3_surface.loss_and_accuracy(run.critic, *run.points)
    assert run.curves["loss"][-1] == pytest.approx(loss, rel=1e-6)
    assert run.curves["accuracy"][-1] == pytest.approx(accuracy)
    fresh = p3_surface.loss_and_accuracy(run.critic, *run.held_out)
    found = run.curves["held_out_loss"][-1], run.curves["held_out_accuracy"][-1]
    assert found == pytest.approx(fresh, rel=1e-6)

    (tmp_path / jobs[0].name / "critic.npz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks critic.npz"):
        figure.draw(True, (3,), tmp_path)


def loss_of(name, d, x, y, drawn):
    """D's loss on a batch, its penalty written out."""

    def critic(points):
        return p3_surface.MODEL(d, points)

    loss = losses.logistic_critic(critic(x), critic(y))
    if name == "none":
        return loss
    points = np.concatenate([x, y]) if name == "0-gp-sample" else interpolates(x, y, *drawn)
    centre = 1.0 if name == "1-gp" else 0.0
    return loss + gradient_penalty(critic, points, centre=centre, of=ops.sigmoid)


@pytest.mark.parametrize("name", p3_surface.PENALTIES)
def test_a_job_takes_the_steps_that_it_says(name, small, tmp_path):
    """Against a loop without recording: shuffled epochs, pairs of batches, the penalty on σ(D)."""
    job = replace(p3_surface.Surface(name, points=40, measured=2), steps=3, seed=1)
    complete(job, tmp_path)
    (real, fake), held_out = job.sample()
    assert real.shape == (40, 2) and held_out[1].shape == (50, 2)
    stream, penalty = Stream(1), p3_surface.PENALTIES[name]
    d = p3_surface.MODEL.init(stream.child(4))
    assert p3_surface.MODEL.weight_init is nn.fan_in_uniform
    state, order, noise = p3_surface.OPTIMIZER.init(d), stream.child(5), stream.child(6)
    for epoch in range(2):
        x, y = real[order.permutation(40)], fake[order.permutation(40)]
        for half in (slice(0, 20), slice(20, 40))[: 2 - epoch]:
            drawn = penalty.draw(noise, x[half]) if penalty else ()
            tracked = track(d)
            loss = loss_of(name, tracked, x[half], y[half], drawn)
            d, state = p3_surface.OPTIMIZER.update(d, grad_values(loss, tracked), state)
    critic = p3_surface.learned(job, tmp_path).critic
    np.testing.assert_allclose(critic(real), p3_surface.MODEL(d, real), rtol=1e-4, atol=1e-5)


def test_the_optimal_d_and_its_accuracy():
    optimum = p3_surface.the_optimum()
    assert round(p3_surface.steepest(optimum.critic, optimum.points), 4) == 0.7523
    assert round(optimum.probability.mean(), 8) == 0.67196975
    best = p3_surface.best_accuracy()
    assert best == pytest.approx(0.68629, abs=2e-5)
    held_out = p3_surface.Surface("none", seed=2).sample()[1]
    assert p3_surface.of_the_optimum(optimum, held_out)[1] == pytest.approx(best, abs=0.015)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_largest_slope_is_that_of_the_probability_and_never_nan():
    points = np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)
    found = p3_surface.steepest(lambda x: ops.multiply(x[:, 0], 3.0), points)
    assert found == pytest.approx(3 / 4)  # 3·σ(1 − σ) at 0; far less at 2
    with pytest.raises(ValueError, match=r"not finite at \[0.0, 1.0\]"):
        p3_surface.steepest(lambda x: ops.sqrt(x[:, 0]), points)


def surfaces(**changes):
    """Numbers of Figure 1 in which the paper is right, changed."""
    keys = ("mean_distance", "max_where_dense", "held_out_accuracy", "slope")
    values = dict.fromkeys(p3_surface.VARIANTS, (0.3, 0.9, 0.6, 50.0))
    values["1-GP"] = (0.15, 0.7, 0.64, 5.0)
    values[p3_surface.OURS] = (0.08, 0.5, 0.68, 2.0)
    rows = {
        name: {k: [v] * 3 for k, v in zip(keys, row, strict=True)} for name, row in values.items()
    }
    for name, change in changes.items():
        rows[name] |= change
    return {"variants": rows, "optimum": {"slope": 0.7523}}


def test_the_verdict_on_figure_1_turns_with_the_numbers():
    ours, more, longer = p3_surface.OURS, p3_surface.MORE, p3_surface.LONGER

    def lost(**changes):
        parts = p3_surface.judge_surfaces(surfaces(**changes)).values()
        return [i for i, flags in enumerate(parts) if not p3_surface.held(flags)]

    def far(*values):
        return {"mean_distance": list(values)}

    assert lost() == []
    assert lost(**{"1-GP": far(0.05, 0.06, 0.3)}) == [0]
    assert lost(**{"1-GP": far(0.31, 0.32, 0.1)}) == [1]
    assert lost(**{"0-GP-sample": far(0.2, 0.2, 0.5)}) == [2]  # it helps: the paper says not
    assert lost(**{more: far(0.05, 0.06, 0.9)}) == [3]
    assert lost(**{longer: far(0.05, 0.06, 0.9)}) == [4]
    assert lost(**{more: far(0.05, 0.1, 0.1)}) == []  # with most seeds
    best = p3_surface.best_of(surfaces())
    assert set(best.values()) == {ours} and best.keys() == p3_surface.WORDS.keys()
    flat = {"slope": [0.1] * 3}  # nearer to .7523 than 2 is, though on the other side
    assert p3_surface.best_of(surfaces(**{"1-GP": flat}))["slope"] == "1-GP"


def curves(plain=(0.7, 1.0), fresh=(0.69, 0.6), ours=(0.68, 0.68)):
    rows = {}
    for name in p3_surface.PANELS:
        rows[name] = {
            "loss": [[1.2, 0.9]], "accuracy": [[0.7, 0.8]], "held_out_loss": [[1.2, 1.5]],
            "held_out_accuracy": [[0.68, 0.65]],
        }  # fmt: skip
    rows["no penalty"] |= {"accuracy": [plain], "held_out_accuracy": [fresh]}
    rows[p3_surface.OURS] |= {"held_out_accuracy": [ours], "held_out_loss": [[1.2, 1.21]]}
    best = {
        "loss": [1.15],
        "accuracy": [0.69],
        "held_out_loss": [1.15],
        "held_out_accuracy": [0.69],
    }
    return {"variants": rows, "optimum": best}


def test_the_verdict_on_the_claim_turns_with_the_numbers():
    judge = p3_surface.judge_curves
    assert judge(curves())[1] and judge(curves())[3] == "yes"
    assert (
        not judge(curves(plain=(0.7, 0.75)))[1] and judge(curves(plain=(0.7, 0.75)))[3] == "in part"
    )
    assert judge(curves(fresh=(0.6, 0.6)))[3] == "in part"
    assert judge(curves(ours=(0.68, 0.6)))[3] == "in part"


def test_mean_and_error():
    assert p3_surface.mean_and_error([1.0, 2.0, 3.0], 2) == "2.00 ± 0.58"
    assert p3_surface.mean_and_error([1.0], 1) == "1.0"

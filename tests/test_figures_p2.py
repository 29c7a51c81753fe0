"""The figures of P2 and P0: drawn from runs that were made up, judged by numbers that turn."""

import json
import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import games  # noqa: E402
from figures import judging, p0, p2, p2_difficulties, p2_images, scoring  # noqa: E402
from figures.runs import Training, complete, with_seeds  # noqa: E402

import tinygan as tg  # noqa: E402
from tinygan import losses  # noqa: E402
from tinygan.data import digits, ring  # noqa: E402

LOG2 = math.log(2)


# From numbers to a verdict


def test_a_claim_holds_with_most_of_the_seeds():
    assert judging.held([True, True, False]) and not judging.held([True, False])
    assert [judging.verdict(*a) for a in ((1, 1), (1, 0), (0, 0))] == ["yes", "in part", "no"]
    assert judging.share([True, False, True]) == "2 of 3 seeds"


def test_the_spread_is_the_mean_and_its_standard_error():
    values = [1.0, 2.0, 6.0]
    error = np.std(values, ddof=1) / np.sqrt(3)
    assert judging.spread(values, ".4f") == f"3.0000 ± {error:.4f}"
    assert judging.spread([*values, None], ".4f") == f"3.0000 ± {error:.4f} (3 of 4)"
    assert judging.spread([9.9, None, None]) == "9.90 (1 of 3)"
    assert judging.spread([2.5]) == "2.50" and judging.spread([None]) == "–"


# The gradient of a confident D


@pytest.fixture
def unsure():
    """A small game whose critic gives different samples different logits."""
    changes = {"hidden": 8, "penalty": "none"}
    _, game = Training("p3-mnist", 1, (), changes, 3).built()
    return game, game.init(tg.Stream(5))


def test_of_one_sample_the_two_gradients_are_as_its_odds(unsure):
    """∇ log(1 − σ) = −σ·∇D and −∇ log σ = −(1 − σ)·∇D."""
    game, players = unsure
    z = tg.Stream(7).normal((1, game.latent), np.float32)
    found = p2_difficulties.both_gradients(game.gan, players, [z, z])
    odds = found["fake"] / (1 - found["fake"])
    assert found["saturating"] / found["non_saturating"] == pytest.approx(odds, rel=1e-4)
    assert found["non_saturating_variance"] < 1e-12 * found["non_saturating"] ** 2
    value = losses.minimax_generator(
        game.gan.critic(players.critic, game.gan.generator(players.generator, z))
    )
    assert math.log(1 - found["fake"]) == pytest.approx(float(value), rel=1e-5)


def test_the_variance_is_that_of_a_batchs_gradient(unsure):
    game, players = unsure
    probes = [tg.Stream(i).normal((2, game.latent), np.float32) for i in range(3)]
    found = p2_difficulties.both_gradients(game.gan, players, probes)
    alone = [p2_difficulties.both_gradients(game.gan, players, [z, z]) for z in probes]
    # E ‖g − ḡ‖² = (Σ ‖g‖² − n·‖ḡ‖²)/(n − 1)
    squares = sum(each["non_saturating"] ** 2 for each in alone) - 3 * found["non_saturating"] ** 2
    assert found["non_saturating_variance"] == pytest.approx(squares / 2, rel=1e-3)


def test_a_run_records_its_steps_and_is_drawn(tmp_path, monkeypatch):
    tiny = partial(p2_difficulties.Confident, steps=12, hidden=8, batch=4, batches=2)
    monkeypatch.setattr(p2_difficulties, "Confident", tiny)
    for job in p2_difficulties.confident(False, (0, 1)):
        complete(job, tmp_path)
    claim = p2_difficulties.draw_gradient(False, (0, 1), tmp_path)
    check(claim)
    assert claim.agrees != "yes"  # D is not sure after 12 steps
    record = json.loads((tmp_path / tiny(seed=0).name / "run.json").read_text())
    steps = [row["step"] for row in record["gradients"]]
    assert steps == sorted(set(steps)) and (steps[0], steps[-1]) == (0, 12)
    with pytest.raises(FileNotFoundError, match="seed7 lacks run.json"):
        p2_difficulties.draw_gradient(False, (7,), tmp_path)


def columns(sigma, saturating, non_saturating, variance):
    return dict(
        fake=sigma, saturating=saturating, non_saturating=non_saturating,
        saturating_variance=variance, non_saturating_variance=variance,
    )  # fmt: skip


@pytest.mark.parametrize(
    "saturates, stays, expected",
    [(True, True, "yes"), (False, True, "in part"), (False, False, "no")],
)
def test_the_verdict_on_gradients_turns_with_them(saturates, stays, expected):
    sigma = np.geomspace(0.5, 1e-8, 20)
    flat, growing = np.ones(20), np.linspace(1, 4, 20)
    run = columns(sigma, sigma if saturates else flat, growing if stays else flat / growing,
                  growing if stays else flat)  # fmt: skip
    found = p2_difficulties.vanishing(run)
    assert found["slope"] == pytest.approx(1 if saturates else 0, abs=1e-9)
    claims = p2_difficulties.gradient_claims({"0": found, "1": found})
    assert judging.verdict(*map(judging.held, claims.values())) == expected


# Distances between what does not overlap


def test_lines_share_all_or_nothing():
    assert p2_difficulties.between_lines(0.0) == (0.0, 0.0, 0.0)
    for shift in (-0.7, 1e-6):
        assert p2_difficulties.between_lines(shift) == (
            pytest.approx(LOG2, abs=1e-15), math.inf, pytest.approx(abs(shift), rel=1e-12),
        )  # fmt: skip


def test_gaussians_have_the_golden_slope():
    """Half the saturating gradient at D*, .449010 (docs/facts.md); and a central difference."""
    below, here, above = (p2_difficulties.between_gaussians(a) for a in (1.299, 1.3, 1.301))
    assert 2 * here[1] == pytest.approx(0.449010, abs=5e-7)
    assert here[1] == pytest.approx((above[0] - below[0]) / 0.002, rel=1e-5)
    assert here[2] == pytest.approx(1.3, rel=1e-9)


def test_the_verdict_on_distances_turns_with_them(monkeypatch):
    monkeypatch.setattr(p2_difficulties, "MOVED", np.linspace(0, 10, 11))
    claim = p2_difficulties.draw_jsd(False, (), None)
    check(claim)
    assert claim.agrees == "yes" and "80 of 80" in claim.measured
    turned = claim.numbers | {"kl_infinite": 79, "w1_slope_max": 1.1, "jsd_slope_last": 0.1}
    claims = p2_difficulties.jsd_claims(turned)
    assert [name for name, kept in claims.items() if not kept] == ["kl", "jsd_slope", "w1_slope"]


# The plane


def test_mass_is_counted_by_modes():
    mixture = ring()
    stream = tg.Stream(3)
    whole = p2.coverage(mixture.sample(800, stream), mixture)
    assert whole["modes"] == whole["reached"] == 8 and whole["effective"] > 7.5
    two = mixture.centres[np.repeat([1, 5], 400)] * 1.2  # near no mode, but of two
    found = p2.coverage(two, mixture)
    assert (found["modes"], found["quality"], found["reached"]) == (0, 0.0, 2)
    assert found["effective"] == pytest.approx(2) and found["sliced_w1"] > 5 * whole["sliced_w1"]
    assert p2.moves([whole["shares"], found["shares"], found["shares"]])[1] == 0
    assert p2.moves([[1, 0], [0, 1], [0.5, 0.5]]) == [1, 0.5]


def marks(reached, moved, quality=0.9, stopped=None):
    found = {str(i): {"reached": n, "quality": quality} for i, n in enumerate(reached)}
    return {"standard": {"0": {"marks": found, "moved": moved, "stopped": stopped}}}


def test_the_verdict_on_the_ring_turns_with_the_numbers():
    assert p2.ring_claims(marks((8, 2, 2), [0, 0.9]), 8) == ([True], [True])
    assert p2.ring_claims(marks((8, 8, 8), [0.4, 0.1]), 8) == ([False], [False])
    never = marks((2, 2, 2), [0.9, 0.9], quality=0.05)  # a cloud far from all modes
    diverged = marks((2, 2, 2), [0.9, 0.9], stopped="iteration 7: infinite")
    for each in (never, diverged, marks((), [], stopped="iteration 1: infinite")):
        assert p2.ring_claims(each, 8) == ([False], [False])


def test_the_verdict_on_the_inner_loop_turns_with_the_numbers():
    few = {"effective": 1.5, "modes": 1, "quality": 0.9}
    all_ = {"effective": 7.9, "modes": 8, "quality": 0.9}
    assert p2.inner_claims({"D": {"0": all_}, "G": {"0": few}}, 8) == ([True],) * 3
    assert p2.inner_claims({"D": {"0": few}, "G": {"0": all_}}, 8) == ([False],) * 3
    for none in ({"stopped": "iteration 7: infinite"}, few | {"quality": 0.1}):
        assert p2.inner_claims({"D": {"0": none}, "G": {"0": none}}, 8) == ([False],) * 3


def test_the_ring_is_drawn_from_its_runs(tmp_path, monkeypatch):
    def tiny(system, steps, marks, changes, seed=0, **more):
        small = {"hidden": 8, "batch": 16}
        return Training(system, len(marks), tuple(range(len(marks))), changes | small, seed, **more)

    monkeypatch.setattr(p2, "Training", tiny)
    monkeypatch.setattr(p2, "SAMPLES", 200)
    for job in p2.ring(True, (0,)):
        complete(job, tmp_path)
    claim = p2.draw_ring(True, (0,), tmp_path)
    check(claim)
    assert list(claim.numbers["unrolled"]["0"]["marks"]) == ["0", "1", "2", "3", "4", "5"]
    with pytest.raises(FileNotFoundError, match="seed1 lacks run.json"):
        p2.draw_ring(True, (0, 1), tmp_path)


# Scores of digits


def test_scores_know_digits_from_one_image():
    real, same = scoring.floor(), scoring.of_images(np.repeat(digits().pixels[:1], 100, axis=0))
    assert real["frechet_distance"] < 1 and real["recall"] > 0.8 and real["classes"] == 10
    assert same["frechet_distance"] > 20 and same["recall"] < 0.05
    assert same["effective_classes"] == pytest.approx(1)


def scored(distance, recall, precision=0.5):
    return {"frechet_distance": distance, "recall": recall, "precision": precision}


def test_who_learns_and_who_is_better_turns_with_the_scores():
    good, bad = {"0": scored(2, 0.6)}, {"0": scored(50, 0.0)}
    numbers = {
        f"{a}-{b}": good if a == "wgan" else bad
        for a in p2_images.OBJECTIVES for b in p2_images.SYSTEMS
    }  # fmt: skip
    numbers["gan-dcgan"] = {"0": scored(1, 0.8)}
    learns, better = p2_images.learnt(numbers)
    assert learns["wgan-mlp"] == learns["gan-dcgan"] == [True] and learns["gan-mlp"] == [False]
    assert p2_images.alone(numbers) == {"no-norm": [True], "mlp": [True]}
    for none in (bad, {"0": {"stopped": "diverged"}}):  # neither learns: there is no contrast
        assert p2_images.alone(dict.fromkeys(numbers, none)) == {"no-norm": [False], "mlp": [False]}
    numbers["gan-mlp"] = {"0": {"stopped": "diverged"}}
    assert p2_images.alone(numbers)["mlp"] == [False]
    assert better == {"dcgan": [False], "no-norm": [True], "mlp": [True]}
    assert p2_images.helped({"GAN": bad, "MDGAN": good}) == {
        "MDGAN": {"better": [True], "wider": [True]}
    }
    never = {"0": scored(40, 0.01)}  # nearer than the worst, but nothing was learned
    for gan, mdgan in ((good, bad), (bad, never), ({"0": {"stopped": "diverged"}}, good)):
        assert p2_images.helped({"GAN": gan, "MDGAN": mdgan})["MDGAN"] == {
            "better": [False], "wider": [False],
        }  # fmt: skip


def test_a_penalty_wins_by_a_smaller_distance_and_a_larger_recall():
    numbers = {
        "0": {"0": scored(25, 0.1), "1": scored(3, 0.9), "2": {"stopped": "diverged"}},
        "10": {"0": scored(8, 0.4), "1": {"stopped": "diverged"}, "2": scored(9, 0.3)},
    }
    assert p0.compared(numbers) == ({"10": [True, False, False]},) * 2
    assert "λ" not in judging.lost(numbers) and "0, seed 2 (diverged)" in judging.lost(numbers)


# The estimate over training


def followed(clip, average, losses_):
    steps = np.arange(1, len(losses_) + 1)
    history = np.rec.fromarrays([steps, losses_], names="step,critic_loss")
    game = SimpleNamespace(gan=SimpleNamespace(clip=clip, average=average))
    return SimpleNamespace(history=history, game=game, players=dict.fromkeys((0, 4, 8)))


def test_the_estimate_is_of_the_half_before_each_mark():
    loss = np.array([9, 9, 1, 2, 9, 9, 3, 5.0])
    assert p2_images.estimates(followed(0.01, False, loss)) == {4: -1.5, 8: -4}
    summed = p2_images.estimates(followed(None, False, loss))
    halved = p2_images.estimates(followed(None, True, loss / 2))
    assert summed == halved == {4: pytest.approx(LOG2 - 0.75), 8: pytest.approx(LOG2 - 2)}
    blind = p2_images.estimates(followed(None, False, np.full(8, 2 * LOG2)))  # D = ½
    assert blind[8] == pytest.approx(0)


def test_an_estimate_tells_if_it_falls_with_the_distance():
    assert p2_images.told([4, 3, 2, 1], [9, 5, 2, 0.1])["all"] == pytest.approx(1)
    found = p2_images.told([0, 1, 7, 5, 3], [9, 8, 7, 5, 4])
    assert found["all"] < 0.5 and found["after_peak"] == pytest.approx(1)
    assert p2_images.told([1, 2, 3], [3, 2, 1]) == {"all": pytest.approx(-1), "after_peak": None}
    assert p2_images.told([], []) == {"all": None, "after_peak": None}
    wins, loses = {"all": 0.9, "after_peak": 1.0}, {"all": 0.1, "after_peak": None}
    none = {"all": None, "after_peak": None}
    found = p2_images.tells({
        "wgan-dcgan": dict(enumerate((wins, loses, wins, wins, wins | {"stopped": "diverged"}))),
        "gan-dcgan": dict(enumerate((loses, loses, wins, none, loses))),
    })  # fmt: skip
    assert found["wgan"] == [True, False, True, True, False]
    assert found["wgan_alone"] == [True, False, False, False, False]


def test_the_critics_loss_is_judged_by_its_last_half():
    loss = np.array([50, -50, 9, 9, 1.0, 3, 1, 3])
    history = np.rec.fromarrays([np.arange(1, 9), loss], names="step,critic_loss")
    assert p0.last_half(history) == {"mean": 2.0, "deviation": 1.0}


def test_a_loss_is_steadier_only_while_both_play():
    def steady(ours, theirs):
        return p0.steadier_than_without({"10": {"0": ours}, "0": {"0": theirs}})["10"][0]

    calm, wild = {"mean": 0.8, "deviation": 0.1}, {"mean": 0.3, "deviation": 0.2}
    stopped = {"stopped": "iteration 4: infinite"}
    assert steady(calm, wild) and not steady(wild, calm)
    assert not steady(stopped, wild) and not steady(calm, stopped)
    for still in (2 * LOG2, 1e-3):  # D is blind, or has won
        assert not steady({"mean": still, "deviation": 0.0}, wild)


# All that is drawn of images


def made_up(training, root):
    """A run that was never made: real digits, and fewer of them for some."""
    what = games.open_data("digits")
    shade = int(training.name.startswith("ablation-gan"))
    rng = np.random.default_rng(training.seed)
    steps = np.arange(1, training.steps + 1)
    history = np.rec.fromarrays([steps, 1 + rng.random(len(steps))], names="step,critic_loss")

    def images(step, n):
        some = rng.integers(0, 1 + 400 * (1 - shade) * (step > 0), min(n, 12))
        return what.images.pixels[some]

    def samples(step, n):
        return what.scaling.apply(images(step, n))

    game = SimpleNamespace(gan=SimpleNamespace(clip=None, average=True))
    players = dict.fromkeys(training.marks)
    return SimpleNamespace(
        training=training, what=what, game=game, history=history, players=players,
        last=max(players), samples=samples, images=images, record={"stopped": None},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["P0.F2", "P0.F5", "P2.quality", "P2.ablation", "P2.regularized"])
def test_every_figure_of_images_is_drawn_from_the_runs_it_asks_for(name, monkeypatch):
    module, figure = (p0, p0.FIGURES[name]) if name in p0.FIGURES else (p2_images, p2.FIGURES[name])
    asked = set()

    def watched(training, root):
        asked.add(training.name)
        return made_up(training, root)

    monkeypatch.setattr(module, "trained", watched)
    check(figure.draw(True, (0, 1), None))
    assert asked == {job.name for job in figure.jobs(True, (0, 1))}


def test_a_run_without_players_is_one_clear_error():
    run = made_up(p0.training(0, True, 0), None)
    run.players, run.record = {}, {"stopped": "at 3: infinite"}
    with pytest.raises(ValueError, match="diverged before its last mark .at 3"):
        judging.last_mark(run)


def test_jobs_are_the_same_for_each_seed():
    for figure in (*p0.FIGURES.values(), *p2.FIGURES.values()):
        for short in (True, False):
            jobs = figure.jobs(short, (0, 1))
            assert len({job.name for job in jobs}) == len(jobs)
            first = [job for job in jobs if job.seed == 0]
            assert [a.name for job in first for a in with_seeds(job, (1,))] == [
                job.name for job in jobs if job.seed == 1
            ]


def check(claim):
    """What every claim must be."""
    json.dumps(claim.numbers, allow_nan=False)
    assert claim.agrees in ("yes", "in part", "no")
    assert "nan" not in claim.measured and "None" not in claim.measured
    for picture in claim.pictures.values():
        assert picture[:4] == b"\x89PNG" and len(picture) < 400_000

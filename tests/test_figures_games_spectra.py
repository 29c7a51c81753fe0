"""The figures of games: drawn from tiny runs, judged by numbers that turn."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinygan as tg

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from figures import games_spectra, small_games  # noqa: E402
from figures.games_spectra import FIGURES, TwoLayers  # noqa: E402
from figures.runs import complete, finished  # noqa: E402


def changed(numbers, *way_and_value):
    """A copy of nested numbers with one of them changed."""
    *way, last, value = way_and_value
    copied = copy.deepcopy(numbers)
    place = copied
    for key in way:
        place = place[key]
    place[last] = value
    return copied


def test_dirac_ends_at_the_published_radii_and_is_judged_by_its_numbers():
    claim = FIGURES["G.dirac"].draw(False, (0,), None)
    assert claim.agrees == "yes" and claim.numbers["jacobian_0gp_less_r1"] < 1e-15
    found = claim.numbers["games"]
    assert abs(found["GAN"]["radii"]["at once"] - 3.0969487) < 5e-8
    assert found["GAN + R₁, γ = .3"]["eigenvalue"] == pytest.approx([-0.15, 0.47697], abs=5e-6)
    assert "4 of 4 games" in claim.measured and "-0.15 ± 0.47697i" in claim.measured
    assert {name: png[:4] for name, png in claim.pictures.items()} == {
        "": b"\x89PNG", "-radius": b"\x89PNG"
    }  # fmt: skip
    for way, value in [
        (("GAN", "radii", "in turns"), 1e-5),
        (("GAN + R₁, γ = 1", "radii", "at once"), 0.1),
        (("WGAN, clip 1", "same"), False),
        (("GAN + R₁, γ = .3", "verdict"), "unstable"),
    ]:
        wrong = changed(claim.numbers, "games", *way, value)
        assert small_games.judge_dirac(wrong) == "in part", way


def test_the_linear_game_is_its_closed_form_and_is_judged_by_its_numbers():
    claim = FIGURES["G.linear"].draw(False, (0,), None)
    assert claim.agrees == "yes"
    for way, value in [
        (("0", "flow"), [-0.1, 1.0]),
        (("0", "radius", "in turns"), 0.99),
        (("0.5", "distance", "at once"), 1.0),
        (("1", "error"), 0.1),
    ]:
        wrong = changed(claim.numbers, "weights", *way, value)
        assert small_games.judge_linear(wrong) == "in part", way
    flow, at_once, in_turns = small_games.linear_closed_forms(0.3, step=0.1)
    product = np.array([[1, 0], [-0.1, 1 - 0.06]]) @ np.array([[1, 0.1], [0, 1]])
    assert small_games.nearest(in_turns, np.linalg.eigvals(product)) < 1e-15
    assert small_games.nearest(flow, np.linalg.eigvals([[0, 1], [-1, -0.6]])) < 1e-15


def test_spectra_are_drawn_from_tiny_runs(tmp_path, monkeypatch):
    jobs = games_spectra.two_layers

    def tiny(short, seeds):
        return [replace(job, steps=3, hidden=4, batch=16) for job in jobs(short, seeds)]

    monkeypatch.setattr(games_spectra, "two_layers", tiny)
    for job in tiny(False, (0,)):
        complete(job, tmp_path)
    claim = FIGURES["G.spectra"].draw(False, (0,), tmp_path)
    assert claim.pictures[""][:4] == b"\x89PNG" and claim.agrees == "yes"
    numbers = claim.numbers
    assert numbers["parameters"] == 22 + 17 and numbers["steps"] == 3
    assert max(numbers["matrix_free_less_dense"], numbers["0gp_less_r1_at_rest"]) < 1e-8
    bare = numbers["games"]["Wasserstein"]["none"]["rest"]
    assert [a["verdict"] for a in bare] == ["marginal"] and "| ∞ |" in claim.measured
    assert all(a["residual"] < 1e-15 for a in bare)

    turned = {"verdict": "unstable", "largest_real_part": 1.0, "largest_ratio": None}
    for key, value in turned.items():
        wrong = changed(numbers, "games", "non-saturating", "R₁", "rest", 0, key, value)
        assert games_spectra.judge_spectra(wrong) == "in part"
    wrong = changed(numbers, "matrix_free_less_dense", 1e-3)
    assert games_spectra.judge_spectra(wrong) == "in part"
    better, pairs = games_spectra.nearer(numbers)
    assert pairs == 4
    far = changed(numbers, "games", "Wasserstein", "R₁", "end", 0, "distance", 1e9)
    near = changed(numbers, "games", "Wasserstein", "R₁", "end", 0, "distance", 0.0)
    assert games_spectra.nearer(near)[0] - games_spectra.nearer(far)[0] == 1
    assert f"{better} end" in " ".join(claim.measured.split())


def test_the_game_rests_where_it_is_said_to_and_ends_where_training_led(tmp_path):
    job = TwoLayers("non-saturating", "R₁", steps=4, hidden=3, batch=5)
    record = job.make(tmp_path)
    here = job.built()
    last = tg.load_weights(tmp_path / "players.npz")[0]
    assert record["stopped"] is None
    move = tg.study.vector_field.alternating_map(here.gan, here.real, here.z, here.noise)
    expected = tg.study.vector_field.path(move, here.players[:2], 4)[-1]
    ended = tg.study.vector_field.flatten((last["generator"], last["critic"]))
    np.testing.assert_allclose(ended, expected, rtol=1e-12, atol=1e-13)
    fake = here.gan.generator(here.rest[0], here.z)
    np.testing.assert_array_equal(fake, here.real)


def test_an_interrupted_run_is_not_a_finished_one(tmp_path, monkeypatch):
    right = games_spectra.run

    def stopped_at_two(*args, watch, **more):
        def at(step, players):
            watch(step, players)
            if step == 2:
                raise KeyboardInterrupt

        return right(*args, watch=at, **more)

    monkeypatch.setattr(games_spectra, "run", stopped_at_two)
    job = TwoLayers("Wasserstein", "none", steps=5, hidden=3, batch=5)
    with pytest.raises(KeyboardInterrupt):
        complete(job, tmp_path)
    assert finished(job, tmp_path) is None and not list(tmp_path.glob("*/players.npz"))


def test_a_run_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="two-layers-.*expected a finished run"):
        FIGURES["G.spectra"].draw(False, (0,), tmp_path)

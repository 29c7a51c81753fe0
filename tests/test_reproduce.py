"""examples/reproduce.py: runs made once and read back, figures by name, the page of all of them."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import tinygan as tg
from tinygan import tree as trees
from tinygan.loop import History, Run, run
from tinygan.study.plots import png

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import reproduce  # noqa: E402
from figures import gallery, p4, runs  # noqa: E402
from figures.figure import Claim, Figure  # noqa: E402
from figures.runs import Training, complete, ensure, finished, trained, with_seeds  # noqa: E402

TINY = Training("gan-0gp", 4, (0, 2, 4), {"hidden": 8}, seed=3)


def test_a_training_is_the_run_of_its_settings_and_its_players_are_kept(tmp_path):
    ensure([TINY, TINY], tmp_path)
    found = trained(TINY, tmp_path)
    assert set(found.players) == {0, 2, 4} and found.last == 4
    assert found.history["step"].tolist() == [1, 2, 3, 4]
    assert found.record["stopped"] is None and found.record["cpu_seconds"] > 0

    what, game = TINY.built()
    stream = tg.Stream(3)
    players = game.init(stream.child(0))
    players = run(game, players, what.sample, 2, stream.child(1)).players
    for side in ("generator", "critic"):
        kept = dict(trees.paths(getattr(found.players[2], side)))
        there = dict(trees.paths(getattr(players, side)))
        assert kept.keys() == there.keys()
        assert all(np.array_equal(kept[name], there[name]) for name in there)
    assert np.array_equal(found.samples(2, 5), game.generate(players, 5, tg.Stream(99)))
    assert not np.array_equal(found.samples(2, 5), found.samples(4, 5))


def test_a_finished_run_is_not_repeated_and_an_unfinished_one_is_made_anew(tmp_path):
    ensure([TINY], tmp_path)
    mark = tmp_path / TINY.name / "run.json"
    before = mark.stat().st_mtime_ns
    ensure([TINY], tmp_path)
    assert mark.stat().st_mtime_ns == before
    mark.unlink()  # as after Ctrl-C
    with pytest.raises(FileNotFoundError, match="lacks run.json.*Remove the folder"):
        trained(TINY, tmp_path)
    ensure([TINY], tmp_path)
    assert trained(TINY, tmp_path).last == 4


def test_a_folder_without_the_needed_records_is_one_clear_error(tmp_path):
    ensure([TINY], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks players-3\.npz"):
        trained(replace(TINY, marks=(3, 4)), tmp_path)


def test_an_interrupted_run_is_not_a_finished_one(tmp_path, monkeypatch):
    """Ctrl-C ends a training early, and its workers with it."""

    def stopped(game, players, data, steps, stream, **options):
        return Run(players, History(names=("step", *game.names)), True)

    monkeypatch.setattr(runs, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        complete(TINY, tmp_path)
    assert finished(TINY, tmp_path) is None


def test_one_that_fails_stops_the_queue(tmp_path):
    wrong = replace(TINY, changes={"hidden": -1})
    others = with_seeds(replace(TINY, steps=400), range(8))
    with pytest.raises(ValueError):
        ensure([wrong, *others], tmp_path)
    assert sum(finished(job, tmp_path) is not None for job in others) < 5


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("run.json", b'{"stopped": nu', "run.json is damaged"),
        ("run.json", b"{}", "lacks cpu_seconds, stopped"),
        ("history.csv", b"", "0 records"),
        ("history.csv", b"a,b\n1,2\n", "has the columns 'a,b'"),
        ("history.csv", "cut", "ends at iteration 3 of 4"),
        ("players-2.npz", b"PK", "players-2.npz"),
    ],
)
def test_damaged_records_are_told(tmp_path, name, content, told):
    ensure([TINY], tmp_path)
    path = tmp_path / TINY.name / name
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rstrip().rindex(b"\n") + 1] if content == "cut" else content)
    with pytest.raises(ValueError, match=told):
        trained(TINY, tmp_path)


def test_runs_of_other_settings_have_other_folders():
    names = {job.name for job in with_seeds(TINY, (0, 1))}
    names |= {replace(TINY, steps=5).name, replace(TINY, decay=True).name, TINY.name}
    names |= {replace(TINY, opened={"scale": 2.0}).name, replace(TINY, changes={}).name}
    assert len(names) == 7


def test_a_run_that_diverges_keeps_what_was_before(tmp_path):
    wild = Training("gan-0gp", 30, (0, 30), {"hidden": 8, "lr_d": 1e30}, seed=0)
    complete(wild, tmp_path)
    found = trained(wild, tmp_path)
    assert "finite" in found.record["stopped"] and set(found.players) == {0}


@dataclass(frozen=True)
class Count:
    """A job that says how often it was made."""

    seed: int = 0

    @property
    def name(self):
        return f"count-{self.seed}"

    def make(self, folder):
        times = folder / "times"
        times.write_text(times.read_text() + "x" if times.exists() else "x")
        return {"cpu_seconds": 60.0}


def planted(agrees="yes", short="half the size"):
    def draw(short, seeds, root):
        numbers = {str(seed): len((root / f"count-{seed}" / "times").read_text()) for seed in seeds}
        picture = png(lambda axes: axes.plot([0, 1]), (2, 2))
        measured = f"{'Half' if short else 'All'}: {numbers}."
        return Claim({"": picture, "-close": picture}, measured, numbers, agrees)

    def jobs(short, seeds):
        return [Count(seed) for seed in seeds]

    return Figure("A line", "It goes up.", "size 2", short, jobs, draw)


@pytest.fixture
def figures(monkeypatch):
    found = {"P0.F2": planted(), "P3.F1": planted("no", ""), "P4.F4": planted()}
    monkeypatch.setattr(reproduce, "FIGURES", found)
    return found


def folders(tmp_path):
    return ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]


def test_a_figure_by_its_name_with_its_json(figures, tmp_path, capsys):
    reproduce.main(["P0.F2", "--short", "--seeds", "4", "7", *folders(tmp_path)])
    reproduce.main(["P0.F2", *folders(tmp_path)])
    assert "Half: {'4': 1, '7': 1}" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "P0.F2.json").read_text())
    assert report["mode"] == "full" and report["seeds"] == [0, 1, 2]
    assert report["numbers"] == {"0": 1, "1": 1, "2": 1} and report["agrees"] == "yes"
    assert report["cpu_seconds_of_runs"] == 180 and report["runs"] == 3
    for name in report["pictures"]:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert finished(Count(4), tmp_path / "runs") is not None


def test_short_is_the_same_where_the_papers_run_takes_minutes(figures, tmp_path):
    reproduce.main(["P3.F1", "--short", *folders(tmp_path)])
    report = json.loads((tmp_path / "out" / "P3.F1.json").read_text())
    assert report["mode"] == "full" and report["measured"].startswith("All")


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["p3.f1"], "there is no figure p3.f1; do you mean P3.F1"),
        (["P9.F9"], "there is no figure P9.F9"),
        ([], "which figure"),
        (["P3.F1", "--all"], "expected one of them"),
        (["P3.F1", "--seeds", "1", "1"], "expected each once"),
        (["P3.F1", "--data", "x"], "--data x is for P4.F4 alone"),
        (["P4.F4", "--data", "x.tar.gz"], "x.tar.gz is not there"),
        (["P3.F1", "--jobs", "0"], "not a number above 0"),
    ],
)
def test_bad_command_lines_get_one_sentence(figures, tmp_path, arguments, told, capsys):
    with pytest.raises(SystemExit):
        reproduce.main([*arguments, *folders(tmp_path)])
    assert told in capsys.readouterr().err


def test_the_page_shows_every_figure_and_asks_for_all(figures, tmp_path, monkeypatch):
    page = tmp_path / "gallery.md"
    reproduce.main(["P0.F2", "--short", *folders(tmp_path)])
    with pytest.raises(SystemExit, match="lacks P3.F1, P4.F4"):
        reproduce.main(["--page", str(page), *folders(tmp_path)])
    reproduce.main(["P3.F1", "P4.F4", "--page", str(page), *folders(tmp_path)])
    text = page.read_text()
    assert "| [P0.F2](#p0f2) | A line | short | yes |" in text
    assert "| [P3.F1](#p3f1) | A line | full | no |" in text
    assert "**Short:** half the size" in text and "**Agrees: no.**" in text
    assert "`python examples/reproduce.py P0.F2 --short`, seeds 0, 1, 2; 3 CPU minutes; " in text
    for name in ("P0.F2.png", "P0.F2-close.png", "P3.F1.png"):
        assert f"(images/gallery/{name})" in text
        assert (tmp_path / "images" / "gallery" / name).exists()
    assert "[its numbers](gallery/P3.F1.json)" in text
    assert json.loads((tmp_path / "gallery" / "P3.F1.json").read_text())["agrees"] == "no"


def test_vanishing_gradients_of_images_at_a_path(tmp_path):
    path = tmp_path / "some.npy"
    np.save(path, np.zeros((80, 32, 32, 3), np.uint8))
    figure = p4.vanishing(path)
    jobs = figure.jobs(True, (5,))
    assert [job.name.partition("name=some.npy-")[1] for job in jobs] == ["name=some.npy-"] * 2
    (tmp_path / "b").mkdir()
    path.rename(tmp_path / "b" / "some.npy")
    others = p4.vanishing(tmp_path / "b" / "some.npy").jobs(True, (5,))
    assert {job.name for job in jobs}.isdisjoint(job.name for job in others)
    (tmp_path / "b" / "some.npy").rename(path)
    assert {job.opened["name"] for job in jobs} == {str(path)}
    for job in jobs:
        what, game = job.built()
        assert what.images.shape == (32, 32, 3) and len(what.images) == 80
    assert "digits" in reproduce.FIGURES["P4.F4"].settings and "digits" not in figure.settings
    with pytest.raises(FileNotFoundError, match="some.npy.*lacks run.json"):
        figure.draw(True, (5,), tmp_path)


def test_every_row_of_the_papers_has_a_figure():
    rows = """P0.F2 P0.F5 P2.gradient P2.jsd P2.ring P2.inner P2.quality P2.ablation P2.regularized
        P3.F1 P3.claim P3.F2 P3.F5 P3.F2F5 P3.F6 P3.F3 P3.F4 P3.F7 P3.F8 P3.AppA P3.AppB
        P4.F1 P4.F2 P4.F3 P4.F4 P4.F5 P4.F6 P4.F7 P4.F8 P4.F9 G.dirac G.linear G.spectra"""
    assert set(reproduce.FIGURES) == set(rows.split())
    assert {name.partition(".")[0] for name in reproduce.FIGURES} == set(gallery.PAPERS)


def test_the_gallery_has_every_figure_and_its_pictures():
    text = (ROOT / "docs" / "gallery.md").read_text()
    for name in reproduce.FIGURES:
        assert f"\n### {name}\n" in text and f"`python examples/reproduce.py {name}" in text
    folder = ROOT / "docs" / "images" / "gallery"
    for picture in folder.iterdir():
        assert f"(images/gallery/{picture.name})" in text
    for name in reproduce.FIGURES:
        report = json.loads((ROOT / "docs" / "gallery" / f"{name}.json").read_text())
        assert report["measured"] in text and report["says"] in text
    shown = [line for line in text.splitlines() if line.startswith("![")]
    for line in shown:
        assert (ROOT / "docs" / line.partition("](")[2].rstrip(")")).exists()

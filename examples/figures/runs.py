"""Runs that figures are drawn from: each is made once, kept in a folder, and read from there.

A job is a named tuple with ``name``, the folder it fills, and ``make(folder)``. It is done when
``run.json`` lies there, which is written last; a job that was interrupted is made anew. Every job
takes one thread, so that its bits do not depend on how many run at once.
"""

import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from zlib import crc32

import games
import numpy as np
from common import versions, write_whole
from presets import PRESETS
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import tinygan as tg
from tinygan import optim
from tinygan import tree as trees
from tinygan.loop import Diverged, run

AGAIN = "Remove the folder, and reproduce.py makes it anew"


@dataclass(frozen=True)
class Training:
    """A run of a system of ``train.py``, whose players are kept at some iterations.

    Args:
        system: a name of ``train.py --list``.
        steps: iterations.
        marks: the iterations after which players are kept; 0 is before the first.
        changes: settings of the game that differ from the system's own.
        opened: how the data are opened, where it differs from the system's own; with "name", other
            data, by name or path.
        decay: rates to 0 over the second half.
    """

    system: str
    steps: int
    marks: tuple
    changes: dict
    seed: int = 0
    opened: Any = None
    decay: bool = False

    @property
    def name(self):
        """The folder: what was changed is in its name."""
        changed = {**self.changes, **(self.opened or {})}
        if changed.get("name", "digits") not in ("digits", *games.PLANE):  # images at a path
            path = Path(changed["name"]).resolve()
            changed["name"] = f"{path.name}-{crc32(str(path).encode()):08x}"
        words = [f"{key}={value}" for key, value in sorted(changed.items())]
        words += ["decay"] * self.decay
        return "-".join([self.system, *words, f"{self.steps}", f"seed{self.seed}"])

    def built(self):
        """(data, game): as ``train.py`` makes them."""
        preset = PRESETS[self.system]
        opened = {"name": preset.data, **preset.opened, **(self.opened or {})}
        what = games.open_data(**{**games.DATA, **opened}, key=tg.Stream(self.seed).child(4).key)
        settings = {**games.settings_of(preset.kind), **preset.settings, **self.changes}
        return what, games.build(preset.kind, what, settings, self.steps)

    def make(self, folder):
        """Train, and write players-<iteration>.npz, history.csv and run.json."""
        what, game = self.built()
        stream = tg.Stream(self.seed)
        half = self.steps // 2
        schedule = optim.LinearDecay(1.0, 0.0, self.steps - half, after=half)

        def watch(step, players):
            if step in self.marks:
                kept = {
                    name: tree
                    for name, tree in players._asdict().items()
                    if not name.endswith("_state") and trees.leaves(tree)
                }
                tg.save_weights(folder / f"players-{step}.npz", kept)

        stopped = None
        players = game.init(stream.child(0))
        try:
            done = run(
                game, players, what.sample, self.steps, stream.child(1),
                schedule=schedule if self.decay else None, watch=watch,
                record_every=max(1, self.steps // 1000),
            )  # fmt: skip
            if done.interrupted:
                raise KeyboardInterrupt
            history = done.history
        except Diverged as error:
            history, stopped = error.history, str(error)
        write_whole(folder / "history.csv", history.csv().encode())
        return {"stopped": stopped}


class Trained(NamedTuple):
    """A training that is done, as its folder tells it.

    ``players[step]`` has the sides' parameters by name: ``.generator``, ``.critic``.
    """

    training: Training
    what: Any
    game: Any
    history: Any
    players: dict
    record: dict

    @property
    def last(self):
        """The last iteration whose players were kept."""
        return max(self.players)

    def samples(self, step, n, seed=99):
        """n samples of the generator as it was, on the host; the same latent points at all steps.

        Shapes: returns (n, ...).
        """
        players = self.players[step]
        with np.errstate(all="ignore"):
            return tg.to_host(self.game.generate(players, n, tg.Stream(seed)))

    def images(self, step, n, seed=99):
        """The same as uint8 images (n, H, W, C)."""
        return self.what.scaling.invert(np.nan_to_num(self.samples(step, n, seed)))


def trained(training, root):
    """A training that is done, read from its folder.

    Raises: FileNotFoundError for a folder that lacks what the figure needs; ValueError for files
        that are damaged, or of a run that did not come to its end.
    """
    folder = root / training.name
    needed = ["run.json", "history.csv", *[f"players-{step}.npz" for step in training.marks]]
    record = finished(training, root)
    if record is not None and record["stopped"]:
        needed = ["history.csv"]
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}, which this figure is drawn from; expected a "
            f"finished run. {AGAIN}"
        )
    what, game = training.built()
    players = {}
    for step in training.marks:
        path = folder / f"players-{step}.npz"
        if path.exists():  # of a run that diverged, those before
            players[step] = SimpleNamespace(**tg.load_weights(path)[0])
    columns = ("step", *game.names)
    history = read_history(folder / "history.csv", columns, record["stopped"] is not None)
    if record["stopped"] is None and history["step"][-1] != training.steps:
        raise ValueError(
            f"{folder / 'history.csv'} ends at iteration {history['step'][-1]:g} of "
            f"{training.steps:,}; expected a whole run. {AGAIN}"
        )
    return Trained(training, what, game, history, players, record)


def read_history(path, names, may_be_empty=False):
    """The columns of a history.csv, by name.

    Raises: ValueError for a file with other columns, or without a record.
    """
    head, *lines = path.read_text().splitlines() or [""]
    if may_be_empty and not lines:
        return np.zeros(0, [(name, float) for name in names])
    if tuple(head.split(",")) != tuple(names) or not lines:
        raise ValueError(
            f"{path} has the columns {head!r} and {len(lines)} records; expected {','.join(names)} "
            f"and one or more. {AGAIN}"
        )
    return np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))


def finished(job, root):
    """What run.json says, or None for a job that is not done.

    Raises: ValueError for a file that is cut or says too little.
    """
    path = root / job.name / "run.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        missing = {"stopped", "cpu_seconds"} - set(record)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}. {AGAIN}") from error
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}. {AGAIN}")
    return record


def complete(job, root):
    """Make a job in its folder, on one thread."""
    folder = root / job.name
    folder.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    with threadpool_limits(1), tg.threads(1):
        record = job.make(folder)
    usual = {"stopped": None, "cpu_seconds": time.process_time() - start}
    record = {**usual, **record, "name": job.name, "versions": versions()}
    write_whole(folder / "run.json", (json.dumps(record, indent=1) + "\n").encode())
    return job.name


def ensure(jobs, root, workers=1):
    """Make all jobs that are not done yet, so many at a time."""
    waiting = list({job.name: job for job in jobs if finished(job, root) is None}.values())
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(complete, job, root) for job in waiting]
        bar = tqdm(as_completed(futures), total=len(futures), unit="run", disable=not futures)
        try:
            for future in bar:
                bar.set_postfix_str(future.result(), refresh=False)
        except BaseException:
            # Waited for here: the end of the block would take the cancelling back.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def with_seeds(training, seeds):
    """The same training for each of the seeds."""
    return [replace(training, seed=seed) for seed in seeds]

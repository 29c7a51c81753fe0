"""Five systems on the ring of 8 and the grid of 25 Gaussians, over several seeds.

The protocol of VEEGAN's and PacGAN's tables: 2,500 samples; a sample belongs to its nearest mode
and is of high quality within 3σ; a mode counts with one sample of high quality (here also with
20); reverse KL is that of the histogram of high-quality samples to the uniform one. Ring: radius 1,
σ .01; grid: ±4 in steps of 2, σ .05.

    python examples/ring_and_grid.py --jobs 2

All systems share networks and batches: z of 2, two hidden ReLU layers of 128, batches of 128; all
rates fall to 0 in a line. SHORTENED, and smaller than in the papers: an iteration is one step of G,
and the number of iterations is the system's own, so that each takes some 12 to 16 seconds of a
core. Rates and weights were chosen by single trials on the seeds 100 to 102, which are not among
those shown. Not all had as many: of 0-GP's λ, .1 and 1 were tried, and the better kept; of WGAN's
rate and clip, these and their doubles, which were better on the ring and worse on the grid; of the
unrolled game, minimax and non-saturating; of the rates and λ of the others, only these with these
networks.

Every run is one BLAS thread, so that its bits do not depend on how many run at once. Writes a JSON
and its samples per run (finished runs are kept and not repeated), table.md, and samples.png with
those of the first seed, to --out.
"""

import argparse
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from common import add_eager, array_bytes, check_folder, mode, positive, seed, versions, write_whole
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import tinygan as tg
from tinygan import data, losses, metrics, models, penalties
from tinygan.algorithms import Unrolled
from tinygan.loop import run as play
from tinygan.optim import Adam, LinearDecay, RMSProp
from tinygan.study.plots import FAKE, REAL, STYLE, as_bytes
from tinygan.train import GAN, Alternating

BATCH, SAMPLES, CHECKPOINTS = 128, 2500, 4
NETWORKS = models.mlp_pair(2, 2, 128, 2)
SETS = {"ring": data.ring(), "grid": data.grid()}


def alternating(critic_steps, *settings, **more):
    """A GAN in turns, ``critic_steps`` of D to one of G."""
    gan = GAN(*NETWORKS, *settings, one_batch=True, **more)
    return Alternating(gan, BATCH, NETWORKS.latent, critic_steps)


def unrolled(*settings):
    """As in the paper's demonstration: at once, minimax, five of D's own Adam steps ahead."""
    gan = GAN(*NETWORKS, *settings, losses.MINIMAX, one_batch=True)
    return Unrolled(gan, BATCH, 5, zero_sum=True)


def adam(rate, beta2=0.999):
    return Adam(rate, (0.5, beta2))


SYSTEMS = {  # the game, its iterations, and what the table says of them
    "GAN": (alternating(1, adam(1e-3), adam(1e-3)), 20000, "1 D : 1 G"),
    "WGAN": (
        alternating(5, RMSProp(5e-4), RMSProp(5e-4), losses.WASSERSTEIN, clip=0.1),
        6000,
        "5 D : 1 G, clip .1",
    ),
    "WGAN-GP": (
        alternating(5, adam(1e-3, 0.9), adam(1e-3, 0.9), losses.WASSERSTEIN, penalties.one_gp(0.1)),
        5000,
        "5 D : 1 G, λ .1",
    ),
    "0-GP": (
        alternating(1, adam(1e-3), adam(1e-3), losses.NON_SATURATING, penalties.zero_gp(1.0)),
        15000,
        "1 D : 1 G, λ 1",
    ),
    "unrolled": (unrolled(adam(1e-3), adam(1e-3)), 3500, "K = 5, at once"),
}


def stem(where, system, seed, steps, args):
    """The files of one run, without their endings; eager runs, whose rounding is another, apart."""
    name = f"{where}-{system.lower()}-{seed}-{steps}{'-eager' if args.eager else ''}"
    return args.out / name


def run(where, system, seed, args):
    """Train one system on one set; write and return its record."""
    game, steps, _ = SYSTEMS[system]
    steps = args.steps or steps
    mixture, stream = SETS[where], tg.Stream(seed)
    rows, samples = [], None
    marks = {steps * part // CHECKPOINTS for part in range(1, CHECKPOINTS + 1)}

    def watch(step, players):
        nonlocal samples
        if step in marks:
            samples = game.generate(players, SAMPLES, stream.child(2))
            found = metrics.mode_coverage(samples, mixture)
            kl = found.reverse_kl if math.isfinite(found.reverse_kl) else None
            rows.append(
                {
                    "step": step,
                    "modes": found.modes,
                    "modes20": found.modes20,
                    "high_quality": found.high_quality,
                    "reverse_kl": kl,  # null: no sample of high quality
                    "counts": [int(n) for n in found.counts],
                }
            )

    start = time.process_time()
    with threadpool_limits(1):
        play(
            game, game.init(stream.child(0)), mixture.sample, steps, stream.child(1),
            schedule=LinearDecay(1.0, 0.0, steps), record_every=steps, watch=watch,
            compiled=not args.eager,
        )  # fmt: skip
    record = {
        "data": where, "system": system, "seed": seed, "steps": steps, "mode": mode(args),
        "cpu_seconds": time.process_time() - start, "rows": rows, **versions(),
    }  # fmt: skip
    path = stem(where, system, seed, steps, args)
    write_whole(Path(f"{path}.npy"), array_bytes(samples))
    write_whole(Path(f"{path}.json"), json.dumps(record, indent=1).encode())
    return record


def summary(values, digits):
    """Mean ± standard error; of one value, or of none, no error."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if len(values) else "–"
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def table(records, seeds):
    """A Markdown table: each system's last row, mean ± standard error over the seeds."""
    lines = [
        f"{SAMPLES:,} samples; mean ± standard error over the seeds {', '.join(map(str, seeds))}; "
        "reverse KL over the runs that had samples of high quality, whose number is given where it "
        "is not all. Training is shortened: see the iterations.",
        "",
        "| data | system | iterations | modes | with ≥ 20 | high quality, % | reverse KL | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for where, mixture in SETS.items():
        for system, (_, _, how) in SYSTEMS.items():
            chosen = [r for r in records if (r["data"], r["system"]) == (where, system)]
            last = [r["rows"][-1] for r in chosen]
            kl = [row["reverse_kl"] for row in last if row["reverse_kl"] is not None]
            note = "" if len(kl) == len(last) else f" ({len(kl)} of {len(last)})"
            cells = [
                f"{where} of {len(mixture.centres)}",
                system,
                f"{chosen[0]['steps']:,}, {how}",
                summary([row["modes"] for row in last], 1),
                summary([row["modes20"] for row in last], 1),
                summary([100 * row["high_quality"] for row in last], 1),
                summary(kl, 2) + note,
                f"{np.mean([r['cpu_seconds'] for r in chosen]):.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_samples(file, panels):
    """Data and samples, a row for each set and a column for each system, as a PNG.

    Args:
        panels: {(set, system): samples (n, 2)}.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        fig = Figure(figsize=(2.4 * len(SYSTEMS), 2.6 * len(SETS)), layout="constrained")
        grid = fig.subplots(len(SETS), len(SYSTEMS), squeeze=False)
        for row, (where, mixture) in zip(grid, SETS.items(), strict=True):
            real = mixture.sample(SAMPLES, tg.Stream(0))
            extent = 1.35 * abs(mixture.centres).max()
            for axes, system in zip(row, SYSTEMS, strict=True):
                axes.plot(*real.T, ".", ms=4, color=REAL, alpha=0.5, mew=0, label="data")
                axes.plot(*panels[where, system].T, ".", ms=2, color=FAKE, mew=0, label="samples")
                axes.set(
                    title=f"{system}, {where}", xlim=(-extent, extent), ylim=(-extent, extent),
                    aspect="equal", xlabel="x₁", ylabel="x₂",
                )  # fmt: skip
        grid[0, 0].legend(loc="center", markerscale=3)  # inside the ring
        fig.savefig(file, dpi=130, format="png")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    add, count = parser.add_argument, positive(int)
    add("--seeds", type=seed, nargs="+", default=[0, 1, 2, 3, 4])
    add("--steps", type=count, help="iterations of every run, instead of each's own")
    add("--jobs", type=count, default=1, help="runs at a time, one thread each")
    add_eager(parser)
    add("--out", type=Path, default=Path("runs/ring_and_grid"))
    args = parser.parse_args(argv)
    if args.steps is not None and args.steps < CHECKPOINTS:
        parser.error(f"--steps {args.steps}; expected at least {CHECKPOINTS}, a row for each")
    try:
        check_folder(args.out)
    except OSError as error:
        parser.error(str(error))

    records, waiting, panels = [], [], {}
    for number in args.seeds:
        for where in SETS:
            for system, (_, steps, _) in SYSTEMS.items():
                path = Path(f"{stem(where, system, number, args.steps or steps, args)}.json")
                if path.exists():
                    records.append(json.loads(path.read_text()))
                else:
                    waiting.append((where, system, number, args))
    with ProcessPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(run, *job) for job in waiting]
        for future in tqdm(futures, unit="run", disable=not futures):
            records.append(future.result())
    for record in records:
        if record["seed"] == args.seeds[0]:
            key = record["data"], record["system"]
            path = stem(*key, record["seed"], record["steps"], args)
            panels[key] = np.load(f"{path}.npy")
    text = table(records, args.seeds)
    write_whole(args.out / "table.md", text.encode())
    write_whole(args.out / "samples.png", as_bytes(draw_samples, panels=panels))
    print(text)


if __name__ == "__main__":
    sys.exit(main())

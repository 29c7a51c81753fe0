"""The central claim of 0-GP on a ring of eight Gaussians: who finds the modes, over several seeds.

Trains a GAN with the zero-centred penalty, without a penalty, and with the one-centred
penalty, in the settings of P3's Figure 2: eight Gaussians at scale 10 (radius 7.07), three
hidden ReLU layers of 512 units, SGD at 3e-3 for both sides, batch 128, weight 10 on the slope of
σ(D), 20,000 iterations. Every run is one BLAS thread, so that its bits do not depend on
how many run at once.

    python examples/p3_ring.py --jobs 2

Writes a JSON per run (finished runs are kept and not repeated) and table.md to --out.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from common import add_eager, mode
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import tinygan as tg
from tinygan import data, losses, metrics, models, optim, penalties
from tinygan.train import GAN, train

PENALTIES = {
    "0-gp": penalties.zero_gp(10.0, of=tg.ops.sigmoid),
    "none": None,
    "1-gp": penalties.one_gp(10.0, of=tg.ops.sigmoid),
}
CHECKPOINTS = 4


def record_path(name, seed, args):
    """The file of one run; eager runs, whose rounding is another, have their own."""
    suffix = "-eager" if args.eager else ""
    return args.out / f"{name}-{seed}-{args.steps}{suffix}.json"


def run(name, seed, args):
    """Train one variant; write and return its record."""
    steps = args.steps
    generator, critic = models.zero_gp_toy(512)
    gan = GAN(
        generator, critic, optim.SGD(3e-3), optim.SGD(3e-3), losses.NON_SATURATING, PENALTIES[name]
    )
    ring = data.eight_gaussians(scale=10.0)
    stream = tg.Stream(seed)
    rows = []

    def watch(step, players):
        if step and step % (steps // CHECKPOINTS) == 0:
            samples = generator(players.generator, stream.child(2).normal((2500, 2)))
            near = metrics.mode_coverage(samples, ring, within=0.05 * ring.radius)
            rows.append(
                {
                    "step": step,
                    "modes": near.modes,
                    "modes20": near.modes20,
                    "share": near.high_quality,
                    "counts": [int(n) for n in near.counts],
                }
            )

    start = time.perf_counter()
    with threadpool_limits(1):
        train(
            gan, gan.init(stream.child(0)), ring.sample, steps, stream.child(1), batch=128,
            latent=2, record_every=100, watch=watch, compiled=not args.eager,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    record = {"penalty": name, "seed": seed, "steps": steps, "seconds": seconds, "rows": rows}
    record["mode"] = mode(args)
    path = record_path(name, seed, args)
    path.with_suffix(".part").write_text(json.dumps(record, indent=1))
    os.replace(path.with_suffix(".part"), path)
    return record


def table(records):
    """A Markdown table: modes with 20 or more samples / share within 5% of the radius."""
    marks = [row["step"] for row in records[0]["rows"]]
    lines = [
        "| penalty | seed | " + " | ".join(f"{mark:,}" for mark in marks) + " |",
        "|---|---|" + "---|" * len(marks),
    ]
    for name in PENALTIES:
        chosen = [r for r in records if r["penalty"] == name]
        for r in sorted(chosen, key=lambda r: r["seed"]):
            cells = [f"{row['modes20']} / {row['share']:.2f}" for row in r["rows"]]
            lines.append(f"| {name} | {r['seed']} | {' | '.join(cells)} |")
        if chosen:
            columns = list(zip(*(r["rows"] for r in chosen), strict=True))
            medians = [
                f"{np.median([row['modes20'] for row in column]):g} / "
                f"{np.median([row['share'] for row in column]):.2f}"
                for column in columns
            ]
            lines.append(f"| **{name}** | **median** | {' | '.join(medians)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=20000, help="iterations of every run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    add_eager(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/p3_ring"))
    args = parser.parse_args()
    if args.steps < CHECKPOINTS or args.jobs < 1 or min(args.seeds) < 0:
        parser.error(f"expected --steps ≥ {CHECKPOINTS}, --jobs ≥ 1 and seeds ≥ 0")
    args.out.mkdir(parents=True, exist_ok=True)

    records, waiting = [], []
    for seed in args.seeds:
        for name in PENALTIES:
            path = record_path(name, seed, args)
            if path.exists():
                records.append(json.loads(path.read_text()))
            else:
                waiting.append((name, seed, args))
    with ProcessPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(run, *job) for job in waiting]
        for future in tqdm(futures, unit="run", disable=not futures):
            records.append(future.result())
    text = table(records)
    (args.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())

"""How the time of a training step grows: with the batch, the width and the image.

    python benchmarks/step_curves.py --json curves.json --chart curves.png     # many minutes
    python benchmarks/step_curves.py --quick                                   # a smoke test
    python benchmarks/step_curves.py --read curves.json --chart curves.png     # nothing is timed

Compiled steps of tinygan beside eager PyTorch, as it comes and tuned. Each point is compared and
timed as step.py does it. A curve ends before the step that would take longer than --longest.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from nets import CASES as NETS
from step import installed, run_case, write
from step_peers import COMPILED, TORCH, TUNED, product_flops
from timing import machine, run_options, run_parser, set_threads, table
from toys import TOYS
from tqdm import tqdm

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
WIDTHS = (1, 2, 4, 8)
IMAGES = {16: (64, 128), 32: (64, 128, 256), 64: (64, 128, 256, 512)}  # the critic's channels
COLOURS = ("#1257a5", "#e07b39")


def curves():
    """{what grows: {curve: [(its size, case)]}}."""
    toy, critic = TOYS["0-gp-512"], NETS["critic-32"]
    narrow = [(w, replace(critic, down=tuple(w * c for c in (16, 32, 64)))) for w in WIDTHS]
    sized = [(side, replace(critic, image=side, down=down)) for side, down in IMAGES.items()]
    return {
        "batch": {
            "toy 0-GP, 512 wide": [(n, replace(toy, batch=n)) for n in BATCHES],
            "critic-32": [(n, replace(critic, batch=n)) for n in BATCHES],
        },
        "width": {
            "toy 0-GP, 64 × width, batch 128": [(w, replace(toy, hidden=64 * w)) for w in WIDTHS],
            "critic-32, (16, 32, 64) × width, batch 64": narrow,
        },
        "image": {"critic of the image, batch 64": sized},
    }


def run_curve(points, names, options, progress):
    """The figures of a curve's points, up to the longest step."""
    found = []
    for size, case in points:
        flops = sum(product_flops(case).values())
        if found:
            growth = flops / found[-1]["flops"]
            if growth * max(milliseconds(found[-1]).values()) > options.longest * 1e3:
                break
        results = run_case(case, names, options.threads, options.rounds, options.seconds, progress)
        found.append({"size": size, "flops": flops, "contenders": results})
    return found


def milliseconds(point):
    """{contender: median}."""
    return {name: r["quartiles_ms"][1] for name, r in point["contenders"].items()}


def fastest(point):
    """PyTorch's median, in its faster form; None where it was not timed."""
    ms = milliseconds(point)
    return min((ms[name] for name in (TORCH, TUNED) if name in ms), default=None)


def report(figures):
    """A row for each point."""
    names = (COMPILED, TORCH, TUNED)
    rows = []
    for grows, of in figures["curves"].items():
        for curve, points in of.items():
            for point in points:
                ms, torch = milliseconds(point), fastest(point)
                rows.append([
                    f"{curve}: {grows}",
                    point["size"],
                    f"{point['flops'] / 1e9:.3g}",
                    *(f"{ms[name]:.3g}" if name in ms else "–" for name in names),
                    f"{ms[COMPILED] / torch:.2f}" if torch else "–",
                ])  # fmt: skip
    header = ["what grows", "to", "GFLOP", *names, "ratio to the faster PyTorch"]
    return table(header, rows)


def chart(figures, path):
    """A panel for each of what grows, with logarithmic axes; at each point the ratio to PyTorch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    panels = figure.subplots(1, len(figures["curves"]), sharey=True, squeeze=False)[0]
    for axes, (grows, of) in zip(panels, figures["curves"].items(), strict=True):
        # The critics have the second colour in every panel.
        for curve, points in of.items():
            colour = COLOURS["critic" in curve]
            sizes = [point["size"] for point in points]
            ours = [milliseconds(point)[COMPILED] for point in points]
            axes.plot(sizes, ours, "o-", color=colour, ms=4, lw=1.6, label=curve)
            torch = [fastest(point) for point in points]
            if None in torch:
                continue
            axes.plot(sizes, torch, "s--", color=colour, ms=3, lw=1.1, alpha=0.75)
            for size, a, b in zip(sizes, ours, torch, strict=True):
                axes.annotate(
                    f"{a / b:.2f}", (size, min(a, b)), (0, -11), textcoords="offset points",
                    ha="center", fontsize=7, color=colour,
                )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=grows)
        sizes = sorted({point["size"] for points in of.values() for point in points})
        axes.set_xticks(sizes, sizes)
        axes.set_xticks([], minor=True)
        axes.margins(x=0.09, y=0.12)
        axes.grid(axis="y", color="#e6e6e6", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7.5, loc="upper left")
    panels[0].set_ylabel("ms per iteration")
    figure.supxlabel(
        "solid: tinygan compiled    dashed: the faster of PyTorch and PyTorch tuned    "
        "numbers: the ratio of the two",
        fontsize=8.5,
    )
    figure.savefig(path, dpi=160)


def main():
    parser = run_parser(
        __doc__, (COMPILED, TORCH, TUNED), rounds=5, seconds=0.2, turn="a turn of the compiled step"
    )
    add = parser.add_argument
    add("--longest", type=float, default=2.0, help="no curve has steps of more seconds")
    add("--chart", metavar="FILE", help="draw the curves")
    add("--read", metavar="FILE", help="show the figures of an earlier --json, and time nothing")
    options = run_options(parser)
    if options.read:
        figures = json.loads(Path(options.read).read_text())
    else:
        set_threads(options.threads)
        wanted = curves()
        if options.quick:
            options.rounds, options.seconds = 1, 0.001
            wanted = {"batch": {"toy 0-GP, 512 wide": wanted["batch"]["toy 0-GP, 512 wide"][:2]}}
        names, about = installed(options.contenders, COMPILED), machine(options.threads)
        print("\n".join(f"- {key}: {value}" for key, value in about.items()), flush=True)
        figures = {"machine": about, "threads": options.threads, "curves": {}}
        with tqdm(unit="turn") as progress:
            for grows, of in wanted.items():
                figures["curves"][grows] = {}
                for curve, points in of.items():
                    progress.set_description(curve)
                    figures["curves"][grows][curve] = run_curve(points, names, options, progress)
                    write(figures, options.json)
    print(report(figures))
    if options.chart:
        chart(figures, options.chart)


if __name__ == "__main__":
    sys.exit(main())

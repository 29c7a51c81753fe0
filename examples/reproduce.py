"""Reproduce a figure or table of the papers, by name.

    python examples/reproduce.py --list                 # every figure, and what it shows
    python examples/reproduce.py P3.F1                  # with the paper's settings
    python examples/reproduce.py P4.F4 --short --jobs 2 # CPU minutes instead of GPU hours
    python examples/reproduce.py P4.F4 --data cifar-10-python.tar.gz       # GPU hours
    python examples/reproduce.py --all --short --jobs 2 --page docs/gallery.md

Writes NAME.png and NAME.json, the measured claim, to --out. Runs that a figure is drawn from are
kept in --runs and not repeated; figures share them. Ctrl-C loses only the runs that are under way.
"""

import argparse
import difflib
import json
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from common import check_folder, positive, seed, versions, write_whole
from figures import gallery, games_spectra, p0, p2, p3, p3_digits, p3_surface, p4, p4_latent
from figures.runs import ensure, finished
from threadpoolctl import threadpool_limits

import tinygan as tg

FIGURES = {
    **p0.FIGURES,
    **p2.FIGURES,
    **p3_surface.FIGURES,
    **p3.FIGURES,
    **p3_digits.FIGURES,
    **dict(sorted({**p4.FIGURES, **p4_latent.FIGURES}.items())),
    **games_spectra.FIGURES,
}


def parse(argv):
    """The command line: (args, names of figures)."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="figures, such as P3.F2; --list names them")
    add("--list", action="store_true", help="print every figure with what it shows, and stop")
    add("--all", action="store_true", help="every figure")
    add("--short", action="store_true", help="CPU minutes: smaller and shorter where needed")
    add("--seeds", type=seed, nargs="+", help="instead of the figure's own")
    add("--jobs", type=positive(int), default=1, help="runs at a time, one thread each")
    add("--runs", type=Path, default=Path("runs/for_figures"), help="folder of finished runs")
    add("--out", type=Path, default=Path("runs/figures"), help="folder for the figures")
    add("--data", type=Path, help="for P4.F4: other images of 32×32, such as CIFAR-10's file")
    add("--page", type=Path, help="write the gallery of all figures in --out as this page")
    args = parser.parse_args(argv)
    if args.list:
        wide = max(map(len, FIGURES))
        print("\n".join(f"{name:<{wide}}  {figure.title}" for name, figure in FIGURES.items()))
        sys.exit()
    if args.all and args.names:
        parser.error(f"--all with {' '.join(args.names)}: expected one of them")
    names = list(FIGURES) if args.all else args.names
    for name in names:
        if name not in FIGURES:
            near = difflib.get_close_matches(name.upper(), FIGURES, 1)
            hint = f"; do you mean {near[0]}?" if near else ""
            parser.error(f"there is no figure {name}{hint} --list names all {len(FIGURES)}")
    if args.data is not None and names != ["P4.F4"]:
        parser.error(f"--data {args.data} is for P4.F4 alone; expected that name, or no --data")
    if args.data is not None and not args.data.exists():
        parser.error(f"--data {args.data} is not there; expected a file or folder of images")
    if not names and args.page is None:
        parser.error("which figure? Name one or more, or --all; --list names them")
    if args.seeds and len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds {' '.join(map(str, args.seeds))}: expected each once")
    try:
        check_folder(args.runs, "--runs")
        check_folder(args.out)
        if args.page is not None:
            check_folder(args.page.parent, "--page")
    except OSError as error:
        parser.error(str(error))
    return args, names


def reproduce(name, args):
    """Draw one figure, after its runs; write its pictures and its json."""
    figure = FIGURES[name]
    if args.data is not None:
        figure, name = p4.vanishing(args.data), f"{name}-{args.data.stem}"
    short = args.short and figure.short != ""
    seeds = tuple(args.seeds or figure.seeds) if figure.seeds else ()
    jobs = figure.jobs(short, seeds)
    ensure(jobs, args.runs, args.jobs)
    with threadpool_limits(1), tg.threads(1):  # the same numbers whatever runs beside it
        claim = figure.draw(short, seeds, args.runs)
    for ending, picture in claim.pictures.items():
        write_whole(args.out / f"{name}{ending}.png", picture)
    seconds = [finished(job, args.runs)["cpu_seconds"] for job in jobs]
    report = {
        "figure": name,
        "title": figure.title,
        "says": figure.says,
        "settings": figure.settings,
        "mode": "short" if short else "full",
        "changed": figure.short if short else "",
        "seeds": seeds,
        "agrees": claim.agrees,
        "measured": claim.measured,
        "numbers": claim.numbers,
        "pictures": [f"{name}{ending}.png" for ending in claim.pictures],
        "runs": len(jobs),
        "cpu_seconds_of_runs": round(sum(seconds), 1),
        "versions": versions(),
    }
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in report.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_whole(args.out / f"{name}.json", text.encode())
    return report


def main(argv=None):
    args, names = parse(argv)
    for name in names:
        report = reproduce(name, args)
        print(f"{report['figure']} ({report['mode']}): agrees: {report['agrees'] or '–'}")
        print(f"  {report['measured']}\n  {args.out / report['figure']}.png", flush=True)
    if args.page is not None:
        try:
            gallery.write_page(args.page, args.out, FIGURES)
        except FileNotFoundError as error:
            sys.exit(f"--page {args.page}: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; the runs that were finished are kept")
    except (OSError, ValueError, BrokenProcessPool) as error:
        sys.exit(f"reproduce.py: {error}")

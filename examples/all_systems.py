"""Run every system of ``train.py`` in its short settings, and write the page that shows them.

    python examples/all_systems.py                     # all that are not there yet
    python examples/all_systems.py --only gan wgan     # these, again
    python examples/all_systems.py --page docs/systems.md

All runs take some three quarters of an hour on two cores. Every run is on seed 0, one after the
other. Finished runs are kept and not repeated. The page is made from the runs in --out; its
pictures go to images/systems beside it.
"""

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import train
from common import check_folder, write_whole
from page import BOTTOM, ROWS, TOP
from presets import PRESETS

from tinygan.study.plots import tile


def finished(out, name):
    """The report of a run, or None."""
    path = out / name / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def thumbnail(folder, report):
    """A run's picture, as small as it can be read: images pixel by pixel."""
    from PIL import Image

    samples = np.load(folder / "samples.npy")
    if samples.ndim != 4:
        return small(Image.open(folder / "samples.png").convert("RGB"))
    scaling = train.games.SCALINGS[report["data"].get("scaling", "signed")]
    sheet = tile(scaling.invert(samples), 10)
    grey = sheet.shape[2] == 1 or (sheet == sheet[..., :1]).all()
    return small(Image.fromarray(sheet[..., 0] if grey else sheet))


def small(image):
    """A picture as a PNG of few colours, as bytes."""
    file = io.BytesIO()
    image.quantize(64).save(file, format="PNG", optimize=True)
    return file.getvalue()


def told(report):
    """A run's scores in a few words; none for images without a judge."""
    found = report["scores"]
    if "modes of 20 within 5%" in found:
        modes = found["modes of 20 within 5%"]
        return f"{modes} mode{'s' * (modes != 1)}, {found['share within 5%']:.2f} of the samples"
    if "inception_style_score" in found:
        return (
            f"score {found['inception_style_score']:.2f}, Fréchet {found['frechet_distance']:.1f}"
        )
    return ""


def page(out, folder):
    """The page: a table for each part of the papers' list."""
    lines = [TOP]
    for title, rows in ROWS.items():
        lines += ["", f"## {title}", ""]
        lines += ["| | system | checked by | short run | s |", "|---|---|---|---|---|"]
        for what, names, tests in rows:
            for i, name in enumerate(names or [None]):
                lines.append(
                    row(out, folder, what if i == 0 else "", name, tests if i == 0 else [])
                )
    return "\n".join([*lines, BOTTOM])


def row(out, folder, what, name, tests):
    """One line of a table."""
    checks = "<br>".join(f"`{test}`" for test in tests)
    if name is None:
        return f"| {what} | | {checks} | an error, before any work | |"
    if name == "epsilon_optimal.py":
        seen = '<img src="images/epsilon_optimal.png" width="200"><br>built, not trained'
        return f"| {what} | `examples/{name}` | {checks} | {seen} | 1 |"
    report = finished(out, name)
    if report is None:
        raise FileNotFoundError(f"no run of {name} in {out}; run examples/all_systems.py first")
    write_whole(folder / f"{name}.png", thumbnail(out / name, report))
    steps = f"{report['steps_done']:,} iterations"
    seen = f'<img src="images/systems/{name}.png" width="200"><br>' + steps
    score = told(report)
    return (
        f"| {what} | `{name}`: {PRESETS[name].about} | {checks} | "
        f"{seen}{': ' + score if score else ''} | {max(1, report['seconds']):.0f} |"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("runs/systems"), help="folder of the runs")
    parser.add_argument(
        "--only", nargs="+", choices=PRESETS, metavar="NAME", help="run these again"
    )
    parser.add_argument("--page", type=Path, help="write the page, and run nothing")
    args = parser.parse_args(argv)
    if args.page is not None and args.only:
        parser.error("--page with --only, which the page does not read; give one of them")
    if args.page is not None and args.page.is_dir():
        parser.error(f"--page {args.page} is a folder; expected a file, such as systems.md")
    try:
        check_folder(args.out)
        if args.page is not None:
            folder = args.page.parent / "images" / "systems"
            check_folder(folder, f"--page {args.page}:")
            write_whole(args.page, page(args.out, folder).encode())
            return
    except OSError as error:
        parser.error(str(error))
    names = args.only or [name for name in PRESETS if finished(args.out, name) is None]
    start = time.perf_counter()
    for i, name in enumerate(names):
        passed = (time.perf_counter() - start) / 60
        print(f"{name}, {i + 1} of {len(names)}, after {passed:.0f} min", flush=True)
        train.main(["--system", name, "--short", "--out", str(args.out / name), "--quiet"])


if __name__ == "__main__":
    sys.exit(main())

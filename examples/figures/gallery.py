"""docs/gallery.md: every figure beside what the paper says and what was measured."""

import json
import shutil

from common import write_whole

PAPERS = {
    "P0": "P0: Effects of Gradient Penalty on GANs (Patel & Siddiki)",
    "P2": "P2: Tackling the Gradient Issues in GANs (Li, slides)",
    "P3": "P3: Improving Generalization and Stability of GANs (ICLR 2019)",
    "P4": "P4: Analyzing Stability and Properties of GANs (Bandhey, Lopez, Rabinowitz)",
    "G": "Games and their spectra (Mescheder et al. 2018, Nagarajan & Kolter 2017)",
}
HEAD = """# Gallery

Every figure and table of the papers, made by one command each: `python examples/reproduce.py NAME`.
Under each stand what the paper says, what was measured over all the seeds, and whether the two
agree. The verdict is a comparison of numbers, made by the same program. The numbers of every seed
are in a `json` that the command writes; those of this page are linked under each figure.

**Short** says that the run was made smaller or shorter, to take CPU minutes where the paper's
takes GPU hours: what was changed is said, and such a verdict is about the short run. Leave
`--short` out for the settings that are given. **Full** runs have these: the paper's, or ours
where it prints none. All runs: two cores of an AMD EPYC, one thread each; seeds fixed beforehand;
pictures show seed 0 unless they say otherwise. The images are the 5,000 real digits of the
package, where the papers take all of MNIST, CIFAR-10 or ImageNet; scores of images are [our
own](image_scores.md) and cannot be compared with published ones.

Where a paper gives a picture and no number, what counts as agreement is ours. It was written down
with the first seed's runs at hand, and made stricter in a review with most of them there: bounds
that matter are said under the figure, and the numbers beside them let you draw your own.

P3's Figure 9 (ImageNet) is out of reach here, and so is the right half of the slides' comparison
on faces (ALI, VAEGAN).
"""


def write_page(path, folder, figures):
    """Write the page, and copy its pictures to images/gallery and its numbers to gallery beside it.

    Raises: FileNotFoundError for figures that have not been made.
    """
    missing = [name for name in figures if not (folder / f"{name}.json").exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; expected all figures. Make them with --all"
        )
    reports = [json.loads((folder / f"{name}.json").read_text()) for name in figures]
    images = path.parent / "images" / "gallery"
    numbers = path.parent / "gallery"
    for place in (images, numbers):
        place.mkdir(parents=True, exist_ok=True)
    for report in reports:
        name = f"{report['figure']}.json"
        shutil.copyfile(folder / name, numbers / name)
        for picture in report["pictures"]:
            shutil.copyfile(folder / picture, images / picture)
    write_whole(path, page(reports).encode())


def page(reports):
    """The page as Markdown."""
    lines = [HEAD, "| figure | shows | run | agrees |", "|---|---|---|---|"]
    for report in reports:
        anchor = report["figure"].lower().replace(".", "")
        lines.append(
            f"| [{report['figure']}](#{anchor}) | {report['title']} | {report['mode']} | "
            f"{report['agrees'] or '–'} |"
        )
    paper = None
    for report in reports:
        name = report["figure"]
        if name.partition(".")[0] != paper:
            paper = name.partition(".")[0]
            lines += ["", f"## {PAPERS[paper]}"]
        lines += ["", f"### {name}", "", *section(report)]
    return "\n".join(lines) + "\n"


def section(report):
    """One figure: pictures, what the paper says, what was measured."""
    short = report["mode"] == "short"
    for picture in report["pictures"]:
        yield f"![{report['title']}](images/gallery/{picture})"
        yield ""
    yield f"**{report['title']}.** {report['says']}"
    yield ""
    yield f"- *Settings:* {report['settings']}"
    if short:
        yield f"- **Short:** {report['changed']}"
    command = f"python examples/reproduce.py {report['figure']}{' --short' if short else ''}"
    seeds = f", seeds {', '.join(map(str, report['seeds']))}" if report["seeds"] else ""
    yield f"- `{command}`{seeds}{cost(report)}; [its numbers](gallery/{report['figure']}.json)"
    yield ""
    blocks = report["measured"].startswith("- ")  # a list, which begins on a line of its own
    yield f"*Measured.*{'' if blocks else ' ' + report['measured']}"
    if blocks:
        yield ""
        yield report["measured"]
    if report["agrees"]:
        yield ""
        yield f"**Agrees: {report['agrees']}.**"


def cost(report):
    """What the runs took, as the end of a line; nothing for a figure without runs."""
    minutes = report["cpu_seconds_of_runs"] / 60
    if not report["runs"]:
        return ""
    return f"; {minutes:.0f} CPU minutes" if minutes >= 1.5 else "; about a CPU minute or less"

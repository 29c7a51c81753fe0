"""What the one-centred penalty does to a standard GAN on digits: λ = 0, 1 and 10, side by side.

The experiment of Patel & Siddiki, Effects of Gradient Penalty on GANs: a DCGAN without batch norm,
the non-saturating loss, the penalty on the logit, and nothing changed but its weight.

    python examples/p0_penalty.py                # half the channels; about a quarter of an hour
    python examples/p0_penalty.py --width 1      # all of them, four times as long

Runs examples/dcgan.py three times and writes penalty.png and penalty.json beside their folders.
Other options, --eager too, go to every run.
"""

import argparse
import json
from pathlib import Path

import dcgan
import numpy as np
from common import check_folder, write_whole

from tinygan.study.plots import as_bytes, image_panels, loss_panels

WEIGHTS = (0, 1, 10)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/p0"), help="folder for the results")
    parser.add_argument("--width", default="0.5", help="multiplies the networks' channels")
    args, rest = parser.parse_known_args(argv)
    check_folder(args.out)
    samples, histories, reports = [], [], {}
    for weight in WEIGHTS:
        folder, name = args.out / f"weight_{weight}", f"λ = {weight}"
        dcgan.main(
            ["--preset", "p0", "--weight", str(weight), "--width", args.width, "--out", str(folder)]
            + rest
        )
        samples.append((name, np.load(folder / "samples.npy")))
        columns = np.genfromtxt(folder / "history.csv", delimiter=",", names=True)
        histories.append((name, np.atleast_1d(columns)))
        reports[name] = json.loads((folder / "metrics.json").read_text())
    write_whole(args.out / "penalty.png", as_bytes(image_panels, panels=samples))
    write_whole(args.out / "losses.png", as_bytes(loss_panels, panels=histories))
    write_whole(args.out / "penalty.json", (json.dumps(reports, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()

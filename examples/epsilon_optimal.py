"""The discriminator that is ε-optimal by construction: how sharp it must be, and how steep it is.

    python examples/epsilon_optimal.py
    python examples/epsilon_optimal.py --real 12 --fake 12 --epsilon 0.8 --alpha 0.05

Draws real and fake points of the unit circle, builds P3's discriminator on them (appendix A), and
measures what P3 says of any such D: on the way from a real x to a fake y its slope is somewhere
ε/‖x − y‖ or more. Writes epsilon_optimal.png and epsilon_optimal.json to --out.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from common import check_folder, positive, seed, versions, write_whole

import tinygan as tg
from tinygan import models
from tinygan.study import plots
from tinygan.study.fields import value_surface

EXTENT = 1.5
ZOOMS, PARTS = 4, 256


def on_the_circle(n, stream):
    """n points of norm 1, everywhere as likely. Shapes: (n, 2), float64."""
    angle = 2 * np.pi * stream.uniform((n,), np.float64)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def steepest(critic, x, y):
    """The largest ‖∇D‖ that is found between two points.

    Cuts the way into parts and goes on in the one where D changes most, again and again. A part's
    mean slope is then never less than the whole's, |D(x) − D(y)|/‖x − y‖.
    """
    low, high, found = 0.0, 1.0, 0.0
    for _ in range(ZOOMS):
        t = np.linspace(low, high, PARTS + 1)
        points = tg.track(x + t[:, None] * (y - x))
        values = critic(points)
        slopes = tg.grad_values(tg.ops.sum(values), points)
        found = max(found, float(np.linalg.norm(slopes, axis=1).max()))
        i = int(abs(np.diff(values.data[:, 0])).argmax())
        low, high = t[i], t[i + 1]
    return found


def study(real, fake, epsilon, alpha):
    """The discriminator as a function of points, and what was measured of it."""
    model, params = models.epsilon_optimal(real, fake, epsilon, alpha)

    def critic(v):
        return model(params, v)

    pairs = [
        {
            "real": i,
            "fake": j,
            "distance": float(np.linalg.norm(x - y)),
            "slope": steepest(critic, x, y),
            "bound": epsilon / float(np.linalg.norm(x - y)),
        }
        for i, x in enumerate(real)
        for j, y in enumerate(fake)
    ]
    return critic, {
        "k": models.sufficient_k(np.concatenate([real, fake]), epsilon, alpha),
        "parameters": models.count_parameters(params),
        "margin_real": float(critic(real).min()) - (0.5 + epsilon / 2),
        "margin_fake": 0.5 - epsilon / 2 - float(critic(fake).max()),
        "pairs": pairs,
    }


def table(found):
    """What was measured, a line each."""
    nearest = min(found["pairs"], key=lambda pair: pair["distance"])
    ratios = [pair["slope"] / pair["bound"] for pair in found["pairs"]]
    rows = {
        "k": f"{found['k']:.6g}",
        "parameters": f"{found['parameters']}",
        "least D − (½ + ε/2) on real samples": f"{found['margin_real']:.6g}",
        "least (½ − ε/2) − D on fake samples": f"{found['margin_fake']:.6g}",
        "distance of the nearest real and fake sample": f"{nearest['distance']:.6g}",
        "largest slope between them": f"{nearest['slope']:.6g}",
        "ε over their distance, which it must reach": f"{nearest['bound']:.6g}",
        "largest slope between any two": f"{max(pair['slope'] for pair in found['pairs']):.6g}",
        "least slope over bound, of all pairs": f"{min(ratios):.6g}",
    }
    return "\n".join(f"{name:<45} {value:>12}" for name, value in rows.items())


def draw(file, *, critic, real, fake, epsilon, pairs):
    """D on the plane, and the steepest place between each two samples against their distance."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(plots.STYLE):
        fig = Figure(figsize=(9, 4), layout="constrained")
        land, steep = fig.subplots(1, 2)
        image = land.imshow(
            value_surface(critic, EXTENT, 300, dtype=np.float64), origin="lower", vmin=0, vmax=1,
            extent=(-EXTENT, EXTENT, -EXTENT, EXTENT), aspect="equal",
        )  # fmt: skip
        fig.colorbar(image, ax=land, shrink=0.85, label="D(x), a probability")
        for points, color, label in ((real, plots.REAL, "real"), (fake, plots.FAKE, "fake")):
            land.plot(*points.T, "o", color=color, ms=6, mec="white", mew=0.8, label=label)
        land.set(title=f"ε-optimal for ε = {epsilon:g}", xlabel="x₁", ylabel="x₂")
        land.legend(loc="upper right", frameon=True)

        distance = np.array([pair["distance"] for pair in pairs])
        way = np.linspace(distance.min(), distance.max(), 200)
        steep.semilogy(
            distance, [pair["slope"] for pair in pairs], "o", color=plots.CRITIC, ms=4,
            label="largest ‖∇D‖ between them",
        )  # fmt: skip
        steep.semilogy(way, epsilon / way, color=plots.FAKE, label="ε/‖x − y‖, which it must reach")
        steep.set(
            title="Slope between real and fake",
            xlabel="‖x − y‖, of a real and a fake sample",
            ylabel="‖∇D‖",
        )
        steep.legend()
        fig.savefig(file, dpi=130, format="png")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    count = positive(int)
    parser.add_argument("--real", type=count, default=4, help="real points")
    parser.add_argument("--fake", type=count, default=4, help="fake points")
    parser.add_argument("--epsilon", type=float, default=0.6, help="gap of D, above 0, below 1")
    parser.add_argument(
        "--alpha", type=float, default=0.1, help="above 0, at most (1 − ε)/2; larger, smaller k"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the points")
    parser.add_argument("--out", type=Path, default=Path("runs/epsilon_optimal"), help="folder")
    args = parser.parse_args(argv)
    stream = tg.Stream(args.seed)
    real = on_the_circle(args.real, stream.child(0))
    fake = on_the_circle(args.fake, stream.child(1))
    try:
        models.sufficient_k(np.concatenate([real, fake]), args.epsilon, args.alpha)
        check_folder(args.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    critic, found = study(real, fake, args.epsilon, args.alpha)
    picture = plots.as_bytes(
        draw, critic=critic, real=real, fake=fake, epsilon=args.epsilon, pairs=found["pairs"]
    )
    report = {
        "settings": {**vars(args), "out": str(args.out)},
        **found,
        "points": {"real": real.tolist(), "fake": fake.tolist()},
        "versions": versions(),
    }
    write_whole(args.out / "epsilon_optimal.png", picture)
    write_whole(args.out / "epsilon_optimal.json", (json.dumps(report, indent=2) + "\n").encode())
    print(table(found))


if __name__ == "__main__":
    main()

"""What step.py found, as Markdown tables and as a chart."""

from step_peers import COMPILED, CONTENDERS, EAGER, HIPS, JAX, TORCH, TORCH_COMPILED, TUNED
from timing import quartiles, table

COLOURS = {
    EAGER: "#8fbbe8",
    COMPILED: "#1257a5",
    TORCH: "#f2b48a",
    TUNED: "#e07b39",
    TORCH_COMPILED: "#a8481a",
    JAX: "#6a9e58",
    HIPS: "#b3b3b3",
}


def floor_ms(figures, step):
    """The time that the counted products take at the fastest sgemm of the run."""
    flops = sum(figures["steps"][step]["flops"].values())
    return flops / max(figures["sgemm_gflops"].values()) / 1e6


def names(figures):
    """The contenders of any step, in their order."""
    there = {name for step in figures["steps"].values() for name in step["contenders"]}
    return [name for name in CONTENDERS if name in there]


def text(figures):
    """All that is printed of a run's figures."""
    rates = ", ".join(f"{how} {rate:.0f}" for how, rate in figures["sgemm_gflops"].items())
    parts = [f"- sgemm of 2048², GFLOP/s: {rates}"]
    for step, one in figures["steps"].items():
        kinds = ", ".join(f"{k} {n / 1e9:.4g}" for k, n in one["flops"].items() if n)
        parts.append(
            f"- {step}: {one['title']}; {sum(one['flops'].values()) / 1e9:.4g} GFLOP ({kinds}), a "
            f"floor of {floor_ms(figures, step):.3g} ms"
        )
    parts += ["", summary(figures), "", details(figures), "", losses(figures)]
    if "import_seconds" in figures:
        parts += ["", imports(figures["import_seconds"])]
    return "\n".join(parts)


def summary(figures):
    """A row for each step: ms of every contender, and its ratio to PyTorch."""

    def cell(one):
        if one is None:
            return "–"
        if "failed" in one:
            return "failed"
        ratio = one["ratios"].get(TORCH)
        return f"{one['quartiles_ms'][1]:.3g}" + ("" if ratio is None else f" ({ratio[1]:.2f})")

    who = names(figures)
    rows = [
        [step, f"{floor_ms(figures, step):.2g}", *(cell(one["contenders"].get(n)) for n in who)]
        for step, one in figures["steps"].items()
    ]
    return table(["ms per iteration (ratio to PyTorch)", "floor", *who], rows)


def details(figures):
    """A row for each step and contender."""
    yardsticks = [n for n in (TORCH, TUNED) if n in names(figures)]
    header = ["step", "contender", "ms per iteration (quartiles)"]
    header += [f"ratio to {to} (quartiles)" for to in yardsticks]
    header += ["floor/time", "s until warm", "MiB beyond imports", "in total", "losses, weights"]
    rows = []
    for step, one in figures["steps"].items():
        for name in names(figures):
            r = one["contenders"].get(name)
            if r is None:
                continue
            if "failed" in r:
                rows.append([step, name, f"failed: {r['failed']}", *["–"] * (len(header) - 3)])
                continue
            low, middle, high = r["quartiles_ms"]
            before, peak = r["memory_mib"]
            known = before is not None and peak is not None
            rows.append([
                step,
                name,
                f"{middle:.4g} ({low:.4g}–{high:.4g})",
                *("{1:.2f} ({0:.2f}–{2:.2f})".format(*r["ratios"][to]) for to in yardsticks),
                f"{floor_ms(figures, step) / middle:.0%}",
                f"{r['until_warm_s']:.2g}",
                *([f"{peak - before:.0f}", f"{peak:.0f}"] if known else ["–", "–"]),
                "{:.0e}, {:.0e}".format(*r["differences"]),
            ])  # fmt: skip
    return table(header, rows)


def losses(figures):
    """The losses that were compared."""
    rows = []
    for step, one in figures["steps"].items():
        for name in names(figures):
            for loss, values in one["contenders"].get(name, {}).get("losses", {}).items():
                rows.append([step, name, loss, ", ".join(f"{v:.7g}" for v in values)])
    return table(["step", "contender", "loss", "first iterations"], rows)


def imports(seconds):
    """Milliseconds beyond ``import numpy``."""
    rows = []
    for module, found in seconds.items():
        low, middle, high = quartiles([1e3 * s for s in found])
        itself = " itself" if module == "numpy" else ""
        rows.append([f"`{module}`{itself}", f"{middle:.0f}", f"{low:.0f}–{high:.0f}"])
    return table(["import", "ms beyond `import numpy`, median", "quartiles"], rows)


def steady(found):
    """The memory of many steps; ``found`` is {(step, contender): what Worker.steady returned}."""
    rows = []
    for (step, name), r in found.items():
        kib = ["{:.1f} → {:.1f}".format(*(b / 1024 for b in r["traced_bytes"]))]
        kib += [f"{b / 1024:.1f}" for b in r["asked_bytes"]]
        resident = "–"
        if None not in r["resident_mib"]:
            resident = "{:.1f} → {:.1f}".format(*r["resident_mib"])
        rows.append([step, name, f"{r['steps']:,}", resident, f"{r['traced_steps']:,}", *kib])
    header = ["step", "contender", "iterations", "resident MiB", "iterations traced"]
    header += ["KiB held", "KiB asked for in one, median", "at most"]
    return table(header, rows)


def where(found):
    """What compiled steps spend their time on; ``found`` is {step: what Worker.where returned}."""
    rows = []
    for step, (whole, calls) in found.items():
        rows.append([step, "the step, as it is called", "", f"{whole * 1e3:.4g}", "100%"])
        for name, count, seconds in calls:
            rows.append([step, name, count, f"{seconds * 1e3:.4g}", f"{seconds / whole:.0%}"])
    return table(["step", "function", "calls", "ms", "share"], rows)


def chart(figures, path):
    """Bars of the time of each step and contender, PyTorch's as 1, with the floors as marks."""
    from matplotlib.figure import Figure

    who = names(figures)
    steps = {
        step: one["contenders"]
        for step, one in figures["steps"].items()
        if "quartiles_ms" in one["contenders"].get(TORCH, {})
    }
    if not steps:
        raise SystemExit(f"--chart: no step has figures of {TORCH}, which is the unit")
    figure = Figure(figsize=(1.2 + 1.75 * len(steps), 4.4), layout="constrained")
    axes = figure.subplots()
    width, top = 0.86 / len(who), 2.0
    for k, step in enumerate(steps):
        unit = steps[step][TORCH]["quartiles_ms"][1]
        left = k - 0.43
        for j, name in enumerate(who):
            one, x = steps[step].get(name, {}), left + (j + 0.5) * width
            height, number = 0, "failed" if "failed" in one else ""
            if "quartiles_ms" in one:
                ms = one["quartiles_ms"][1]
                height = min(ms / unit, top)
                number = f"{ms:.3g} ms" + (f", {ms / unit:.2g}×" if ms / unit > top else "")
            axes.bar(x, height, width * 0.92, color=COLOURS[name], zorder=2)
            axes.text(
                x, height + 0.025, number, ha="center", va="bottom", fontsize=6.5, rotation=90,
                color="#333333", zorder=3, bbox={"facecolor": "white", "lw": 0, "pad": 0.4},
            )  # fmt: skip
        floor = floor_ms(figures, step) / unit
        axes.hlines(floor, left, left + 0.86, color="black", lw=1.1, zorder=4)
    axes.axhline(1, color="#bbbbbb", lw=0.8, zorder=1)
    axes.set_xticks(range(len(steps)), steps)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(steps) - 0.45)
    axes.set_ylim(0, top + 0.42)
    axes.set_yticks([0, 0.5, 1, 1.5, 2])
    axes.set_ylabel(f"time of an iteration, {TORCH} = 1")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [axes.bar(0, 0, color=COLOURS[name], label=name) for name in who]
    handles.append(axes.plot([], [], color="black", lw=1.1, label="floor: products alone")[0])
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(8, len(handles)), frameon=False,
        fontsize=8,
    )  # fmt: skip
    figure.savefig(path, dpi=160)

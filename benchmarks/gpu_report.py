"""The tables of gpu.py, made of the rows that its parts wrote; they need no GPU and no library.

Every function takes rows as the parts yield them, with whatever is missing: a part that was cut off
has fewer rows, one under the emulator has no times, and without ceilings there are no floors.
"""

from roofline import Ceilings, Counts, floor, geometric_mean
from timing import quartiles, table

EMULATED = "emulated: times mean nothing, and none are shown"
OPERATIONS = ("forward", "input gradient", "weight gradient")
RIVALS = {"fp32": "fp32", "3xtf32": "fp32", "tf32": "tf32"}  # ours: PyTorch's, like for like
DENSE = 100  # operations per byte, from which a layer is one of the middle ones
LOSSES = {"fp32": 1e-3, "3xtf32": 1e-3, "tf32": 5e-2}  # relative, of the first steps
SLOWER = 1.05  # than the best tile: worth a line
# The aims on an H100, batch 64: times as fast as the better of cuDNN's layouts.
AIMS = {"forward": 1.1, "input gradient": 1.2, "weight gradient": 1.2}
AIM_IMAGES, AIM_WORST, AIM_MMA = 2, 0.8, 0.55


def median(values):
    """The median, or None of no values."""
    return quartiles(values)[1] if values else None


def measured_ceilings(rows):
    """:class:`roofline.Ceilings` of the rows of part "ceilings"; None if one was not measured."""
    rates = {row["ceiling"]: median(row["rates"]) for row in rows if "ceiling" in row}
    copies = [rates[name] for name in rates if name.startswith("copy") and rates[name]]
    found = max(copies, default=None), rates.get("FFMA"), rates.get("mma.sync TF32")
    return Ceilings(*found) if all(found) else None


def ceiling_table(rows):
    """A row for each ceiling."""
    lines = []
    for row in rows:
        if "ceiling" in row:
            scale, unit = (1e9, "GB/s") if row["unit"] == "bytes" else (1e12, "TFLOP/s")
            shown = ("–",) * 2
            if row["rates"]:
                low, middle, high = (rate / scale for rate in quartiles(row["rates"]))
                shown = f"{middle:.4g} {unit}", f"{low:.4g}–{high:.4g}"
            lines.append([row["ceiling"], *shown, "yes" if row["right"] else "WRONG"])
    return table(["ceiling", "median", "quartiles", "result right"], lines)


def time_table(rows, ceilings):
    """A row for each layer and operation: µs, and the share of the roofline in brackets."""
    rows = [row for row in rows if "layer" in row]
    names = list(dict.fromkeys(name for row in rows for name in row["precisions"]))
    lines = []
    for row in rows:
        counts = Counts(row["flops"], row["bytes"])
        floors = ("–", "–")
        if ceilings:
            floors = (f"{floor(counts, p, ceilings) * 1e6:.3g}" for p in ("fp32", "tf32"))
        shown = [_time(row, name, counts, ceilings) for name in names]
        lines.append([
            f"{row['layer']}, {row['shown']}", row["operation"], f"{counts.flops / 1e9:.3g}",
            f"{counts.bytes / 1e6:.3g}", *floors, *shown,
        ])  # fmt: skip
    header = ["layer", "operation", "GFLOP", "MB", "floor fp32, µs", "floor TF32, µs"]
    return table([*header, *(f"{name}, µs" for name in names)], lines)


def _time(row, name, counts, ceilings):
    if name in row["failed"]:
        return "FAILED"
    seconds = median(row["times"].get(name))
    if seconds is None:
        return "–"
    if not ceilings:
        return f"{seconds * 1e6:.3g}"
    share = floor(counts, row["precisions"][name], ceilings) / seconds
    return f"{seconds * 1e6:.3g} ({share:.0%})"


def error_table(rows):
    """A row for each layer and operation: ‖y − y₆₄‖/‖y₆₄‖, and what ours must not exceed."""
    rows = [row for row in rows if "layer" in row]
    names = list(dict.fromkeys(name for row in rows for name in row["precisions"]))
    lines = []
    for row in rows:
        limits = [row["limits"].get(f"tinygan {p}") for p in ("fp32", "tf32")]
        errors = [row["errors"].get(name) for name in names]
        shown = (["–" if e is None else f"{e:.1e}" for e in of] for of in (limits, errors))
        lines.append([row["layer"], row["operation"], *sum(shown, [])])
    return table(["layer", "operation", "limit fp32", "limit TF32", *names], lines)


def best_rival(row, precision):
    """The least median of PyTorch's layouts in the precision that ours is compared in, or None."""
    times = [
        median(row["times"][name])
        for name, of in row["precisions"].items()
        if name.startswith("PyTorch") and of == RIVALS[precision] and row["times"].get(name)
    ]
    return min(times, default=None)


def speedups(rows, precision, operation):
    """{layer: PyTorch's best median / ours}: above 1 where ours is faster."""
    found = {}
    for row in rows:
        if row.get("operation") == operation and "layer" in row:
            ours = median(row["times"].get(f"tinygan {precision}"))
            rival = best_rival(row, precision)
            if ours and rival:
                found[row["layer"]] = rival / ours
    return found


def speedup_table(rows, aims=True):
    """Geometric means of :func:`speedups`, over all layers and those of 3 channels; the least."""
    images = {row["layer"] for row in rows if row.get("channels") == 3}
    lines = []
    for precision in RIVALS:
        for operation in OPERATIONS:
            found = speedups(rows, precision, operation)
            if not found:
                continue
            worst = min(found, key=found.get)
            few = geometric_mean(ratio for layer, ratio in found.items() if layer in images)
            line = [
                f"{precision} against {'TF32 on' if precision == 'tf32' else 'TF32 off'}",
                operation, f"{geometric_mean(found.values()):.2f}",
                "–" if few is None else f"{few:.2f}", f"{found[worst]:.2f} ({worst})",
            ]  # fmt: skip
            lines.append(
                [*line, f"{AIMS[operation]}, {AIM_IMAGES}, {AIM_WORST}"][: 6 if aims else 5]
            )
    if not lines:
        return "No times to compare.\n"
    header = ["times as fast as PyTorch's best layout", "operation", "all", "3 channels", "least"]
    return table([*header, "aims"][: 6 if aims else 5], lines)


def dense_shares(rows, ceilings):
    """{(layer, operation): share of the measured mma ceiling} of our TF32 in the middle layers."""
    found = {}
    for row in rows:
        if "layer" in row and row["flops"] >= DENSE * row["bytes"] and ceilings:
            seconds = median(row["times"].get("tinygan tf32"))
            if seconds:
                found[row["layer"], row["operation"]] = row["flops"] / seconds / ceilings.tf32
    return found


def step_table(rows, ceilings):
    """A row for each net and contender."""
    lines = []
    for row in rows:
        if "net" not in row:
            continue
        for name, precision in row["precisions"].items():
            if name in row["failed"]:
                lines.append([row["net"], name, "FAILED", "–", "–", "–", "–"])
                continue
            worst = max(row["differences"][name].values())
            shown = ["–"] * 4
            if name in row.get("host", {}):
                shown[3] = f"{row['host'][name] * 1e6:.3g}"
            if row["times"].get(name):
                low, middle, high = (1e3 * t for t in quartiles(row["times"][name]))
                shown[0] = f"{middle:.3g} ({low:.3g}–{high:.3g})"
                rival = best_rival(row, precision)
                shown[1] = f"{rival * 1e3 / middle:.2f}" if rival else "–"
                if ceilings:
                    shown[2] = f"{row['flops'] / ceilings.rate(precision) * 1e3 / middle:.0%}"
            lines.append([row["net"], name, *shown, f"{worst:.0e}"])
    header = ["net", "contender", "ms per step", "times as fast as PyTorch's best layout"]
    header += ["floor/time", "host, µs", "losses differ from NumPy's by"]
    return table(header, lines)


def ladder_table(rows, ceilings):
    """A row for each step of the ladder."""
    lines = []
    for row in rows:
        if "kernel" in row:
            time = _time(row, "kernel", Counts(row["flops"], row["bytes"]), ceilings)
            off = row["errors"].get("kernel")
            shown = "–" if off is None else f"{off:.1e}"
            lines.append([row["layer"], f"`{row['kernel']}`", time, shown])
    return table(["step", "kernel", "µs (share of the roofline)", "error"], lines)


def tile_table(rows):
    """How much slower the chosen tiles are than the best, and where by more than 5%."""
    lines, ratios = [], {}
    for row in rows:
        times = {name: [t for t in found if t] for name, found in row.get("times", {}).items()}
        times = {name: median(found) for name, found in times.items() if found}
        chosen = row.get("chosen")
        if chosen not in times:
            continue
        best = min(times, key=times.get)
        ratio = times[chosen] / times[best]
        ratios.setdefault(row["precision"], []).append(ratio)
        if ratio > SLOWER:
            what = f"{row['layer']}, {row['operation']}, {row['precision']}"
            us = (f"{times[name] * 1e6:.3g}" for name in (chosen, best))
            lines.append([what, chosen, best, *us, f"{ratio:.2f}"])
    if not ratios:
        return "No times to compare.\n"
    means = ", ".join(f"{p} {geometric_mean(of):.3f}" for p, of in ratios.items())
    header = ["where", "chosen", "best", "chosen, µs", "best, µs", "ratio"]
    return f"Chosen to best, geometric means: {means}.\n\n{table(header, lines)}"


def wrong(part, rows):
    """What the rows of a part say is not as it must be: a list of sentences."""
    found = []
    for row in rows:
        where = f"{part}: {row.get('layer', row.get('net', ''))} {row.get('operation', '')}".strip()
        for name, reason in (row.get("failed") or {}).items():
            found.append(f"{where}: {name} failed: {reason}")
        for name, most in row.get("limits", {}).items():
            if name in row["errors"] and not row["errors"][name] <= most:
                found.append(
                    f"{where}: {name} is off by {row['errors'][name]:.1e}, over {most:.1e}"
                )
        for name, of in row.get("differences", {}).items():
            most = LOSSES[row["precisions"][name]]
            for loss, value in of.items():
                if not value <= most:
                    found.append(f"{where}: {name}'s {loss} loss differs by {value:.1e}")
        if row.get("right") is False:
            found.append(f"{part}: {row['ceiling']} gave a wrong result")
        if row.get("problem"):
            found.append(f"{part}: {row['case']}: {row['problem']}")
        if row.get("missing"):
            names = ", ".join(row["missing"])
            found.append(f"{part}: {len(row['missing'])} instances never ran: {names}")
    return found


def document(about, parts):
    """gpu.md: the machine, what ran, the tables."""
    emulated = about.get("emulated")
    text = ["# GPU benchmark", ""]
    if emulated:
        text += [f"**{EMULATED}.**", ""]
    text += [f"- {key}: {value}" for key, value in about.items() if key != "emulated"]
    text += ["", part_table(parts), ""]
    rows = {name: part.get("rows", []) for name, part in parts.items()}
    ceilings = measured_ceilings(rows.get("ceilings", []))
    for name, part in parts.items():
        tables = _tables(name, rows[name], ceilings, emulated)
        notes = [row["note"] for row in rows[name] if "note" in row]
        if tables or notes:
            text += [f"## {part['title']}", "", *(f"- {note}" for note in notes)]
            text += ["", *(line for found in tables for line in (found, ""))]
    problems = [problem for part in parts.values() for problem in part.get("problems", [])]
    if problems:
        text += ["## Not as it must be", "", *(f"- {problem}" for problem in problems), ""]
    return "\n".join(text)


def part_table(parts):
    """A row for each part: how it ended."""
    rows = [
        [part["title"], part["status"], part.get("reason") or "", f"{part.get('seconds', 0):.0f}"]
        for part in parts.values()
    ]
    return table(["part", "result", "", "s"], rows)


def _tables(name, rows, ceilings, emulated):
    """The tables of one part, as far as there are rows."""
    if not [row for row in rows if "note" not in row]:
        return []
    if name == "ceilings":
        return [ceiling_table(rows)]
    if name in ("layers", "gemms"):
        if emulated:
            return [EMULATED + ".", error_table(rows)]
        found = [speedup_table(rows, name == "layers"), time_table(rows, ceilings)]
        shares = dense_shares(rows, ceilings) if name == "layers" else {}
        if shares:
            worst = min(shares, key=shares.get)
            found.insert(1, (
                f"Middle layers, TF32: {geometric_mean(shares.values()):.0%} of the measured mma "
                f"ceiling (geometric mean), least {shares[worst]:.0%} ({', '.join(worst)}); "
                f"aim {AIM_MMA:.0%}."
            ))  # fmt: skip
        return [*found, error_table(rows)]
    if name == "ladder":
        return [*([EMULATED + "."] if emulated else []), ladder_table(rows, ceilings)]
    if name == "steps":
        return [*([EMULATED + "."] if emulated else []), step_table(rows, ceilings)]
    if name == "tiles":
        return [EMULATED + "."] if emulated else [tile_table(rows)]
    return [_plain(rows)]


def _plain(rows):
    return "\n".join("- " + ", ".join(f"{k} {v}" for k, v in row.items() if v) for row in rows)


def summary(about, parts):
    """What is printed last: how the parts ended, and what they found in short."""
    rows = {name: part.get("rows", []) for name, part in parts.items()}
    text = [part_table(parts)]
    if about.get("emulated"):
        text += ["", EMULATED + "."]
    elif rows.get("layers"):
        text += ["", speedup_table(rows["layers"])]
    ceilings = measured_ceilings(rows.get("ceilings", []))
    if ceilings:
        text += [
            "", f"copy {ceilings.bandwidth / 1e9:.0f} GB/s, FFMA {ceilings.fp32 / 1e12:.1f} "
            f"TFLOP/s, mma.sync TF32 {ceilings.tf32 / 1e12:.0f} TFLOP/s",
        ]  # fmt: skip
    problems = [problem for part in parts.values() for problem in part.get("problems", [])]
    if problems:
        text += ["", "Not as it must be:", *(f"- {problem}" for problem in problems)]
    return "\n".join(text)

"""What notebooks show: tables and lines as strings of HTML and SVG, in the notebook's own colours.

Every text is escaped. No background is set, and text takes the colour that surrounds it, so that
light and dark themes both work.
"""

from html import escape

import numpy as np

from tinygan.backend import to_host

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito (2008)
_NUMBERS = 6  # of a Tensor, that are shown


class Bold(str):
    """A cell of a table that is printed bold."""


def table(rows, head=(), caption="", align=""):
    """A table.

    Args:
        rows: sequences of cells, each written with ``str``; a :class:`Bold` one is bold.
        head: the names of the columns.
        caption: a line above.
        align: a letter for each column, "l" or "r"; columns without one are left.
    """
    sides = {"l": "left", "r": "right"}

    def line(cells, tag):
        cells = [
            f'<{tag} style="text-align:{sides[align[i : i + 1] or "l"]}">{_cell(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(cells)}</tr>"

    out = ["<table>"]
    if caption:
        out.append(f'<caption style="text-align:left">{escape(caption)}</caption>')
    if head:
        out.append(f"<thead>{line(head, 'th')}</thead>")
    out += ["<tbody>", *(line(row, "td") for row in rows), "</tbody>", "</table>"]
    return "\n".join(out)


def _cell(cell):
    text = escape(str(cell))
    return f"<b>{text}</b>" if isinstance(cell, Bold) else text


def code(text):
    """Text as it stands, in letters of one width."""
    return f"<pre>{escape(text)}</pre>"


def paragraph(text):
    """A line of text."""
    return f"<p>{escape(text)}</p>"


def titled(title, thing):
    """A title, and below it how ``thing`` shows itself; as text if it has no HTML."""
    shown = thing._repr_html_() if hasattr(thing, "_repr_html_") else code(str(thing))
    return f"<p><b>{escape(title)}</b></p>\n{shown}"


def number(x):
    """A number in few characters, whole ones whole."""
    whole = x == int(x) if abs(x) < 1e15 else False
    return f"{int(x)}" if whole else f"{x:.4g}"


def tensor(a):
    """A Tensor as a table of one row: what it is, its range, its first numbers.

    The range is that of its finite numbers; how many others there are is said beside it.
    """
    values = to_host(a.data)
    flat = values.reshape(-1)
    head = ["Tensor", "made by", "shape", "dtype"]
    row = [a.name or "", a.op.__name__ if a.op else "leaf", list(a.shape), a.dtype]
    if flat.size and values.dtype.kind in "fiu":
        finite = flat[np.isfinite(flat)]
        if finite.size:
            head += ["min", "mean", "max"]
            with np.errstate(over="ignore"):
                mean = finite.mean(dtype=np.float64)
            row += map(number, (finite.min(), mean, finite.max()))
        if finite.size < flat.size:
            head.append("not finite")
            row.append(Bold(not_finite(flat)))
    first = ", ".join(f"{x:.6g}" for x in flat[:_NUMBERS].tolist())
    more = ", …" if flat.size > _NUMBERS else ""
    head.append("numbers")
    row.append(first + more if flat.size else "none")
    return table([row], head, align="llllrrr"[: len(head) - 1])


def not_finite(a):
    """How many NaN and infinities there are, as in "2 NaN, 1 inf"; "" without any."""
    nans, infs = int(np.isnan(a).sum()), int(np.isinf(a).sum())
    return ", ".join(f"{n} {what}" for n, what in ((nans, "NaN"), (infs, "inf")) if n)


def curves(x, lines, width=420, height=130):
    """Lines over a common x, as an SVG: the lowest and highest value at the left, a legend above.

    Of many points the medians of blocks are drawn, those of their finite numbers; a block without
    any is left out.

    Args:
        x: numbers (n,), rising.
        lines: {name: numbers (n,)}.
    """
    x = np.asarray(x, np.float64)
    start, end = (x[0], x[-1]) if len(x) else (0.0, 1.0)
    block = max(1, len(x) // (width // 3))
    x, lines = _medians(x, block), {name: _medians(y, block) for name, y in lines.items()}
    seen = np.concatenate([y[np.isfinite(y)] for y in lines.values()] or [np.zeros(0)])
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    left, right, bottom = 60, width - 6, height - 18
    legend, at, down = [], left, 13
    for name in lines:
        wide = 30 + 7 * len(name)
        if at > left and at + wide > right:
            at, down = left, down + 15
        legend.append((at, down))
        at += wide
    top = down + 7
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="currentColor">',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor"/>',
    ]
    marks = [
        (left - 4, top + 8, "end", number(high)),
        (left - 4, bottom, "end", number(low)),
        (left, height - 4, "start", number(start)),
        (right, height - 4, "end", number(end)),
    ]
    across = _scaled(x, start, end, left, right)
    for i, ((name, y), (at, down)) in enumerate(zip(lines.items(), legend, strict=True)):
        colour, good = COLORS[i % len(COLORS)], np.isfinite(y)
        pairs = zip(across[good], _scaled(y[good], low, high, bottom, top), strict=True)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in pairs)
        out.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
        )
        out.append(f'<path d="M{at} {down - 4}h14" stroke="{colour}" stroke-width="3"/>')
        marks.append((at + 18, down, "start", name))
    out += [
        f'<text x="{a}" y="{b}" text-anchor="{anchor}">{escape(text)}</text>'
        for a, b, anchor, text in marks
    ]
    return "\n".join([*out, "</svg>"])


def _scaled(values, start, end, first, last):
    """Values from ``start`` to ``end`` as places from ``first`` to ``last``; equal ones between."""
    if end == start:
        return np.full(len(values), (first + last) / 2)
    return first + (values - start) / (end - start) * (last - first)


def _medians(values, block):
    """The medians of the finite numbers of blocks, NaN where there are none.

    Numbers left over at the end are a block of their own.
    """
    values = np.asarray(values, np.float64)
    rows = np.full((-(-len(values) // block), block), np.nan)
    rows.reshape(-1)[: len(values)] = np.where(np.isfinite(values), values, np.nan)
    found, some = np.full(len(rows), np.nan), np.isfinite(rows).any(axis=1)
    if some.any():  # nanmedian warns of rows without a number
        found[some] = np.nanmedian(rows[some], axis=1)
    return found

"""A program as a picture: boxes of calls, one for each visit to a layer, and lines between them.

Time runs down the page. A row of boxes is one way through a network: forward from left to right,
the gradient from right to left, a gradient's gradient from left to right again. A column is a
layer, so that what a forward call leaves for a gradient goes straight down.
"""

from dataclasses import dataclass, field
from html import escape
from itertools import groupby

from tinygan.replay.listing import Writer, in_flops, title, without_common_start
from tinygan.replay.program import PHASES, Value

_COLOURS = dict(zip(PHASES, ("#2f6690", "#c46b1d", "#a02c5a", "#4a7c3f"), strict=True))
_TINTS = dict(zip(PHASES, ("#dfeaf2", "#fae8d6", "#f6dde7", "#e3efdf"), strict=True))
_FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_LETTER = 6.05  # the width of a letter of such a font at 10 pixels
_ROW, _HEAD, _PAD = 15, 18, 5  # heights
_TRACK = 5  # between two lines that run side by side
_LONGEST, _TALLEST = 34, 30  # letters of a row, rows of a box
_HEAVY = 0.01  # of all operations: from there a call is printed bold


@dataclass(eq=False)
class Box:
    """Consecutive lines of one phase in one layer.

    Attributes: ``place``, the layer's name, or the file of the source where lines have none;
        ``network``, the layer's name without its last part; where it stands, ``lane`` counted from
        the top and ``column`` from the left; ``x``, ``y`` and ``width`` in pixels.
    """

    phase: str
    place: str
    network: str
    lines: list = field(default_factory=list)
    lane: int = 0
    column: int = 0
    x: float = 0
    y: float = 0
    width: float = 0

    @property
    def height(self):
        """In pixels."""
        return _HEAD + _ROW * len(self.lines) + _PAD


def boxes(program):
    """The lines of a program in runs of the same phase and layer: a list of :class:`Box`.

    Forward calls of one line of source stay together if one of them is of no layer.
    """
    found = []
    for (phase, source), run in groupby(program.lines, lambda line: (line.phase, line.source)):
        run = list(run)
        no_layer = phase == "forward" and not all(line.layer for line in run)
        for line in run:
            layer = "" if no_layer else line.layer
            place, network = layer or source.partition(":")[0], layer.rpartition(".")[0]
            last = found[-1] if found else None
            same = last and (last.phase, last.place) == (phase, place)
            if not same or len(last.lines) == _TALLEST:
                found.append(Box(phase, place, network))
            found[-1].lines.append(line)
    return found


def svg(program, sources=True):
    """The text of an SVG picture of a program.

    A row in a box is a call, with the inputs and numbers that it takes and the shape of its
    result; the full line is its tooltip. A call with a hundredth of the operations or more is
    bold; an empty dot is a result of the step. A dot joined to the next is used by the next; other
    uses are lines between boxes. A bar at the left joins calls that are run together.

    With ``sources=False`` the tooltips leave the lines of source out.
    """
    writer = Writer(program)
    found = boxes(program)
    _place(found)
    texts = {
        line.result: (_short(writer, line), "×".join(map(str, line.result.shape)))
        for line in program.lines
    }
    names = _names(found)

    def letters(box):
        rows = [sum(map(len, texts[line.result])) for line in box.lines]
        return max(*rows, len(names[box.place]) - 4, 0)

    nets, legend = _nets(found), _legend(program)
    turns, height = _down(found, nets, top=12 + 16 * len(legend))
    ways, width = _across(found, nets, turns, letters)
    width = max(width, 40 + _LETTER * max(len(text) for _, text in legend))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="{_FONT}" font-size="10">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        *_draw_legend(legend),
        *_paths(nets, turns, ways),
    ]
    for box in found:
        out += _draw(box, names[box.place], writer, texts, sources)
    return "\n".join([*out, "</svg>", ""])


def dot(program):
    """The source of a Graphviz drawing of a program: a node for each call, a cluster for each box.

    Render it with ``dot -Tsvg``.
    """
    writer, number = Writer(program), program.number
    found = boxes(program)
    names = _names(found)
    out = ["digraph program {", '  node [shape=box, style=filled, fontname="monospace"];']
    made = {line.result for line in program.lines}
    for i, box in enumerate(found):
        out += [
            f"  subgraph cluster_{i} {{",
            f"    label={_quoted(f'{names[box.place]}: {box.phase}')};",
        ]
        for line in box.lines:
            shape = "×".join(map(str, line.result.shape))
            label, tip = _quoted(f"{_short(writer, line)}\n{shape}"), _quoted(writer.line(line))
            out.append(
                f"    n{number(line.result)} [label={label}, tooltip={tip}, "
                f'color="{_COLOURS[box.phase]}", fillcolor="{_TINTS[box.phase]}"];'
            )
        out.append("  }")
    for line in program.lines:
        for a in dict.fromkeys(line.operands):
            if a in made:
                out.append(f"  n{number(a)} -> n{number(line.result)};")
    return "\n".join([*out, "}", ""])


def _quoted(text):
    """A string of Graphviz."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _names(found):
    """{place: what is written at the head of its boxes}."""
    layers = {box.place for box in found if box.network}
    return {box.place: box.place for box in found} | without_common_start(layers)


def _short(writer, line):
    """The call's name, and the inputs and numbers among its arguments."""
    given = [
        writer.operand(a, line.layer)
        for a in line.args
        if type(a) is not Value or a.name or a in writer.program.constants
    ]
    text = " ".join([line.op.__name__, ", ".join(given)]).strip()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


# Where things stand


def _place(found):
    """Give every box its lane and column.

    A network's layers have the columns in the order of their first appearance. A lane goes on
    while phase and network are the same, and the columns rise, or fall.
    """
    columns, lane, taken, before = {}, -1, [], None
    for box in found:
        of_network = columns.setdefault(box.network, {})
        column = of_network.setdefault(box.place, len(of_network)) if box.network else 0
        goes_on = (
            before is not None
            and (before.phase, before.network) == (box.phase, box.network)
            and (
                (column > taken[-1] and taken == sorted(taken))
                or (column < taken[-1] and taken == sorted(taken, reverse=True))
            )
        )
        if not goes_on:
            lane, taken = lane + 1, []
        taken.append(column)
        box.lane, box.column, before = lane, column, box


@dataclass(eq=False)
class _Net:
    """A result and the rows that use it, beyond the row below it in its own box."""

    box: Box
    row: int
    targets: list = field(default_factory=list)


def _nets(found):
    at = {line.result: (box, i) for box in found for i, line in enumerate(box.lines)}
    nets = {}
    for box in found:
        for i, line in enumerate(box.lines):
            for a in dict.fromkeys(line.operands):
                if a not in at or at[a] == (box, i - 1):
                    continue
                nets.setdefault(a, _Net(*at[a])).targets.append((box, i))
    return list(nets.values())


def _sides(net, target):
    """The channels by which a line leaves the source's box and reaches the target's.

    Channel c is at the left of column c.
    """
    here, there = net.box.column, target.column
    if here == there:
        return here, here
    return (here + 1, there) if there > here else (here, there + 1)


def _middle(box, i):
    """The height of the middle of a row."""
    return box.y + _HEAD + _ROW * (i + 0.5)


def _out_of(net):
    """The height at which a result leaves its row: below those that enter it."""
    return _middle(net.box, net.row) + 3


def _into(box, i):
    """The height at which a row is reached."""
    return _middle(box, i) - 2


def _down(found, nets, top):
    """Give every box its height on the page; ({(net, lane): y of its way along}, the end).

    The corridor above a lane holds the lines that reach boxes of the lane from columns that are
    not beside them.
    """
    along = {}  # (net, lane): the channels that its line in the corridor joins
    for net in nets:
        for box, _ in net.targets:
            leave, reach = _sides(net, box)
            if leave != reach:
                along.setdefault((net, box.lane), []).extend((leave, reach))
    turns, y = {}, top
    for lane in range(1 + max((box.lane for box in found), default=-1)):
        tracks = _tracks({net: span for (net, at), span in along.items() if at == lane}, 0.5)
        turns |= {(net, lane): y + 8 + _TRACK * track for net, track in tracks.items()}
        y += 16 + _TRACK * (1 + max(tracks.values(), default=-1))
        here = [box for box in found if box.lane == lane]
        for box in here:
            box.y = y
        y += max(box.height for box in here)
    return turns, y + 14


def _across(found, nets, turns, letters):
    """Give every box its place across the page; ({(net, channel): x of its way down}, the end)."""
    ups = {}  # (net, channel): the heights that its line in the channel joins
    for net in nets:
        for box, i in net.targets:
            leave, reach = _sides(net, box)
            turn = turns.get((net, box.lane), _out_of(net))
            ups.setdefault((net, leave), []).extend((_out_of(net), turn))
            ups.setdefault((net, reach), []).extend((turn, _into(box, i)))
    ways, x = {}, 6
    for c in range(2 + max((box.column for box in found), default=-1)):
        tracks = _tracks({net: span for (net, at), span in ups.items() if at == c}, 6)
        ways |= {(net, c): x + 12 + _TRACK * track for net, track in tracks.items()}
        x += 24 + _TRACK * max(tracks.values()) if tracks else 8
        here = [box for box in found if box.column == c]
        wide = max((46 + _LETTER * letters(box) for box in here), default=0)
        for box in here:
            box.x, box.width = x, wide
        x += wide
    return ways, x + 6


def _paths(nets, turns, ways):
    """The lines between boxes: down the channel beside the source, if need be along the corridor
    above the target, down the channel beside the target. Those of one result share their way."""
    out = []
    for net in nets:
        lines, heads, y = [], [], _out_of(net)
        for box, i in net.targets:
            leave, reach = _sides(net, box)
            start = net.box.x + (net.box.width if leave > net.box.column else 0)
            end, level = box.x + (box.width if reach > box.column else 0), _into(box, i)
            points = [(start, y), (ways[net, leave], y)]
            if leave != reach:
                turn = turns[net, box.lane]
                points += [(ways[net, leave], turn), (ways[net, reach], turn)]
            points += [(ways[net, reach], level), (end, level)]
            lines.append(_curve(points))
            heads.append(f"M{end:.1f} {level:.1f}l{6 if end < points[-2][0] else -6} -3v6z")
        colour = _COLOURS[net.box.phase]
        out.append(f'<path d="{"".join(lines)}" fill="none" stroke="{colour}"/>')
        out.append(f'<path d="{"".join(heads)}" fill="{colour}"/>')
    return out


def _tracks(spans, gap):
    """{key: track} for {key: numbers}: keys on one track do not meet between their extremes."""
    ends, tracks = [], {}
    for key, span in sorted(spans.items(), key=lambda item: (min(item[1]), max(item[1]))):
        free = [t for t, end in enumerate(ends) if end + gap <= min(span)]
        track = free[0] if free else len(ends)
        if not free:
            ends.append(0)
        ends[track] = max(span)
        tracks[key] = track
    return tracks


def _curve(points, radius=4):
    """A path along points, straight, with round corners."""
    points = [p for i, p in enumerate(points) if i == 0 or p != points[i - 1]]
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x, y), (x1, y1) in zip(points, points[1:], points[2:], strict=False):
        before, after = abs(x - x0) + abs(y - y0), abs(x1 - x) + abs(y1 - y)
        r = min(radius, before / 2, after / 2)
        text += f"L{x - (x - x0) / before * r:.1f} {y - (y - y0) / before * r:.1f}"
        text += f"Q{x:.1f} {y:.1f} {x + (x1 - x) / after * r:.1f} {y + (y1 - y) / after * r:.1f}"
    return text + f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"


# Ink


def _legend(program):
    """(phase or None, text) for each line at the top."""
    lines = [(None, title(program))]
    for phase, (n, flops, _) in program.totals().items():
        lines.append((phase, f"{phase}: {n} line{'s' * (n != 1)}, {in_flops(flops)}"))
    return lines


def _draw_legend(legend):
    out = []
    for i, (phase, text) in enumerate(legend):
        y = 20 + 16 * i
        if phase is None:
            out.append(f'<text x="12" y="{y}" font-weight="bold">{escape(text)}</text>')
            continue
        out.append(
            f'<rect x="12" y="{y - 9}" width="10" height="10" rx="2" fill="{_TINTS[phase]}" '
            f'stroke="{_COLOURS[phase]}"/>'
        )
        out.append(f'<text x="28" y="{y}">{escape(text)}</text>')
    return out


def _draw(box, name, writer, texts, sources):
    colour, tint = _COLOURS[box.phase], _TINTS[box.phase]
    x, y, right = box.x, box.y, box.x + box.width
    out = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height}" rx="4" '
        f'fill="white" stroke="{colour}"/>',
        f'<path d="M{x:.1f} {y + _HEAD - 2:.1f}v-{_HEAD - 6}q0 -4 4 -4H{right - 4:.1f}'
        f'q4 0 4 4v{_HEAD - 6}z" fill="{tint}" stroke="{colour}"/>',
        f'<text x="{x + 6:.1f}" y="{y + 12:.1f}" font-weight="bold" fill="{colour}">'
        f"{escape(name)}</text>",
    ]
    heavy, returned = max(1, _HEAVY * writer.program.flops), set(writer.program.outputs)
    for i, line in enumerate(box.lines):
        middle, before = _middle(box, i), box.lines[i - 1] if i else None
        op, _, rest = texts[line.result][0].partition(" ")
        weight = ' font-weight="bold"' if line.flops >= heavy else ""
        fill = "white" if line.result in returned else colour
        if before and before.result in line.operands:
            out.append(f'<path d="M{x + 9:.1f} {middle:.1f}v-{_ROW}" stroke="{colour}"/>')
        if before and line.group is not None and line.group == before.group:
            out.append(
                f'<path d="M{x + 3:.1f} {middle:.1f}v-{_ROW}" stroke="{colour}" stroke-width="3"/>'
            )
        out.append(
            f"<g><title>{escape(writer.line(line, sources))}</title>"
            f'<circle cx="{x + 9:.1f}" cy="{middle:.1f}" r="2.5" fill="{fill}" stroke="{colour}"/>'
            f'<text x="{x + 17:.1f}" y="{middle + 3.5:.1f}"><tspan{weight}>{escape(op)}</tspan>'
            f' <tspan fill="#666">{escape(rest)}</tspan></text>'
            f'<text x="{right - 7:.1f}" y="{middle + 3.5:.1f}" text-anchor="end" fill="#666">'
            f"{texts[line.result][1]}</text></g>"
        )
    return out

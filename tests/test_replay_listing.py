"""A program as text and as a picture: what they say, that it fits, and the page that has both."""

import contextlib
import doctest
import io
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from test_docs import python_blocks

import tinygan as tg
from tinygan import conv, norms, ops
from tinygan.engine import Primitive
from tinygan.replay import Line, Program, Value, drawing, trace
from tinygan.replay.listing import (
    in_bytes,
    in_flops,
    listing,
    of_type,
    short_names,
    without_common_start,
    written,
)
from tinygan.train import GAN, critic_step, generator_step

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reading_a_program.md"
PICTURE = ROOT / "docs" / "images" / "program_wgan_gp.svg"


def array(*shape, name=None, dtype=np.float32):
    return Value(shape, np.dtype(dtype), name)


def line(op, *args, shape=(4,), **kwargs):
    params = kwargs.pop("params", {})
    return Line(op, args, params, array(*shape), **kwargs)


def chain(*groups, **kwargs):
    """x → −x → …, one line for each group."""
    x, lines = array(4, name="x"), []
    for group in groups:
        lines.append(line(ops.negative, lines[-1].result if lines else x, group=group, **kwargs))
    return Program((x,), {}, tuple(lines), lines[-1].result)


def iteration(penalty, optimizer, pair, sample, batch=4):
    """The program of a critic's step and a generator's."""
    gan = GAN(*pair, optimizer, optimizer, tg.losses.WASSERSTEIN, penalty)

    def step(players, real, z, *noise):
        players, critic = critic_step(gan, players, real, z, noise)
        players, generator = generator_step(gan, players, z)
        return players, critic.loss, generator.loss

    stream = tg.Stream(0)
    real = stream.normal((batch, *sample))
    z = stream.normal((batch, pair.latent))
    noise = penalty.draw(stream, real) if penalty else ()
    return trace(step, gan.init(stream), real, z, *noise)


ADAM, SGD = tg.optim.Adam(1e-4, (0.5, 0.9)), tg.optim.SGD(1e-3)
GAMES = {
    "perceptrons": lambda: iteration(
        tg.penalties.zero_gp(10.0, ops.sigmoid), SGD, tg.models.mlp_pair(2, 2, 8, 2), (2,)
    ),
    "adam": lambda: iteration(
        tg.penalties.one_gp(10.0), ADAM, tg.models.mlp_pair(2, 2, 8, 3), (2,)
    ),
    "dcgan": lambda: iteration(
        tg.penalties.one_gp(10.0), SGD,
        tg.models.dcgan32(width=1 / 32, norm=tg.nn.LayerNorm), (32, 32, 3),
    ),
    "batch norm": lambda: iteration(None, ADAM, tg.models.dcgan32(width=1 / 32), (32, 32, 3)),
}  # fmt: skip


@pytest.fixture(scope="module", params=GAMES)
def game(request):
    return GAMES[request.param]()


# The text


def test_lines_that_are_run_together_stand_in_a_bracket():
    text = listing(chain(None, 0, 0, 0, 1, 1, None, 2)).splitlines()
    marks = [row[0] for row in text if re.match(r". %\d+ +neg", row)]
    assert marks == [" ", "┌", "│", "└", "┌", "└", " ", " "]


def test_a_bracket_goes_on_beside_the_second_row_of_a_call():
    x = array(4, name="x")
    long = line(ops.concatenate, *[x] * 40, shape=(160,), group=0)
    short = line(ops.negative, long.result, shape=(160,), group=0)
    text = listing(Program((x,), {}, (long, short), short.result)).splitlines()
    first = next(i for i, row in enumerate(text) if row.startswith("┌"))
    last = next(i for i, row in enumerate(text) if row.startswith("└"))
    assert last > first + 1 and all(row[0] == "│" for row in text[first + 1 : last])


def test_a_bracket_goes_on_through_a_change_of_phase():
    program = chain(0, 0, 1, None)
    a, b, c, d = program.lines
    lines = [a, replace(b, phase="gradient"), c, replace(d, phase="update")]
    text = listing(program.with_lines(lines)).splitlines()
    found = [row[:4] for row in text if re.match(r". %\d+ +neg|.─ ", row)]
    assert found == ["── f", "┌ %2", "├─ g", "└ %3", "── f", "  %4", "── u", "  %5"]


def test_the_phases_asked_for_and_nothing_else():
    x = array(4, name="x")
    a = line(ops.negative, x)
    b = line(ops.square, a.result, phase="second order")
    program = Program((x,), {}, (a, b), b.result)
    text = listing(program, ("second order",))
    assert "square(%2)" in text and "negative" not in text and "inputs" not in text
    assert re.search(r"^  second order +1 +4 +16 B$", text, re.M)
    assert "forward" not in text


@pytest.mark.parametrize("phases", ["second order", ("second",), ["forward", "backward"]])
def test_an_unknown_phase_is_an_error_that_names_them_all(phases):
    with pytest.raises(ValueError, match="expected a tuple of some of forward, gradient, second"):
        listing(chain(None), phases)


def test_a_program_prints_as_its_listing_and_shows_as_one_line():
    program = chain(None, None, source="here.py:7", layer="net.0")
    assert str(program) == listing(program) and "here.py:7" in str(program)
    assert "here.py" not in listing(program, sources=False)
    assert repr(program) == "<Program of 1 input, 16 B; 2 lines, 8 FLOPs, 32 B>"


def test_operands():
    w, v = array(4, name="p.first.weight"), array(4, name="p.second.weight")
    number, ones, three = array(), array(4), array(3)
    constants = {
        number: np.float32(0.25), ones: np.ones(4, np.float32), three: np.arange(3, dtype="f4")
    }  # fmt: skip
    lines = [
        line(ops.multiply, w, v, layer="p.first"),
        line(ops.multiply, w, number),
        line(ops.multiply, ones, 2.0),
        line(ops.sum, w, shape=(), params={"axis": None, "keepdims": True}),
        line(ops.broadcast_to, number, params={"shape": (4,)}),
        line(ops.broadcast_to, number, params={"shape": (5,)}),
    ]
    program = Program((w, v), constants, tuple(lines), lines[-1].result)
    text = listing(program)
    for call in [
        "multiply(weight, second.weight)",
        "multiply(first.weight, 0.25)",
        "multiply(%4, 2)",
        "sum(first.weight, keepdims=True)",
        "broadcast_to(0.25)",
        "broadcast_to(0.25, shape=(5,))",
    ]:
        assert f"  {call} " in text
    assert "%3  f32[]    4 B  0.25" in text
    assert "%4  f32[4]  16 B  of 1" in text
    assert "%5  f32[3]  12 B  (0, 1, 2)" in text


def test_inputs_stand_in_groups():
    names = ["net.0.weight", "net.0.bias", "net.1.weight", "rest.0.weight", "rest.0.bias",
             "rest.1.weight", "x"]  # fmt: skip
    inputs = tuple(array(i % 3 + 1, name=name) for i, name in enumerate(names))
    lines = (line(ops.negative, inputs[0]), line(ops.negative, inputs[-1]))
    text = listing(Program(inputs, {}, lines, [line.result for line in lines]))
    assert "  %1–%3  net   3 × float32  24 B  0.weight [1], 0.bias [2], 1.weight [3]\n" in text
    assert "  %4–%6  rest  3 × float32  24 B  as net; not used\n" in text
    assert "  %7     x     f32[1]        4 B\n" in text
    assert text.count("not used") == 1


def test_many_parameters_do_not_drown_the_page(game):
    header = str(game).partition("\n\nconstants")[0].splitlines()
    assert len(game.inputs) >= 15 and len(header) < 25


def test_no_line_is_wider_than_the_page_or_ends_in_spaces_or_parts_a_shape(game):
    for row in str(game).splitlines():
        assert len(row) <= 110 and row == row.rstrip()
        assert row.count("[") == row.count("]")


def bare(flops):
    return in_flops(flops).replace("FLOPs", "").replace("FLOP", "").strip()


def test_a_long_name_between_wide_columns_stands_alone():
    x = array(64, 32, 32, 128, name="photographs")
    params = {"axes": (1, 2, 3), "eps": 1e-5}
    one = line(
        norms.block_inverse_deviation, x, x, shape=(64, 132, 132, 128), params=params,
        layer="other.critic.norm10", source="penalties.py:1450",
    )  # fmt: skip
    rows = listing(Program((x,), {}, (one,), one.result)).splitlines()
    first = next(i for i, row in enumerate(rows) if "block_inverse" in row)
    assert re.match(r"  %2  block_inverse_deviation\( +f32\[64, 132, 132, 128\]  ", rows[first])
    assert [row.strip() for row in rows[first + 1 : first + 3]] == [
        "photographs, photographs,",
        "axes=(1, 2, 3), eps=1e-05)",
    ]
    assert all(len(row) <= 110 for row in rows)


def test_every_line_is_there_once_in_its_order_with_its_cost(game):
    rows = [row for row in str(game).splitlines() if re.match(r"[ ┌│└] %\d+ +\w+\(", row)]
    head = next(row for row in str(game).splitlines() if row.split()[:2] == ["call", "result"])
    assert len(rows) == len(game.lines)
    for row, made in zip(rows, game.lines, strict=True):
        assert row[2:].startswith(f"%{game.number(made.result)} ")
        assert f" {made.op.__name__}(" in row
        assert row[head.index("result") :].startswith(f"{of_type(made.result)} ")
        assert f" {in_bytes(made.result.nbytes)} " in row
        assert f" {bare(made.flops)} " in row


def test_every_operand_is_named(game):
    """Each input and each line that a line uses is in its call, by name or number."""
    text = re.sub(r"\n {6,}(?=\S)", " ", str(game))  # calls in one piece
    names = short_names(game.inputs)
    for made in game.lines[::7]:
        call = re.search(rf"^. %{game.number(made.result)} +(.*)$", text, re.M)[1]
        for a in made.operands:
            expected = names[a].rpartition(".")[2] if a in names else f"%{game.number(a)}"
            assert expected in call or a in game.constants


def test_the_totals_are_the_programs(game):
    text = str(game).rpartition("\n\ntotals")[2]
    for phase, (lines, flops, nbytes) in game.totals().items():
        row = re.search(rf"^  {phase} +(\d+) +([\d.]+(?: [kM])?) +([\d.]+ \w+)$", text, re.M)
        assert row.groups() == (str(lines), bare(flops), in_bytes(nbytes))
    together = re.search(r"^  together +(\d+)", text, re.M)
    assert int(together[1]) == len(game.lines)


def test_all_results_are_there(game):
    text = str(game).rpartition("\n\nresults\n")[2].partition("\n\ntotals")[0]
    counted = sum(int(n) for n in re.findall(r"(\d+) × ", text))
    assert counted + len(re.findall(r"[fi]\d\d\[", text)) == len(tg.tree.leaves(game.results))


def test_a_step_that_does_nothing():
    assert listing(Program((), {}, (), ())).startswith("0 inputs, 0 B; 0 lines, 0 FLOPs, 0 B\n")
    x = array(2, name="x")
    assert "results\n  result  f32[2]  8 B  x\n" in listing(Program((x,), {}, (), x))


@pytest.mark.parametrize(
    "n, text",
    [(0, "0 B"), (5, "5 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"),
     (300_000, "293 KiB"), (2**20, "1 MiB"), (3 * 2**40, "3072 GiB")],
)  # fmt: skip
def test_bytes(n, text):
    assert in_bytes(n) == text


@pytest.mark.parametrize(
    "n, text",
    [(0, "0 FLOPs"), (999, "999 FLOPs"), (1000, "1 kFLOP"), (65_536, "65.5 kFLOP"),
     (2_097_152, "2.1 MFLOP"), (4e9, "4 GFLOP"), (5e15, "5000 TFLOP")],
)  # fmt: skip
def test_flops(n, text):
    assert in_flops(n) == text


def test_types():
    assert of_type(array(2, 3)) == "f32[2, 3]" and of_type(array(dtype=np.int64)) == "i64[]"
    assert of_type(array(2, dtype=bool)) == "bool[2]"


def test_a_geometry_is_written_by_its_kernel():
    assert written(conv.Geometry(8, 4, 2, 1)) == "4×4 stride 2 pad 1"
    geometry = conv.Geometry((8, 9), (3, 4), (1, 2), ((0, 1), (2, 3)))
    assert written(geometry) == "3×4 stride (1, 2) pad ((0, 1), (2, 3))"


def test_short_names():
    names = ["p.first.0.weight", "p.second.0.weight", "p.second.1.w", "x", "twice", "twice"]
    values = [array(1, name=name) for name in names]
    expected = ["first.0.weight", "second.0.weight", "w", "x"]
    assert list(short_names(values).values()) == expected
    values = [array(1, name=name) for name in ["p.q.0.w", "p.q.1.w", "3"]]
    expected = ["q.0.w", "q.1.w", "3"]  # none begins with a number, unless it is all the name
    assert list(short_names(values).values()) == expected


@pytest.mark.parametrize(
    "names, short",
    [
        ({"a.b.c", "a.b.d"}, {"c", "d"}),
        ({"a.b.c", "a.d"}, {"b.c", "d"}),
        ({"a.b", "a.b.c"}, {"b", "b.c"}),
        ({"a.b", ""}, {"a.b", ""}),
        ({"a", "b"}, {"a", "b"}),
    ],
)
def test_without_common_start(names, short):
    assert set(without_common_start(names).values()) == short


# The picture

SVG = "{http://www.w3.org/2000/svg}"


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


def rectangles(root):
    """The boxes of a drawing: (x, y, right, bottom)."""
    found = []
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("rx") == "4":
            x, y, width, height = numbers(rect, "x", "y", "width", "height")
            found.append((x, y, x + width, y + height))
    return found


def segments(path):
    """The straight pieces of the lines of a path: ((x0, y0), (x1, y1))."""
    for piece in path.get("d").split("M")[1:]:
        points = [tuple(map(float, p.split()[-2:])) for p in re.split("[LQ]", piece)]
        yield from zip(points, points[1:], strict=False)


def connections(root):
    """The paths that join boxes: those of no row and no head of a box."""
    return [p for p in root.findall(f"{SVG}path") if p.get("fill") == "none"]


def faults(root):
    """What is wrong with a drawing."""
    found, boxes = [], rectangles(root)
    width, height = numbers(root, "width", "height")
    for i, (x, y, right, bottom) in enumerate(boxes):
        if x < 0 or y < 0 or right > width or bottom > height:
            found.append("a box leaves the page")
        for u, v, to, end in boxes[:i]:
            if x < to and u < right and y < end and v < bottom:
                found.append("boxes overlap")
    tracks = {}
    for path in connections(root):
        for (x0, y0), (x1, y1) in segments(path):
            left, right, low, high = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
            for u, v, to, end in boxes:
                if left < to - 1 and u + 1 < right and low < end - 1 and v + 1 < high:
                    found.append("a line is behind a box")
                elif x0 == x1 and u < x0 < to and low < end and v < high:
                    found.append("a line is behind a box")
            if x0 == x1 and high - low > 9:
                tracks.setdefault(x0, []).append((low, high, id(path)))
    for spans in tracks.values():
        for i, (low, high, one) in enumerate(spans):
            if any(low < end and start < high and one != other for start, end, other in spans[:i]):
                found.append("lines of two results lie on each other")
    rows = {}
    for group in root.iter(f"{SVG}g"):
        left, shape = group.findall(f"{SVG}text")
        words = "".join(left.itertext())
        start, end = float(left.get("x")), float(shape.get("x"))
        if start + 6.05 * len(words) + 6 > end - 6.05 * len(shape.text or ""):
            found.append("a row's texts meet")
        rows[left.get("y"), start] = words
    if len(rows) < len(list(root.iter(f"{SVG}g"))):
        found.append("rows lie on each other")
    return found


def test_nothing_overlaps(game):
    assert faults(ElementTree.fromstring(drawing.svg(game))) == []


@pytest.mark.parametrize(
    "name, planted, fault",
    [
        ("_HEAD", 4, "boxes overlap"),
        ("_curve", lambda points: "M{} {}L{} {}".format(*points[0], *points[-1]), "behind a box"),
        ("_tracks", lambda spans, gap: dict.fromkeys(spans, 0), "lines of two results"),
        ("_LETTER", 4, "texts meet"),
    ],
)
def test_a_planted_fault_is_found(name, planted, fault, monkeypatch):
    program = GAMES["perceptrons"]()
    if name == "_HEAD":  # boxes that are taller than was reckoned with
        monkeypatch.setattr(drawing.Box, "height", property(lambda box: 10))
        text = drawing.svg(program).replace('height="10" rx="4"', 'height="90" rx="4"')
    else:
        monkeypatch.setattr(drawing, name, planted)
        text = drawing.svg(program)
    assert any(fault in found for found in faults(ElementTree.fromstring(text)))


def test_every_line_and_every_use_is_drawn(game):
    root = ElementTree.fromstring(drawing.svg(game))
    tips = [title.text for title in root.iter(f"{SVG}title")]
    starts = [f"%{game.number(made.result)} = {made.op.__name__}(" for made in game.lines]
    assert all(tip.startswith(start) for tip, start in zip(tips, starts, strict=True))
    made = {line.result for line in game.lines}
    uses = sum(a in made for line in game.lines for a in dict.fromkeys(line.operands))
    heads = sum(path.get("d", "").count("z") for path in root.findall(f"{SVG}path")
                if path.get("stroke") is None)  # fmt: skip
    joints = len([p for p in root.findall(f"{SVG}path")
                  if p.get("d").endswith("v-15") and not p.get("stroke-width")])  # fmt: skip
    assert heads + joints == uses


def test_a_box_is_a_visit_to_a_layer_and_a_lane_goes_one_way():
    boxes = drawing.boxes(GAMES["adam"]())
    drawing._place(boxes)
    for before, box in zip(boxes, boxes[1:], strict=False):
        assert (before.phase, before.place) != (box.phase, box.place)
        assert box.lane - before.lane in (0, 1)
    slope = next(box.lane for box in boxes if box.phase == "gradient")
    second = next(box.lane for box in boxes if box.phase == "second order")
    down = [box.column for box in boxes if box.lane == slope]
    up = [box.column for box in boxes if box.lane == second]
    assert down == [3, 2, 1, 0] and up == [0, 1, 2, 3]


def test_a_tall_box_goes_on_in_another():
    program = chain(*[None] * 70, layer="net.0")
    assert [len(box.lines) for box in drawing.boxes(program)] == [30, 30, 10]
    assert faults(ElementTree.fromstring(drawing.svg(program))) == []


def test_fused_calls_are_joined_by_a_bar_and_results_are_empty_dots():
    root = ElementTree.fromstring(drawing.svg(chain(0, 0, 0, None)))
    bars = [path for path in root.findall(f"{SVG}path") if path.get("stroke-width") == "3"]
    dots = [dot.get("fill") for dot in root.iter(f"{SVG}circle")]
    assert len(bars) == 2 and dots[-1] == "white" and dots[:-1] == ["#2f6690"] * 3


def test_strange_names_are_escaped():
    op = Primitive(lambda a: a)
    op.__name__ = '<f & "g">'
    x = array(4, name='p.<x>"')
    made = line(op, x, layer='a.<"&>')
    program = Program((x,), {}, (made,), made.result)
    tips = ElementTree.fromstring(drawing.svg(program)).iter(f"{SVG}title")
    assert [tip.text.splitlines()[0] for tip in tips] == ['%2 = <f & "g">(<x>")']
    text = drawing.dot(program)
    assert r"label=\"" not in text and r"<f & \"g\">" in text
    assert text.replace(r"\"", "").count('"') % 2 == 0


def test_a_program_without_lines_has_a_picture():
    root = ElementTree.fromstring(drawing.svg(Program((), {}, (), ())))
    assert rectangles(root) == []


def test_graphviz_gets_every_call_and_every_use(game):
    text, number = drawing.dot(game), game.number
    nodes = re.findall(r"^    n(\d+) \[", text, re.M)
    assert nodes == [str(number(made.result)) for made in game.lines]
    made = {line.result for line in game.lines}
    uses = {
        (number(a), number(line.result)) for line in game.lines for a in line.operands if a in made
    }
    edges = re.findall(r"^  n(\d+) -> n(\d+);$", text, re.M)
    assert {(int(a), int(b)) for a, b in edges} == uses and len(edges) == len(uses)
    assert text.count("{") == text.count("}") == 1 + len(drawing.boxes(game))


# The page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the page's examples leave behind."""
    names = {"__name__": "__main__"}
    with (
        contextlib.chdir(tmp_path_factory.mktemp("page")),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        for block in python_blocks(PAGE.read_text(encoding="utf-8")):
            for example in doctest.DocTestParser().get_examples(block):
                exec(compile(example.source, PAGE.name, "single"), names)
    return names


def added(text):
    """The rows of the page's table: (first line, last line, phase, lines, operations)."""
    row = r"^\| %(\d+)–%(\d+) \| ([a-z ]+) \| (\d+) lines? \| ([\d,]+) \|"
    return [
        (int(a), int(b), phase, int(n), int(flops.replace(",", "")))
        for a, b, phase, n, flops in re.findall(row, text, re.M)
    ]


def wrong_rows(rows, program):
    at = {program.number(line.result): line for line in program.lines}
    return [
        row
        for row in rows
        for lines in [[at[i] for i in range(row[0], row[1] + 1)]]
        if {line.phase for line in lines} != {row[2]}
        or (len(lines), sum(line.flops for line in lines)) != row[3:]
    ]


def outline(lines):
    return [(line.op, line.params, line.result.shape, line.phase, line.layer) for line in lines]


def test_the_pages_table_is_what_the_penalty_adds(page):
    program, plain = page["program"], page["plain"]
    rows = added(PAGE.read_text(encoding="utf-8"))
    assert len(rows) == 7 and wrong_rows(rows, program) == []
    numbers = {i for first, last, *_ in rows for i in range(first, last + 1)}
    kept = [made for made in program.lines if program.number(made.result) not in numbers]
    assert outline(kept) == outline(plain.lines)
    assert [wrong_rows([replaced], program) for replaced in [(38, 42, *rows[0][2:])]] != [[]]


def test_the_numbers_in_the_pages_sentences_are_lines_of_its_listing(page):
    """What the page says in words of single lines, said again in code."""
    program = page["program"]
    at = {program.number(made.result): made for made in program.lines}
    number = program.number

    def uses(i, *others):
        return {number(a) for a in at[i].operands} >= set(others)

    weights = {v.name: number(v) for v in program.inputs}
    assert (weights["players.critic.0.weight"], weights["players.critic.2.bias"]) == (7, 12)
    assert at[25].op is ops.affine and uses(25, 7)
    assert at[28].op is ops.gate and uses(28, 27) and at[71].layer == "players.critic.2"
    assert [at[i].layer[-1] for i in (69, 78)] == ["2", "0"]
    assert at[42].op is ops.affine and uses(42, 41) and at[53].result.shape == (128, 2)
    assert uses(90, 89, 7) and uses(93, 90, 42) and uses(50, 44) and uses(52, 42)
    assert uses(91, 89, 52) and at[91].params["ta"] and uses(92, 91, 77) and uses(100, 92, 7)
    second = [made for made in program.lines if made.phase == "second order"]
    products = [number(m.result) for m in second if m.op is ops.matmul and m.params.get("ta")]
    assert products == [91, 95, 98]
    before = {number(a) for made in second for a in made.operands if a.name is None}
    assert {i for i in before if at[i].phase == "forward"} == {42, 44}
    assert [made.layer[-1] for made in second] == list("0000111122")


def test_the_picture_is_that_of_the_pages_program(page):
    picture = PICTURE.read_text(encoding="utf-8")
    assert picture == drawing.svg(page["program"], sources=False), (
        f"write drawing.svg(program, sources=False) of the page's program to {PICTURE.name} anew"
    )
    assert ".py:" not in picture


def test_the_picture_changes_with_the_program(page):
    program = page["program"]
    other = program.with_lines([*program.lines[:-1], replace(program.lines[-1], phase="forward")])
    assert drawing.svg(other) != drawing.svg(program)

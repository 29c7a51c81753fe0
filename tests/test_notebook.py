"""What notebooks show: well-formed HTML and SVG, every text escaped, no colour of a background."""

import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest

import tinygan as tg
from tinygan import html, models, nn, ops
from tinygan.check import check_gradients
from tinygan.engine import primitive
from tinygan.loop import History
from tinygan.study.explain import explain
from tinygan.study.inspect import inspect

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """The cells and texts of a piece of HTML; fails where a tag is not closed as it was opened."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.rows, self.texts, self.tags = [], [], [], set()
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} closes another"

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def read(thing):
    """The page that a thing shows, after the checks that hold for all."""
    text = thing if isinstance(thing, str) else thing._repr_html_()
    assert "background" not in text and "bgcolor" not in text
    page = Page(text)
    widths = {len(row) for row in page.rows}
    page.text = "".join(page.texts)
    page.widths = widths
    ElementTree.fromstring(f"<div>{text}</div>")  # XML as well, so that SVG may stand in it
    return page


def test_what_is_not_well_formed_is_seen():
    for wrong in ("<table><tr></table></tr>", "<p>", "<b>a</i>"):
        with pytest.raises(AssertionError):
            Page(wrong)


# Tensors


def test_a_tensor():
    h = ops.multiply(tg.track(np.arange(8.0).reshape(2, 4), "x"), 0.5)
    head, row = read(h).rows
    assert head == ["Tensor", "made by", "shape", "dtype", "min", "mean", "max", "numbers"]
    expected = ["", "multiply", "[2, 4]", "float64", "0", "1.75", "3.5"]
    assert row == [*expected, "0, 0.5, 1, 1.5, 2, 2.5, …"]
    h.name = "<h>&"
    assert read(h).rows[1][0] == "<h>&" and "<h>" not in h._repr_html_()


@pytest.mark.parametrize(
    "data, shown",
    [
        (np.array(2.0, np.float32), ["[]", "float32", "2", "2", "2", "2"]),
        (np.zeros((0, 3)), ["[0, 3]", "float64", "none"]),
        (np.array([1.0, np.nan, np.inf]), ["[3]", "float64", "1", "1", "1", "1 NaN, 1 inf",
                                           "1, nan, inf"]),
        (np.array([np.nan]), ["[1]", "float64", "1 NaN", "nan"]),
        (np.array([1.7e308, 1.7e308]), ["[2]", "float64", "1.7e+308", "inf", "1.7e+308",
                                        "1.7e+308, 1.7e+308"]),
    ],
)  # fmt: skip
def test_tensors_of_all_kinds(data, shown):
    assert read(tg.track(data)).rows[1] == ["", "leaf", *shown]


def test_a_tensor_on_a_gpu(stand_in):
    a = tg.track(stand_in.asarray(np.array([1.0, 3.0])), "a")
    assert read(a).rows[1] == ["a", "leaf", "[2]", "float64", "1", "2", "3", "1, 3"]


def test_showing_a_tensor_computes_nothing_and_costs_an_import_nothing():
    calls = []
    x = ops.tanh(tg.track(np.ones(2)))
    with tg.observe(lambda *call: calls.append(call)):
        x._repr_html_()
    assert calls == []
    code = "import sys, tinygan; print([m for m in sys.modules if m in ('tinygan.html', 'html')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Models


def test_models_show_their_layers():
    layers = {"in": nn.Conv(3, 8, 4, 2, 1), "<bend>": ops.relu, "flat": nn.Flatten()}
    net = models.Net("A & B", (8, 8, 3), {**layers, "out": nn.Linear(128, 1)})
    page = read(net)
    assert "A & B" in page.text and page.rows[0] == ["", "layer", "output", "parameters"]
    assert ["<bend>", "relu", "4×4×8", ""] in page.rows
    assert ["in", "Conv 4×4 stride 2 pad 1", "4×4×8", "392"] in page.rows
    assert page.rows[-1] == ["", "total", "", "521"]


def test_a_perceptron_and_a_pair():
    pair = models.mlp_pair(2, 3, 5, 1, activation=ops.tanh)
    expected = [["", "input", "3", ""], ["0", "Linear, tanh", "5", "20"],
                ["1", "Linear", "2", "12"], ["", "total", "", "32"]]  # fmt: skip
    assert read(pair.generator).rows[1:] == expected
    assert models.count_parameters(pair.generator.init(tg.Stream(0))) == 32
    page = read(pair)
    assert page.rows[1:5] == expected and page.rows[9][-1] == "21"
    assert "Generator" in page.text and "Critic" in page.text
    critic = SimpleNamespace()  # a model without a table
    assert "namespace()" in read(models.Pair(pair.generator, critic)).text


def test_an_auto_encoder_shows_both_halves():
    page = read(models.conv_autoencoder(8, 1, (2, 4), 3))
    totals = [int(row[-1].replace(",", "")) for row in page.rows if row[1] == "total"]
    model = models.conv_autoencoder(8, 1, (2, 4), 3)
    assert sum(totals) == models.count_parameters(model.init(tg.Stream(0)))


# Steps


def step(w, x):
    w = tg.track(w)
    return tg.grad_values(ops.mean(ops.square(x @ w)), w)


def test_a_program_is_a_picture_and_a_compiled_step_a_table():
    given = np.ones((2, 1)), np.ones((3, 2))
    program = tg.trace(step, *given)
    assert ElementTree.fromstring(program._repr_svg_()).tag == f"{SVG}svg"
    assert not hasattr(program, "_repr_html_"), "which would be shown in the picture's place"
    fast = tg.compile(step)
    assert "compiled step" in read(fast).text and len(read(fast).rows) == 1
    fast(*given)
    fast(given[0], np.ones((5, 2)))
    head, *rows = read(fast).rows
    optimised = fast.program(*given)
    assert head[0] == "inputs" and [row[0] for row in rows] == ["2", "2"]
    assert str(len(optimised.lines)) in {row[1] for row in rows} and rows[0][-1] == "CPU"
    read(tg.compile(lambda x: x))  # <lambda>


class Numbers(NamedTuple):
    step: int
    critic_loss: float
    generator_loss: float


def test_a_history_is_its_last_records_and_its_losses():
    records = [Numbers(i, float(i), -2.0 * i) for i in range(1, 9)]
    page = read(History(records))
    assert page.rows[0] == ["step", "critic_loss", "generator_loss"]
    assert [row[0] for row in page.rows[1:]] == ["4", "5", "6", "7", "8"]
    assert "8 records, the last 5" in page.text and {"svg", "polyline"} <= page.tags
    page = read(History([Numbers(12345, 0.123456, -1e-7)]))
    assert page.rows[1] == ["12345", "0.1235", "-1e-07"]
    page = read(History(records[:1]))
    assert "svg" not in page.tags and len(page.rows) == 2
    page = read(History([], ("step", "loss")))
    assert page.rows == [["step", "loss"]] and "0 records" in page.text


def test_curves_are_where_the_numbers_are():
    x, y = np.arange(0.0, 11), np.array([*range(10), np.nan], float)
    root = ElementTree.fromstring(html.curves(x, {"a<b": y, "flat": np.full(11, 3.0)}))
    first, second = (
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in root.iter(f"{SVG}polyline")
    )
    assert len(first) == 10 and len(second) == 11
    (x0, y0), (x1, y1) = first[0], first[-1]
    for i, (a, b) in enumerate(first):  # lines from corner to corner; down is larger
        assert a == pytest.approx(x0 + i * (x1 - x0) / 9, abs=0.11)
        assert b == pytest.approx(y0 + i * (y1 - y0) / 9, abs=0.11)
    assert x0 < x1 and y0 > y1 and all(b == pytest.approx(first[3][1]) for _, b in second)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"9", "0", "10", "a<b", "flat"} <= set(texts)
    assert len({line.get("stroke") for line in root.iter(f"{SVG}polyline")}) == 2


def test_many_points_become_medians():
    x = np.arange(10_000.0)
    root = ElementTree.fromstring(html.curves(x, {"a": np.where(x % 50 == 0, 1e6, x)}))
    (line,) = root.iter(f"{SVG}polyline")
    points = line.get("points").split()
    assert 100 < len(points) < 200
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[2:4] == ["0", "9999"], "the ends of x are not the medians' ends"
    assert "1e+06" not in texts, "one of 50 is no median"
    # What is not finite is left out, and not the block in which it is.
    y, broken = np.sin(x / 900), np.sin(x / 900)
    broken[::7], broken[3::11], broken[5000:6000] = np.nan, np.inf, np.nan
    whole, holed = (
        dict(pair.split(",") for pair in line.get("points").split())
        for line in ElementTree.fromstring(html.curves(x, {"y": y, "broken": broken})).iter(
            f"{SVG}polyline"
        )
    )
    assert 0.88 * len(whole) < len(holed) < 0.92 * len(whole)
    assert max(abs(float(b) - float(whole[a])) for a, b in holed.items()) < 1.5  # pixels
    names = [f"of_player_{i}_loss" for i in range(5)]
    root = ElementTree.fromstring(html.curves(x, dict.fromkeys(names, x)))
    legend = [t for t in root.iter(f"{SVG}text") if t.text in names]
    assert len({t.get("y") for t in legend}) > 1
    assert max(float(t.get("x")) + 7 * len(t.text) for t in legend) < 420
    empty = html.curves(np.zeros(0), {"a": np.zeros(0)})
    assert ElementTree.fromstring(empty).tag == f"{SVG}svg"
    nothing = html.curves(np.arange(3.0), {"a": np.full(3, np.nan)})
    assert ElementTree.fromstring(nothing).tag == f"{SVG}svg"


# Reports


def test_a_report_of_checked_gradients():
    a = np.array([0.4, 1.2])
    page = read(check_gradients(lambda x: ops.tanh(x), a, order=2))
    assert page.rows[0][:2] == ["order", "oracle"] and len(page.rows) == 5
    assert "right to 1e-06" in page.text and "b" not in page.tags
    near = a - 0.0002  # of the kink: the steps of a difference go over it
    wrong = check_gradients(lambda x: ops.relu(ops.subtract(x, near)), a, order=1, raises=False)
    page = read(wrong)
    assert "WRONG" in page.text and "kink" in page.text and "b" in page.tags


def test_an_inspection_and_what_it_found():
    x = tg.track(np.array([0.0, 1.0]), "<x>")
    found = inspect(ops.sum(ops.sqrt(x)))
    page = read(found)
    assert page.widths == {13} and page.rows[1][1] == "<x>" and page.rows[1][-1] == "ȳ: 1 inf"
    assert page.rows[1][3] == "float64[2]"
    assert "by the rule of sqrt.1 = sqrt(<x>)" in read(found.first_not_finite()).text
    assert "no gradients: a result has shape [2]" in read(inspect(ops.tanh(x))).text


def test_an_explanation():
    @primitive
    def less_than_twice(a):
        """<b>Bold</b> & bad.

        y = 2a

        Gradient: ā = 2·ȳ
        """
        return 2 * a

    less_than_twice.vjp(lambda g, y, a: g if len(g.shape) < 0 else ops.multiply(g, 2.0))
    page = read(explain(less_than_twice))
    assert "<b>Bold</b> & bad." in page.text and "g if len(g.shape) < 0 else" in page.text
    assert [row[0] for row in page.rows] == ["order", "1", "2", "3"]
    for op in (ops.logsumexp, ops.equal, "concatenate"):
        assert str(explain(op).equation) in read(explain(op)).text

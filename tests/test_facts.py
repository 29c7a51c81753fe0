"""Every fact to the digits given, by the functions of examples/facts.py, and docs/facts.md."""

import doctest
import functools
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygan as tg
from tinygan import models, ops, penalties
from tinygan.study import optimal, paths, vector_field

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import facts  # noqa: E402
from facts import FACTS, Number  # noqa: E402

GIVEN = {
    "1, Figure 1": [
        "0.5790643075", "0.3514136245", "0.5812612449", "0.1131058392", "0.5934432694",
        "0.4794979071", "-1.1600826828", "0.01838021", "0.67196975", "0.7523", "0.7489",
    ],
    "2": ["0.449010", "0.850990"],
    "Dirac-GAN": [
        "3.0969487", "1.4210189", "1.0021520", "1.0241189", "2.64266e-6", "2.30091e-7",
        "9.5287e-22", "7.4812e-17",
    ],
    "eigenvalues": ["0.47697"],
}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return facts.measured()


def wrong(numbers):
    return [number for number in numbers if not number.holds()]


@pytest.mark.parametrize("key", FACTS)
def test_every_number_of_a_fact_is_right(key, found):
    assert found[key] and wrong(found[key]) == []


def test_all_eight_facts_and_every_given_number_are_there(found):
    assert [key for key in FACTS if key.isdigit()] == list("12345678")
    given = {
        key: [number.golden for number in numbers if isinstance(number.golden, str)]
        for key, numbers in found.items()
    }
    assert {key: numbers for key, numbers in given.items() if numbers} == GIVEN


def test_the_page_is_what_the_script_writes(found):
    assert (ROOT / "docs" / "facts.md").read_text(encoding="utf-8") == facts.page(found)


def test_the_functions_that_the_page_names_exist():
    for fact in FACTS.values():
        assert fact.shown_by and all(
            functools.reduce(getattr, name.split("."), tg) for name in fact.shown_by
        )


def test_digits_are_those_of_the_text():
    assert doctest.testmod(facts) == (0, 2)
    assert Number("", "0.7523", 0.75234).holds() and not Number("", "0.7523", 0.75236).holds()
    assert Number("", "9.5287e-22", 9.52874e-22).holds()
    assert not Number("", "9.5287e-22", 9.52876e-22).holds()
    assert Number("", 0.5, 0.5 + 5e-13).holds() and not Number("", 0.5, 0.5 + 5e-12).holds()
    assert Number("", 1.0, 1.0, "≥").holds() and not Number("", 1.0, 1 - 1e-9, "≥").holds()
    assert Number("", 1.0, 0.9, "≤").holds() and not Number("", 1.0, 1 + 1e-9, "≤").holds()
    assert Number("", math.inf, math.inf).holds() and not Number("", math.inf, 700.0).holds()
    for relation in "=≥≤":
        assert not Number("", 1.0, math.nan, relation).holds()


def one_norm_of_the_batch(critic, points, *, centre=0.0):
    x = tg.track(points)
    norm = ops.norm(tg.grad(ops.sum(critic(x)), x), axis=None)
    return ops.square(ops.subtract(norm, centre))


def nine_tenths(samples, epsilon, alpha, right=models.sufficient_k):
    return 0.9 * right(samples, epsilon, alpha)


def a_millionth_more(*args, right=paths.line_integrals, **more):
    integrals = right(*args, **more)
    return integrals._replace(integral=integrals.integral * 1.000001)


def towards(gan, real, z, right=vector_field.vector_field):
    field = right(gan, real, z)
    return lambda pair: tg.tree_map(ops.negative, field(pair))


FAULTS = {  # of a fact's key: where, what, and a wrong one
    "1": (optimal, "optimal_gan", lambda p, q, right=optimal.optimal_gan: right(q, p)),
    "1, Figure 1": (optimal, "kullback_leibler", lambda p, q, rule: 0.4794979072),
    "2": (optimal, "location_gradient", lambda loss, critic, fake, rule: [-0.449010]),
    "3": (facts.metrics, "wasserstein1", lambda x, y: np.square(x - y).sum(1).mean()),
    "4": (models, "sufficient_k", nine_tenths),
    "5": (paths, "line_integrals", a_millionth_more),
    "6": (vector_field, "alternating_map", vector_field.simultaneous_map),
    "7": (paths, "path_slopes", None),
    "8": (penalties, "gradient_penalty", one_norm_of_the_batch),
    "Dirac-GAN": (penalties, "r1", lambda weight, right=penalties.r1: right(2 * weight)),
    "eigenvalues": (vector_field, "vector_field", towards),
}


@pytest.mark.parametrize("key", FAULTS)
def test_a_planted_fault_is_seen(key, monkeypatch):
    where, name, planted = FAULTS[key]
    if key == "7":  # the deviation with 1/(n − 1)
        right = paths.PathSlopes.variation.fget
        n = 32 * 20
        monkeypatch.setattr(
            paths.PathSlopes, "variation", property(lambda s: right(s) * math.sqrt(n / (n - 1)))
        )
    else:
        monkeypatch.setattr(where, name, planted)
    assert wrong(FACTS[key].measure())


def test_the_command_prints_writes_and_tells_what_is_wrong(tmp_path, capsys, monkeypatch):
    fact = FACTS["8"]
    monkeypatch.setattr(facts, "FACTS", {"8": fact})
    facts.main(["--page", str(tmp_path / "facts.md")])
    assert "(‖w‖ − 1)²" in capsys.readouterr().out
    assert (tmp_path / "facts.md").read_text(encoding="utf-8").count("\n|") == 7
    planted = fact._replace(measure=lambda: [Number("a planted one", "0.5", 0.6)])
    monkeypatch.setattr(facts, "FACTS", {"8": planted})
    with pytest.raises(SystemExit, match="1 numbers are wrong: a planted one"):
        facts.main([])
    assert "WRONG" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        facts.main(["--page", str(tmp_path / "nowhere" / "facts.md")])
    assert "no folder" in capsys.readouterr().err

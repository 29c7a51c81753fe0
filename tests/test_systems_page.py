"""docs/systems.md: it has every system, and what it says checks them is there."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import page as listed  # noqa: E402
from presets import PRESETS  # noqa: E402

PAGE = (ROOT / "docs" / "systems.md").read_text()
ROWS = [row for rows in listed.ROWS.values() for row in rows]


def names_in(file):
    return {node.name for node in ast.parse(file.read_text()).body if hasattr(node, "name")}


def lines_of(name):
    return [line for line in PAGE.splitlines() if f"| `{name}`: " in line]


def test_every_system_has_a_row():
    names = {name for _, names, _ in ROWS for name in names}
    assert names == {*PRESETS, "epsilon_optimal.py"}


@pytest.mark.parametrize("what, names, tests", ROWS, ids=[row[0][:30] for row in ROWS])
def test_the_page_shows_a_row_with_its_tests_runs_and_pictures(what, names, tests):
    assert f"| {what} |" in PAGE and tests
    for test in tests:
        file, name = test.split("::")
        assert f"`{test}`" in PAGE and name in names_in(ROOT / "tests" / file), test
    for name in set(names) & set(PRESETS):
        for line in lines_of(name):
            assert PRESETS[name].about in line
            assert re.search(r"[\d,]+ iterations.*\| \d+ \|$", line)


def test_every_picture_is_there():
    pictures = re.findall(r'src="([^"]+)"', PAGE) + re.findall(r"\]\((images/[^)]+)\)", PAGE)
    assert len(pictures) > len(PRESETS)
    for picture in pictures:
        assert (ROOT / "docs" / picture).read_bytes().startswith(b"\x89PNG")


def test_no_picture_lies_there_without_a_system():
    pictures = {path.stem for path in (ROOT / "docs" / "images" / "systems").iterdir()}
    assert pictures == set(PRESETS)


def test_the_commands_of_the_page_are_the_examples():
    for line in listed.TOP.splitlines():
        if line.startswith("python "):
            assert (ROOT / line.split()[1]).exists()


def test_iterations_are_those_of_the_short_settings():
    for name, preset in PRESETS.items():
        steps = preset.short.get("steps", preset.steps)
        assert lines_of(name) and all(f">{steps:,} iterations" in line for line in lines_of(name))

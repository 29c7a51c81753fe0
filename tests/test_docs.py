"""Every example in the documents and docstrings runs, and answers as printed."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import tinygan

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MODULES = ["tinygan"] + [
    module.name
    for module in pkgutil.walk_packages(tinygan.__path__, "tinygan.")
    if not module.name.endswith("__main__")
]
AT_LEAST = {  # examples
    "docs/reading_a_gradient.md": 50,
    "docs/reading_a_program.md": 20,
    "tinygan.study.listing": 3,
    "tinygan.study.inspect": 4,
    "tinygan.study.explain": 3,
    "docs/microscopes.md": 40,
    "tinygan.replay.listing": 3,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Examples that write files write them to a folder of their own."""
    monkeypatch.chdir(tmp_path)


def place(page):
    return page.relative_to(ROOT).as_posix()


def python_blocks(text):
    """The Python blocks of a Markdown page, each below as many empty lines as precede it there."""
    blocks, language = [], None
    for number, line in enumerate(text.splitlines()):
        fence = re.match(r"```+(\w*)", line)
        if fence:
            language = fence[1] if language is None else None
            if language in ("python", "pycon"):
                blocks.append("\n" * (number + 1))
        elif language in ("python", "pycon"):
            blocks[-1] += line + "\n"
    return blocks


def run_page(text, name):
    """Run a page's blocks one after the other in one namespace; the number of its examples.

    Python without prompts is run in README only: elsewhere it may be a sketch.
    """
    names, count = {"__name__": "__main__"}, 0
    for block in python_blocks(text):
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, {}, name, name, 0)
            test.globs = names
            count += run_examples(test)
        elif name == "README.md":
            exec(compile(block, name, "exec"), names)
    return count


def run_examples(test):
    """Run a doctest; fail with doctest's own report."""
    report = []
    doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
    if report:
        pytest.fail("".join(report), pytrace=False)
    return len(test.examples)


def as_here(page):
    """The kernels give arrays in other memory, of which a recording has a copy more."""
    if place(page) != "docs/reading_a_program.md":
        return pytest.param(page, id=place(page))
    mark = pytest.mark.numpy_path("the lines of a recording")
    return pytest.param(page, id=place(page), marks=mark)


@pytest.mark.parametrize("page", [as_here(page) for page in PAGES])
def test_the_examples_of_a_page_answer_as_printed(page):
    count = run_page(page.read_text(encoding="utf-8"), place(page))
    assert count >= AT_LEAST.get(place(page), 0), "examples are missing, or are not found"


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_answer_as_printed(name):
    tests = doctest.DocTestFinder().find(importlib.import_module(name))
    count = sum(run_examples(test) for test in tests)
    assert count >= AT_LEAST.get(name, 0), "examples are missing, or are not found"


def test_what_should_have_examples_exists():
    assert AT_LEAST.keys() <= {*map(place, PAGES), *MODULES}


def test_examples_of_primitives_are_found():
    found = {test.name for test in doctest.DocTestFinder().find(tinygan.ops)}
    assert {"tinygan.ops.gate", "tinygan.ops.relu"} <= found


PAGE = """\
Text, and >>> no example here.

```pycon
>>> a = 1
>>> a + 1
{answer}
```

```sh
>>> no Python either
```

```python
assert a == 1
a = 5
```

```python
>>> a
5
```
"""


def test_blocks_run_one_after_the_other_each_to_its_end():
    assert run_page(PAGE.format(answer=2), "README.md") == 3


def test_a_wrong_answer_fails_with_its_line():
    with pytest.raises(pytest.fail.Exception, match='File "README.md", line 5'):
        run_page(PAGE.format(answer=3), "README.md")


def test_a_wrong_statement_fails_in_readme():
    with pytest.raises(AssertionError):
        run_page(PAGE.format(answer=2).replace("a == 1", "a == 2"), "README.md")


def test_elsewhere_code_without_prompts_is_not_run():
    page = PAGE.replace("a == 1", "False").replace("5\n```", "1\n```")
    assert run_page(page.format(answer=2), "docs/page.md") == 3

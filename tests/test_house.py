"""The rules of the house: who imports whom, what a rule may use, what a docstring must say."""

import ast
import builtins
import dis
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import tinygan
import tinygan.kernels
from tinygan import ops
from tinygan.engine import Primitive, primitive

ROOT = Path(tinygan.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
FILES["tinygan"] = FILES.pop("__init__")
KERNELS = Path(tinygan.kernels.__file__).parent  # beside tinygan in the clone, within it elsewhere
FILES |= {
    f"kernels.{path.stem}".removesuffix(".__init__"): path for path in sorted(KERNELS.glob("*.py"))
}

# Imports

FLOOR = {"tree", "backend", "parallel", "kernels", "html"}
CORE = FLOOR | {"engine", "ops"}
MAY_IMPORT = {
    "tree": set(),
    "kernels": set(),
    "backend": {"kernels"},
    "parallel": set(),
    "html": {"backend"},
    "engine": FLOOR,
    "ops": FLOOR | {"engine"},
    "check": FLOOR | {"engine"},
    "notation": CORE | {"conv"},
    "replay": CORE | {"conv", "norms", "optim", "notation"},
    "lowering": {"backend", "parallel"},
    "conv": CORE | {"lowering"},
    "norms": CORE,
    "nn": CORE | {"conv", "norms"},
    "spectral": CORE | {"nn"},
    "models": CORE | {"conv", "norms", "nn"},
    "losses": CORE,
    "penalties": CORE,
    "optim": CORE,
    "data": CORE,
    "metrics": CORE,
    "weights": CORE,
    "torch_import": CORE | {"models", "nn"},
    "ema": CORE | {"optim", "spectral"},
    "game": CORE | {"spectral"},
    "image_scores": CORE | {"data", "metrics", "models", "nn", "weights"},
}
ABOVE_ALL = {"train", "loop", "systems", "algorithms", "study", "tinygan"}


def place(module):
    """The row of the table: ``models`` for ``models.mlp``."""
    return module.partition(".")[0]


def imports(source, module, is_package=False):
    """The tinygan modules that ``source`` imports, without the name of the package."""
    found = set()
    parts = module.split(".") if module != "tinygan" else []
    package = parts if is_package else parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ["tinygan", *package[: len(package) - node.level + 1]]
                start = ".".join(base + ([node.module] if node.module else []))
            else:
                start = node.module
            found.add(start)
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return {
        name.removeprefix("tinygan.")
        for name in found
        if name.startswith("tinygan.") and place(name.removeprefix("tinygan.")) in PLACES
    }


PLACES = {place(module) for module in FILES} | set(MAY_IMPORT) | ABOVE_ALL


def wrong_arrows(module, source, is_package=False):
    here = place(module)
    if here in ABOVE_ALL:
        return set()
    allowed = MAY_IMPORT[here] | {here}
    return {name for name in imports(source, module, is_package) if place(name) not in allowed}


def test_every_module_has_its_place():
    unknown = {place(module) for module in FILES} - set(MAY_IMPORT) - ABOVE_ALL
    assert not unknown, f"say in MAY_IMPORT what {sorted(unknown)} may import"


@pytest.mark.parametrize("module", FILES)
def test_imports_point_one_way(module):
    path = FILES[module]
    wrong = wrong_arrows(module, path.read_text(), path.name == "__init__.py")
    assert not wrong, f"{module} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    "module, source, wrong",
    [
        ("engine", "from tinygan import ops", {"ops"}),
        ("engine", "from tinygan.ops import exp", {"ops", "ops.exp"}),
        ("engine", "def f():\n    import tinygan.nn", {"nn"}),
        ("tree", "from . import engine", {"engine"}),
        ("kernels.conv", "from tinygan.backend import to_host", {"backend", "backend.to_host"}),
        ("kernels.conv", "from .launch import Kernel\nfrom tinygan.kernels import tiles", set()),
        ("models.mlp", "from ..losses import minimax", {"losses", "losses.minimax"}),
        ("models.mlp", "from .dcgan import DCGAN\nfrom .. import nn", set()),
        ("check", "from tinygan import ops, tree", {"ops"}),
        ("losses", "from tinygan import penalties as p", {"penalties"}),
        ("optim", "import tinygan.train", {"train"}),
        ("ops", "from tinygan.backend import array_module\nimport numpy", set()),
        ("game", "from tinygan import optim", {"optim"}),
        ("spectral", "from tinygan.models.net import Net", {"models.net", "models.net.Net"}),
        ("ema", "from tinygan import models, tree\nfrom tinygan.optim import blend", {"models"}),
        ("image_scores", "from tinygan import loop, metrics", {"loop"}),
        ("models.mlp", "from tinygan.systems import acgan", {"systems", "systems.acgan"}),
        ("systems.acgan", "from tinygan import train, loop, ema", set()),
        ("study.plots", "from tinygan import train, ops", set()),
    ],
)
def test_a_planted_wrong_arrow_is_found(module, source, wrong):
    assert wrong_arrows(module, source) == wrong


def mentions_of(library, source):
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module)
    return [name for name in names if name.partition(".")[0] in (library, library + "x")]


def test_only_the_backend_imports_cupy():
    importers = [m for m, path in FILES.items() if mentions_of("cupy", path.read_text())]
    assert importers == ["backend"]
    assert mentions_of("cupy", "def f():\n    from cupyx.scipy import special")


def libraries(source):
    """The top names of what ``source`` imports."""
    tops = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add("." if node.level else node.module.partition(".")[0])
    return tops


def test_the_tree_imports_nothing_but_the_standard_library():
    assert libraries(FILES["tree"].read_text()) <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", [m for m in FILES if place(m) == "kernels"])
def test_the_kernels_import_only_numpy(module):
    allowed = {"numpy", "tinygan", "."} | set(sys.stdlib_module_names)
    assert libraries(FILES[module].read_text()) <= allowed


def test_importing_tinygan_brings_no_heavy_library():
    code = (
        "import sys, tinygan\n"
        "heavy = {'cupy', 'scipy', 'matplotlib', 'tqdm', 'PIL', 'threadpoolctl'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# Words

BELOW_LOSSES = [
    *[
        "tree",
        "kernels",
        "backend",
        "parallel",
        "engine",
        "ops",
        "check",
        "lowering",
        "conv",
        "norms",
        "nn",
        "notation",
        "replay",
    ]
]
GAN_WORDS = re.compile(
    r"discriminat\w*|critics?\b|generators?\b|adversar\w*|wasserstein|\bw?gans?\b|\bdcgan\w*", re.I
)
NOT_ABOUT_GANS = re.compile(r"tinygan|(numpy's|bit|number|random) generators?", re.I)


def gan_words(source):
    """The GAN words among the identifiers and strings of a source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        texts = [
            getattr(node, field)
            for field in ("id", "name", "attr", "arg", "value", "asname")
            if isinstance(getattr(node, field, None), str)
        ]
        for text in texts:
            text = NOT_ABOUT_GANS.sub("", text).replace("_", " ")
            found += GAN_WORDS.findall(text)
    return found


@pytest.mark.parametrize("module", [m for m in FILES if place(m) in BELOW_LOSSES])
def test_no_gan_word_below_the_losses(module):
    assert gan_words(FILES[module].read_text()) == []


@pytest.mark.parametrize(
    "source, words",
    [
        ("def critic_step(): pass", ["critic"]),
        ("x = 'the Discriminator'", ["Discriminator"]),
        ("def f(generator): pass", ["generator"]),
        ('"""For GANs, WGAN and DCGAN-32."""', ["GANs", "WGAN", "DCGAN"]),
        ("from tinygan import tree\nx = 'tinygan[cuda]'", []),
        ("'''NumPy's bit generator; organ, elegant, began'''", []),
    ],
)
def test_planted_gan_words_are_found(source, words):
    assert gan_words(source) == words


# The house law

ATTRIBUTES = {"shape", "ndim", "size", "argsort"}
BUILTINS = {"tuple", "int", "range", "len", "isinstance", "enumerate", "zip", "slice", "sorted"}
GLOBAL, ATTRIBUTE = {"LOAD_GLOBAL", "LOAD_NAME"}, {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"}


def codes(code):
    """A code object and those inside it: lambdas, generator expressions."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from codes(const)


def violations(rule, seen=None):
    """What a rule uses beyond g, y, its inputs, static parameters and primitives."""
    seen = set() if seen is None else seen
    if rule in seen:
        return []
    seen.add(rule)
    found = []
    if rule.__closure__ is not None:
        found.append(f"closes over {', '.join(rule.__code__.co_freevars)}")
    for default in [*(rule.__defaults__ or ()), *(rule.__kwdefaults__ or {}).values()]:
        if not isinstance(default, (type(None), bool, int, float, str, tuple)):
            found.append(f"has a default of type {type(default).__name__}")
    for code in codes(rule.__code__):
        before = None
        for step in dis.get_instructions(code):
            if step.opname in ("STORE_GLOBAL", "STORE_ATTR", "STORE_SUBSCR", "IMPORT_NAME"):
                found.append(f"{step.opname.lower()} {step.argval}")
            if step.opname in ATTRIBUTE and step.argval not in ATTRIBUTES:
                found.append(f"reads .{step.argval}")
            if step.opname in ATTRIBUTE and step.argval == "argsort" and before != "np":
                found.append("calls .argsort of an array")
            if before == "np" and not (step.opname in ATTRIBUTE and step.argval == "argsort"):
                found.append("uses np")
            before = None
            if step.opname in GLOBAL:
                name = step.argval
                value = rule.__globals__.get(name, getattr(builtins, name, None))
                if value is np:
                    before = "np"
                elif isinstance(value, Primitive):
                    pass
                elif isinstance(value, types.FunctionType):
                    found += [f"{name} {v}" for v in violations(value, seen)]
                elif name not in BUILTINS or value is not getattr(builtins, name):
                    found.append(f"uses the global {name}, a {type(value).__name__}")
    return found


def primitives():
    """Every primitive of the package, wherever it lives."""
    found = {}
    for info in pkgutil.walk_packages([str(ROOT)], "tinygan."):
        if info.name.endswith("__main__") or "study" in info.name:
            continue
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, Primitive):
                found[f"{value.__module__}.{value.__name__}"] = value
    return found


PRIMITIVES = primitives()
each_primitive = pytest.mark.parametrize("op", PRIMITIVES.values(), ids=PRIMITIVES)


def rules_of(op):
    if isinstance(op.rules, tuple):
        return [rule for rule in op.rules if rule is not None]
    return [op.rules.rule]


def test_the_primitives_of_the_core_are_found():
    core = {"engine.add", "ops.matmul", "ops.concatenate"}
    convolutions = {"conv.conv2d", "conv.conv2d_transpose", "conv.conv2d_weight_grad"}
    norms = {"norms.standardise", "norms.project", "norms.standard_dot"}
    assert {f"tinygan.{name}" for name in core | convolutions | norms} <= set(PRIMITIVES)
    assert len(PRIMITIVES) >= 50


@each_primitive
def test_rules_obey_the_house_law(op):
    assert [v for rule in rules_of(op) for v in violations(rule)] == []


@each_primitive
def test_an_op_has_one_rule_for_each_argument(op):
    if isinstance(op.rules, tuple) and op.rules:
        arguments = [
            p
            for p in inspect.signature(op.fn).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        assert len(op.rules) == len(arguments)


KEPT = np.ones(3)


def kept_by_a_helper(g):
    return ops.multiply(g, KEPT)


def closing_over(array):
    return lambda g, y, a: ops.multiply(g, array)


multiply, exp, transpose, negative = ops.multiply, ops.exp, ops.transpose, ops.negative


@pytest.mark.parametrize(
    "rule, complaint",
    [
        (lambda g, y, a: multiply(g, a.data), "reads .data"),
        (lambda g, y, a: np.exp(a), "uses np"),
        (lambda g, y, a: g.sum(), "reads .sum"),
        (lambda g, y, a: multiply(g, KEPT), "uses the global KEPT, a ndarray"),
        (lambda g, y, a: kept_by_a_helper(g), "kept_by_a_helper uses the global ops"),
        (closing_over(KEPT), "closes over array"),
        (lambda g, y, a, kept=KEPT: multiply(g, kept), "has a default of type ndarray"),
        (lambda g, y, a: a.argsort(), "calls .argsort of an array"),
        (lambda g, y, a: multiply(g, max(1, 2)), "uses the global max"),
        (lambda g, y, a: tuple(b.data for b in [a]), "reads .data"),
    ],
)
def test_a_planted_violation_is_found(rule, complaint):
    assert any(complaint in v for v in violations(rule)), violations(rule)


def test_a_lawful_rule_passes():
    def rule(g, y, a, *, axes=None):
        order = tuple(int(i) for i in np.argsort([k % a.ndim for k in axes]))
        return negative(multiply(g, transpose(exp(y), axes=order)))

    rule = types.FunctionType(rule.__code__, globals(), "rule", None, None)
    assert violations(rule) == []


# Docstrings


def has_equation(text):
    """A line that says what the result y is: ``y = …``, ``y[i] = …``, ``yₙ = …``."""
    return any(re.match(r"\s*y(\[.*\]|ₙ)? \+?= \S", line) for line in text.splitlines())


@each_primitive
def test_a_primitive_says_its_equation_and_its_gradient(op):
    text = op.__doc__
    assert text and text.splitlines()[0].strip().endswith((".", ":")), "one sentence of meaning"
    assert has_equation(text), "an equation 'y = …'"
    if rules_of(op):
        assert re.search(r"^\s*Gradient: \S", text, re.M), "a line 'Gradient: …'"
    else:
        assert "Gradient:" not in text


def public(module):
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, (types.FunctionType, type, Primitive)):
            yield f"{module.__name__}.{name}", value
            if isinstance(value, type):
                for key, member in vars(value).items():
                    if not key.startswith("_") and isinstance(
                        member, (types.FunctionType, property)
                    ):
                        yield f"{module.__name__}.{name}.{key}", member


def undocumented(module):
    trivial = {"shape", "ndim", "size", "dtype", "T"}  # what NumPy's own are
    return [
        name
        for name, value in public(module)
        if not (value.__doc__ or "").strip() and name.rpartition(".")[2] not in trivial | METHODS
    ]


METHODS = {"sum", "mean", "max", "reshape", "transpose"}  # of a Tensor: the functions of ops


@pytest.mark.parametrize(
    "module",
    [
        "tree",
        "backend",
        "parallel",
        "engine",
        "ops",
        "check",
        "lowering",
        "conv",
        "norms",
        "nn",
        "spectral",
        "ema",
        "game",
        "models.net",
        "models.mlp",
        "models.dcgan",
        "models.ac_gan",
        "models.autoencoder",
        "models.epsilon_optimal",
        "models.perceptron",
        "models.points",
        "loop",
        "train",
        "algorithms",
        "losses",
        "penalties",
        "optim",
        "metrics",
        "image_scores",
        "data.stacked",
        *[module for module in FILES if module.startswith(("systems.", "study."))],
        "html",
        "data.toy",
        "data.images",
        "data.readers",
        *[module for module in FILES if module.startswith("kernels.")],
    ],
)
def test_everything_public_has_a_docstring(module):
    module = importlib.import_module(f"tinygan.{module}")
    assert module.__doc__ and undocumented(module) == []


def test_a_missing_docstring_is_found():
    module = types.ModuleType("planted")

    def f():
        pass

    @primitive
    def g(a):
        return a

    class H:
        """Documented, unlike its method."""

        def method(self):
            pass

    for name, value in {"f": f, "g": g, "H": H}.items():
        value.__module__ = "planted"
        setattr(module, name, value)
    assert undocumented(module) == ["planted.f", "planted.g", "planted.H.method"]
    assert not has_equation("The sum.\n\nx = a + b") and has_equation("y[i] = a[j]")

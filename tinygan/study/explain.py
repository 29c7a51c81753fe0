"""What an op computes, what its gradient is, by which code, and how right that is.

>>> found = explain("tanh")
>>> found.equation, found.gradient
('y = tanh a', 'Gradient: ā = ȳ·(1 − y²)')
>>> print(found.rules[0].source)
lambda g, y, a: multiply(g, subtract(1.0, square(y)))
>>> found.report.passed, sorted(found.errors)
(True, [1, 2, 3])
"""

import ast
import dis
import inspect
import textwrap
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import FunctionType

import numpy as np

import tinygan
from tinygan import conv, engine, html, norms, ops, optim
from tinygan import tree as trees
from tinygan.check import Report, check_gradients
from tinygan.engine import Primitive
from tinygan.engine import values as plain
from tinygan.notation import call as call_as_text
from tinygan.notation import written
from tinygan.study.listing import formula
from tinygan.study.samples import Sample, sample_of, written_samples

_MODULES = (engine, ops, conv, norms, optim)  # where a name is looked up
_BOOL = np.dtype(bool)
_ABSENT = "none: the derivative is zero, or another rule holds it"
_NO_RULE = "no rule: its derivative is zero or not defined, or it is a constant on purpose"


@dataclass(frozen=True)
class Rule:
    """The rule of an argument.

    Attributes: ``argument``, its name; ``source``, the rule's text, None if the derivative is
        zero; ``place``, file and line, "" where there is none.
    """

    argument: str
    source: str | None
    place: str


@dataclass(frozen=True, repr=False)
class Explanation:
    """What :func:`explain` returns: print it.

    Attributes:
        name, place: the primitive's, with its module; the file and line where it is defined.
        doc: the docstring; ``equation`` and ``gradient`` are lines of it.
        rules: a :class:`Rule` for each argument, none for an op without derivative.
        helpers: the sources of the functions that rules call and that are no primitives.
        report: the :class:`tinygan.check.Report` of orders 1 to 3, None if nothing was measured.
        measured: on which call; or why not.
    """

    name: str
    place: str
    doc: str
    equation: str
    gradient: str
    rules: list
    helpers: list
    report: Report | None
    measured: str

    @property
    def errors(self):
        """The largest relative error of each order, ``{1: 2e-13, 2: …}``; {} if not measured."""
        return self.report.worst if self.report else {}

    def __str__(self):
        parts = [f"{self.name}  {self.place}", textwrap.indent(self.doc, "  ")]
        for rule in self.rules:
            text = textwrap.indent(rule.source or _ABSENT, "  ")
            parts.append(f"{rule.argument}:  {rule.place}".rstrip(" ") + f"\n{text}")
        if not self.rules:
            parts.append(_NO_RULE)
        parts += [f"where\n{textwrap.indent(text, '  ')}" for text in self.helpers]
        if self.report is None:
            parts += [self.measured] if self.rules else []
        else:
            lines = [f"  order {order}: {error}" for order, error in self._errors()]
            title = f"largest error against finite differences, {self.measured}"
            parts.append("\n".join([title, *lines]))
            if not self.report.passed:
                parts.append(textwrap.indent(str(self.report), "  "))
        return "\n\n".join(part.rstrip() for part in parts if part)

    __repr__ = __str__

    def _errors(self):
        for order, error in self.errors.items():
            yield order, f"{error:.1e}" + ("" if error <= self.report.tolerance else " WRONG")

    def _repr_html_(self):
        out = [html.titled(f"{self.name}  {self.place}", self.doc)]
        if self.rules:
            out += [
                html.titled(f"{rule.argument}:  {rule.place}", rule.source or _ABSENT)
                for rule in self.rules
            ]
        else:
            out.append(html.paragraph(_NO_RULE))
        out += [html.titled("where", text) for text in self.helpers]
        if self.report is not None:
            rows = [
                (order, html.Bold(error) if "WRONG" in error else error)
                for order, error in self._errors()
            ]
            title = f"Largest error against finite differences, {self.measured}"
            out.append(html.table(rows, ("order", "error"), title, "rr"))
            if not self.report.passed:
                out.append(self.report._repr_html_())
        elif self.rules:
            out.append(html.paragraph(self.measured))
        return "\n".join(out)


def explain(op, *inputs, **params):
    """An op's equation, its rules as they stand in the source, and their measured errors.

    error = |engine − difference| / max(|engine|, |difference|, scale), for derivatives of orders 1
    to 3 along random directions, as in :func:`tinygan.check_gradients`

    Without inputs the op is measured on a sample of ours; an op of yours on arrays of shape (2, 3)
    between 0.4 and 1, if it takes such.

    Args:
        op: a primitive, or its name: ``"tanh"``, ``"conv.conv2d"``.
        inputs, params: a call of the op to measure on, away from kinks. Arrays of float64 are
            differentiated, also where a rule is None: zero has to be right. The rest is constant.
    Returns: an :class:`Explanation`; print it.
    Raises: ValueError for a name that no primitive has, inputs of which none can be
        differentiated, or a call without numbers; TypeError for what is no primitive, and for
        inputs of another float type.
    """
    op = _primitive(op)
    rules, helpers, report = [], [], None
    measured = f"not measured: no sample fits; give one, explain({op.__name__}, *inputs)"
    if _has_rules(op):
        for argument, rule in _by_argument(op):
            source, place = _source(rule) if rule is not None else (None, "")
            rules.append(Rule(argument, source, place))
        helpers = _helpers([rule for _, rule in _by_argument(op) if rule is not None])
        if inputs:
            sample = _of_user(op, tuple(map(plain, inputs)), params)
        elif params:
            raise ValueError(
                f"explain: {', '.join(params)} for {op.__name__} and no inputs; expected a whole "
                f"call, explain({op.__name__}, *inputs, {next(iter(params))}=…)"
            )
        else:
            sample = sample_of(op)
        if sample is not None:
            report, measured = _measure(op, sample)
    elif inputs or params:
        raise ValueError(
            f"explain: inputs for {op.__name__}, which has {_NO_RULE}. There is nothing to "
            f"measure: explain({op.__name__})"
        )
    doc = inspect.getdoc(op) or ""
    return Explanation(
        f"{op.__module__}.{op.__name__}", _place(op.fn.__code__), doc, formula(op),
        _gradient_line(doc), rules, helpers, report, measured,
    )  # fmt: skip


def _primitive(op):
    """The primitive that is meant; an error that names the nearest otherwise."""
    if isinstance(op, str):
        before, _, name = op.rpartition(".")
        modules = [m for m in _MODULES if f".{m.__name__}".endswith(f".{before}" * bool(before))]
        found = [vars(m)[name] for m in modules if name in vars(m)]
        if not found:
            names = [n for m in _MODULES for n, v in vars(m).items() if isinstance(v, Primitive)]
            close = get_close_matches(name, dict.fromkeys(names), 3)
            nearest = f"; the nearest names are {', '.join(close)}" if close else ""
            raise ValueError(f"explain: no primitive is called {op!r}{nearest}")
        op = next((f for f in found if isinstance(f, Primitive)), found[0])
    if isinstance(op, Primitive):
        return op
    name = getattr(op, "__name__", None)
    used = _globals_of(op) if isinstance(op, FunctionType) else []
    used = dict.fromkeys(f.__name__ for f in used if isinstance(f, Primitive))
    if used:
        raise TypeError(
            f"explain: {name} is no primitive and has no rules; it is made of primitives: explain "
            f"{', '.join(used)}"
        )
    raise TypeError(
        f"explain: given {name or repr(op)}, a {type(op).__name__}; expected a primitive, such as "
        'tinygan.ops.tanh, or its name, "tanh"'
    )


def _has_rules(op):
    return not isinstance(op.rules, tuple) or any(rule is not None for rule in op.rules)


def _by_argument(op):
    """(argument, rule) of each positional argument; a variadic op has one rule for all."""
    parameters = list(inspect.signature(op.fn).parameters.values())
    if not isinstance(op.rules, tuple):
        name = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "each")
        return [(f"each of {name}", op.rules.rule)]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names += [f"argument {i}" for i in range(len(names), len(op.rules))]
    return list(zip(names, op.rules, strict=False))


# Sources


def _source(rule):
    """(text, place) of a rule: of a lambda its own expression, of a function all of it."""
    while isinstance(rule, partial):
        rule = rule.func
    if not isinstance(rule, FunctionType):
        return f"{rule!r}, which is not Python's own kind of function", ""
    place = _place(rule.__code__)
    try:
        lines, _ = inspect.findsource(rule)
        if rule.__name__ != "<lambda>":
            return textwrap.dedent(inspect.getsource(rule)).rstrip(), place
        text = "".join(lines)
        node = _lambda(ast.parse(text), rule.__code__)
    except (OSError, SyntaxError, LookupError):
        return f"{rule.__name__}, whose source is not to be found", place
    line = lines[node.lineno - 1]
    indent = line[: len(line) - len(line.lstrip())]  # the lines below are indented from there
    head, *rest = ast.get_source_segment(text, node).split("\n")
    return "\n".join([head, *(below.removeprefix(indent) for below in rest)]), place


def _lambda(tree, code):
    """The node of a lambda's code: by its line and arguments, and by its columns if need be."""
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda)
        and node.lineno == code.co_firstlineno
        and names == tuple(a.arg for a in [*_positional(node.args), *node.args.kwonlyargs])
    ]
    if len(found) > 1 and hasattr(code, "co_positions"):  # from Python 3.11 on
        places = [p for p in code.co_positions() if None not in p and p[2] != p[3]]
        within = [node for node in found if all(_holds(node, *place) for place in places)]
        found = within or found
    if len(found) > 1:
        found = [node for node in found if _work(_code_of(node)) == _work(code)] or found
    if not found:
        raise LookupError("no lambda on that line")
    return found[0]


def _positional(args):
    return [*args.posonlyargs, *args.args]


def _holds(node, line, end_line, column, end_column):
    start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return start <= (line, column) and (end_line, end_column) <= end


def _work(code):
    """What a code reads and which operators it applies, in order; so for a code inside it.

    Not all instructions: how they call depends on what the rest of the module imports.
    """
    found = []
    for i in dis.get_instructions(code):
        if i.opname.startswith("LOAD"):
            found.append(_work(i.argval) if hasattr(i.argval, "co_code") else i.argval)
        elif i.opname.startswith(("BINARY", "COMPARE", "UNARY")):
            found.append((i.opname, i.argrepr))
    return found


def _code_of(node):
    """The code of a lambda, compiled by itself."""
    whole = compile(ast.Expression(node), "<rule>", "eval")
    return next(const for const in whole.co_consts if hasattr(const, "co_code"))


def _globals_of(function):
    """The functions and primitives that a function's code refers to by name."""
    todo, found = [function.__code__], []
    while todo:
        code = todo.pop()
        todo += [const for const in code.co_consts if hasattr(const, "co_names")]
        found += [function.__globals__.get(name) for name in code.co_names]
    return [f for f in found if isinstance(f, (FunctionType, Primitive))]


def _helpers(rules):
    """The sources of the functions, no primitives, that rules call."""
    called = [
        f
        for rule in rules
        if isinstance(rule, FunctionType)
        for f in _globals_of(rule)
        if isinstance(f, FunctionType)
    ]
    return [_source(f)[0] for f in dict.fromkeys(called)]


def _place(code):
    """File and line, the file from the package on if it is ours."""
    path, root = Path(code.co_filename), Path(tinygan.__file__).parent.parent
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return f"{path.as_posix()}:{code.co_firstlineno}"


def _gradient_line(doc):
    """The part of a docstring that starts with "Gradient:", with the lines that go on with it."""
    lines = doc.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("Gradient:")), None)
    if start is None:
        return ""
    more = start + 1
    while more < len(lines) and lines[more].startswith(" "):
        more += 1
    return " ".join(line.strip() for line in lines[start:more])


# Measuring


def _of_user(op, inputs, params):
    usual = written_samples().get(op)
    if usual is not None and usual.call is not op:
        raise ValueError(
            f"explain: inputs for {op.__name__}, some arguments of which must be those of others, "
            f"so that no derivative by one alone is right; expected explain({op.__name__}), which "
            "has a sample"
        )
    return Sample(op, inputs, params)


def _measure(op, sample):
    """The report on a call, and the call as text."""
    inputs, at = sample.inputs, []
    for i, a in enumerate(inputs):
        if isinstance(a, np.generic) or getattr(a, "dtype", _BOOL).kind != "f":
            continue
        if a.dtype != np.float64:
            raise TypeError(
                f"explain: input {i} of {op.__name__} is {a.dtype}; expected float64, since "
                "differences in float32 prove nothing. Convert it with .astype(np.float64)"
            )
        at.append(i)
    if not at:
        raise ValueError(
            f"explain: inputs {', '.join(map(_typed, inputs))} of {op.__name__}; expected a "
            "float64 array among them"
        )
    y = trees.leaves(sample.call(*inputs, **sample.params))
    if not (sum(inputs[i].size for i in at) and sum(np.size(plain(a)) for a in y)):
        raise ValueError(
            f"explain: inputs {', '.join(map(_typed, inputs))} of {op.__name__}, where the float64 "
            "ones or the result hold no number; expected arrays that are not empty, since nothing "
            "else can be measured"
        )

    def call(x):
        given = list(inputs)
        for i, a in zip(at, x, strict=True):
            given[i] = a
        return sample.call(*given, **sample.params)

    report = check_gradients(call, [inputs[i] for i in at], 3, raises=False)
    return report, call_as_text(op, map(_typed, inputs), sample.params)


def _typed(a):
    return f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else written(a)

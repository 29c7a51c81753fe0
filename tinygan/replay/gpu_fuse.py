"""Fewer launches on a GPU: gates within products, and joins of what lies in its place already.

A product's kernel can end with the LeakyReLU that follows, or with its backward: the gate costs no
launch and no pass over memory of its own.
"""

from dataclasses import replace
from functools import partial

from tinygan import kernels
from tinygan.backend import array_module
from tinygan.conv import conv2d, conv2d_transpose
from tinygan.engine import primitive
from tinygan.ops import affine, concatenate, gate, index, matmul, stack
from tinygan.replay.program import Value

_KERNELS = {
    affine: kernels.matmul,
    matmul: kernels.matmul,
    conv2d: kernels.conv2d,
    conv2d_transpose: kernels.conv2d_transpose,
}


@primitive
def gated(*args, op, slope, masked, **params):
    """A product and the gate behind it, in one kernel.

    y = gate(p, m), p = op(…); m is the last argument if ``masked``, else p itself

    No rule, on purpose: it stands in programs only, which are not differentiated.

    Shapes: those of ``op``, m and y as its result.
    """
    given, m = (args[:-1], args[-1]) if masked else (args, None)
    geometry = params.get("geometry")
    if not kernels.take(*args) or not (geometry is None or kernels.fits(geometry)):
        p = op.fn(*given, **params)
        return gate.fn(p, p if m is None else m, slope=slope)
    (m,) = kernels.packed(m)
    return _KERNELS[op](*kernels.packed(*given), **params, slope=slope, mask=m)


def fuse_gates(program):
    """The program with each product and the gate that alone uses it as one call of :func:`gated`.

    A gate's own result has the sign of what it was given, so it serves as well as the mask of the
    gradient's gates; then the product itself is nowhere else needed. The same bits.
    """
    lines = _masked_by_results(program)
    outputs = set(program.outputs)
    uses = _uses(lines)
    line_of = {line.result: line for line in lines}
    fused, gone = {}, set()
    for line in lines:
        if line.op is not gate or not _plain(line):
            continue
        p, m = line.args
        product = line_of.get(p)
        if product is None or not _fits(product) or p in outputs or set(uses[p]) != {line}:
            continue
        args = product.args if m is p else (*product.args, m)
        params = product.params | {
            "op": product.op, "slope": line.params["slope"], "masked": m is not p,
        }  # fmt: skip
        fused[line] = replace(line, op=gated, args=args, params=params, group=None)
        gone.add(product)
    return program.with_lines(fused.get(line, line) for line in lines if line not in gone)


def _masked_by_results(program):
    """The lines, with gate(p, p) as the mask of later gates in place of p, or of rows of p."""
    uses, became, lines = _uses(program.lines), {}, []
    outputs = set(program.outputs)
    for line in program.lines:
        if line.op is gate and line.args[0] is not line.args[1]:
            a, m = line.args
            line = replace(line, args=(a, became.get(m, m)))
        elif line.op is index and line.args[0] in became and _only_masks(line, uses, outputs):
            line = replace(line, args=(became[line.args[0]],))
        elif line.op is gate and type(line.args[0]) is Value and line.params["slope"] >= 0:
            became[line.args[0]] = line.result
        lines.append(line)
    return lines


def _only_masks(line, uses, outputs):
    y = line.result
    return y not in outputs and all(
        use.op is gate and use.args[0] is not y for use in uses.get(y, ())
    )


def _uses(lines):
    found = {}
    for line in lines:
        for a in line.operands:
            found.setdefault(a, []).append(line)
    return found


def _plain(line):
    """Whether a gate's arrays are all of one shape and dtype."""
    return all(
        type(a) is Value and a.shape == line.result.shape and a.dtype == line.result.dtype
        for a in line.args
    )


def _fits(line):
    """Whether a line is a product of two matrices, or a convolution."""
    return line.op in _KERNELS and (
        line.op in (conv2d, conv2d_transpose) or all(len(a.shape) == 2 for a in line.operands[:2])
    )


def joined(*arrays, axis=0, new=False):
    """What concatenate gives, or (``new``) stack.

    What lies in its place within the result already is not copied. The rest is, one by one:
    of many, CuPy's own function sends the addresses from memory of the host, which it then uses
    for other things, and a graph would read there at every launch.
    """
    first, xp = arrays[0], array_module(arrays[0])
    axis %= first.ndim + new
    lengths = [1 if new else a.shape[axis] for a in arrays]
    rest = first.shape[axis:] if new else first.shape[axis + 1 :]
    y = xp.empty((*first.shape[:axis], sum(lengths), *rest), xp.result_type(*arrays))
    stop = 0
    for a, length in zip(arrays, lengths, strict=True):
        start, stop = stop, stop + length
        place = y[(*(slice(None),) * axis, start if new else slice(start, stop))]
        if kernels.pointer(place) != kernels.pointer(a):
            place[...] = a
    return y


JOINS = {concatenate: joined, stack: partial(joined, new=True)}  # in place of their own functions


def parts_of_joins(program):
    """{join: {value: bytes before it}} for joins along the first axis of what lines make.

    A part begins where 16 bytes do, as our kernels like it.
    """
    made, found = {line.result for line in program.lines}, {}
    for line in program.lines:
        if line.op not in JOINS or line.params.get("axis", 0) % len(line.result.shape):
            continue
        offset, parts = 0, {}
        for a in line.args:
            if a in made and offset % 16 == 0:
                parts[a] = offset
            offset += a.nbytes
        if parts:
            found[line.result] = parts
    return found

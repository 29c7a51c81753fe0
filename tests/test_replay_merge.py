"""Batches that meet the same weights are one batch: fewer calls, the same numbers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygan import losses, models, nn, norms, ops, optim, penalties, tree
from tinygan.backend import Stream
from tinygan.conv import Geometry, conv2d, conv2d_transpose, conv2d_weight_grad
from tinygan.engine import add, broadcast_to, grad, grad_values, sum_to, track
from tinygan.ops import (
    affine,
    concatenate,
    gate,
    index,
    leaky_relu,
    matmul,
    multiply,
    negative,
    relu,
    reshape,
    sigmoid,
    square,
    subtract,
    tanh,
)
from tinygan.replay import evaluate, merge, trace
from tinygan.replay.merge import merge_batches, ordered
from tinygan.replay.program import Line, Value
from tinygan.train import GAN, critic_gradients, critic_step, generator_step

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape)


def distance(program, other, args):
    """The largest difference of two programs' results, each relative to its array's largest."""
    first, second = (tree.leaves(evaluate(each, *args)) for each in (program, other))
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if a is None and b is None:
            continue
        assert a.shape == b.shape and a.dtype == b.dtype
        if a.size and not np.array_equal(a, b):
            apart = float(abs(a - b).max() / max(abs(a).max(), np.finfo(a.dtype).tiny))
            worst = np.maximum(worst, apart)  # Python's max would pass over NaN
    return worst


def merged(step, *args, tolerance=1e-13):
    """The program of a step after the pass, once it is found to give the same."""
    program = trace(step, *args)
    lines = program.lines
    found = merge_batches(program)
    assert program.lines is lines  # the pass made a new one
    assert distance(program, found, args) <= tolerance
    values = dict(zip(found.inputs, (a for a in tree.leaves(args) if a is not None), strict=True))
    values |= found.constants
    for line in found.lines:  # each result is what its value says
        y = line.op.fn(*[values.get(a, a) for a in line.args], **line.params)
        assert (np.shape(y), np.asarray(y).dtype) == (line.result.shape, line.result.dtype)
        values[line.result] = y
    return found


def count(program, *names):
    """How often the primitives are called."""
    return [program.counts().get(name, 0) for name in names]


# Small programs


def test_two_batches_with_the_same_weights_are_one():
    def step(x, y, w, b):
        return multiply(affine(x, w, b), 2.0), multiply(affine(y, w, b), 3.0)

    found = merged(step, normal(3, 4), normal(5, 4), normal(4, 2), normal(2))
    assert count(found, "affine", "concatenate", "index") == [1, 1, 2]
    product = next(line for line in found.lines if line.op is affine)
    assert product.result.shape == (8, 2)
    assert [line.op for line in found.lines][:2] == [concatenate, affine]


def test_batches_stay_one_down_the_layers():
    def step(x, y, w, b, v):
        def net(x):
            return matmul(tanh(leaky_relu(affine(x, w, b))), v)

        return multiply(net(x), 2.0), subtract(1.0, net(y))

    found = merged(step, normal(3, 4), normal(5, 4), normal(4, 6), normal(6), normal(6, 2))
    assert count(found, "affine", "gate", "tanh", "matmul", "concatenate") == [1, 1, 1, 1, 1]


def test_images_are_merged_too():
    small, large = Geometry(6, 4, 2, 1), Geometry(3, 3)

    def step(x, y, w, b, v):
        def net(x):
            z = leaky_relu(conv2d(x, w, b, geometry=small))
            grid = conv2d(z, v, geometry=large)
            return conv2d_transpose(reshape(grid, shape=(-1, 1, 1, 3)), v, geometry=large)

        return tanh(net(x)), sigmoid(net(y))

    images = normal(2, 6, 6, 3), normal(4, 6, 6, 3)
    found = merged(step, *images, normal(4, 4, 3, 5), normal(5), normal(3, 3, 5, 3))
    assert count(found, "conv2d", "gate", "reshape", "conv2d_transpose") == [2, 1, 1, 1]
    shapes = [line.result.shape for line in found.lines if line.op is reshape]
    assert shapes == [(6, 1, 1, 3)]


def three_branches(*, late):
    """A loss on two batches, a slope at a third; ``late``: its slope at the logit is not 1."""

    def step(x, y, points, w, b, v):
        p = track([w, b, v])

        def net(x):
            return matmul(leaky_relu(affine(x, p[0], p[1])), p[2])

        loss = add(ops.sum(square(net(x))), ops.sum(ops.softplus(net(y))))
        points = track(points)
        logits = sigmoid(net(points)) if late else net(points)
        slopes = grad(ops.sum(logits), points)
        return grad_values(add(loss, ops.sum(square(slopes))), p)

    n = 128
    return step, (*(normal(n, 4) for _ in range(3)), normal(4, 6), normal(6), normal(6, 1))


@pytest.mark.parametrize("late", [False, True])
def test_gradients_are_merged_in_the_order_of_their_masks(late):
    step, args = three_branches(late=late)
    before = trace(step, *args)
    found = merged(step, *args)
    # Forward: all three. The gradients of the loss go with those of the slope; if the slope's own
    # are there twice, with the later ones.
    assert count(before, "affine", "gate")[0] == 3 and count(found, "affine") == [1]
    gates = [line for line in found.lines if line.op is gate]
    assert sum(line.result.shape[0] == 384 for line in gates) == 2
    assert len(gates) == (4 if late else 3)
    # One product for each weight's gradient: over 384 + 128 rows, or 384 where the slope's are
    # part of the merged gradients.
    assert count(found, "sum_to") == [1]
    products = [line for line in found.lines if line.op is matmul and line.params.get("ta")]
    rows = sorted(line.args[0].shape[0] for line in products)
    assert rows == ([512, 512] if late else [384, 384])
    assert all(line.result.shape[0] in (4, 6) for line in products)


def test_parts_in_a_wrong_order_are_found(monkeypatch):
    """The tests above can fail: parts handed to the wrong batches are far off."""
    step, args = three_branches(late=True)
    program = trace(step, *args)
    right = merge._Merging._groups

    def wrong(self, lines):
        for group in right(self, lines):
            starts = list(group.starts.values())[::-1]
            group.starts.update(zip(group.starts, starts, strict=True))
            yield group

    monkeypatch.setattr(merge._Merging, "_groups", lambda *args: list(wrong(*args)))
    assert distance(program, merge_batches(program), args) > 0.01


def test_gradients_that_meet_masks_in_another_order_follow_them():
    def step(g, h, z, w, v):
        z = affine(z, v, np.zeros(6))
        low, high = index(z, at=slice(0, 3)), index(z, at=slice(3, 6))
        a = gate(matmul(g, w, tb=True), high, slope=0.1)  # the first of the program meets the last
        b = gate(matmul(h, w, tb=True), low, slope=0.1)
        return square(a), tanh(b)

    found = merged(step, normal(3, 2), normal(3, 2), normal(6, 4), normal(6, 2), normal(4, 6))
    assert count(found, "matmul", "gate", "concatenate") == [1, 1, 1]
    (line,) = [line for line in found.lines if line.op is concatenate]
    assert line.args == tuple(found.inputs[i] for i in (1, 0))


def test_rows_that_are_among_others_are_not_made_twice():
    def step(x, y, w, b):
        both = tanh(affine(concatenate(x, y), w, b))
        return square(both), negative(tanh(affine(y, w, b)))

    found = merged(step, normal(3, 4), normal(5, 4), normal(4, 2), normal(2))
    assert count(found, "affine", "tanh", "index") == [1, 1, 1]
    assert [line.params["at"] for line in found.lines if line.op is index] == [slice(3, 8)]


def test_rows_at_other_places_are_others():
    def step(x, y):
        x, y = square(x), square(y)
        moved = multiply(index(x, at=slice(0, 2)), index(y, at=slice(2, 4)))
        return tanh(multiply(x, y)), tanh(moved)

    found = merged(step, normal(4, 3), normal(4, 3))
    assert count(found, "multiply") == [2]


def test_a_line_is_not_found_in_one_that_needs_it():
    def step(x, w, b):
        y = tanh(affine(x, w, b))
        return square(affine(concatenate(x, y), w, b))

    assert count(merged(step, normal(4, 3), normal(3, 3), normal(3)), "affine") == [2]


def test_gradients_for_more_of_the_masks_do_not_come_between():
    def step(g, h, k, z, w):
        z = square(z)
        parts = [(k, slice(0, 6)), (g, slice(0, 3)), (h, slice(3, 6))]
        return [tanh(gate(matmul(a, w), index(z, at=at), slope=0.1)) for a, at in parts]

    found = merged(step, normal(3, 2), normal(3, 2), normal(6, 2), normal(9, 4), normal(2, 4))
    assert count(found, "gate") == [2]


def test_rows_are_put_together_once():
    def step(x, y, z):
        both = concatenate(x, y)
        cut = concatenate(index(both, at=slice(0, 2)), index(both, at=slice(2, 8)))
        return square(concatenate(square(both), z)), negative(cut), tanh(concatenate(x, y))

    found = merged(step, normal(3, 4), normal(5, 4), normal(2, 4))
    assert count(found, "concatenate", "index") == [2, 0]


def test_a_copy_of_rows_stands_for_them():
    """Rows of an array that stand in a concatenation too are found beside its other rows."""

    def step(x, y, w, b):
        part = index(square(x), at=slice(0, 3))
        both = concatenate(part, y)
        return [tanh(affine(a, w, b)) for a in (both, part)]

    found = merged(step, normal(5, 4), normal(3, 4), normal(4, 2), normal(2))
    products = [line.result.shape for line in found.lines if line.op is affine]
    assert products == [(6, 2)] and count(found, "concatenate") == [1]


def test_rows_of_rows_are_rows():
    def step(x):
        x = square(x)
        inner = index(x, at=slice(2, 8))
        return [square(tanh(index(inner, at=at))) for at in (slice(1, 3), slice(3, 6))]

    assert count(merged(step, normal(9, 2)), "tanh", "square") == [1, 3]


def test_rows_that_the_step_returns_are_lines():
    def step(x, y):
        x = square(x)
        return index(x, at=slice(0, 2)), concatenate(x, y), tanh(index(x, at=slice(0, 2)))

    assert count(merged(step, normal(3, 4), normal(5, 4)), "concatenate") == [1]


# What is not merged


def alone(step, *args):
    """Whether the pass leaves a step as it is, but for where rows are cut."""
    program = trace(step, *args)
    found = merge_batches(program)
    assert distance(program, found, args) == 0
    before, after = (
        [line.op for line in each.lines if line.op is not index] for each in (program, found)
    )
    return before == after


def test_a_line_that_needs_the_other_is_not_merged_with_it():
    assert alone(lambda x, w: square(matmul(matmul(x, w), w)), normal(3, 4), normal(4, 4))

    def crossed(x, y, w):  # neither product alone, but the merged one would need itself
        return square(matmul(add(sum_of(matmul(x, w)), y), w))

    def sum_of(a):
        return ops.sum(a, axis=0, keepdims=True)

    assert alone(crossed, normal(3, 4), normal(3, 4), normal(4, 4))


def test_what_the_step_returns_stays_a_lines_result():
    assert alone(lambda x, y, w: (matmul(x, w), matmul(y, w)), *[normal(4, 4) for _ in range(3)])


@pytest.mark.parametrize(
    "step",
    [
        lambda x, y, w: (square(matmul(x, w)), square(matmul(y, square(w)))),  # other weights
        lambda x, y, w: (square(matmul(x, w)), square(matmul(y, w, tb=True))),  # the other way up
        lambda x, y, w: (square(matmul(x, w, ta=True)), square(matmul(y, w, ta=True))),  # columns
        lambda x, y, w: (square(matmul(w, x)), square(matmul(w, y))),  # the batch is on the right
    ],
)
def test_products_that_differ_are_left_alone(step):
    assert alone(step, *[normal(4, 4) for _ in range(3)])


def test_a_stack_of_weights_is_no_weight_for_all_rows():
    def step(x, y, w):
        return square(matmul(x, w)), square(matmul(y, w))

    assert alone(step, normal(2, 3, 4), normal(2, 3, 4), normal(2, 4, 5))
    found = merged(step, normal(2, 3, 4), normal(5, 3, 4), normal(4, 5))
    assert count(found, "matmul") == [1]


def halves(f, n=4):
    def step(x):
        whole = square(x)
        parts = [f(index(whole, at=at)) for at in (slice(0, n), slice(n, 2 * n))]
        return [multiply(square(a), 2.0) for a in parts]

    return step


@pytest.mark.parametrize(
    "f",
    [
        lambda a: ops.sum(a, axis=0),
        lambda a: ops.sum(a),
        lambda a: ops.logsumexp(a, axis=(0, 1)),
        lambda a: ops.transpose(a),
        lambda a: reshape(a, shape=(2, 8)),
        lambda a: sum_to(a, shape=(4,)),
        lambda a: broadcast_to(a, shape=(2, 4, 4)),
        lambda a: ops.log_softmax(a, axis=0),
        lambda a: ops.gather(a, np.arange(4)[::-1]),
        lambda a: norms.block_mean(a, axes=(0,)),
        lambda a: index(a, at=(slice(None), slice(0, 2))),
        lambda a: index(a, at=slice(None, None, 2)),
    ],
)
def test_what_mixes_rows_or_may_do_so_is_left_alone(f):
    assert alone(halves(f), normal(8, 4))


def test_the_axis_of_a_vector_is_not_that_of_rows():
    assert alone(halves(lambda a: broadcast_to(a, shape=(4, 4))), normal(8))


def test_a_batch_of_one_sample_is_a_batch():
    assert alone(halves(lambda a: norms.block_mean(a, axes=(0,)), 1), normal(2, 4))
    assert alone(halves(lambda a: ops.sum(a, axis=(0,), keepdims=True), 1), normal(2, 4))


@pytest.mark.parametrize(
    "f, name",
    [
        (lambda a: ops.sum(a, axis=1), "sum"),
        (lambda a: ops.norm(a, axis=(-1,)), "norm"),
        (lambda a: reshape(a, shape=(4, 2, -1)), "reshape"),
        (lambda a: broadcast_to(a, shape=(4, 4)), None),
        (lambda a: ops.maximum(a, a), "maximum"),
        (lambda a: subtract(1.0, a), "subtract"),
        (lambda a: ops.clip(a, low=0.5), "clip"),
    ],
)
def test_what_treats_rows_apart_works_on_the_whole(f, name):
    found = merged(halves(f), normal(8, 4))
    assert name is None or count(found, name) == [1]


def test_a_row_for_all_samples_is_not_taken_for_a_batch():
    """A vector as long as the batch, and a matrix of one row, are broadcast along it."""

    def step(x, v, row):
        x = square(x)
        halves = index(x, at=slice(0, 4)), index(x, at=slice(4, 8))
        return [square(multiply(add(a, v), row)) for a in halves]

    found = merged(step, normal(8, 4), normal(4), normal(1, 4))
    assert count(found, "add", "multiply") == [1, 1]
    assert found.lines[1].args[1] is found.inputs[1]

    def other(x, v, u):  # each half has a vector of its own
        x = square(x)
        return square(add(index(x, at=slice(0, 4)), v)), square(add(index(x, at=slice(4, 8)), u))

    assert alone(other, normal(8, 4), normal(4), normal(4))


def test_halves_in_another_order_are_left_alone():
    def step(x, y):
        x, y = square(x), square(y)
        low, high = slice(0, 4), slice(4, 8)
        a = multiply(index(x, at=low), index(y, at=high))
        return square(a), square(multiply(index(x, at=high), index(y, at=low)))

    assert alone(step, normal(8, 4), normal(8, 4))


# What it costs


def two_inputs(n, inputs, outputs, made):
    """Two batches with the same weights, from outside or made by a line."""

    def step(x, y, w):
        x, y = (tanh(x), tanh(y)) if made else (x, y)
        return square(matmul(x, w)), square(matmul(y, w))

    return trace(step, normal(n, inputs), normal(n, inputs), normal(inputs, outputs))


def test_a_copy_must_cost_less_than_the_call_that_it_saves():
    assert count(merge_batches(two_inputs(8, 16, 4, made=False)), "matmul") == [1]
    assert count(merge_batches(two_inputs(1024, 64, 4, made=False)), "matmul") == [2]
    # Both are copied, for one call.
    assert count(merge_batches(two_inputs(48, 16, 4, made=False)), "matmul") == [2]
    # Where lines make the batches they are made in their place.
    assert count(merge_batches(two_inputs(1024, 64, 4, made=True)), "matmul") == [1]
    # Large weights are worth a copy.
    assert count(merge_batches(two_inputs(64, 512, 512, made=False)), "matmul") == [1]


def test_rows_of_other_arrays_must_be_copied():
    def step(x, y, w):
        parts = index(tanh(x), at=slice(0, -1)), index(ops.exp(y), at=slice(1, None))
        return [square(matmul(a, w)) for a in parts]

    assert alone(step, normal(1024, 64), normal(1024, 64), normal(64, 4))


def test_a_part_of_one_concatenation_is_a_copy_in_the_next():
    def step(x, y, z, w):
        x, y, z = tanh(x), square(y), sigmoid(z)
        return square(concatenate(x, z)), [negative(matmul(a, w)) for a in (x, y)]

    args = [normal(1024, 64) for _ in range(3)]
    assert alone(step, *args, normal(64, 4))


def test_a_batch_that_costs_too_much_stays_out():
    def step(x, y, z, w):
        return [square(relu(matmul(a, w))) for a in (x, tanh(y), tanh(z))]

    found = merged(step, *[normal(1024, 64) for _ in range(3)], normal(64, 4))
    products = [line.result.shape for line in found.lines if line.op is matmul]
    assert sorted(products) == [(1024, 4), (2048, 4)]


def test_large_results_are_not_held_across_an_update():
    def iteration(n):
        def step(z, y, p):
            w, v = p
            z, y = tanh(z), square(y)  # made in their place
            x = relu(matmul(z, w))
            v = optim.SGD(0.1).update([v], [matmul(x, matmul(x, v), ta=True)], None)[0][0]
            return v, square(matmul(relu(matmul(y, w)), v))

        return trace(step, normal(n, 2), normal(n, 2), [normal(2, 64), normal(64, 1)])

    assert count(merge_batches(iteration(16)), "gate") == [1]
    assert count(merge_batches(iteration(4096)), "gate") == [2]


# Sums over rows


def test_gradients_of_weights_are_one_product_over_all_rows():
    geometry = Geometry(4, 3, 1, 0)

    def step(a, b, g, h, x, y, u, v):
        product = add(matmul(a, g, ta=True), matmul(b, h, ta=True))
        kernel = add(
            conv2d_weight_grad(x, u, geometry=geometry), conv2d_weight_grad(y, v, geometry=geometry)
        )
        return (
            square(product),
            square(kernel),
            square(add(sum_to(g, shape=(3,)), sum_to(h, shape=(3,)))),
        )

    args = [normal(*shape) for shape in [(5, 4), (6, 4), (5, 3), (6, 3)]]
    args += [normal(n, 4, 4, 2) for n in (2, 3)] + [normal(n, 2, 2, 3) for n in (2, 3)]
    found = merged(step, *args)
    assert count(found, "matmul", "conv2d_weight_grad", "sum_to", "add") == [1, 1, 1, 0]
    # h and g stand end to end once, for the product and for the sum.
    assert count(found, "concatenate") == [4]


def test_other_terms_of_a_sum_stay_in_it():
    def step(a, b, g, h, other):
        terms = add(add(matmul(a, g, ta=True), other), matmul(b, h, ta=True))
        return square(add(terms, 1.5))

    args = [normal(*shape) for shape in [(5, 4), (6, 4), (5, 3), (6, 3), (4, 3)]]
    assert count(merged(step, *args), "matmul", "add") == [1, 2]


def test_a_term_that_is_used_elsewhere_is_kept():
    def step(a, b, g, h):
        one = matmul(a, g, ta=True)
        return square(add(one, matmul(b, h, ta=True))), square(one)

    assert alone(step, *[normal(*shape) for shape in [(5, 4), (6, 4), (5, 3), (6, 3)]])


def test_a_term_that_stands_twice_in_a_sum_counts_twice():
    def step(a, b, g, h):
        one, other = matmul(a, g, ta=True), matmul(b, h, ta=True)
        return square(add(add(one, one), other)), square(add(other, other))

    merged(step, *[normal(*shape) for shape in [(5, 4), (6, 4), (5, 3), (6, 3)]])


def test_a_sum_may_be_a_result_and_have_terms_of_other_shapes():
    def step(a, b, g, h, bias):
        product = add(matmul(a, g, ta=True), matmul(b, h, ta=True))
        total = add(matmul(a, h, ta=True), matmul(b, g, ta=True))
        return add(product, bias), total

    args = [normal(*shape) for shape in [(5, 4), (5, 4), (5, 3), (5, 3), (2, 4, 3)]]
    assert count(merged(step, *args), "matmul", "add") == [2, 1]


def test_a_part_of_a_sum_that_is_a_result_is_kept():
    def step(a, b, c, g):
        part = add(matmul(a, g, ta=True), matmul(b, g, ta=True))
        return part, square(add(part, matmul(c, g, ta=True)))

    args = [normal(5, 4), normal(5, 4), normal(5, 4), normal(5, 3)]
    assert count(merged(step, *args), "matmul", "add") == [2, 1]


@pytest.mark.parametrize("flags", [{"ta": True, "tb": True}, {"tb": True}, {}])
def test_a_product_of_columns_is_no_sum_over_rows(flags):
    def step(a, b, g, h):
        return square(add(matmul(a, g, **flags), matmul(b, h, **flags)))

    assert alone(step, *[normal(4, 4) for _ in range(4)])


def test_terms_that_are_no_sums_over_all_rows_are_left_alone():
    def stacks(a, b, g, h):
        return square(add(matmul(a, g, ta=True), matmul(b, h, ta=True)))

    def columns(a, b):
        return square(add(sum_to(a, shape=(4, 1)), sum_to(b, shape=(4, 1))))

    def geometries(x, y, u, v):
        one = conv2d_weight_grad(x, u, geometry=Geometry(4, 3, 1, 0))
        return square(add(one, conv2d_weight_grad(y, v, geometry=Geometry(4, 3, 2, 1))))

    assert alone(stacks, *[normal(2, 3, 3) for _ in range(4)])
    assert alone(columns, normal(4, 3), normal(4, 3))
    images, grids = ([normal(2, n, n, 3) for _ in range(2)] for n in (4, 2))
    assert alone(geometries, *images, *grids)


def test_terms_of_lower_rank_are_added_as_they_were():
    def step(a, b, g, h, bias, other):
        inner = add(bias, add(other, matmul(a, g, ta=True)))
        return square(add(inner, matmul(b, h, ta=True)))

    args = [normal(5, 4), normal(5, 4), normal(5, 3), normal(5, 3), normal(3), normal(3)]
    assert count(merged(step, *args), "matmul") == [2]


def test_a_merged_sum_is_of_its_terms_last_phase():
    def step(a, b, g, h):
        return square(add(matmul(a, g, ta=True), matmul(b, h, ta=True)))

    program = trace(step, *[normal(*shape) for shape in [(5, 4), (6, 4), (5, 3), (6, 3)]])
    lines = list(program.lines)
    lines[1] = replace(lines[1], phase="second order")
    found = merge_batches(program.with_lines(lines))
    assert [line.phase for line in found.lines if line.op is matmul] == ["second order"]


@pytest.mark.parametrize("n, products", [(128, 1), (4096, 2)])
def test_more_rows_than_the_cache_holds_do_not_wait_for_each_other(n, products):
    def step(a, b, g, h):
        a, b, g, h = tanh(a), sigmoid(b), square(g), ops.exp(h)
        return square(add(matmul(a, g, ta=True), matmul(b, h, ta=True)))

    found = merged(step, *[normal(n, 64) for _ in range(4)])
    assert count(found, "matmul") == [products]


def test_a_small_product_is_not_worth_a_large_copy():
    def step(a, b, g, h):
        return square(add(matmul(a, g, ta=True), matmul(b, h, ta=True)))

    assert alone(step, *[normal(4096, 4) for _ in range(4)])
    # A large product is.
    assert count(merged(step, *[normal(64, 256) for _ in range(4)]), "matmul") == [1]


def test_factors_are_put_together_in_the_same_order(monkeypatch):
    """Rows of the left in one array, of the right in another order: one of them must give way."""

    def step(x, y, w, v):
        a, g = tanh(matmul(x, w)), sigmoid(matmul(y, v))
        low, high = slice(0, 4), slice(4, 8)
        one = matmul(index(a, at=low), index(g, at=high), ta=True)
        return square(add(one, matmul(index(a, at=high), index(g, at=low), ta=True)))

    args = [normal(8, 3), normal(8, 3), normal(3, 4), normal(3, 5)]
    found = merged(step, *args)
    assert count(found, "add", "concatenate") == [0, 1]

    joined = merge._joined
    monkeypatch.setattr(merge, "_joined", lambda runs: joined(sorted(runs, key=lambda r: r.start)))
    program = trace(step, *args)
    assert distance(program, merge_batches(program), args) > 0.01


# The order of lines


def chain(*needs):
    """Lines 0, 1, … that use the results of the lines named."""
    values = [Value((2,), np.dtype(float)) for _ in needs]
    return [
        Line(add, tuple(values[i] for i in need), {}, y)
        for need, y in zip(needs, values, strict=True)
    ]


def test_lines_stay_where_they_are_if_they_can():
    lines = chain((), (0,), (), (0, 1), ())
    assert ordered(lines) == lines


def test_a_late_line_moves_up_to_its_first_user_with_what_it_needs():
    lines = chain((), (4,), (0,), (), (3,))
    assert ordered(lines) == [lines[i] for i in (0, 3, 4, 1, 2)]


def test_rows_are_cut_where_they_are_used_and_outputs_where_they_were():
    lines = chain((), (0,), (), (1,), (2,))
    lines[1] = replace(lines[1], op=index)
    lines[2] = replace(lines[2], op=concatenate)
    assert ordered(lines) == [lines[i] for i in (0, 1, 3, 2, 4)]
    assert ordered(lines, {lines[2].result}) == [lines[i] for i in (0, 2, 1, 3, 4)]
    assert ordered(lines[:3]) == lines[:1]  # nobody uses them


def test_a_long_chain_is_no_recursion():
    lines = chain((), *[(i,) for i in range(5000)])
    assert ordered(lines[::-1]) == lines


# The closed list

EACH = {
    ops.gate: {"slope": 0.2},
    ops.clip: {"low": -0.5, "high": 0.5},
    ops.inside: {"low": -0.5, "high": 0.5},
    ops.power_number: {"exponent": 3},
    ops.sum: {"axis": (1,)},
    ops.max: {"axis": -1, "keepdims": True},
    ops.norm: {"axis": (1, 2)},
    ops.logsumexp: {"axis": 2},
    norms.block_mean: {"axes": (1, 2)},
    norms.block_inverse_deviation: {"axes": (1, 2), "eps": 1e-5},
    norms.standardise: {"axes": (1, 2), "eps": 1e-5},
    norms.project: {"axes": (1, 2), "eps": 1e-5},
}
LISTED = sorted(
    merge._ELEMENTWISE | merge._REDUCTIONS | set(merge._NORMS), key=lambda op: op.__name__
)


@pytest.mark.parametrize("op", LISTED, ids=lambda op: op.__name__)
def test_an_op_of_the_list_treats_rows_apart(op):
    """Merged, it gives what it gave; and changing one row changes no other."""
    arguments = op.fn.__code__.co_argcount
    shared = arguments - merge._NORMS.get(op, arguments)  # scale, shift
    per_row = 2 if op in (norms.standardise, norms.project, norms.block_inverse_deviation) else 0
    params = EACH.get(op, {})

    def step(*wholes):
        wholes = [square(a) for a in wholes]
        parts = [wholes[: len(wholes) - shared]] * 2
        cut = [
            [index(a, at=at) for a in batch] + wholes[len(wholes) - shared :]
            for batch, at in zip(parts, (slice(0, 2), slice(2, 5)), strict=True)
        ]
        return [multiply(op(*given, **params), 2.0) for given in cut]

    shapes = [(5, 3, 4)] * (arguments - shared)
    if per_row:
        at = {norms.standardise: (1, 2), norms.project: (2, 3)}.get(op, (1,))
        shapes = [(5, 1, 1) if i in at else shape for i, shape in enumerate(shapes)]
    args = [normal(*shape) for shape in [*shapes, *[(4,)] * shared]]
    found = merged(step, *args)
    assert count(found, op.__name__)[0] == count(trace(step, *args), op.__name__)[0] - 1

    line = next(line for line in found.lines[::-1] if line.op is op and line.result.shape[0] == 5)
    given = [normal(*a.shape) ** 2 + 0.1 for a in line.operands]
    before = op.fn(*given, **line.params)
    for i in line_batches(line):
        given[i][2] *= 1.5
    after = op.fn(*given, **line.params)
    assert np.array_equal(np.delete(before, 2, 0), np.delete(after, 2, 0))


def line_batches(line):
    return merge._apart(line)[1]


# Whole steps

PENALTIES = {
    "none": None,
    "0-gp": penalties.zero_gp(of=sigmoid),
    "1-gp": penalties.one_gp(),
    "lp": penalties.lp(),
    "r1": penalties.r1(),
    "0-gp-sample": penalties.zero_gp_sample(),
    "dragan": penalties.dragan(),
}


def gradients(game, real, dtype):
    """(step, arguments) of the gradients of one batch, in one dtype."""
    stream = Stream(1)
    players = game.init(Stream(0), dtype)
    real = stream.normal(real, dtype)
    latent = 2 if real.ndim == 2 else 100
    noise = game.penalty.draw(stream, real) if game.penalty else ()

    def step(players, real, z, noise):
        return critic_gradients(game, players, real, z, noise)

    return step, (players, real, stream.normal((len(real), latent), dtype), noise)


@pytest.mark.parametrize("loss", [losses.NON_SATURATING, losses.WASSERSTEIN], ids=["ns", "w"])
@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_a_step_of_an_mlp_needs_no_flag(penalty, loss):
    """Real and fake in two calls become what the flag ``one_batch`` asks for, and one call less."""
    sgd = optim.SGD(0.1)
    game = GAN(*models.mlp_pair(2, 2, 8, 2), sgd, sgd, loss, penalty)
    for dtype, tolerance in [(np.float64, 1e-13), (np.float32, 1e-6)]:
        apart = merged(*gradients_of(game, dtype), tolerance=tolerance)
        one = merged(*gradients_of(replace(game, one_batch=True), dtype), tolerance=tolerance)
    assert count(apart, "affine", "matmul", "gate") == count(one, "affine", "matmul", "gate")
    assert count(apart, "affine") == [6]  # three layers of each player


def gradients_of(game, dtype, real=(16, 2)):
    step, args = gradients(game, real, dtype)
    return step, *args


@pytest.mark.parametrize("norm", [None, nn.LayerNorm])
def test_a_step_of_a_convolutional_net(norm):
    sgd = optim.SGD(0.1)
    g, _ = models.dcgan32(width=1 / 32, norm=None)
    _, d = models.dcgan32(width=1 / 32, norm=norm)
    game = GAN(g, d, sgd, sgd, losses.WASSERSTEIN, penalties.one_gp())
    for dtype, tolerance in [(np.float64, 1e-12), (np.float32, 2e-5)]:
        step, args = gradients(game, (4, 32, 32, 3), dtype)
        program = trace(step, *args)
        found = merge_batches(program)
        assert distance(program, found, args) <= tolerance
    before, after = (count(p, "conv2d", "conv2d_transpose") for p in (program, found))
    assert before[0] >= 19 and after[0] <= 12 and after[1] < before[1]
    if norm:  # all three batches go forward together, not one of them with its second order
        assert count(found, "block_mean", "standardise") == [3, 6]


def test_a_net_that_mixes_samples_is_left_alone():
    sgd = optim.SGD(0.1)
    game = GAN(*models.dcgan32(width=1 / 32), sgd, sgd)
    step, args = gradients(game, (4, 32, 32, 3), np.float64)
    program = trace(step, *args)
    found = merge_batches(program)
    assert distance(program, found, args) <= 1e-13
    sums = {"conv2d_weight_grad", "sum_to", "add", "concatenate"}
    before, after = program.counts(), found.counts()
    assert {k: n for k, n in before.items() if k not in sums} == {
        k: n for k, n in after.items() if k not in sums
    }
    mixing = [line for line in found.lines if line.op.mixes_samples(line.params)]
    assert mixing and all(line.args[0].shape[0] == 4 for line in mixing)


@pytest.mark.parametrize("one_batch", [False, True])
def test_an_iteration_of_both_players(one_batch):
    sgd = optim.SGD(0.01)
    net = models.zero_gp_toy(64, 2)
    game = GAN(*net, sgd, sgd, penalty=penalties.zero_gp(of=sigmoid), one_batch=one_batch)

    def iteration(players, real, z, alpha, later):
        players, c = critic_step(game, players, real, z, (alpha,))
        players, g = generator_step(game, players, later)
        return players, c.loss, c.penalty, g.loss

    n, stream = 128, Stream(1)
    args = [stream.normal((n, 2), np.float64) for _ in range(2)]
    args += [stream.uniform((n, 1), np.float64), stream.normal((n, 2), np.float64)]
    found = merged(iteration, game.init(Stream(0), np.float64), *args)
    # Of 32 products, 18 layers and 26 gates in two calls.
    assert count(found, "matmul", "affine", "gate") == [20, 9, 16]


# Any net


@st.composite
def nets(draw):
    """Layers, sizes of batches, how each branch ends, and which have a slope in the loss."""
    layers = draw(
        st.lists(st.sampled_from(["affine", "matmul", "residual"]), min_size=1, max_size=4)
    )
    activations = [draw(st.sampled_from(["relu", "leaky", "tanh", "softplus"])) for _ in layers]
    sizes = draw(st.lists(st.sampled_from([1, 2, 5, 130]), min_size=2, max_size=3))
    ends = [draw(st.sampled_from(["square", "sigmoid", "sum"])) for _ in sizes]
    slopes = [draw(st.booleans()) for _ in sizes]
    widths = [draw(st.sampled_from([1, 3, 40])) for _ in range(len(layers) + 1)]
    order = draw(st.permutations(range(len(sizes))))
    return layers, activations, sizes, ends, slopes, widths, order, draw(st.booleans())


@given(nets(), st.integers(0, 1000))
def test_any_net_with_several_branches(net, seed):
    layers, activations, sizes, ends, slopes, widths, order, shared = net
    rng = np.random.default_rng(seed)
    act = {"relu": relu, "leaky": leaky_relu, "tanh": tanh, "softplus": ops.softplus}
    end = {"square": square, "sigmoid": sigmoid, "sum": lambda a: a}
    shapes = list(zip(widths, widths[1:], strict=False))
    params = [
        (rng.normal(size=s), rng.normal(size=s[1]), rng.normal(size=s[1:] * 2)) for s in shapes
    ]
    batches = [rng.normal(size=(n, widths[0])) for n in sizes]
    if shared:
        batches[-1] = batches[0]

    def step(params, batches):
        p = track(params)

        def call(x):
            for kind, activation, (w, b, u) in zip(layers, activations, p, strict=True):
                x = matmul(x, w) if kind == "matmul" else affine(x, w, b)
                x = act[activation](x)
                x = add(x, matmul(x, u)) if kind == "residual" else x
            return x

        loss, seen = None, []
        for i in order:
            points = track(batches[i]) if slopes[i] else batches[i]
            y = end[ends[i]](call(points))
            seen.append(square(y).data)
            part = ops.sum(y)
            if slopes[i]:
                part = add(part, ops.mean(square(grad(part, points))))
            loss = part if loss is None else add(loss, part)
        return loss.data, seen, grad_values(loss, p)

    program = trace(step, params, batches)
    found = merge_batches(program)
    a, b = (tree.leaves(evaluate(each, params, batches)) for each in (program, found))
    for x, y in zip(a, b, strict=True):
        assert abs(x - y).max() <= 1e-11 * max(1.0, abs(x).max())
    assert sum(line.op is not index for line in found.lines) <= len(program.lines)
    products = {"affine", "matmul"}
    assert sum(found.counts().get(k, 0) for k in products) <= sum(
        program.counts().get(k, 0) for k in products
    )

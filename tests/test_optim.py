"""Optimisers: PyTorch's trajectories, first steps by hand, purity, schedules, bad input."""

import math

import numpy as np
import pytest
import record_optimisers as recorder
from hypothesis import given
from hypothesis import strategies as st

from tinygan import ops, optim, tree
from tinygan.engine import observe, track

SAME_AS_TORCH = {
    "sgd": optim.SGD(0.05),
    "momentum": optim.SGD(0.02, momentum=0.9),
    "nesterov": optim.SGD(0.02, momentum=0.9, nesterov=True),
    "rmsprop": optim.RMSProp(0.01),
    "rmsprop, decay .9": optim.RMSProp(0.004, decay=0.9, eps=1e-6),
    "adam": optim.Adam(0.02),
    "adam, betas .5 .9": optim.Adam(0.004, betas=(0.5, 0.9)),
    "adam, falling rate": optim.Adam(0.02),
}
ONE_OF_EACH = [
    optim.SGD(0.1),
    optim.SGD(0.1, momentum=0.9),
    optim.SGD(0.1, momentum=0.9, nesterov=True),
    optim.RMSProp(0.1),
    optim.Adam(0.1, betas=(0.5, 0.9)),
]
each = pytest.mark.parametrize("optimizer", ONE_OF_EACH, ids=str)


def array(*numbers, dtype=np.float64):
    return np.array(numbers, dtype)


@pytest.fixture(scope="module")
def recorded():
    with np.load(recorder.FILE) as file:
        return dict(file)


def trajectory(optimizer, dtype, factor=lambda step: 1.0):
    params = recorder.start(dtype)
    state = optimizer.init(params)
    points = {key: [] for key in params}
    for step in range(recorder.STEPS):
        rate = optimizer.rate * factor(step)
        params, state = optimizer.update(params, recorder.gradient(params), state, rate)
        for key, p in params.items():
            points[key].append(p)
    return {key: np.stack(p) for key, p in points.items()}


def test_the_recording_names_the_pytorch_that_made_it(recorded):
    assert str(recorded["torch"]).startswith("2.")
    assert recorder.RUNS.keys() == SAME_AS_TORCH.keys()


@pytest.mark.parametrize("name", SAME_AS_TORCH)
def test_a_hundred_steps_in_float64_are_pytorchs(name, recorded):
    ours = trajectory(SAME_AS_TORCH[name], "float64", lambda t: recorder.rate_factor(name, t))
    for key, points in ours.items():
        theirs = recorded[f"{name}/float64/{key}"]
        assert points.shape == theirs.shape and len(points) == 100
        assert (abs(points - theirs) <= 1e-12 * abs(theirs)).all(), key


@pytest.mark.parametrize("name", SAME_AS_TORCH)
def test_a_hundred_steps_in_float32_are_pytorchs_to_rounding(name, recorded):
    ours = trajectory(SAME_AS_TORCH[name], "float32", lambda t: recorder.rate_factor(name, t))
    for key, points in ours.items():
        theirs = recorded[f"{name}/float32/{key}"]
        assert points.dtype == theirs.dtype == np.float32
        assert (abs(points[9::10] - theirs) <= 1e-5 * abs(theirs)).all(), key


def test_a_schedule_is_pytorchs_falling_rate(recorded):
    fall = optim.LinearDecay(1.0, 0.0, recorder.STEPS)
    ours = trajectory(optim.Adam(0.02), "float64", fall)["a"]
    np.testing.assert_allclose(ours, recorded["adam, falling rate/float64/a"], rtol=1e-12)


# First steps by hand


def steps(optimizer, gradients, start=0.0):
    """Where one number goes under given gradients."""
    p, found = [array(start)], []
    state = optimizer.init(p)
    for g in gradients:
        p, state = optimizer.update(p, [array(g)], state)
        found.append(p[0].item())
    return found


def test_sgd_takes_the_gradient_times_the_rate():
    assert steps(optim.SGD(0.5), [2.0, -4.0], start=10.0) == [9.0, 11.0]


def test_momentum_starts_with_the_first_gradient_undamped():
    # velocity 2, then .5·2 + 4 = 5
    assert steps(optim.SGD(0.5, momentum=0.5), [2.0, 4.0]) == [-1.0, -3.5]


def test_nesterov_looks_ahead_by_the_new_velocity():
    # g + .5·v: 2 + 1 = 3, then 4 + .5·5 = 6.5
    assert steps(optim.SGD(0.5, momentum=0.5, nesterov=True), [2.0, 4.0]) == [-1.5, -4.75]


def test_rmsprop_divides_by_the_root_and_adds_eps_outside_it():
    # v = .25·2² = 1, then .75·1 + .25·4² = 4.75
    found = steps(optim.RMSProp(0.5, decay=0.75, eps=1.0), [2.0, 4.0])
    first = -0.5 * 2 / (1 + 1)
    assert found == pytest.approx([first, first - 0.5 * 4 / (math.sqrt(4.75) + 1)], rel=1e-15)


def test_adams_first_step_is_the_rate_whatever_the_gradients_size():
    for size in (1e-3, 1.0, 1e3):
        assert steps(optim.Adam(0.1, eps=0.0), [size]) == pytest.approx([-0.1], rel=1e-14)
        assert steps(optim.Adam(0.1, eps=0.0), [-size]) == pytest.approx([0.1], rel=1e-14)


def test_adam_corrects_both_averages_and_adds_eps_outside_the_root():
    found = steps(optim.Adam(0.1, betas=(0.5, 0.75), eps=1.0), [2.0, 4.0])
    first = -0.1 * 2 / (2 + 1)  # m/(1−β₁) = 2, √(v/(1−β₂)) = 2
    m = (0.5 * 1 + 0.5 * 4) / (1 - 0.5**2)
    v = (0.75 * 1 + 0.25 * 16) / (1 - 0.75**2)
    assert found == pytest.approx([first, first - 0.1 * m / (math.sqrt(v) + 1)], rel=1e-14)


@given(
    st.lists(st.floats(-10, 10).filter(lambda g: abs(g) > 1e-3), min_size=1, max_size=6),
    st.floats(0, 0.95),
    st.floats(0, 0.95),
)
def test_adam_is_its_textbook_sums(gradients, beta1, beta2):
    found = steps(optim.Adam(0.1, betas=(beta1, beta2)), gradients)
    place = 0.0
    for t, got in enumerate(found, 1):
        past = list(enumerate(gradients[:t], 1))
        m = math.fsum((1 - beta1) * beta1 ** (t - i) * g for i, g in past) / (1 - beta1**t)
        v = math.fsum((1 - beta2) * beta2 ** (t - i) * g * g for i, g in past) / (1 - beta2**t)
        place -= 0.1 * m / (math.sqrt(v) + 1e-8)
        assert got == pytest.approx(place, rel=1e-11, abs=1e-12)


# Pure functions of trees


def forest(dtype=np.float64):
    params = {"a": [array(1.0, -2.0, dtype=dtype)], "b": (np.eye(2, dtype=dtype),)}
    grads = {"a": [array(0.5, 3.0, dtype=dtype)], "b": (np.full((2, 2), -0.25, dtype),)}
    return params, grads


def frozen(params):
    """Read-only copies, and what they hold."""
    copies = tree.tree_map(lambda a: a.copy() if hasattr(a, "copy") else a, params)
    for a in tree.leaves(copies):
        if isinstance(a, np.ndarray):
            a.flags.writeable = False
    return copies


def same(one, other):
    one, other = tree.leaves(one), tree.leaves(other)
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@each
def test_nothing_given_is_changed_or_shared(optimizer):
    params, grads = map(frozen, forest())
    before = forest()
    state = frozen(optimizer.init(params))
    state_before = tree.tree_map(np.copy, state)
    for _ in range(3):
        new, new_state = optimizer.update(params, grads, state)
        assert same(params, before[0]) and same(grads, before[1]) and same(state, state_before)
        given = [a for a in tree.leaves([params, grads, state]) if isinstance(a, np.ndarray)]
        for a in tree.leaves([new, new_state]):
            assert not any(np.shares_memory(a, b) for b in given if isinstance(a, np.ndarray))
        params, state = frozen(new), frozen(new_state)
        before, state_before = (
            (tree.tree_map(np.copy, new), before[1]),
            tree.tree_map(np.copy, new_state),
        )


@each
def test_the_same_step_twice_gives_the_same_bits(optimizer):
    params, grads = forest()
    state = optimizer.init(params)
    assert same(optimizer.update(params, grads, state), optimizer.update(params, grads, state))


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trees_keep_their_nesting_and_dtype(optimizer, dtype):
    params, grads = forest(dtype)
    state = optimizer.init(params)
    for _ in range(2):
        params, state = optimizer.update(params, grads, state)
    assert type(params["a"]) is list and type(params["b"]) is tuple
    count = state.pop("step", np.array(2))
    assert type(count) is np.ndarray and (count.shape, count.dtype, count) == ((), np.int64, 2)
    for a in tree.leaves([params, state]):
        assert type(a) is np.ndarray and a.dtype == dtype


@each
def test_leaves_go_their_own_ways(optimizer):
    params, grads = forest()
    whole, state = params, optimizer.init(params)
    part, part_state = params["a"], optimizer.init(params["a"])
    for _ in range(3):
        whole, state = optimizer.update(whole, grads, state)
        part, part_state = optimizer.update(part, grads["a"], part_state)
    assert same(whole["a"], part)


@each
def test_a_rate_given_to_update_overrides_the_optimisers(optimizer):
    params, grads = forest()
    halved = type(optimizer)(**{**vars(optimizer), "rate": 0.05})
    state = optimizer.init(params)
    assert same(
        optimizer.update(params, grads, state, rate=0.05), halved.update(params, grads, state)
    )
    assert not same(
        optimizer.update(params, grads, state, rate=0.05), optimizer.update(params, grads, state)
    )


@each
def test_a_rate_of_zero_moves_nothing_but_the_state(optimizer):
    params, grads = forest()
    state = optimizer.init(params)
    new, new_state = optimizer.update(params, grads, state, rate=0.0)
    assert same(new, params)
    if state:
        assert not same(new_state, state)


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rate_is_a_number_or_an_array_of_any_float_dtype(optimizer, dtype):
    params, grads = forest(dtype)
    state = optimizer.init(params)
    for number in (np.float64(0.1), np.float32(0.1)):
        expected = optimizer.update(params, grads, state, rate=float(number))
        for rate in (number, np.asarray(number)):
            assert same(optimizer.update(params, grads, state, rate=rate), expected)


def test_adam_counts_from_a_python_int_too():
    params, grads = forest()
    adam = optim.Adam(0.1)
    _, state = adam.update(params, grads, adam.init(params))
    expected = adam.update(params, grads, state)
    for count in (1, np.int64(1), np.array(1)):
        found = adam.update(params, grads, {**state, "step": count})
        assert same(found, expected) and type(found[1]["step"]) is np.ndarray


def test_adams_corrections_are_rounded_once_from_float64():
    for t in (1, 7, 1000, 100_000):
        step = np.array(t)
        for dtype in map(np.dtype, (np.float32, np.float64)):
            for number in (0.1, np.array(0.1), np.array(0.1, np.float32)):
                rate = optim.corrected_rate(number, step, beta=0.9, dtype=dtype)
                assert rate.dtype == dtype and rate == dtype.type(float(number) / (1 - 0.9**t))
            root = optim.corrected_root(step, beta=0.999, dtype=dtype)
            assert root.dtype == dtype and root == dtype.type(1 / math.sqrt(1 - 0.999**t))


# What a recorder of primitives can see


def place(a):
    """Where an array's numbers are, and which: the same for a view of all of them."""
    return a.__array_interface__["data"][0], a.shape, a.strides, a.dtype.str


def constants(step, *args):
    """What neither ``args`` nor primitives made, of all that primitives and results hold.

    By name of the op: static arguments, and the numbers and arrays among the others.
    """
    made = {place(a) for a in tree.leaves(args) if isinstance(a, np.ndarray)}
    found, held = [], []  # held: no array's memory is used again while we look

    def fixed(arrays):
        arrays = [getattr(a, "data", a) if type(a) is not np.ndarray else a for a in arrays]
        held.append(arrays)
        return [np.copy(a) for a in arrays if not isinstance(a, np.ndarray) or place(a) not in made]

    def see(op, given, params, out):
        found.append((op.__name__, sorted(params.items()), fixed(given)))
        out = out if type(out) is np.ndarray else out.data
        held.append(out)
        made.add(place(out))

    with observe(see):
        results = step(*args)
    found.append(("the results", [], fixed(tree.leaves(results))))
    return found


def frames(scale, optimizer):
    """Parameters, gradients, a state and a rate: others for each scale, of the same shapes."""
    params, grads = forest()
    params, grads = (tree.tree_map(lambda a: a * scale, t) for t in (params, grads))
    state = optimizer.init(params)
    for _ in range(round(3 * scale)):
        _, state = optimizer.update(params, grads, state)
    return params, grads, state, np.array(0.1 * scale)


@each
def test_an_update_is_made_of_primitives_and_constants(optimizer):
    """No number or array is baked in that differs from step to step."""
    one, other = (constants(optimizer.update, *frames(scale, optimizer)) for scale in (1, 2))
    np.testing.assert_equal(one, other)
    assert one[-1] == ("the results", [], [])


@pytest.mark.parametrize(
    "planted",
    [
        lambda p, g, s, rate: ops.multiply(p["a"][0], float(rate)),
        lambda p, g, s, rate: optim.descend(p["a"][0], g["a"][0], np.array(float(rate))),
        lambda p, g, s, rate: optim.descend(p["a"][0] * 2, g["a"][0], rate),
        lambda p, g, s, rate: optim.accumulate(p["a"][0], g["a"][0], momentum=float(rate)),
        lambda p, g, s, rate: optim.descend(p["a"][0], g["a"][0], rate)[:1],
    ],
    ids=["a number", "an array", "an operator", "a static argument", "a part of a result"],
)
def test_a_step_that_bakes_something_in_is_seen(planted):
    one, other = (constants(planted, *frames(scale, optim.SGD(0.1))) for scale in (1, 2))
    with pytest.raises(AssertionError):
        np.testing.assert_equal(one, other)


@each
def test_an_update_on_a_device_stays_there(optimizer, stand_in, monkeypatch):
    params, grads = (tree.tree_map(stand_in.asarray, t) for t in forest(np.float32))
    state = optimizer.init(params)

    def leaves_the_device(*_):
        raise AssertionError("an array left its device")

    for way in ("get", "item", "tolist", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(stand_in.ndarray, way, leaves_the_device)
    for rate in (None, 0.1, stand_in.asarray(0.1), stand_in.asarray(np.float32(0.1))):
        params, state = optimizer.update(params, grads, state, rate)
    assert all(type(a) is stand_in.ndarray for a in tree.leaves([params, state]))


@each
def test_it_goes_down_a_bowl(optimizer):
    params = [array(3.0, -2.0)]
    state = optimizer.init(params)
    for step in range(200):
        params, state = optimizer.update(
            params, [p.copy() for p in params], state, rate=0.1 * 0.99**step
        )
    assert np.linalg.norm(params[0]) < 0.05


@each
def test_other_devices_give_the_same_bits(optimizer, xp):
    params, grads = forest(np.float32)
    there, grads_there = (tree.tree_map(xp.asarray, t) for t in (params, grads))
    state, state_there = optimizer.init(params), optimizer.init(there)
    for _ in range(3):
        params, state = optimizer.update(params, grads, state)
        there, state_there = optimizer.update(there, grads_there, state_there)
    back = tree.tree_map(xp.get, there)
    for a, b in zip(tree.leaves(params), tree.leaves(back), strict=True):
        np.testing.assert_allclose(a, b, rtol=0 if xp.name != "cupy" else 1e-6)


# Bad input


@each
def test_tensors_are_refused(optimizer):
    params, grads = forest()
    state = optimizer.init(params)
    with pytest.raises(TypeError, match=r"init: given a Tensor.*values\(params\)"):
        optimizer.init(track(params))
    with pytest.raises(TypeError, match="update: given a Tensor.*grad_values"):
        optimizer.update(params, track(grads), state)
    with pytest.raises(TypeError, match="update: given a Tensor"):
        optimizer.update(track(params), grads, state)


@each
def test_a_rate_that_is_no_number_is_an_error(optimizer):
    params, grads = forest()
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"update: rate has shape \(2,\); expected a number or"):
        optimizer.update(params, grads, state, rate=array(0.1, 0.1))
    with pytest.raises(TypeError, match="update: given a Tensor"):
        optimizer.update(params, grads, state, rate=track(np.array(0.1)))


@each
def test_a_gradient_of_another_shape_or_dtype_is_an_error(optimizer):
    params = [np.zeros((3, 2))]
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"float64\[2\] for a parameter of float64\[3, 2\]"):
        optimizer.update(params, [np.zeros(2)], state)
    with pytest.raises(ValueError, match=r"float32\[3, 2\] for a parameter of float64"):
        optimizer.update(params, [np.zeros((3, 2), np.float32)], state)


@each
@pytest.mark.parametrize(
    "grads",
    [
        {"a": [np.zeros(2)]},
        {"a": [np.zeros(2)], "b": (np.zeros((2, 2)), np.zeros(1))},
        {"a": [np.zeros(2)], "c": (np.zeros((2, 2)),)},
        [np.zeros(2), np.zeros((2, 2))],
    ],
    ids=["a branch less", "a leaf more", "another key", "another nesting"],
)
def test_a_gradient_of_another_tree_is_an_error_that_describes_both(optimizer, grads):
    params, _ = forest()
    with pytest.raises(ValueError, match="trees differ"):
        optimizer.update(params, grads, optimizer.init(params))


@each
def test_gradients_are_matched_by_key_and_not_by_order(optimizer):
    params = {"a": array(1.0), "b": array(1.0, 2.0)}
    grads = {"b": array(3.0, 4.0), "a": array(5.0)}
    state = optimizer.init(params)
    swapped = {"a": grads["a"], "b": grads["b"]}
    assert same(optimizer.update(params, grads, state), optimizer.update(params, swapped, state))


@pytest.mark.parametrize("rate", [0.0, -1e-3, math.inf, math.nan])
@pytest.mark.parametrize("kind", [optim.SGD, optim.RMSProp, optim.Adam])
def test_a_rate_that_is_not_above_zero_is_an_error(kind, rate):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: rate is .*above 0"):
        kind(rate)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda x: optim.SGD(0.1, momentum=x), "momentum"),
        (lambda x: optim.RMSProp(0.1, decay=x), "decay"),
        (lambda x: optim.Adam(0.1, betas=(x, 0.9)), "beta1"),
        (lambda x: optim.Adam(0.1, betas=(0.9, x)), "beta2"),
    ],
    ids=["momentum", "decay", "beta1", "beta2"],
)
@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, math.nan])
def test_a_fraction_outside_zero_to_one_is_an_error(make, name, value):
    with pytest.raises(ValueError, match=f"{name} is "):
        make(value)


def test_nesterov_without_momentum_is_an_error():
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        optim.SGD(0.1, nesterov=True)


# Schedules


def test_linear_decay_goes_straight_and_then_stays():
    schedule = optim.LinearDecay(1.0, 0.2, 4)
    assert [schedule(t) for t in (0, 1, 2, 4, 5, 1000)] == pytest.approx(
        [1.0, 0.8, 0.6, 0.2, 0.2, 0.2], rel=1e-15
    )


def test_linear_decay_may_begin_later():
    schedule = optim.LinearDecay(1.0, 0.0, 4, after=3)
    assert [schedule(t) for t in (0, 3, 4, 5, 7, 99)] == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]


def test_cosine_decay_is_slow_at_both_ends():
    schedule = optim.CosineDecay(3.0, 1.0, 8)
    quarter = 2 + math.cos(math.pi / 4)
    found = [schedule(t) for t in (0, 2, 4, 6, 8, 99)]
    np.testing.assert_allclose(found, [3, quarter, 2, 4 - quarter, 1, 1], rtol=1e-15)


def test_exponential_decay_is_a_power():
    schedule = optim.ExponentialDecay(0.8, 0.25, 10)
    assert [schedule(t) for t in (0, 5, 10, 20)] == pytest.approx([0.8, 0.4, 0.2, 0.05], rel=1e-15)


@pytest.mark.parametrize("steps", [0, -5])
@pytest.mark.parametrize(
    "make",
    [
        lambda steps: optim.LinearDecay(1.0, 0.0, steps),
        lambda steps: optim.CosineDecay(1.0, 0.0, steps),
        lambda s: optim.ExponentialDecay(1.0, 0.5, s),
    ],
    ids=["linear", "cosine", "exponential"],
)
def test_a_schedule_over_no_steps_is_an_error(make, steps):
    with pytest.raises(ValueError, match="steps"):
        make(steps)

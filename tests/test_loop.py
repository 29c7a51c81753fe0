"""The loop around any game, with one player that is a point; descents and data against NumPy."""

import csv
import inspect
import io
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygan.loop
from tinygan import ops, optim, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import Tensor, track
from tinygan.game import (
    Descent,
    Game,
    Streams,
    descend,
    draw_samples,
    record_type,
    square_norm,
)
from tinygan.loop import Diverged, History, Run, run


class Player(NamedTuple):
    """A point and its optimiser's state."""

    point: Any
    state: Any


def nothing(*args):
    """What a place of the game below does on the way."""


@dataclass(frozen=True)
class Pursuit(Game):
    """A point x goes after the data's samples and some noise, down ½·E (x − s − n/10)².

    ``on_draw``, ``on_step`` and ``on_record`` are called in these places.
    """

    optimizer: Any = optim.SGD(0.25)  # noqa: RUF009
    on_draw: Callable = nothing
    on_step: Callable = nothing
    on_record: Callable = nothing

    names = ("point_loss", "gradient")

    def init(self, stream, dtype=np.float32):
        point = {"x": stream.normal((1,), dtype)}
        return Player(point, self.optimizer.init(point))

    def draw(self, data, streams, step, dtype):
        self.on_draw(step)
        real = draw_samples(data, 4, streams.data, dtype)
        return real, streams.points.normal((4, 1), dtype), streams.noise.normal((4, 1), dtype)

    def step(self, player, batch, factor):
        self.on_step(factor)
        real, point, noise = batch
        target = ops.add(real, ops.multiply(ops.add(point, noise), 0.1))
        tracked = track(player.point)
        loss = ops.multiply(ops.mean(ops.square(ops.subtract(tracked["x"], target))), 0.5)
        point, state, square = descend(loss, tracked, self.optimizer, player.state, factor)
        return Player(point, state), ops.stack(loss.data, square)

    def generate(self, player, n, stream):
        return ops.add(player.point["x"], stream.normal((n, 1), player.point["x"].dtype))

    def record(self, step, numbers):
        self.on_record(step)
        return super().record(step, numbers)


def samples(n, stream):
    """Data around 3, in float32."""
    return 3 + stream.normal((n, 1))


def exact(n, stream):
    """The same in float64."""
    return 3 + stream.normal((n, 1), np.float64)


def pursue(steps=4, *, game=None, data=samples, start=None, seed=1, **how):
    game = Pursuit() if game is None else game
    start = game.init(Stream(0)) if start is None else start
    return run(game, start, data, steps, Stream(seed), **how)


def by_hand(steps, rate=0.25, factor=lambda step: 1.0, data=exact, dtype=np.float64):
    """The point before each iteration and after the last; losses and squared slopes of each."""
    x = float(Pursuit().init(Stream(0), dtype).point["x"][0])
    streams = [Stream(1).child(i) for i in range(3)]
    path, numbers = [x], []
    for step in range(steps):
        real, point, noise = (
            data(4, streams[0]), *(stream.normal((4, 1), dtype) for stream in streams[1:])
        )  # fmt: skip
        apart = x - (real + 0.1 * (point + noise)).astype(np.float64)
        numbers.append((0.5 * (apart**2).mean(), apart.mean() ** 2))
        x -= rate * factor(step) * apart.mean()
        path.append(x)
    return path, numbers


def same(one, other):
    pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


both_ways = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])


# The iterations


@both_ways
def test_a_run_is_its_iterations_written_out(compiled):
    """Also what it draws: data, points and noise each from a stream of their own."""
    start = Pursuit().init(Stream(0), np.float64)
    found = pursue(5, start=start, data=exact, compiled=compiled)
    path, numbers = by_hand(5)
    assert type(found) is Run and type(found.players) is Player and not found.interrupted
    assert found.players.point["x"][0] == pytest.approx(path[-1], rel=1e-12)
    assert abs(path[-1] - path[0]) > 0.5
    assert [record[0] for record in found.history.records] == [1, 2, 3, 4, 5]
    for record, expected in zip(found.history.records, numbers, strict=True):
        assert tuple(record)[1:] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimizer", [optim.SGD(0.1, 0.9), optim.Adam(0.1)], ids=["sgd", "adam"])
def test_compiled_is_eager_to_rounding(optimizer):
    game = Pursuit(optimizer)
    how = {"game": game, "start": game.init(Stream(0), np.float64), "data": exact}
    one, other = (pursue(20, compiled=compiled, **how) for compiled in (True, False))
    for a, b in zip(tree.leaves(one.players), tree.leaves(other.players), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    for a, b in zip(one.history.records, other.history.records, strict=True):
        assert tuple(a) == pytest.approx(tuple(b), rel=1e-12)


@both_ways
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(compiled):
    one, again, other = (pursue(seed=seed, compiled=compiled) for seed in (1, 1, 2))
    assert same(one.players, again.players) and one.history == again.history
    assert one.players.point["x"] != other.players.point["x"] and one.history != other.history


def test_the_runs_stream_itself_does_not_move():
    stream = Stream(1)
    run(Pursuit(), Pursuit().init(Stream(0)), samples, 2, stream)
    assert stream.counter == 0


def test_a_step_is_compiled_unless_asked_otherwise():
    """Then Python runs it once: its arguments are those of the first iteration."""
    calls = []
    pursue(6, game=Pursuit(on_step=calls.append), compiled=False)
    assert calls == [1.0] * 6
    calls.clear()
    pursue(6, game=Pursuit(on_step=calls.append))
    assert 1 <= len(calls) < 6


@both_ways
def test_no_steps_change_nothing(compiled):
    def fail(*args):
        raise AssertionError("no work was to be done")

    start, seen = Pursuit().init(Stream(0)), []
    watch = lambda step, players: seen.append((step, players))  # noqa: E731
    found = pursue(0, start=start, data=fail, compiled=compiled, schedule=fail, watch=watch)
    assert found.players is start and not found.interrupted
    assert len(seen) == 1 and seen[0][0] == 0 and seen[0][1] is start
    assert found.history == History([], ("step", "point_loss", "gradient"))


def test_the_dtype_of_draws_is_that_of_the_players():
    for dtype, data in ((np.float32, samples), (np.float64, exact)):
        found = pursue(2, start=Pursuit().init(Stream(0), dtype), data=data)
        assert found.players.point["x"].dtype == dtype
    with pytest.raises(TypeError, match="float32; expected an array of float64"):
        pursue(2, start=Pursuit().init(Stream(0), np.float64))


class Counting(Game):
    """A player without a float: it counts its iterations."""

    names = ("count",)
    dtypes = []

    def draw(self, data, streams, step, dtype):
        self.dtypes.append(dtype)
        return ()

    def step(self, players, batch, factor):
        count = ops.add(players["count"], 1)
        return {"count": count}, ops.stack(count)


@both_ways
def test_players_without_floats_are_played(compiled):
    """The draws are then of float32."""
    game = Counting()
    game.dtypes.clear()
    found = run(game, {"count": np.array(3)}, None, 4, Stream(1), compiled=compiled)
    assert found.players["count"] == 7
    assert [tuple(record) for record in found.history.records] == [(1, 4), (2, 5), (3, 6), (4, 7)]
    assert game.dtypes == [np.float32] * 4


class Nobody(Game):
    """A game without players: only the draws are looked at."""

    names = ("a", "b")

    def draw(self, data, streams, step, dtype):
        return np.array([1.0, 0.0 if step == 2 else 2.0])

    def step(self, players, batch, factor):
        return players, ops.divide(1.0, batch)


def test_a_game_without_players_has_a_diagnosis_too():
    assert run(Nobody(), (), None, 2, Stream(1)).players == ()
    with pytest.raises(Diverged, match="iteration 3: b is not finite.* before it was 0, in noth"):
        run(Nobody(), (), None, 3, Stream(1))


def test_a_run_on_another_device_is_the_same_run(xp):
    """Its history is of Python's floats all the same."""

    def on(device):
        start = Pursuit(optim.Adam(0.1)).init(Stream(0, device=device))
        stream = Stream(1, device=device)
        return run(Pursuit(optim.Adam(0.1)), start, samples, 3, stream)

    here, there = on("cpu"), on(xp.device)
    for a, b in zip(tree.leaves(here.players), tree.leaves(there.players), strict=True):
        np.testing.assert_allclose(xp.get(b), a, rtol=1e-5)
    assert all(type(x) in (int, float) for record in there.history.records for x in record)


# The history


def test_a_record_has_the_games_names_and_python_numbers():
    for record in pursue().history.records:
        assert record._fields == ("step", "point_loss", "gradient")
        assert type(record.step) is int and type(record.point_loss) is float
        assert type(record.gradient) is float


def test_records_of_one_list_of_names_are_of_one_type():
    assert record_type(("a", "b")) is record_type(("a", "b")) is not record_type(("a",))
    assert record_type(("a", "b"))(1, 2.0, b=3.0) == (1, 2.0, 3.0)


def test_the_names_of_a_history_are_those_of_its_records():
    history = pursue().history
    assert history.names == history.records[0]._fields
    assert history.column("gradient").tolist() == [record[2] for record in history.records]
    assert history.column("gradient").shape == (4,)
    with pytest.raises(AttributeError, match="nobody"):
        history.column("nobody")


def test_histories_do_not_share_their_records():
    one, other = History(), History()
    one.records.append(1)
    assert other.records == []


@pytest.mark.parametrize(
    "steps, every, recorded",
    [(6, 1, [1, 2, 3, 4, 5, 6]), (6, 3, [3, 6]), (7, 3, [3, 6, 7]), (2, 9, [2]), (1, 1, [1])],
)
@both_ways
def test_every_so_many_iterations_and_the_last_are_recorded(steps, every, recorded, compiled):
    found = pursue(steps, record_every=every, compiled=compiled)
    full = pursue(steps, compiled=compiled)
    assert found.history.records == [full.history.records[i - 1] for i in recorded]
    assert same(found.players, full.players)


def test_a_history_is_a_table_in_csv():
    history = pursue().history
    text = history.csv()
    assert text.endswith("\n") and "\r" not in text
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["step", "point_loss", "gradient"]
    read = [(int(row[0]), *map(float, row[1:])) for row in rows]
    assert read == [tuple(record) for record in history.records]  # to the last bit


def test_the_csv_of_a_run_without_records_is_its_header():
    assert pursue(0).history.csv() == "step,point_loss,gradient\n"
    assert pursue(watch=stop_at(0)).history.csv() == "step,point_loss,gradient\n"
    with pytest.raises(Diverged) as caught:
        pursue(data=poisoned(1))
    assert caught.value.history.csv() == "step,point_loss,gradient\n"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_history_and_its_records_can_be_pickled(protocol):
    found = pursue()
    history = pickle.loads(pickle.dumps(found.history, protocol))
    assert history == found.history and history.csv() == found.history.csv()
    record = history.records[0]
    assert type(record) is type(found.history.records[0])
    assert record.point_loss == found.history.records[0].point_loss
    again = pickle.loads(pickle.dumps(found, protocol)) if protocol > 1 else found
    assert same(again.players, found.players) and again.history == found.history


# Rates


@both_ways
def test_a_schedule_multiplies_the_rate(compiled):
    start = Pursuit().init(Stream(0), np.float64)
    asked = []

    def schedule(step):
        asked.append(step)
        return 1 / (1 + step)

    found = pursue(4, start=start, data=exact, schedule=schedule, compiled=compiled)
    path, _ = by_hand(4, factor=lambda step: 1 / (1 + step))
    assert found.players.point["x"][0] == pytest.approx(path[-1], rel=1e-12)
    assert asked == [0, 1, 2, 3]
    assert path[-1] != pytest.approx(by_hand(4)[0][-1], rel=1e-3)


@both_ways
@pytest.mark.parametrize("half", [0.5, np.float32(0.5), np.float64(0.5)], ids=type)
def test_a_schedule_may_give_any_number(half, compiled):
    found = pursue(3, schedule=lambda step: half if step else 1, compiled=compiled)
    expected = pursue(3, schedule=lambda step: 0.5 if step else 1.0, compiled=compiled)
    assert same(found.players, expected.players)


def test_a_tuple_of_numbers_goes_to_the_game_as_it_is():
    given = []

    @dataclass(frozen=True)
    class Pair(Pursuit):
        rates = 2

        def step(self, player, batch, factor):
            given.append(factor)
            return super().step(player, batch, factor[1])

    pursue(2, game=Pair(), schedule=lambda step: (step, np.float32(2.5)), compiled=False)
    assert given == [(0, 2.5), (1, 2.5)]


@both_ways
@pytest.mark.parametrize(
    "wrong, kind",
    [
        ([0.5, 1.0], "list"),
        (np.array([0.5, 1.0]), "ndarray"),
        (None, "NoneType"),
        ("0.5", "str"),
        ((0.5, None), "tuple"),
        ((0.5, [1.0]), "tuple"),
        ((0.5, 1.0), "tuple"),
        (-0.5, "float"),
        (float("nan"), "float"),
        (float("inf"), "float"),
        (1j, "complex"),
    ],
    ids=repr,
)
def test_a_schedule_that_gives_no_number_is_an_error_that_names_it(wrong, kind, compiled):
    message = f"schedule gave a {kind}, .*expected a number"
    with pytest.raises(TypeError, match=message):
        pursue(schedule=lambda step: wrong, compiled=compiled)


@pytest.mark.parametrize("steps, every", [(-1, 1), (3, 0), (3, -2)])
def test_counts_out_of_range_are_errors_before_any_work(steps, every):
    def fail(*args):
        raise AssertionError("no work was to be done")

    with pytest.raises(ValueError, match=f"steps {steps}, record_every {every}; expected ≥ 0 and"):
        pursue(steps, record_every=every, data=fail, watch=fail)


# Watching and stopping


def stop_at(when):
    def watch(step, players):
        if step == when:
            raise KeyboardInterrupt

    return watch


@both_ways
def test_watch_sees_the_players_before_and_after_every_iteration(compiled):
    seen, start = [], Pursuit().init(Stream(0), np.float64)

    def watch(step, players):
        seen.append((step, players))

    found = pursue(start=start, data=exact, watch=watch, compiled=compiled)
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4]
    assert seen[0][1] is start and seen[-1][1] is found.players
    points = [player.point["x"][0] for _, player in seen]
    np.testing.assert_allclose(points, by_hand(4)[0], rtol=1e-12)
    assert same(pursue(start=start, data=exact, compiled=compiled).players, found.players)


def test_other_exceptions_are_not_swallowed():
    def watch(step, players):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pursue(watch=watch)


def at_call(number):
    """Ctrl-C at call number ``number``, from 1."""
    calls = []

    def place(*args):
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt

    return place


def stopped_run(place, number, steps=100, **how):
    """A run with Ctrl-C at call number ``number`` of a place of the loop."""
    stop = at_call(number)
    if place in ("on_draw", "on_record", "on_step"):
        return pursue(steps, game=Pursuit(**{place: stop}), **how)
    if place == "data":
        return pursue(steps, data=lambda n, stream: stop() or samples(n, stream), **how)
    if place == "schedule":
        return pursue(steps, schedule=lambda step: stop() or 1.0, **how)
    assert place == "watch"
    return pursue(steps, watch=stop, **how)


@pytest.mark.parametrize("every", [1, 2, 50])
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("place", ["on_draw", "data", "schedule", "on_step", "on_record", "watch"])
def test_ctrl_c_anywhere_leaves_the_last_whole_iteration(place, number, every):
    """Watch is called once more than the others, and after the iteration."""
    found = stopped_run(place, number, compiled=False, record_every=every)
    whole = number - 1
    assert found.interrupted
    expected = pursue(whole, compiled=False, record_every=every)
    assert same(found.players, expected.players)
    assert found.history == expected.history  # the last one is recorded, whatever it is


@pytest.mark.parametrize("place", ["on_draw", "data", "schedule", "on_record", "watch"])
def test_ctrl_c_leaves_the_last_whole_iteration_of_a_replay(place):
    found = stopped_run(place, 5)
    assert found.interrupted
    assert same(found.players, pursue(4).players) and found.history == pursue(4).history


@pytest.mark.parametrize("steps", [0, 3])
def test_ctrl_c_in_the_final_check_loses_nothing(steps, monkeypatch):
    finite, stop = tinygan.loop._finite, at_call(1)
    monkeypatch.setattr(tinygan.loop, "_finite", lambda players: stop() or finite(players))
    found = pursue(steps)
    monkeypatch.undo()
    assert found.interrupted
    assert same(found.players, pursue(steps).players) and found.history == pursue(steps).history


def test_ctrl_c_after_an_update_that_overflowed_is_no_good_end():
    """The check of the players is not left out because somebody stopped the run."""
    with pytest.raises(Diverged, match="iteration 3: its update left parameters") as caught:
        pursue(10, schedule=overflowing(3), watch=stop_at(3))
    assert same(caught.value.players, pursue(2).players)
    assert caught.value.history == pursue(2).history


def interrupted_at_line(event):
    """A run of two iterations that Ctrl-C meets before its ``event``-th line, and that line.

    The result is None where it left the run; the line is 0 once the run is over before.
    """
    code, met, lines = run.__code__, 0, []

    def local(frame, what, arg):
        lines.append(frame.f_lineno)
        if what == "line" and len(lines) == event:
            raise KeyboardInterrupt
        return local

    def trace(frame, what, arg):
        return local if frame.f_code is code else None

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        found = pursue(2, compiled=False, record_every=2, watch=nothing)
    except KeyboardInterrupt:
        found = None
    finally:
        sys.settrace(before)
    met = lines[event - 1] if event <= len(lines) else 0
    return found, met


def test_ctrl_c_before_any_line_of_the_loop_leaves_the_last_whole_iteration():
    source, first = inspect.getsourcelines(run)
    begin = first + next(i for i, line in enumerate(source) if line.strip() == "try:")
    end = first + next(i for i, line in enumerate(source) if "except KeyboardInterrupt" in line)
    expected = [pursue(whole, compiled=False) for whole in range(3)]
    found, met, seen = None, 1, set()
    for event in range(1, 200):
        found, met = interrupted_at_line(event)
        if met == 0:
            break
        if begin < met < end:
            seen.add(met)
            assert found is not None and found.interrupted, f"line {met} lost the run"
        if found is not None:
            done = found.history.records[-1].step if found.history.records else 0
            assert same(found.players, expected[done].players), f"line {met}"
            assert found.history.records == expected[done].history.records[done - 1 : done]
    assert met == 0 and len(seen) > 15 and not found.interrupted


def test_a_progress_bar_on_request_shows_the_losses(capsys):
    pursue()
    assert capsys.readouterr().err == ""
    found = pursue(progress=True)
    shown = capsys.readouterr().err
    assert "4/4" in shown and f"point {found.history.records[-1].point_loss:.3f}" in shown
    assert "gradient" not in shown


def test_a_step_that_cannot_be_recorded_is_an_error_that_names_the_way_out():
    @dataclass(frozen=True)
    class ByNumpy(Pursuit):
        def step(self, player, batch, factor):
            return super().step(player, (np.tanh(batch[0]), *batch[1:]), factor)

    with pytest.raises(ValueError, match=r"trace: .*test_loop.py.* compiled=False \(--eager\)"):
        pursue(game=ByNumpy())
    assert len(pursue(game=ByNumpy(), compiled=False).history.records) == 4


@both_ways
def test_an_error_of_the_game_itself_is_not_dressed(compiled):
    def broken(factor):
        raise ValueError("of my own")

    with pytest.raises(ValueError, match="^of my own$"):
        pursue(game=Pursuit(on_step=broken), compiled=compiled)


# Divergence


def poisoned(at, value=np.nan):
    """Data whose batch number ``at`` holds one number that is not finite."""
    calls = []

    def data(n, stream):
        calls.append(n)
        real = samples(n, stream)
        if len(calls) == at:
            real[1] = value
        return real

    return data


def overflowing(at):
    """A schedule that takes iteration ``at``'s update out of float32."""
    return lambda step: np.float64(1e42) if step == at - 1 else 1.0


@both_ways
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_ends_the_run_with_a_diagnosis(value, every, compiled):
    with pytest.raises(Diverged) as caught:
        pursue(10, data=poisoned(4, value), record_every=every, compiled=compiled)
    good = pursue(3, compiled=compiled)
    assert (
        str(caught.value) == "iteration 4: what it drew is not finite. Check the data: they are not"
    )
    assert same(caught.value.players, good.players)
    assert caught.value.history.records == good.history.records[every - 1 :: every]
    assert isinstance(caught.value, RuntimeError)


class Sized(Game):
    """Players of several sizes, the largest in a list, and numbers of which one breaks."""

    names = ("a", "b", "c")

    def draw(self, data, streams, step, dtype):
        return np.array([1.0, 0.0, -0.0])

    def step(self, players, batch, factor):
        return players, ops.divide(1.0, batch)


def test_the_diagnosis_names_what_broke_and_the_largest_number_by_its_path():
    start = Player({"w": np.array([1.0, -7.5]), "n": np.array(1000)}, [np.ones(2), np.array([5.0])])
    with pytest.raises(Diverged, match=r"^iteration 1: b, c is not finite.* 7.5, in point.w\. Low"):
        run(Sized(), start, None, 1, Stream(0))
    start = Player({"w": np.array([1.0, -7.5])}, [np.ones(2), np.array([9.0])])
    with pytest.raises(Diverged, match=r"before it was 9, in state.1\. Lower"):
        run(Sized(), start, None, 1, Stream(0))


@both_ways
def test_a_rate_that_is_too_large_ends_without_a_warning(compiled):
    """x ← x − r·(x − s) grows by |1 − r| a step: warnings are errors here."""
    with pytest.raises(Diverged, match="Lower the rates") as caught:
        pursue(100, game=Pursuit(optim.SGD(1e6)), compiled=compiled)
    error = caught.value
    message = str(error)
    assert "is not finite. The largest number before it was" in message and "in point.x." in message
    done = len(error.history.records)
    assert [record.step for record in error.history.records] == list(range(1, done + 1))
    assert 1 < done < 10 and np.isfinite(error.players.point["x"]).all()
    assert all(np.isfinite(record).all() for record in error.history.records)


@both_ways
@pytest.mark.parametrize("steps", [3, 5])
def test_an_update_that_overflows_is_met_at_once_or_at_the_end(steps, compiled):
    """Its own numbers are finite: the next iteration's are not, or the last players."""
    with pytest.raises(Diverged) as caught:
        pursue(steps, schedule=overflowing(3), compiled=compiled)
    good = pursue(2, compiled=compiled)
    assert f"iteration {min(steps, 4)}: " in str(caught.value)
    assert same(caught.value.players, good.players)
    assert caught.value.history == good.history


def test_players_that_are_not_finite_at_the_start_are_told():
    start = Pursuit().init(Stream(0))._replace(point={"x": np.array([np.nan], np.float32)})
    with pytest.raises(Diverged, match="iteration 1: .*inf, in point.x"):
        pursue(3, start=start)
    with pytest.raises(Diverged, match="not finite"):
        pursue(0, start=start)


# A descent


def weights():
    return {"w": np.array([[1.0, -2.0], [0.5, 3.0]]), "b": [np.array([0.25])]}


def bowl(tracked):
    """½·Σ w² + 3·b²: gradients w and 6b."""
    w, b = ops.sum(ops.square(tracked["w"])), ops.sum(ops.square(tracked["b"][0]))
    return ops.add(ops.multiply(w, 0.5), ops.multiply(b, 3.0))


@pytest.mark.parametrize("factor", [None, 1, 0.5, 3.0, 0.0, np.float64(2.0), np.array(0.25)])
def test_a_descent_with_sgd_by_hand(factor):
    params, optimizer = weights(), optim.SGD(0.1)
    tracked = track(params)
    given = () if factor is None else (factor,)
    found = descend(bowl(tracked), tracked, optimizer, optimizer.init(params), *given)
    rate = 0.1 * (1.0 if factor is None else float(factor))
    assert type(found) is Descent and found.state == {}
    np.testing.assert_allclose(found.params["w"], params["w"] * (1 - rate), rtol=1e-15)
    np.testing.assert_allclose(found.params["b"][0], params["b"][0] * (1 - 6 * rate), rtol=1e-15)
    assert float(found.square) == pytest.approx(1 + 4 + 0.25 + 9 + 1.5**2, rel=1e-15)
    assert all(type(a) is np.ndarray for a in tree.leaves(found.params))
    assert same(params, weights())  # nothing was changed in place


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_descents_with_adam_by_hand(factor):
    params, optimizer = weights(), optim.Adam(0.1, (0.8, 0.9), eps=1e-3)
    state, flat = optimizer.init(params), np.array([1.0, -2.0, 0.5, 3.0, 0.25])
    mean, square = np.zeros(5), np.zeros(5)
    for t in (1, 2, 3):
        tracked = track(params)
        found = descend(bowl(tracked), tracked, optimizer, state, factor)
        slope = flat * [1, 1, 1, 1, 6]
        mean, square = 0.8 * mean + 0.2 * slope, 0.9 * square + 0.1 * slope**2
        root = np.sqrt(square / (1 - 0.9**t)) + 1e-3
        flat = flat - factor * 0.1 * mean / (1 - 0.8**t) / root
        params, state = found.params, found.state
        got = np.concatenate([a.reshape(-1) for a in tree.leaves(params)])
        np.testing.assert_allclose(got, flat, rtol=1e-13)
        assert float(found.square) == pytest.approx((slope**2).sum(), rel=1e-13)
    assert state["step"] == 3


def test_a_square_norm_is_the_sum_over_all_leaves():
    assert float(square_norm(weights())) == 1 + 4 + 0.25 + 9 + 0.0625
    assert square_norm([np.full((2, 3), 2.0)]).shape == ()
    assert float(square_norm({"a": (np.array(3.0),)})) == 9.0


def test_a_square_norm_of_tensors_can_be_differentiated():
    assert type(square_norm(track(weights()))) is Tensor
    check_gradients(square_norm, weights(), order=2)


# Drawing data


def test_samples_that_fit_are_given_on_as_they_are():
    real = np.ones((4, 2, 3), np.float32)
    given = []
    found = draw_samples(lambda *args: given.append(args) or real, 4, "stream", np.float32)
    assert found is real and given == [(4, "stream")]


@pytest.mark.parametrize(
    "real, kind, message",
    [
        (np.ones((4, 2)), TypeError, r"float64; expected an array of float32.*astype\(np.float32"),
        (np.ones((4, 2), np.uint8), TypeError, "gave uint8; expected an array of float32"),
        ([[1.0]] * 4, TypeError, "gave list; expected an array"),
        ((np.ones((4, 2), np.float32), np.zeros(4, int)), TypeError, "gave a tuple.*labels.*array"),
        (None, TypeError, "gave NoneType; expected an array"),
        (np.ones((3, 2), np.float32), ValueError, r"\(4, stream\) gave shape \(3, 2\).*\(4, \.\."),
        (np.ones((5, 4), np.float32), ValueError, r"gave shape \(5, 4\); expected \(4, \.\.\.\)"),
        (np.ones((), np.float32), ValueError, r"gave shape \(\); expected \(4, \.\.\.\)"),
    ],
    ids=lambda a: re.sub(r"\s+", " ", str(a))[:30],
)
def test_samples_that_do_not_fit_are_errors_that_name_them(real, kind, message):
    with pytest.raises(kind, match=message):
        draw_samples(lambda n, stream: real, 4, None, np.dtype(np.float32))


def test_an_empty_game_says_nothing_of_its_own():
    game, streams = Game(), Streams(*(Stream(i) for i in range(3)))
    for call in (
        lambda: game.init(Stream(0)),
        lambda: game.draw(samples, streams, 0, np.float32),
        lambda: game.step((), (), 1.0),
        lambda: game.generate((), 1, Stream(0)),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_data_with_labels_are_told_to_a_game_without():
    def labelled(n, stream):
        return np.zeros((n, 2), np.float32), np.zeros(n, int)

    with pytest.raises(TypeError, match="tuple, as of samples with their labels.*Shuffled.sample"):
        draw_samples(labelled, 4, Stream(0), np.dtype(np.float32))


def test_what_was_drawn_is_the_first_to_be_suspected():
    game, player = Pursuit(), Pursuit().init(Stream(0))
    bad = game.diagnosis(player, {"real": np.array([1.0, np.nan])}, 1.0, np.array([np.nan, 1.0]))
    good = game.diagnosis(player, {"real": np.ones(2), "n": 3}, 1.0, np.array([np.nan, 1.0]))
    assert bad == "what it drew is not finite. Check the data: they are not"
    assert good.startswith("point_loss is not finite")

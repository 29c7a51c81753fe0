"""Threads: how the work is cut, what comes back, and what an error leaves behind."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

import tinygan
from tinygan import parallel
from tinygan.parallel import blocks, split, threads

SOON = 10  # seconds after which a thread that waits for another gives up


def blas_threads():
    return {
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


@pytest.fixture
def blas_of_two():
    """A BLAS of two threads, so that one that was not given back shows."""
    with threadpool_limits(2, "blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS cannot be set to two threads")
        yield


def bounds(start, stop):
    return start, stop


def test_threads_is_offered_by_the_package():
    assert tinygan.threads is threads


# How the work is cut


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("pays", [True, False])
def test_without_threads_there_is_one_part_in_the_callers_thread(n, pays):
    caller = threading.get_ident()
    assert split(n, lambda *at: (at, threading.get_ident()), pays) == [((0, n), caller)]


@pytest.mark.parametrize("count, pays", [(1, True), (3, False)])
def test_one_thread_or_work_that_does_not_pay_is_one_part(count, pays):
    with threads(count):
        assert split(7, bounds, pays) == [(0, 7)]


@given(st.integers(0, 40), st.integers(1, 6))
def test_the_parts_are_consecutive_even_and_as_many_as_threads(n, count):
    with threads(count):
        parts = split(n, bounds, True)
        assert split(n, bounds, True) == parts  # and depend on the two numbers alone
    assert len(parts) == max(1, min(n, count))
    assert parts[0][0] == 0 and parts[-1][1] == n
    assert all(stop == start for (_, stop), (start, _) in zip(parts, parts[1:], strict=False))
    sizes = [stop - start for start, stop in parts]
    assert max(sizes) - min(sizes) <= 1
    assert n == 0 or min(sizes) > 0


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_parts_run_at_the_same_time_and_the_first_in_the_callers_thread(count):
    together = threading.Barrier(count)

    def part(start, stop):
        together.wait(SOON)  # an error where fewer threads than parts are at work
        return threading.get_ident()

    with threads(count):
        idents = split(10, part, True)
    assert idents[0] == threading.get_ident()
    assert len(set(idents)) == count


def test_results_come_in_the_order_of_the_parts_and_not_of_their_ends():
    ended = {start: threading.Event() for start in range(5)}

    def part(start, stop):
        if start < 3:
            assert ended[start + 1].wait(SOON)
        ended[start].set()
        return start

    with threads(4):
        assert split(4, part, True) == [0, 1, 2, 3]


def test_the_callers_context_holds_in_every_part():
    word = ContextVar("word", default="nobody")
    token = word.set("somebody")
    try:
        with threads(3):
            assert split(3, lambda *_: word.get(), True) == ["somebody"] * 3
    finally:
        word.reset(token)


def test_numpys_error_state_holds_in_every_part():
    def part(start, stop):
        try:
            np.ones(1) / np.zeros(1)
        except FloatingPointError:
            return "raised"
        return "ignored"

    with threads(3):
        for how in ("ignore", "raise"):
            with np.errstate(divide=how):
                assert set(split(3, part, True)) == {how + "d"}


def test_what_a_part_sets_stays_in_its_part():
    word = ContextVar("word", default=0)

    def part(start, stop):
        before = word.get()
        if start:
            word.set(start)
        return before

    with threads(2):
        assert split(2, part, True) == split(2, part, True) == [0, 0]
    assert word.get() == 0


def test_a_part_that_splits_again_is_one_part_there():
    """It would otherwise wait for a place in the pool that it takes up itself: for ever."""
    with threads(3):
        assert split(6, lambda *_: split(4, bounds, True), True) == [[(0, 4)]] * 3
        assert len(split(6, bounds, True)) == 3


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_blocks_cover_the_range_once_whatever_the_threads(n, size, count, pays):
    done = []  # of tuples: append is atomic
    with threads(count):
        blocks(n, size, lambda i, j: done.append((i, j)), pays)
    assert sorted(done) == [(i, min(i + size, n)) for i in range(0, n, size)]


def test_blocks_run_over_the_threads_where_it_pays():
    def idents(pays):
        found = {}
        together = threading.Barrier(3 if pays else 1)

        def work(i, j):
            if i % 4 == 0:  # the first of two blocks of each part
                together.wait(SOON)
            found[i, j] = threading.get_ident()

        with threads(3):
            blocks(12, 2, work, pays)
        assert len(found) == 6
        return set(found.values())

    assert idents(False) == {threading.get_ident()}
    assert len(idents(True)) == 3


# Errors


ERRORS = [ValueError, KeyboardInterrupt, SystemExit]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_an_error_in_any_part_surfaces_after_all_the_others_have_ended(wrong, error):
    """The arrays that the parts write to belong to the caller again."""
    started, ended = threading.Barrier(3), []
    planted = error("planted")

    def part(start, stop):
        started.wait(SOON)
        if start == wrong:
            raise planted
        time.sleep(0.05)
        ended.append(start)

    with threads(3):
        with pytest.raises(error) as caught:
            split(3, part, True)
        assert caught.value is planted
        assert sorted(ended) == [start for start in range(3) if start != wrong]
        assert split(3, bounds, True) == [(0, 1), (1, 2), (2, 3)]  # and the threads go on


def test_parts_that_run_are_awaited_when_another_cannot_start(monkeypatch):
    ended = []

    def part(start, stop):
        time.sleep(0.05)
        ended.append(start)

    submit = ThreadPoolExecutor.submit

    def once(pool, *args):
        monkeypatch.setattr(ThreadPoolExecutor, "submit", None)
        return submit(pool, *args)

    with threads(3):
        monkeypatch.setattr(ThreadPoolExecutor, "submit", once)
        with pytest.raises(TypeError):
            split(3, part, True)
        assert ended == [1]


@pytest.mark.parametrize("error", [None, ValueError], ids=["", "and an error in a part"])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_an_interrupt_while_waiting_is_raised_after_all_parts_have_ended(times, error, monkeypatch):
    """The first of several; no part can end before the last of them has come."""
    waits, free, ended = [], threading.Event(), []

    def part(start, stop):
        if start:
            assert free.wait(SOON)
            time.sleep(0.02)
        ended.append(start)
        if start and error:
            raise error("planted")

    exception = Future.exception

    def interrupted(future, timeout=None):
        waits.append(future)
        if len(waits) <= times:
            raise KeyboardInterrupt(len(waits))
        free.set()
        return exception(future, timeout)

    with threads(3):
        monkeypatch.setattr(Future, "exception", interrupted)
        try:
            with pytest.raises(KeyboardInterrupt) as caught:
                split(3, part, True)
            assert sorted(ended) == [0, 1, 2]
            assert caught.value.args == (1,)
        finally:
            free.set()  # or a failure would keep the threads waiting
        assert split(3, bounds, True) == [(0, 1), (1, 2), (2, 3)]


def test_an_interrupt_that_does_not_wait_is_caught(monkeypatch):
    def leaves(others):
        for other in others:
            other.exception()

    monkeypatch.setattr(parallel, "_wait_for_all", leaves)
    with pytest.raises(AssertionError):
        test_an_interrupt_while_waiting_is_raised_after_all_parts_have_ended(1, None, monkeypatch)


def test_of_several_errors_the_first_parts_surfaces():
    def part(start, stop):
        raise ValueError(f"part {start}")

    with threads(3):
        with pytest.raises(ValueError, match="part 0"):
            split(3, part, True)


def test_an_error_in_the_only_part_surfaces():
    def part(start, stop):
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        split(3, part, True)


@pytest.mark.parametrize("count", [0, -1, "2", 1.5, None, (2,)], ids=repr)
def test_a_count_that_is_none_is_refused_before_anything_is_set(count, blas_of_two):
    with pytest.raises(ValueError) as caught:
        with threads(count):
            raise AssertionError("the block was entered")
    assert str(caught.value) == f"threads: count is {count!r}; expected a whole number above 0"
    assert blas_threads() == {2}
    assert split(4, bounds, True) == [(0, 4)]


# What the block sets, and gives back


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_blas_has_one_thread_within_and_its_own_number_after(count, blas_of_two):
    with threads(count):
        assert blas_threads() == {1}
    assert blas_threads() == {2}


@pytest.mark.parametrize("error", ERRORS)
def test_the_blas_gets_its_threads_back_after_an_error(error, blas_of_two):
    with pytest.raises(error, match="planted"):
        with threads(2):
            raise error("planted")
    assert blas_threads() == {2}
    assert split(4, bounds, True) == [(0, 4)]


def test_the_blas_gets_its_threads_back_after_an_error_in_a_part(blas_of_two):
    def part(start, stop):
        if start:
            raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        with threads(2):
            split(2, part, True)
    assert blas_threads() == {2}


def test_the_inner_of_two_blocks_counts_and_the_outer_goes_on_after_it(blas_of_two):
    with threads(2):
        with threads(3):
            assert len(split(6, bounds, True)) == 3
            assert blas_threads() == {1}
        assert len(split(6, bounds, True)) == 2
        with threads(1):
            assert len(split(6, bounds, True)) == 1
        with pytest.raises(ValueError, match="planted"):
            with threads(3):
                raise ValueError("planted")
        assert len(split(6, bounds, True)) == 2
        assert blas_threads() == {1}
    assert len(split(6, bounds, True)) == 1
    assert blas_threads() == {2}


def test_after_the_block_no_thread_is_left():
    before = set(threading.enumerate())
    with threads(4):
        split(4, bounds, True)
        during = set(threading.enumerate())
    assert during > before
    assert set(threading.enumerate()) == before

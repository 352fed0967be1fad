"""Several items of a sequence at once, in order and within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from gps_seg_app.jobs.overlap import behind, overlapped


class Source:
    """Counts up; remembers how far it was read and whether it was closed."""

    def __init__(self, end: int, broken: bool = False) -> None:
        self.end, self.broken, self.read, self.closed = end, broken, 0, False

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.end):
                self.read += 1
                yield number
            if self.broken:
                raise OSError("the source broke")
        finally:
            self.closed = True


def late(number: int) -> int:
    """Done the later, the earlier it was asked for."""
    time.sleep(0.02 if number % 2 == 0 else 0)
    return 10 * number


def take(found: Iterator[tuple[int, int]], got: list[int]) -> None:
    for item, _ in found:
        got.append(item)


def test_results_come_in_the_order_of_the_items_whichever_is_done_first() -> None:
    assert list(overlapped(iter(Source(15)), late, workers=3, most=4)) == [(number, 10 * number) for number in range(15)]
    assert list(overlapped(iter(Source(0)), late, workers=2, most=3)) == []


def test_items_are_worked_on_at_once() -> None:
    together = threading.Barrier(2, timeout=20)  # each waits until another is there
    assert [item for item, _ in overlapped(iter(Source(4)), lambda _: together.wait(), workers=2, most=2)] == [0, 1, 2, 3]


def test_no_more_is_read_ahead_than_was_said() -> None:
    source = Source(40)
    with closing(overlapped(iter(source), late, workers=2, most=3)) as found:  # type: ignore[type-var]
        for taken, _ in enumerate(found, start=1):
            time.sleep(0.003)
            assert source.read <= taken + 3
    assert source.read == 40 and source.closed


def test_an_error_comes_after_the_results_before_it() -> None:
    read: list[int] = []
    with pytest.raises(OSError, match="the source broke"):
        take(overlapped(iter(Source(5, broken=True)), late, workers=2, most=3), read)
    acted: list[int] = []
    with pytest.raises(ZeroDivisionError):
        take(overlapped(iter(Source(9)), lambda number: 1 // (number - 3), workers=2, most=4), acted)
    assert read == [0, 1, 2, 3, 4] and acted == [0, 1, 2]


def test_closed_early_nothing_runs_on() -> None:
    source, before = Source(100), threading.active_count()
    found = overlapped(iter(source), late, workers=2, most=3)
    next(found)
    found.close()  # type: ignore[attr-defined]
    read = source.read
    assert source.closed and threading.active_count() == before
    time.sleep(0.05)
    assert source.read == read <= 4


def test_calls_behind_are_made_in_order_and_all_done_at_the_end() -> None:
    done: list[int] = []
    with behind(2) as calls:
        for number in range(6):
            calls.do(lambda number=number: done.append(late(number)))  # type: ignore[misc]
            assert len(done) >= number - 1
    assert done == [0, 10, 20, 30, 40, 50]


def test_an_error_in_a_call_behind_is_raised_where_calls_are_asked_for() -> None:
    with pytest.raises(ZeroDivisionError), behind(1) as calls:
        calls.do(lambda: print(1 // 0))


def test_after_an_error_in_the_block_calls_that_have_not_begun_are_dropped() -> None:
    done: list[int] = []

    def interrupted() -> None:
        with behind(3) as calls:
            calls.do(lambda: time.sleep(0.05))
            calls.do(lambda: done.append(1))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert done == []

"""Work on several items of a sequence at once, to the same results in the same order, holding a fixed number of items."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
END: Any = object()


def overlapped(
    source: Iterator[Item], act: Callable[[Item], Result], *, workers: int, most: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with ``act(item)``, in order; items are read in one thread and acted on in others, ahead of who takes them.

    What reading or acting raises comes out in its place, after all results before it. Closed early, it waits for what is under
    way, begins nothing more, and closes the source.

    Args:
        source: a generator; read by one thread at a time.
        act: safe in several threads.
        workers: threads that act.
        most: items read and not yet taken, the one in the taker's hands not counted.
    """

    def step(read: Future[Any]) -> tuple[Item, Result]:
        item = read.result()
        return END if item is END else (item, act(item))

    waiting: deque[Future[tuple[Item, Result]]] = deque()
    with contextlib.closing(source), ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(workers) as actors:  # type: ignore[type-var]
        try:
            for _ in range(most):
                waiting.append(actors.submit(step, reader.submit(next, source, END)))
            while (found := waiting.popleft().result()) is not END:
                yield found
                waiting.append(actors.submit(step, reader.submit(next, source, END)))
        finally:
            actors.shutdown(wait=False, cancel_futures=True)
            reader.shutdown(wait=False, cancel_futures=True)


class Behind:
    """Takes calls and makes them one after the other in a thread of its own; :func:`behind` makes it."""

    def __init__(self, pool: ThreadPoolExecutor, most: int) -> None:
        self._pool, self._most = pool, most
        self._waiting: deque[Future[None]] = deque()

    def do(self, act: Callable[[], None]) -> None:
        """Ask for a call; waits while ``most`` are not done. Raises what an earlier one raised."""
        self.finish(self._most - 1)
        self._waiting.append(self._pool.submit(act))

    def finish(self, left: int = 0) -> None:
        """Wait until at most so many are not done. Raises what one of them raised."""
        while len(self._waiting) > left:
            self._waiting.popleft().result()


@contextmanager
def behind(most: int) -> Iterator[Behind]:
    """At the end of the block every call is done; after an error in it, those that have not begun are dropped."""
    with ThreadPoolExecutor(1) as pool:
        try:
            calls = Behind(pool, most)
            yield calls
            calls.finish()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

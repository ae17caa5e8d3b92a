"""One piece of work for all who want its outcome at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Place(Protocol):
    """Where a piece of work stands in some line."""

    had: bool
    """Whether it has its turn there, or had it; set by any thread."""


class Work:
    """A piece of work, and how many wait for its outcome.

    Who does it says in which lines it stands. When nobody is left, it is given up if it has a turn
    in none of them, and had none but in vain: it would only keep those behind it from theirs.
    """

    def __init__(self, give_up: Callable[[Work], None]) -> None:
        self._give_up = give_up
        self._waiters = 0
        self._places: set[Place] = set()

    @staticmethod
    def here() -> Work | None:
        """What the caller is a part of, if anything."""
        return _WORK.get()

    def join(self) -> None:
        """One more waits."""
        self._waiters += 1

    def leave(self) -> None:
        """One of them does not any more."""
        self._waiters -= 1
        self._look()

    def stand_in_line(self, place: Place) -> None:
        """It has to wait for a turn, beside those that it has or waits for; on the loop."""
        self._places.add(place)
        self._look()

    def step_out(self, place: Place) -> None:
        """It has nothing from this turn, or did not come to have it; on the loop."""
        self._places.discard(place)
        self._look()

    def _look(self) -> None:
        in_line = self._places and not any(place.had for place in self._places)
        if in_line and not self._waiters:
            self._give_up(self)


_WORK: ContextVar[Work | None] = ContextVar("icn-work", default=None)


class _Begun(Generic[V]):
    __slots__ = ("task", "way", "work")

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, V]],
        way: Hashable,
        give_up: Callable[[Work], None],
    ) -> None:
        self.work = Work(give_up)
        self.way = way
        context = copy_context()
        context.run(_WORK.set, self.work)
        self.task = asyncio.create_task(work(), context=context)


class Coalesced(Generic[K, V]):
    """Runs work by key: whoever asks while it runs gets the same outcome.

    The work goes on when those who wait leave, unless it stands in a line then (see Work); its
    error is read even if nobody is left.
    """

    def __init__(self) -> None:
        self._tasks: dict[Hashable, _Begun[V]] = {}

    def __len__(self) -> int:
        """How many pieces of work are under way."""
        return len(self._tasks)

    async def do(
        self,
        key: K,
        work: Callable[[], Coroutine[Any, Any, V]],
        *,
        patience_s: float | None = None,
        way: Hashable = None,
        again: tuple[type[Exception], ...] = (),
    ) -> V:
        """The outcome of `work` for `key`, begun now unless it is under way.

        Args:
            key: what is wanted.
            work: brings it.
            patience_s: how long to wait.
            way: in which of several ways `work` does that.
            again: what may have happened only because of another way: whoever joined what was
                begun in one, and meets this, has `work` done after all.

        Raises:
            TimeoutError: if `patience_s` is given and passes first; the work goes on, in any case.
        """
        begun = self._begun(key, work, way)
        async with asyncio.timeout(patience_s) as limit:
            try:
                return await self._outcome(begun, limit)
            except again:
                if begun.way == way:
                    raise
            return await self._outcome(self._begun((key, way), work, way), limit)

    async def _outcome(self, begun: _Begun[V], limit: asyncio.Timeout) -> V:
        begun.work.join()
        try:
            return await asyncio.shield(begun.task)
        except asyncio.CancelledError:
            if not limit.expired():  # whose patience is at an end wants it the next time
                begun.work.leave()
            raise

    def _begun(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, V]], way: Hashable
    ) -> _Begun[V]:
        begun = self._tasks.get(key)
        if begun is None:
            begun = _Begun(work, way, lambda gone: self._give_up(key, gone))
            self._tasks[key] = begun
            begun.task.add_done_callback(lambda done: self._done(key, done))
        return begun

    def _give_up(self, key: Hashable, work: Work) -> None:
        """Whoever wants it from now on has it begun anew."""
        begun = self._tasks.get(key)
        if begun is not None and begun.work is work:  # else it has ended
            del self._tasks[key]
            begun.task.cancel()

    def _done(self, key: Hashable, task: asyncio.Task[V]) -> None:
        begun = self._tasks.get(key)
        if begun is not None and begun.task is task:  # else it was given up
            del self._tasks[key]
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Cancel what is under way and wait for it."""
        tasks = [begun.task for begun in self._tasks.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

"""One piece of work for all who want its outcome at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Begun(NamedTuple, Generic[V]):
    task: asyncio.Task[V]
    way: Hashable


class Coalesced(Generic[K, V]):
    """Runs work by key: whoever asks while it runs gets the same outcome.

    The work goes on when those who wait leave; its error is read even if nobody is left.
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
            TimeoutError: if `patience_s` is given and passes first; the work goes on.
        """
        begun = self._begun(key, work, way)
        async with asyncio.timeout(patience_s):
            try:
                return await asyncio.shield(begun.task)
            except again:
                if begun.way == way:
                    raise
            return await asyncio.shield(self._begun((key, way), work, way).task)

    def _begun(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, V]], way: Hashable
    ) -> _Begun[V]:
        begun = self._tasks.get(key)
        if begun is None:
            begun = self._tasks[key] = _Begun(asyncio.create_task(work()), way)
            begun.task.add_done_callback(lambda done: self._done(key, done))
        return begun

    def _done(self, key: Hashable, task: asyncio.Task[V]) -> None:
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

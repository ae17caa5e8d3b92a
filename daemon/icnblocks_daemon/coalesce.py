"""One piece of work for all who want its outcome at the same time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class Coalesced(Generic[K, V]):
    """Runs work by key: whoever asks while it runs gets the same outcome.

    The work goes on when those who wait leave; its error is read even if nobody is left.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        """How many keys are being worked on."""
        return len(self._tasks)

    async def do(
        self, key: K, work: Callable[[], Coroutine[Any, Any, V]], *, patience_s: float | None = None
    ) -> V:
        """The outcome of `work` for `key`, begun now unless it is under way.

        Raises:
            TimeoutError: if `patience_s` is given and passes first; the work goes on.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._done(key, done))
        async with asyncio.timeout(patience_s):
            return await asyncio.shield(task)

    def _done(self, key: K, task: asyncio.Task[V]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Cancel what is under way and wait for it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

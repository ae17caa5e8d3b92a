"""Questions for records and manifests, of which several are under way at the same time.

Each upstream is asked on a few threads of its own, so that one that is frozen holds up none but
itself. This module must not judge answers, or choose whom to ask.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from icnblocks.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from icnblocks.client.source import Source

S = TypeVar("S")


class Questions:
    """Asks upstreams; of each so many questions are under way, and others wait for their turn.

    Args:
        sources: the upstreams, by URL.
        at_once: questions that one upstream is asked at a time.
        turn_s: a question that has had no turn for so long is not asked any more.
    """

    def __init__(self, sources: Mapping[str, Source], *, at_once: int, turn_s: float) -> None:
        self._sources = sources
        self._turn_s = turn_s
        self._at_once = at_once
        self._threads = {url: ThreadPoolExecutor(at_once, "icn-upstream") for url in sources}

    async def ask(self, url: str, question: Callable[[Source], S]) -> S:
        """An upstream's answer.

        If the caller is cancelled, a question that is under way ends by itself, as `question`
        bounds it, or at once when its source is closed; nobody is told how.

        Raises:
            SourceError: if it had no turn in time.
            IcnError: as `question` does.
        """
        job = self._threads[url].submit(question, self._sources[url])
        answer = asyncio.wrap_future(job)
        try:
            await asyncio.wait([answer], timeout=self._turn_s)
            if not answer.done() and job.cancel():  # one that was begun cannot be
                raise SourceError(f"{url} is slow: {self._at_once} other questions wait for it")
            return await answer
        finally:
            answer.cancel()  # also one that is there: else an error in it would be logged as unread

    def close(self) -> None:
        """Ask nobody any more. What is under way ends when its source is closed."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)


class Race(Generic[S]):
    """One question to several upstreams. When it is left, who has not answered need not."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        """All who were asked."""
        self._slow: frozenset[str] = frozenset()
        self._tasks: dict[asyncio.Task[S], str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def waiting(self) -> frozenset[str]:
        """Those whose answers were not taken yet."""
        return frozenset(self._tasks.values())

    @property
    def slow(self) -> frozenset[str]:
        """Those of them for whom `next` has waited in vain."""
        return self._slow & self.waiting

    def begin(self, url: str, question: Coroutine[None, None, S]) -> None:
        """Ask an upstream as well."""
        self.asked.add(url)
        self._tasks[asyncio.create_task(question)] = url

    async def next(self, wait_s: float | None) -> tuple[str, asyncio.Task[S]] | None:
        """Who has answered, and what; of several the one that was asked first.

        Args:
            wait_s: seconds after which those who were asked are slow, and None is returned; None
                waits for as long as it takes.
        """
        done, _ = await asyncio.wait(
            self._tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task, url in self._tasks.items():
            if task in done:
                del self._tasks[task]
                return url, task
        self._slow = self.waiting
        return None

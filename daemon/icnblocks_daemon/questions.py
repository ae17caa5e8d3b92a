"""Questions for records and manifests, of which several are under way at the same time.

Each upstream is asked on a few threads of its own, so that one that is frozen holds up none but
itself. This module must not judge answers, or choose whom to ask.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from icnblocks.errors import IcnError, SourceError
from icnblocks_daemon.coalesce import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from icnblocks.client.source import Source

S = TypeVar("S")


class NoTurnError(SourceError):
    """A question was not asked, as others were before it: no failure of who was to be asked."""


class _Line:
    """Questions for one upstream, in their order."""

    def __init__(self, at_once: int) -> None:
        self.threads = ThreadPoolExecutor(at_once, "icn-upstream")
        self.moved = object()
        """Another one after each question that ends; set on threads."""


class Turn:
    """Where one question stands in the line for its upstream."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._since = line.moved
        self._work = Work.here()
        self.had = False
        """Whether it is being asked, or was."""

    @property
    def held_up(self) -> bool:
        """It is still to be asked, and others were answered meanwhile: there are just too many."""
        return not self.had and self._line.moved is not self._since

    def wait(self) -> None:
        """It is in the line from now on: what it is asked for may be given up until it is taken."""
        if self._work is not None:
            self._work.stand_in_line(self)

    def end(self) -> None:
        """It was in vain, or did not come: what it is asked for stands in other lines, if any."""
        if self._work is not None:
            self._work.step_out(self)

    def take(self, question: Callable[[Source], S], source: Source) -> S:
        """Ask it now; on a thread."""
        self.had = True
        try:
            return question(source)
        finally:
            self._line.moved = object()


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
        self._lines = {url: _Line(at_once) for url in sources}

    def turn(self, url: str) -> Turn:
        """A place at the end of an upstream's line, for `ask`."""
        return Turn(self._lines[url])

    async def ask(self, url: str, question: Callable[[Source], S], turn: Turn | None = None) -> S:
        """An upstream's answer.

        If the caller is cancelled, a question that is under way ends by itself, as `question`
        bounds it, or at once when its source is closed; nobody is told how. One that had no turn
        yet is not asked.

        Args:
            url: the upstream.
            question: asks it, on a thread.
            turn: made for this question, if the caller wants to know how it stands.

        Raises:
            NoTurnError: if it had no turn in time, and others had.
            SourceError: if it had none, nor had any other.
            IcnError: as `question` does.
        """
        turn = turn or self.turn(url)
        turn.wait()
        job = self._lines[url].threads.submit(turn.take, question, self._sources[url])
        answer = asyncio.wrap_future(job)
        try:
            await asyncio.wait([answer], timeout=self._turn_s)
            if not answer.done() and job.cancel():  # one that was begun cannot be
                if turn.held_up:
                    raise NoTurnError(f"there are too many questions for {url} at once")
                raise SourceError(f"{url} is slow: {self._at_once} other questions wait for it")
            return await answer
        except IcnError:
            turn.end()
            raise
        finally:
            answer.cancel()  # also one that is there: else an error in it would be logged as unread

    def close(self) -> None:
        """Ask nobody any more. What is under way ends when its source is closed."""
        for line in self._lines.values():
            line.threads.shutdown(wait=False, cancel_futures=True)


class Race(Generic[S]):
    """One question to several upstreams. When it is left, who has not answered need not."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        """All who were asked."""
        self._slow: frozenset[str] = frozenset()
        self._tasks: dict[asyncio.Task[S], str] = {}
        self._turns: dict[str, Turn] = {}

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
        """Those of them for whom `next` has waited in vain, and not because of other questions."""
        held_up = {url for url, turn in self._turns.items() if turn.held_up}
        return (self._slow & self.waiting) - held_up

    def begin(self, url: str, question: Coroutine[None, None, S], turn: Turn | None = None) -> None:
        """Ask an upstream as well; `turn` says whether it is held up by other questions."""
        self.asked.add(url)
        if turn is not None:
            self._turns[url] = turn
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

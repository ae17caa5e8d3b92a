"""Sending request bodies to an origin: several at once, and fewer when it says that it is busy.

Whoever calls waits, draws bodies and hears of progress; threads do nothing but send. This module
must not know what is in a body.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final

from icnblocks.client.answers import ThrottledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from icnblocks.client.source import Source

UPLOADS_AT_ONCE: Final = 8
"""Request bodies under way at a time, of at most MAX_REQUEST_BYTES each."""
_QUIET_S: Final = 30.0
"""After so long without a refusal one more is tried."""


class Width:
    """How many bodies may be under way at once. Pure: time is an argument.

    It is halved by a refusal and grows by one in each quiet while: others may have left.

    Args:
        most: at first, and at most.
    """

    def __init__(self, most: int) -> None:
        self._most = self._count = most
        self._since = 0.0

    def at(self, now: float) -> int:
        """How many at `now`."""
        if self._count < self._most and now - self._since >= _QUIET_S:
            self._count += 1
            self._since = now
        return self._count

    def refused(self, under_way: int, now: float) -> None:
        """Of so many that were under way at once some were refused."""
        self._count = max(1, min(self._count, under_way) // 2)
        self._since = now


def upload(
    source: Source, bodies: Iterator[tuple[bytes, int]], sent: Callable[[int], None]
) -> None:
    """Send bodies, several at once; they are drawn, and told as sent, in the calling thread.

    The origin answers each when it is on disk, and flushes once for all that wait for it: sent one
    by one, a publish would spend most of its time waiting for the disk.

    Args:
        source: the origin; its waiter waits when it is busy.
        bodies: each with the count of bytes that `sent` is told.
        sent: told of what the origin has taken.

    Raises:
        ThrottledError: if the origin is busy for too long.
        IcnError: as the origin refuses. What is under way then is not waited for; closing the
            source cuts it off.
    """
    pool = ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="icn-upload")
    try:
        _Uploads(pool, source, bodies, sent).run()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Uploads:
    """Bodies under way, and those that were refused and go first."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        source: Source,
        bodies: Iterator[tuple[bytes, int]],
        sent: Callable[[int], None],
    ) -> None:
        self._pool = pool
        self._source = source
        self._bodies = bodies
        self._sent = sent
        self._width = Width(UPLOADS_AT_ONCE)
        self._running: dict[Future[None], tuple[bytes, int]] = {}
        self._refused: deque[tuple[bytes, int]] = deque()

    def run(self) -> None:
        """Send all. Raises as `upload`."""
        while self._begin():
            under_way = len(self._running)
            busy = self._end(self._some_done())
            if busy is not None:
                self._width.refused(under_way, self._source.waiter.clock())
                self._source.waiter.refused(busy)

    def _begin(self) -> bool:
        """Send as many more as may be; whether any are under way."""
        width = self._width.at(self._source.waiter.clock())
        while len(self._running) < width:
            body = self._refused.popleft() if self._refused else next(self._bodies, None)
            if body is None:
                break
            self._running[self._pool.submit(self._source.upload, [body[0]])] = body
        return bool(self._running)

    def _some_done(self) -> set[Future[None]]:
        """Wait until one has ended; all, if the origin is busy: it is to be left alone then."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        if any(isinstance(one.exception(), ThrottledError) for one in done):
            done, _ = wait(self._running)
        return done

    def _end(self, done: set[Future[None]]) -> ThrottledError | None:
        """Take out what has ended; the refusal that asks for the longest wait, if there is one."""
        busy: ThrottledError | None = None
        for one in done:
            body = self._running.pop(one)
            try:
                one.result()
            except ThrottledError as error:
                self._refused.append(body)
                busy = error if busy is None or error.after_s > busy.after_s else busy
            else:
                self._source.waiter.progressed()
                self._sent(body[1])
        return busy

"""One question to several sources: in their order, and the next one is asked while one is slow.

So a source that stalls costs a second, and not its whole time-out. It must not judge answers:
whoever asks takes them as they come, and stops when one will do.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, Generic, NoReturn, TypeVar

from icnblocks.errors import SourceError
from icnblocks.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from icnblocks.client.source import Source

T = TypeVar("T")
SLOW_S: Final = 1.0
"""Who has not answered after so many seconds is not waited for before the next one is asked..."""
FLOW_BYTES: Final = 256 * KIB
"""...unless so much of an answer came in them: a long one is not to come from all at once."""


def answers(
    sources: Sequence[Source],
    ask: Callable[[Source], T],
    *,
    slow_s: float = SLOW_S,
    within_s: float | None = None,
    coming: Callable[[Source], int] = lambda _: 0,
) -> Iterator[Callable[[], T]]:
    """Ask sources until the caller has enough.

    Args:
        sources: asked in this order; the next one when one has answered and the caller goes on,
            or is slow.
        ask: asks one; called on threads of its own where there are several.
        slow_s: seconds after which one is slow.
        within_s: seconds after which none is waited for any more; None waits for all.
        coming: how many bytes came of a source that is at work.

    Yields:
        For each source, in the order in which they answered: a call that returns what `ask`
        returned, or raises what it raised. Who is still at work when the caller stops is left to
        end by itself; closing a source ends it at once. If the time was over, a last call that
        raises SourceError.
    """
    if len(sources) == 1 and within_s is None:
        yield lambda: ask(sources[0])
        return
    asked = _Asked(ask)
    begun = waiting = came = 0
    until = None if within_s is None else time.monotonic() + within_s
    while begun < len(sources) or waiting:
        before, came = came, sum(map(coming, sources[:begun]))
        if begun < len(sources) and not (waiting and came - before >= FLOW_BYTES):
            asked.begin(sources[begun])
            begun += 1
            waiting += 1
        rest = inf if until is None else max(0.0, until - time.monotonic())
        wait_s = min(rest, slow_s if begun < len(sources) else inf)
        answer = asked.next(None if wait_s == inf else wait_s)
        if answer is not None:
            waiting -= 1
            yield answer
        elif until is not None and time.monotonic() >= until:
            error = SourceError(f"no source has answered within {within_s:.0f} s")
            yield partial(_raise, error)
            return


class _Asked(Generic[T]):
    """What came, in its order. The module `queue` would be one more to import at each start."""

    def __init__(self, ask: Callable[[Source], T]) -> None:
        self._ask = ask
        self._came: deque[Callable[[], T]] = deque()
        self._news = threading.Semaphore(0)

    def begin(self, source: Source) -> None:
        try:
            threading.Thread(target=self.run, args=(source,), daemon=True).start()
        except RuntimeError:  # the system has no threads left: then it is waited for
            self.run(source)

    def run(self, source: Source) -> None:
        try:
            value = self._ask(source)
        except BaseException as error:  # whatever it is, it is for whoever asked
            self._came.append(partial(_raise, error))
        else:
            self._came.append(lambda: value)
        self._news.release()

    def next(self, wait_s: float | None) -> Callable[[], T] | None:
        return self._came.popleft() if self._news.acquire(timeout=wait_s) else None


def _raise(error: BaseException) -> NoReturn:
    raise error

"""Holding readers back: threads that share one token bucket wait in it.

This module must not decide how long: the bucket does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from icnblocks.client.bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_LIMIT_RATE: Final = 20_000
"""Bytes a second; a daemon cuts off who reads less than 16 KiB a second, if nobody set it lower."""


class SharedPacer:
    """A Pacer (icnblocks.client.source) for any number of threads.

    Args:
        rate: bytes a second over all of them.
        clock: monotonic seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket = TokenBucket(rate, clock())
        self._stop = threading.Event()

    def take(self, most: int) -> int:
        """See Pacer; does not wait any more after `stop`."""
        count = min(most, self._bucket.burst)
        with self._lock:
            wait = self._bucket.reserve(count, self._clock())
        if wait:
            self._stop.wait(wait)
        return count

    def give_back(self, count: int) -> None:
        """See Pacer."""
        if count:
            with self._lock:
                self._bucket.refund(count, self._clock())

    def stop(self) -> None:
        """Wake all who wait: there is nothing to be read any more."""
        self._stop.set()

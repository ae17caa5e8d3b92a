"""A token bucket: how long to wait before so many bytes may be read. Pure: time is an argument.

Whoever wants to read reserves first, so that however many share a bucket, no more than
`burst + rate * t` bytes are read in any t seconds. Whoever is alone and may change his mind asks
`wait` until it is 0, and reserves then. This module must not sleep or lock.
"""

from __future__ import annotations

from typing import Final

from icnblocks.limits import KIB, MIB

_BURST_S: Final = 0.05
_LEAST: Final = 4 * KIB
_MOST: Final = MIB


class TokenBucket:
    """Meters bytes at a rate; full at the beginning.

    Args:
        rate: bytes a second, more than 0.
        now: the time.
        burst: bytes that may be read at once after a pause; by default what 50 ms bring, within
            4 KiB and 1 MiB.

    Attributes:
        burst: as given.
    """

    __slots__ = ("_at", "_rate", "_tokens", "burst")

    def __init__(self, rate: float, now: float, burst: int | None = None) -> None:
        self._rate = rate
        self.burst = int(min(max(rate * _BURST_S, _LEAST), _MOST)) if burst is None else burst
        self._tokens = float(self.burst)
        self._at = now

    def wait(self, count: int, now: float) -> float:
        """Seconds until `count` bytes are there, or a burst if they are more; reserves nothing."""
        self._fill(now)
        return max((min(count, self.burst) - self._tokens) / self._rate, 0.0)

    def reserve(self, count: int, now: float) -> float:
        """Reserve `count` bytes; first come, first served. At most `burst`, or after `wait`.

        Returns:
            Seconds to wait until they may be read; 0 when at once.
        """
        self._fill(now)
        self._tokens -= count
        return max(-self._tokens / self._rate, 0.0)

    def refund(self, count: int, now: float) -> None:
        """Give back what was reserved and not read; before the next reservation is best."""
        self._fill(now)
        self._tokens = min(self._tokens + count, float(self.burst))

    def _fill(self, now: float) -> None:
        grown = self._tokens + max(now - self._at, 0.0) * self._rate
        self._tokens = min(grown, float(self.burst))
        self._at = max(now, self._at)

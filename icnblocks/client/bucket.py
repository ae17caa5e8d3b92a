"""A token bucket: how long to wait before so many bytes may be read. Pure: time is an argument.

Whoever wants to read reserves first, so that however many share a bucket, no more than
`burst + rate * t` bytes are read in any t seconds. This module must not sleep or lock.
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

    Attributes:
        burst: bytes that may be read at once after a pause: what 50 ms bring, within 4 KiB
            and 1 MiB.
    """

    __slots__ = ("_at", "_rate", "_tokens", "burst")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self.burst = int(min(max(rate * _BURST_S, _LEAST), _MOST))
        self._tokens = float(self.burst)
        self._at = now

    def reserve(self, count: int, now: float) -> float:
        """Reserve `count` bytes, at most `burst`; first come, first served.

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

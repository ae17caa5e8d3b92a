"""A rate that forgets: bytes a second, the recent past weighing more. Pure: time is an argument."""

from __future__ import annotations

from math import exp
from typing import Final

_SPAN_S: Final = 5.0


class Meter:
    """Exponentially weighted rate over some five seconds."""

    __slots__ = ("_at", "_began", "_sum")

    def __init__(self) -> None:
        self._sum = 0.0
        self._at = self._began = 0.0

    def add(self, count: float, now: float) -> None:
        """`count` more, at `now` (seconds, not going backward)."""
        if not self._sum:
            self._began = now
        self._sum = self._decayed(now) + count
        self._at = now

    def rate(self, now: float) -> float:
        """Per second, lately; from its beginning on as if it had always run."""
        grown = 1.0 - exp(-max(now - self._began, 0.1) / _SPAN_S)
        return self._decayed(now) / (_SPAN_S * grown)

    def _decayed(self, now: float) -> float:
        return self._sum * exp(-max(now - self._at, 0.0) / _SPAN_S)

"""How fast and when a prefetch may move: a token bucket, a daily window, room for devices. Pure.

The time comes in as an argument; this module must not read a clock, wait, or fetch anything.
"""

from __future__ import annotations

import re
from typing import Final

from icnblocks.client.bucket import TokenBucket
from icnblocks.errors import UsageError
from icnblocks.limits import KIB, MIB
from icnblocks.values import dataclass

DAY_S: Final = 86_400.0
DEPTH_S: Final = 0.25
"""What a bucket holds, in seconds of its rate."""
MIN_DEPTH: Final = 64 * KIB
UNDER_WAY_BLOCKS: Final = 32
UNDER_WAY_BYTES: Final = 8 * MIB
"""Enough to fill 1 Gbit/s over 50 ms; a device that comes waits behind no more than this."""
_WINDOW = re.compile(r"(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)\Z", re.ASCII)


def bucket_of(rate: float | None, now: float) -> TokenBucket | None:
    """What keeps a prefetch to its rate of bytes a second, full at `now`; None if it has none."""
    return None if rate is None else TokenBucket(rate, now, max(int(rate * DEPTH_S), MIN_DEPTH))


@dataclass(frozen=True, slots=True)
class Window:
    """The hours of a day in which a prefetch may move, in local time.

    Attributes:
        begin: minute of the day at which it opens, 0 to 1439.
        end: minute at which it closes; earlier than `begin` if it goes over midnight.
    """

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read `01:00-05:00`, or `22:30-06:00` over midnight; `24:00` ends a day.

        Raises:
            UsageError: for anything else, also for a window without length.
        """
        match = _WINDOW.match(text.strip())
        if match is not None:
            hours, minutes = (int(match[1]), int(match[3])), (int(match[2]), int(match[4]))
            begin, end = (60 * hour + minute for hour, minute in zip(hours, minutes, strict=True))
            right = max(minutes) < 60 and begin < 1440 and end <= 1440 and begin != end % 1440
            if right or (begin, end) == (0, 1440):
                return cls(begin, end)
        raise UsageError(
            f"{text[:40]!r} is not a window of local time such as 01:00-05:00 or 22:30-06:00"
        )

    def __str__(self) -> str:
        first, last = divmod(self.begin, 60), divmod(self.end, 60)
        return f"{first[0]:02}:{first[1]:02}-{last[0]:02}:{last[1]:02}"

    def opens_in(self, second: float) -> float:
        """Seconds until it is open; 0 while it is.

        Args:
            second: of the local day, 0 to 86400.
        """
        begin, end = 60.0 * self.begin, 60.0 * self.end
        inside = begin <= second < end if begin < end else second >= begin or second < end
        return 0.0 if inside else (begin - second) % DAY_S


def may_ask(size: int, *, mine: int, my_bytes: int, others: int) -> bool:
    """Whether a prefetch may ask for one more block now.

    While devices wait for blocks of their own, it keeps no more than one under way: it goes on,
    and what they wait for stands behind one block of it at most.

    Args:
        size: of the block, in bytes.
        mine: blocks that the prefetch has under way.
        my_bytes: their bytes.
        others: blocks under way that only devices wait for.
    """
    if not mine:
        return True
    if others:
        return False
    return mine < UNDER_WAY_BLOCKS and my_bytes + size <= UNDER_WAY_BYTES

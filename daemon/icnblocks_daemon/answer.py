"""What one bundle is answered with, and in which order: decides, and holds its leases.

Blocks that are here are leased one at a time, when they are about to be sent. Missing ones are
Interests, at most a window of them together with the blocks that landed and are leased until
they are sent. So a reader that falls behind holds a window of blocks and no more: what lands
later for others passes it by, and is a new Interest if it was evicted meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from icnblocks.errors import ChangedError, IcnError
from icnblocks.wire.frames import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.naming import Digest
    from icnblocks.store.base import Lease
    from icnblocks.wire.bundle import Want
    from icnblocks_daemon.forwarder import Forwarder, Hint
    from icnblocks_daemon.holdings import Holdings

EVICTED: Final = "evicted"
"""Why a block is fetched again: it was here when it was looked up, and gone when it was sent."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this block next; whoever sends it closes the lease."""

    index: int
    lease: Lease
    waited: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """Say no to this want."""

    index: int
    reason: Reason
    text: str


class Answer:
    """The state of one bundle.

    Args:
        wants: what is asked, each digest once.
        hint: where to look for what is not here.
        holdings: what is here.
        forwarder: gets what is not.
        window: how many blocks may be pending or leased at once, at least 1.
    """

    def __init__(
        self,
        wants: tuple[Want, ...],
        hint: Hint,
        holdings: Holdings,
        forwarder: Forwarder,
        window: int,
    ) -> None:
        self._wants = wants
        self._hint = hint
        self._holdings = holdings
        self._forwarder = forwarder
        self._window = window
        self._hits: deque[int] = deque()
        self._misses: deque[tuple[int, str]] = deque()  # index, why it is fetched again
        self._waiting: dict[Digest, int] = {}
        self._ready: deque[Send] = deque()
        self._refused: deque[Refuse] = deque()
        self._news = asyncio.Event()
        for index, want in enumerate(wants):
            if holdings.contains(want.digest):
                self._hits.append(index)
            else:
                self._misses.append((index, ""))

    def __len__(self) -> int:
        """Blocks pending or leased: never more than the window."""
        return len(self._waiting) + len(self._ready)

    def next(self) -> Send | Refuse | None:
        """What to send now; None while everything that is left is pending."""
        self._ask()
        if self._refused:
            return self._refused.popleft()
        if self._ready:  # these hold budget, so they go first
            return self._ready.popleft()
        while self._hits:
            index = self._hits.popleft()
            step = self._open(index, waited=False)
            if step is not None:
                return step
            self._misses.append((index, EVICTED))
            self._ask()
        return self._refused.popleft() if self._refused else None

    async def news(self) -> None:
        """Return when `next` has something; call it after it gave None."""
        await self._news.wait()
        self._news.clear()

    def landed(self, digest: Digest) -> None:
        """A pending block is in the store, just now: lease it before it can be evicted."""
        index = self._waiting.pop(digest, None)
        if index is None:
            return
        step = self._open(index, waited=True)
        if step is None:
            self._misses.append((index, EVICTED))
        elif isinstance(step, Send):
            self._ready.append(step)
        else:
            self._refused.append(step)
        self._news.set()

    def refused(self, digest: Digest, reason: Reason, text: str) -> None:
        """A pending block cannot be had."""
        index = self._waiting.pop(digest, None)
        if index is None:
            return
        # Nobody else has it; that it lies here in a file that was changed says more.
        here = self._open(index, waited=True) if reason is Reason.NOT_FOUND else None
        if isinstance(here, Send):
            self._ready.append(here)
        else:
            self._refused.append(here or Refuse(index, reason, text))
        self._news.set()

    def close(self) -> None:
        """Wait for nothing any more and give the leases back. Idempotent."""
        waiting, self._waiting = self._waiting, {}
        for digest in waiting:
            self._forwarder.leave(self, digest)
        for send in self._leased():
            send.lease.close()

    def _leased(self) -> Iterator[Send]:
        while self._ready:
            yield self._ready.popleft()

    def _ask(self) -> None:
        """Make Interests of what is missing, as far as the window goes."""
        while self._misses and len(self) < self._window:
            index, again = self._misses.popleft()
            want = self._wants[index]
            if self._holdings.contains(want.digest):  # it came for somebody else
                self._hits.append(index)
                continue
            self._waiting[want.digest] = index
            self._forwarder.want(self, want, self._hint, again=again)

    def _open(self, index: int, *, waited: bool) -> Send | Refuse | None:
        want = self._wants[index]
        try:
            lease = self._holdings.open(want.digest)
        except ChangedError as error:
            return Refuse(index, Reason.CHANGED, str(error))
        except IcnError as error:
            return Refuse(index, Reason.OTHER, str(error))
        if lease is None:
            return None
        if lease.length != want.length:
            text = f"the block has {lease.length} bytes, not {want.length}"
            lease.close()
            return Refuse(index, Reason.LENGTH, text)
        return Send(index, lease, waited)

"""What one bundle is answered with, and in which order: decides, and holds its leases.

Blocks that are here are touched at once, so that the room that the missing ones need is not made
of them, and leased one at a time, when they are about to be sent. Missing ones are
Interests, at most a window of them together with the blocks that landed and are leased until
they are sent. So a reader that falls behind holds a window of blocks and no more: what lands
later for others passes it by, and is a new Interest if it was evicted meanwhile.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, Final

from icnblocks.errors import ChangedError, IcnError
from icnblocks.values import dataclass
from icnblocks.wire.bundle import Order
from icnblocks.wire.frames import Reason
from icnblocks_daemon.forwarder import EVICTED, UNSTORED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.naming import Digest
    from icnblocks.store.base import Lease
    from icnblocks.wire.bundle import Want
    from icnblocks_daemon.forwarder import Forwarder
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.interests import Hint

_FEW: Final = 4
"""The window while blocks cannot be stored: so many may wait in memory for one reader."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this block next; whoever sends it closes the lease."""

    index: int
    lease: Lease
    waited: bool


@dataclass(frozen=True, slots=True)
class SendBytes:
    """Send this small block next: it was here, and is read already."""

    index: int
    data: bytes


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
        small: blocks of up to so many bytes that are here are read, and not leased.
    """

    def __init__(
        self,
        wants: tuple[Want, ...],
        hint: Hint,
        holdings: Holdings,
        forwarder: Forwarder,
        window: int,
        small: int = 0,
    ) -> None:
        self._wants = wants
        self._hint = hint
        self._holdings = holdings
        self._forwarder = forwarder
        self._window = window
        self._small = small
        self._listed = hint.order is Order.LISTED
        self._hits: deque[int] = deque()
        self._misses: deque[tuple[int, str]] = deque()  # index, why it is fetched again
        self._waiting: dict[Digest, int] = {}
        self._ready: deque[Send] = deque()
        self._refused: deque[Refuse] = deque()
        self._since = forwarder.landings.count
        self._news = asyncio.Event()
        for index in range(len(wants)):
            if not self._is_here(index):
                self._misses.append((index, ""))

    def __len__(self) -> int:
        """Blocks pending or leased: never more than the window."""
        return len(self._waiting) + len(self._ready)

    def next(self) -> Send | SendBytes | Refuse | None:
        """What to send now; None while everything that is left is pending."""
        if self._misses:
            self._ask()
        if self._refused:
            return self._refused.popleft()
        if self._ready and not self._hit_is_first():  # these hold budget, so they go first
            return self._ready.popleft()
        while self._hits:
            index = self._hits.popleft()
            step = self._read(index) or self._open(index, waited=False)
            if step is not None:
                return step
            self._misses.append((index, EVICTED))
            self._ask()
        return self._refused.popleft() if self._refused else None

    def _hit_is_first(self) -> bool:
        """Where the order matters, a block that is here may stand before one that landed."""
        return self._listed and bool(self._hits) and self._hits[0] < self._ready[0].index

    def again(self, refuse: Refuse) -> None:
        """What was refused turned out to be rotten, and is erased: it is missing."""
        self._misses.append((refuse.index, EVICTED))

    async def news(self) -> None:
        """Return when `next` has something; call it after it gave None."""
        await self._news.wait()
        self._news.clear()

    def landed(self, digest: Digest) -> None:
        """A pending block is in the store, just now: lease it before it can be evicted."""
        index = self._waiting.pop(digest, None)
        if index is None:
            return
        if self._forwarder.storage_failing and len(self._ready) >= _FEW:
            self._misses.append((index, UNSTORED))
            return
        step = self._open(index, waited=True)
        if step is None:
            self._misses.append((index, EVICTED))
        elif isinstance(step, Send):
            self._is_ready(step)
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
            self._is_ready(here)
        else:
            self._refused.append(here or Refuse(index, reason, text))
        self._news.set()

    def close(self) -> None:
        """Wait for nothing any more and give the leases back. Idempotent."""
        while self._waiting:  # one at a time: what leaves makes room, and may end another's wait
            digest, _ = self._waiting.popitem()
            self._forwarder.leave(self, digest)
        for send in self._leased():
            send.lease.close()

    def _leased(self) -> Iterator[Send]:
        while self._ready:
            yield self._ready.popleft()

    def _ask(self) -> None:
        """Make Interests of what is missing, as far as the window goes."""
        window = self._window
        if self._forwarder.storage_failing:
            window = min(window, _FEW)
        while self._misses and len(self) < window:
            index, again = self._misses.popleft()
            if self._is_here(index):  # it came for somebody else
                continue
            want = self._wants[index]
            self._waiting[want.digest] = index
            self._forwarder.want(self, want, self._hint, again=again, since=self._since)

    def _is_here(self, index: int) -> bool:
        digest = self._wants[index].digest
        if not (self._holdings.touch(digest) or self._holdings.at_hand(digest)):
            return False
        if self._listed:
            insort(self._hits, index)
        else:
            self._hits.append(index)
        return True

    def _is_ready(self, send: Send) -> None:
        if self._listed:
            insort(self._ready, send, key=lambda each: each.index)
        else:
            self._ready.append(send)

    def _read(self, index: int) -> SendBytes | Refuse | None:
        """A small block of the content store; what is none, or lies elsewhere, is opened."""
        want = self._wants[index]
        if want.length > self._small:
            return None
        try:
            data = self._holdings.read(want.digest, want.length)
        except IcnError as error:
            return _refusal(index, error)
        return None if data is None else SendBytes(index, data)

    def _open(self, index: int, *, waited: bool) -> Send | Refuse | None:
        want = self._wants[index]
        try:
            lease = self._holdings.open(want.digest, counted=False)
        except IcnError as error:
            return _refusal(index, error)
        if lease is None:
            return None
        if lease.length != want.length:
            text = f"the block has {lease.length} bytes, not {want.length}"
            lease.close()
            return Refuse(index, Reason.LENGTH, text)
        return Send(index, lease, waited)


def _refusal(index: int, error: IcnError) -> Refuse:
    reason = Reason.CHANGED if isinstance(error, ChangedError) else Reason.OTHER
    return Refuse(index, reason, str(error))

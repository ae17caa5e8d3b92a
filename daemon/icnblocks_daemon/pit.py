"""The pending Interest table: one entry for each block under way, and who waits for it. Pure.

However many want a block, it is fetched once. An upstream's refusal fails only those who have
no other upstream left; the others' routes are tried in turn. Refusals are remembered briefly,
so that a crowd asking for what does not exist costs one request. The table says what to fetch
and whom to tell; it must not do either.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from icnblocks.wire.frames import Reason

if TYPE_CHECKING:
    from collections.abc import Hashable

    from icnblocks.naming import Digest
    from icnblocks_daemon.fib import Route
    from icnblocks_daemon.strategy import Strategy

_GRAVITY: Final = (Reason.NOT_FOUND, Reason.LENGTH, Reason.LOOP, Reason.REFUSED)
"""Reasons that say "never"; any other may pass, and is what a waiter hears if there is one."""
MAX_REMEMBERED: Final = 65_536
NO_ROUTE: Final = (Reason.NOT_FOUND, "the block is not here and there is no upstream for it")


@dataclass(frozen=True, slots=True)
class Fetch:
    """A block to ask of one upstream. `key` is the table's own.

    Attributes:
        digest: the block.
        length: the bytes that the waiters say it has.
        upstream: whom to ask.
        hint: what the waiter said whose route this is; the table does not look into it.
        serial: no two fetches of a table have the same.
    """

    key: Hashable
    digest: Digest
    length: int
    upstream: str
    hint: Hashable = None
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A waiter who will not get a block, and why."""

    waiter: Hashable
    digest: Digest
    reason: Reason
    text: str


@dataclass(slots=True)
class Step:
    """What is to be done after an event.

    Attributes:
        fetch: ask an upstream for this.
        cancel: nobody waits for this any more.
        ready: waiters whose block is here.
        refused: waiters who will not get it.
    """

    fetch: Fetch | None = None
    cancel: Fetch | None = None
    ready: list[Hashable] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


class _Entry:
    __slots__ = ("refusals", "under_way", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[Hashable, tuple[int, Route, Hashable]] = {}
        self.refusals: dict[tuple[str, int], tuple[Reason, str]] = {}
        self.under_way: Fetch | None = None


class Pit:
    """Who waits for which block.

    Args:
        strategy: picks the upstream.
        negative_s: how long a refusal is remembered; 0 for not at all.
        share: False fetches a block once for each waiter (to measure what sharing saves).
    """

    __slots__ = ("_entries", "_negative", "_negative_s", "_serial", "_share", "_strategy")

    def __init__(self, strategy: Strategy, *, negative_s: float, share: bool = True) -> None:
        self._strategy = strategy
        self._negative_s = negative_s
        self._share = share
        self._serial = 0
        self._entries: dict[Hashable, _Entry] = {}
        self._negative: OrderedDict[tuple[Digest, str, int], tuple[float, tuple[Reason, str]]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        """How many blocks are pending."""
        return len(self._entries)

    def waiting(self) -> int:
        """How many waiters there are, over all blocks."""
        return sum(len(entry.waiters) for entry in self._entries.values())

    def want(
        self,
        waiter: Hashable,
        digest: Digest,
        length: int,
        route: Route,
        now: float,
        *,
        hint: Hashable = None,
    ) -> Step:
        """`waiter` wants a block of `length` bytes, which `route` may have.

        A waiter waits once for a block: wanting it again replaces the earlier Interest.
        """
        key = self._key(waiter, digest)
        entry = self._entries.setdefault(key, _Entry())
        entry.waiters[waiter] = (length, route, hint)
        for upstream in route:
            known = self._recall(digest, upstream, length, now)
            if known is not None and not self._asks(entry, upstream, length):
                entry.refusals.setdefault((upstream, length), known)
        return self._advance(key, digest, entry, now)

    def leave(self, waiter: Hashable, digest: Digest) -> Step:
        """`waiter` waits no longer. Unknown ones are ignored."""
        key = self._key(waiter, digest)
        entry = self._entries.get(key)
        if entry is None or entry.waiters.pop(waiter, None) is None or entry.waiters:
            return Step()
        del self._entries[key]
        return Step(cancel=entry.under_way)

    def arrived(self, fetch: Fetch) -> Step:
        """What was asked for is verified and stored; the entry is done.

        Waiters who gave the block another length are refused. It may be an earlier fetch that
        came too late to be given up; the one that took its place is then cancelled.
        """
        entry = self._entries.pop(fetch.key, None)
        step = Step()
        if entry is not None and entry.under_way != fetch:
            step.cancel = entry.under_way
        for waiter, (length, _, _) in entry.waiters.items() if entry is not None else ():
            if length == fetch.length:
                step.ready.append(waiter)
            else:
                text = f"the block has {fetch.length} bytes, not {length}"
                step.refused.append(Refusal(waiter, fetch.digest, Reason.LENGTH, text))
        return step

    def refused(self, fetch: Fetch, reason: Reason, text: str, now: float) -> Step:
        """The upstream will not or cannot give it. Only reasons that say "never" are remembered."""
        if self._negative_s > 0 and reason in _GRAVITY:
            place = (fetch.digest, fetch.upstream, fetch.length)
            self._negative[place] = (now + self._negative_s, (reason, text))
            self._negative.move_to_end(place)
            while len(self._negative) > MAX_REMEMBERED:
                self._negative.popitem(last=False)
        entry = self._entries.get(fetch.key)
        if entry is None or entry.under_way != fetch:
            return Step()
        entry.under_way = None
        entry.refusals[fetch.upstream, fetch.length] = (reason, text)
        return self._advance(fetch.key, fetch.digest, entry, now)

    def drop(self, fetch: Fetch, reason: Reason, text: str) -> Step:
        """It cannot be taken here (no space, say): everyone who waits is refused."""
        entry = self._entries.pop(fetch.key, None)
        waiters = entry.waiters if entry is not None else ()
        return Step(refused=[Refusal(waiter, fetch.digest, reason, text) for waiter in waiters])

    def _key(self, waiter: Hashable, digest: Digest) -> Hashable:
        return digest if self._share else (digest, waiter)

    @staticmethod
    def _asks(entry: _Entry, upstream: str, length: int) -> bool:
        asked = entry.under_way
        return asked is not None and (asked.upstream, asked.length) == (upstream, length)

    def _recall(
        self, digest: Digest, upstream: str, length: int, now: float
    ) -> tuple[Reason, str] | None:
        known = self._negative.get((digest, upstream, length))
        if known is None:
            return None
        if known[0] <= now:
            del self._negative[digest, upstream, length]
            return None
        return known[1]

    def _advance(self, key: Hashable, digest: Digest, entry: _Entry, now: float) -> Step:
        """Refuse those who have no upstream left; ask the first other's if nobody is asked."""
        step = Step()
        for waiter, (length, route, hint) in list(entry.waiters.items()):
            tried = {upstream for upstream, size in entry.refusals if size == length}
            upstream = self._strategy.choose(route, tried, now)
            if upstream is None:
                del entry.waiters[waiter]
                heard = [entry.refusals[up, length] for up in route]
                reason, text = _gravest(heard)
                step.refused.append(Refusal(waiter, digest, reason, text))
            elif entry.under_way is None:
                self._serial += 1
                fetch = Fetch(key, digest, length, upstream, hint, self._serial)
                entry.under_way = step.fetch = fetch
        if not entry.waiters:
            # Whoever the block was under way for left at this very moment.
            step.cancel, entry.under_way = entry.under_way, None
            del self._entries[key]
        return step


def _gravest(heard: list[tuple[Reason, str]]) -> tuple[Reason, str]:
    """What to tell a waiter: the reason that may pass, if any upstream gave one."""
    for answer in heard:
        if answer[0] not in _GRAVITY:
            return answer
    return heard[0] if heard else NO_ROUTE

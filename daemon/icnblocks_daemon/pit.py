"""The pending Interest table: one entry for each block under way, and who waits for it. Pure.

However many want a block, it is fetched once; where whoever drives the table says so, a second
upstream is asked as well (a hedge), and whichever gives it first ends the other. An upstream's
refusal fails only those who have no other upstream left; the others' routes are tried in turn. It
may be due to the name under which it was asked, so that it says nothing of other names.
Refusals are remembered briefly, so that a crowd asking for what does not exist costs one request.
The table says what to fetch and whom to tell; it must not do either.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Final

from icnblocks.values import dataclass
from icnblocks.wire.frames import Reason
from icnblocks_daemon.refusals import Refusals

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from icnblocks.naming import Digest
    from icnblocks_daemon.fib import Route
    from icnblocks_daemon.strategies import Strategy

_GRAVITY: Final = (Reason.NOT_FOUND, Reason.LENGTH, Reason.LOOP, Reason.REFUSED)
"""Reasons that say "never"; any other may pass, and is what a waiter hears if there is one."""
MOST_FETCHES: Final = 2
"""Under way for one entry: the first, and a hedge."""
NO_ROUTE: Final = (Reason.NOT_FOUND, "the block is not here and there is no upstream for it")


@dataclass(frozen=True, slots=True)
class Fetch:
    """A block to ask of one upstream. `key` is the table's own.

    Attributes:
        digest: the block.
        length: the bytes that the waiters say it has.
        upstream: whom to ask.
        hint: what the waiter said whose route this is; the table does not look into it.
        scope: the name under which it is asked for: refusals hold for it alone.
        path: how the Interest came here, None from a device: that it goes in a circle is
            remembered of what comes on this path alone.
        serial: no two fetches of a table have the same.
    """

    key: Hashable
    digest: Digest
    length: int
    upstream: str
    hint: Hashable = None
    scope: Hashable = None
    path: Hashable = None
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A waiter who will not get a block, and why."""

    waiter: Hashable
    digest: Digest
    reason: Reason
    text: str


_Asked = tuple[str, int, "Hashable", "Hashable"]
"""An upstream, the length that a block was said to have, the scope, and the path for which the
answer holds: None for all of them."""


@dataclass(slots=True)
class Step:
    """What is to be done after an event.

    Attributes:
        fetch: ask an upstream for this.
        joined: this is under way for others already.
        cancel: nobody waits for these any more.
        ready: waiters whose block is here.
        refused: waiters who will not get it.
    """

    fetch: Fetch | None = None
    joined: Fetch | None = None
    cancel: list[Fetch] = field(default_factory=list)
    ready: list[Hashable] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


_Kind = tuple[int, "Route", "Hashable", "Hashable"]
"""A length, a route, a scope and a path: who said the same may ask the same upstreams."""


@dataclass(frozen=True, slots=True)
class _Interest:
    """What a waiter said."""

    length: int
    route: Route
    hint: Hashable
    scope: Hashable
    path: Hashable

    @property
    def kind(self) -> _Kind:
        return self.length, self.route, self.scope, self.path


class _Entry:
    __slots__ = ("kinds", "refusals", "under_way", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[Hashable, _Interest] = {}
        self.kinds: dict[_Kind, int] = {}  # how many waiters are of each
        self.refusals: dict[_Asked, tuple[Reason, str]] = {}
        self.under_way: list[Fetch] = []

    def join(self, waiter: Hashable, interest: _Interest) -> None:
        """One more waits, or one that waits says something else."""
        self.part(waiter)
        self.waiters[waiter] = interest
        self.kinds[interest.kind] = self.kinds.get(interest.kind, 0) + 1

    def part(self, waiter: Hashable) -> bool:
        """It waits no longer; False if it did not."""
        interest = self.waiters.pop(waiter, None)
        if interest is None:
            return False
        self.kinds[interest.kind] -= 1
        if not self.kinds[interest.kind]:
            del self.kinds[interest.kind]
        return True

    def left(self, kind: _Kind) -> Iterator[str]:
        """Upstreams of a route that have not refused who waits for it so."""
        for upstream in kind[1]:
            if self.heard(upstream, kind) is None:
                yield upstream

    def heard(self, upstream: str, kind: _Kind) -> tuple[Reason, str] | None:
        """What an upstream has said to who waits for it so; None if it may be asked."""
        length, _, scope, path = kind
        heard = self.refusals.get((upstream, length, scope, None))
        if heard is None and path is not None:
            heard = self.refusals.get((upstream, length, scope, path))
        return heard


class Pit:
    """Who waits for which block.

    Args:
        strategy: picks the upstream.
        negative_s: how long a refusal is remembered; 0 for not at all.
        share: False fetches a block once for each waiter (to measure what sharing saves).
    """

    __slots__ = ("_entries", "_negative", "_serial", "_share", "_strategy")

    def __init__(self, strategy: Strategy, *, negative_s: float, share: bool = True) -> None:
        self._strategy = strategy
        self._share = share
        self._serial = 0
        self._entries: dict[Hashable, _Entry] = {}
        self._negative: Refusals[tuple[Digest, _Asked], tuple[Reason, str]] = Refusals(negative_s)

    def __len__(self) -> int:
        """How many blocks are pending."""
        return len(self._entries)

    def waiting(self) -> int:
        """How many waiters there are, over all blocks."""
        return sum(len(entry.waiters) for entry in self._entries.values())

    def set_strategy(self, strategy: Strategy) -> None:
        """Ask another strategy from now on."""
        self._strategy = strategy

    def want(
        self,
        waiter: Hashable,
        digest: Digest,
        length: int,
        route: Route,
        now: float,
        *,
        hint: Hashable = None,
        scope: Hashable = None,
        path: Hashable = None,
    ) -> Step:
        """`waiter` wants a block of `length` bytes, which `route` may have.

        A waiter waits once for a block: wanting it again replaces the earlier Interest. See Fetch
        for `hint`, `scope` and `path`.
        """
        key = self._key(waiter, digest)
        entry = self._entries.setdefault(key, _Entry())
        entry.join(waiter, _Interest(length, route, hint, scope, path))
        ways = (None,) if path is None else (None, path)
        for asked in ((upstream, length, scope, way) for upstream in route for way in ways):
            known = self._negative.recall((digest, asked), now)
            if known is not None and not self._asks(entry, asked):
                entry.refusals.setdefault(asked, known)
        joined = entry.under_way[0] if entry.under_way else None
        step = self._advance(key, digest, entry, now, new=waiter)
        step.joined = joined
        return step

    def leave(self, waiter: Hashable, digest: Digest) -> Step:
        """`waiter` waits no longer. Unknown ones are ignored."""
        key = self._key(waiter, digest)
        entry = self._entries.get(key)
        if entry is None or not entry.part(waiter) or entry.waiters:
            return Step()
        del self._entries[key]
        return Step(cancel=entry.under_way)

    def ways(
        self, fetch: Fetch, waiter: Hashable | None = None
    ) -> Iterator[tuple[Route, Hashable]]:
        """Upstreams that one who waits for it, or each, may ask for it, and what that one said."""
        entry = self._entries.get(fetch.key)
        if entry is not None:
            who = entry.waiters.values() if waiter is None else [entry.waiters[waiter]]
            for interest in who:
                yield tuple(entry.left(interest.kind)) or (fetch.upstream,), interest.hint

    def candidates(self, fetch: Fetch, among: Route) -> Route:
        """Those of some upstreams that anybody who waits for it may ask for it as of now.

        Those that are asked for it already may be among them.
        """
        entry = self._entries.get(fetch.key)
        left: set[str] = set()
        for kind in entry.kinds if entry is not None else ():
            if entry is not None and not left.issuperset(among):
                left.update(entry.left(kind))
        return tuple(upstream for upstream in among if upstream in left)

    def length(self, fetch: Fetch, upstream: str) -> int:
        """The bytes that it has, as one says who may ask an upstream for it."""
        entry = self._entries.get(fetch.key)
        return fetch.length if entry is None else self._asking(entry, fetch, upstream).length

    def assign(self, fetch: Fetch, upstream: str) -> Fetch:
        """It was not asked for yet, and is to be asked of one of its candidates.

        Returns:
            What takes its place, as one says who waits and may ask that; it has the same serial.
        """
        entry = self._entries.get(fetch.key)
        if entry is None or fetch not in entry.under_way:
            return fetch
        changed = self._asking(entry, fetch, upstream)
        entry.under_way[entry.under_way.index(fetch)] = changed
        return changed

    def others(self, fetch: Fetch, *, apart: bool = False) -> Route:
        """Upstreams that may be asked for it as well; none if two are asked already.

        Args:
            fetch: what is asked for.
            apart: only those of who may not ask whom it is asked of.
        """
        entry = self._entries.get(fetch.key)
        if entry is None or fetch not in entry.under_way or len(entry.under_way) >= MOST_FETCHES:
            return ()
        found: dict[str, None] = {}
        for kind in entry.kinds:  # a crowd is not gone through at each look at what is late
            left = tuple(entry.left(kind))
            if not apart or fetch.upstream not in left:
                found.update(dict.fromkeys(left))
        return tuple(upstream for upstream in found if upstream != fetch.upstream)

    def hedge(self, fetch: Fetch, upstream: str) -> Fetch:
        """Ask another, one of `others`, for what is under way."""
        entry = self._entries[fetch.key]
        self._serial += 1
        second = replace(self._asking(entry, fetch, upstream), serial=self._serial)
        entry.under_way.append(second)
        return second

    def arrived(self, fetch: Fetch) -> Step:
        """What was asked for is verified and stored; the entry is done.

        Waiters who gave the block another length are refused. It may be an earlier fetch that
        came too late to be given up; those that took its place are then cancelled.
        """
        entry = self._entries.pop(fetch.key, None)
        step = Step()
        if entry is not None:
            step.cancel = [each for each in entry.under_way if each != fetch]
        for waiter, interest in entry.waiters.items() if entry is not None else ():
            if interest.length == fetch.length:
                step.ready.append(waiter)
            else:
                text = f"the block has {fetch.length} bytes, not {interest.length}"
                step.refused.append(Refusal(waiter, fetch.digest, Reason.LENGTH, text))
        return step

    def refused(self, fetch: Fetch, reason: Reason, text: str, now: float) -> Step:
        """The upstream will not or cannot give it. Only reasons that say "never" are remembered.

        A circle is one for those alone whose Interests came the same way (for all, if a device's
        did): whoever says that it came a long one, or through that upstream, would else keep the
        block from everybody. The others are asked for on their own path, each once, so that edges
        that ask each other come to an end.
        """
        way = fetch.path if reason is Reason.LOOP else None
        asked = (fetch.upstream, fetch.length, fetch.scope, way)
        if reason in _GRAVITY:
            self._negative.note((fetch.digest, asked), (reason, text), now)
        entry = self._entries.get(fetch.key)
        if entry is None or fetch not in entry.under_way:
            return Step()
        entry.under_way.remove(fetch)
        entry.refusals[asked] = (reason, text)
        return self._advance(fetch.key, fetch.digest, entry, now)

    def drop(self, fetch: Fetch, reason: Reason, text: str) -> Step:
        """It cannot be taken here (no space, say): everyone who waits is refused."""
        entry = self._entries.pop(fetch.key, None)
        if entry is None:
            return Step()
        return Step(
            cancel=[each for each in entry.under_way if each != fetch],
            refused=[Refusal(waiter, fetch.digest, reason, text) for waiter in entry.waiters],
        )

    def _key(self, waiter: Hashable, digest: Digest) -> Hashable:
        return digest if self._share else (digest, waiter)

    @staticmethod
    def _asks(entry: _Entry, asked: _Asked) -> bool:
        return any(
            (each.upstream, each.length, each.scope) == asked[:3] for each in entry.under_way
        )

    @staticmethod
    def _asking(entry: _Entry, fetch: Fetch, upstream: str) -> Fetch:
        """The same of an upstream, as a waiter would ask it whom it has not refused."""
        for interest in entry.waiters.values():
            if upstream in entry.left(interest.kind):
                return replace(
                    fetch, length=interest.length, upstream=upstream, hint=interest.hint,
                    scope=interest.scope, path=interest.path,
                )  # fmt: skip
        return replace(fetch, upstream=upstream)

    def _advance(
        self,
        key: Hashable,
        digest: Digest,
        entry: _Entry,
        now: float,
        *,
        new: Hashable | None = None,
    ) -> Step:
        """Refuse those who have no upstream left; ask the first other's if nobody is asked.

        For those who waited before `new` came nothing has changed: a crowd is not gone through
        for each who joins it.
        """
        step = Step()
        judged = list(entry.waiters.items()) if new is None else [(new, entry.waiters[new])]
        for waiter, interest in judged:
            left = tuple(entry.left(interest.kind))
            if not left:
                entry.part(waiter)
                heard = (entry.heard(upstream, interest.kind) for upstream in interest.route)
                reason, text = _gravest([answer for answer in heard if answer is not None])
                step.refused.append(Refusal(waiter, digest, reason, text))
            elif not entry.under_way:
                upstream = self._strategy.choose(left, (), now, interest.length) or left[0]
                self._serial += 1
                fetch = Fetch(
                    key, digest, interest.length, upstream, interest.hint, interest.scope,
                    interest.path, self._serial,
                )  # fmt: skip
                entry.under_way.append(fetch)
                step.fetch = fetch
        if not entry.waiters:
            # Whoever the block was under way for left at this very moment.
            step.cancel = entry.under_way
            del self._entries[key]
        return step


def _gravest(heard: list[tuple[Reason, str]]) -> tuple[Reason, str]:
    """What to tell a waiter: the reason that may pass, if any upstream gave one."""
    for answer in heard:
        if answer[0] not in _GRAVITY:
            return answer
    return heard[0] if heard else NO_ROUTE

"""Which devices serve what, and which blocks each of them had best be sent from here. Pure.

Devices announce themselves for a model and are forgotten unless they do so again. `Deals` sees to
it that devices which get a model at the same time ask this daemon for different blocks of it. Both
are bounded, whoever asks. Time is an argument. This module must not know HTTP.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from itertools import chain, zip_longest
from math import gcd
from typing import TYPE_CHECKING, Final, NamedTuple

from icnblocks.client.endpoint import is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from icnblocks.naming import Digest

TTL_S: Final = 60.0
"""An announcement holds for so long."""
LISTED: Final = 8
"""Neighbours that are told at a time: few enough to talk to all of them."""
MOST: Final = 20_000
MOST_EACH: Final = 256
"""Announcements of one client: several devices may stand behind it, or many models be there."""
DEAL_BLOCKS: Final = 2_000_000
"""Blocks of all models that are dealt at a time: 4 bytes each."""
DEAL_MODEL_BLOCKS: Final = 250_000
"""Larger models are not dealt: for who lacks its last blocks, all of them would be looked at."""
_LEAST_BLOCKS: Final = 1000  # a model counts as so many at least
_GOLDEN: Final = 0.618034  # of steps of such a part of a circle, any few spread evenly


class Neighbour(NamedTuple):
    """Where a device serves: the address as this daemon sees it, and a port."""

    address: str
    port: int


class Neighbours:
    """Who announced what.

    Args:
        random: picks who is told.
        ttl_s: how long an announcement holds.
        most: announcements in all.
        most_each: announcements of one client.
    """

    def __init__(
        self,
        random: Random,
        *,
        ttl_s: float = TTL_S,
        most: int = MOST,
        most_each: int = MOST_EACH,
    ) -> None:
        self.ttl_s = ttl_s
        self._random = random
        self._most = most
        self._most_each = most_each
        # Until when, and of which client; the next to be forgotten first.
        self._until: dict[tuple[Digest, Neighbour], tuple[float, str]] = {}
        # By address; those at a loopback address (True) apart, as not everybody is told of them.
        self._models: dict[tuple[Digest, bool], dict[str, list[Neighbour]]] = {}
        self._each: dict[str, int] = {}

    def holding(self, now: float) -> int:
        """How many announcements hold."""
        self._forget(now)
        return len(self._until)

    def announce(self, manifest: Digest, who: Neighbour, now: float, client: str = "") -> bool:
        """A device serves a model from now on, for `ttl_s`; False if there are too many.

        Args:
            manifest: the model.
            who: the device.
            now: seconds.
            client: whom it counts for, if not just for its address.
        """
        self._forget(now)
        key, client = (manifest, who), client or who.address
        known = self._until.pop(key, None)
        if known is not None:
            client = known[1]
        elif len(self._until) >= self._most or self._each.get(client, 0) >= self._most_each:
            return False
        else:
            model = self._models.setdefault((manifest, is_loopback(who.address)), {})
            model.setdefault(who.address, []).append(who)
            self._each[client] = self._each.get(client, 0) + 1
        self._until[key] = now + self.ttl_s, client
        return True

    def leave(self, manifest: Digest, who: Neighbour) -> None:
        """It does not serve it any more. No error if it did not."""
        known = self._until.pop((manifest, who), None)
        if known is not None:
            self._remove(manifest, who, known[1])

    def some(
        self, manifest: Digest, now: float, but: Neighbour, most: int = LISTED
    ) -> list[Neighbour]:
        """Some who serve a model, at random, without `but`, who asks.

        One of each address comes before a second of any: who announces many ports is told no more
        often than others. Devices at a loopback address are told to others there only: elsewhere
        it means another.
        """
        self._forget(now)
        found = list(self._models.get((manifest, False), {}).values())
        if is_loopback(but.address):
            found += self._models.get((manifest, True), {}).values()
        # One more than wanted: the only device of an address may be who asks.
        some = self._random.sample(found, min(len(found), most + 1))
        others = ([who for who in them if who != but] for them in some)
        turns = [self._random.sample(them, min(len(them), most)) for them in others]
        return [who for turn in zip_longest(*turns) for who in turn if who is not None][:most]

    def _forget(self, now: float) -> None:
        while self._until:
            (manifest, who), (until, client) = next(iter(self._until.items()))
            if until > now:
                return
            del self._until[manifest, who]
            self._remove(manifest, who, client)

    def _remove(self, manifest: Digest, who: Neighbour, client: str) -> None:
        at = manifest, is_loopback(who.address)
        model = self._models[at]
        model[who.address].remove(who)
        if not model[who.address]:
            del model[who.address]
        if not model:
            del self._models[at]
        self._each[client] -= 1
        if not self._each[client]:
            del self._each[client]


class _Round:
    """The blocks of one model: those before `dealt` were dealt in this round."""

    __slots__ = ("count", "dealt", "order", "room")

    def __init__(self, count: int, *, dealt: bool) -> None:
        self.count = count
        self.order = _spread(count if dealt else 0)
        self.room = max(len(self.order), _LEAST_BLOCKS)
        self.dealt = 0


def _spread(count: int) -> array[int]:
    """All numbers below `count`, any few in a row from all over.

    Devices say how many blocks are as long as they wish, by the mean: but those of one kind lie
    beside each other, small ones and large ones.
    """
    step = round(_GOLDEN * count) or 1
    while gcd(step, count) != 1:
        step += 1
    return array("I", (place * step % count for place in range(count)))


class Deals:
    """Deals blocks of models: each once before any is dealt again.

    Args:
        random: picks.
        most_blocks: of all models together; those longest not asked for are forgotten, and begin
            anew.
        most_each: of one model; a larger one is not dealt.
    """

    def __init__(
        self,
        random: Random,
        *,
        most_blocks: int = DEAL_BLOCKS,
        most_each: int = DEAL_MODEL_BLOCKS,
    ) -> None:
        self._random = random
        self._most = most_blocks
        self._most_each = min(most_each, most_blocks)
        self._rounds: OrderedDict[Digest, _Round] = OrderedDict()
        self._room = 0

    def count(self, manifest: Digest) -> int | None:
        """How many blocks a model has, if it is known here."""
        found = self._rounds.get(manifest)
        return None if found is None else found.count

    def deals(self, count: int) -> bool:
        """Whether a model of so many blocks is dealt."""
        return count <= self._most_each

    def learn(self, manifest: Digest, count: int) -> None:
        """A model has so many distinct blocks; one that is too large is not dealt."""
        if manifest in self._rounds:
            return
        model = _Round(count, dealt=self.deals(count))
        while self._rounds and self._room + model.room > self._most:
            _, oldest = self._rounds.popitem(last=False)
            self._room -= oldest.room
        self._rounds[manifest] = model
        self._room += model.room

    def deal(self, manifest: Digest, had: bytes, most: int) -> list[int]:
        """Indexes of blocks that a device should ask for here.

        Args:
            manifest: a model that was learnt, else nothing is dealt.
            had: a byte for each of its blocks, 1 for those not to deal.
            most: how many at most.

        Returns:
            Those that were dealt to nobody in this round, at random; if the device needs none of
            them, some of the others. Ascending.
        """
        model = self._rounds.get(manifest)
        if model is None or len(had) != len(model.order) or not had:
            return []
        self._rounds.move_to_end(manifest)
        if model.dealt == len(model.order):
            model.dealt = 0
        places = self._lacking(model, model.dealt, len(model.order), had, most)
        if not places:
            again = self._lacking(model, 0, model.dealt, had, most)
            return sorted(model.order[place] for place in again)
        found = sorted(model.order[place] for place in places)
        for place in sorted(places):
            order, at = model.order, model.dealt
            order[at], order[place] = order[place], order[at]
            model.dealt += 1
        return found

    def _lacking(
        self, model: _Round, first: int, end: int, had: Sequence[int], most: int
    ) -> list[int]:
        """Places from `first` to `end` of blocks that are lacking, from a random one on."""
        if first == end:
            return []
        begin = self._random.randrange(first, end)
        found: list[int] = []
        for place in chain(range(begin, end), range(first, begin)):
            if not had[model.order[place]]:
                found.append(place)
                if len(found) == most:
                    break
        return found

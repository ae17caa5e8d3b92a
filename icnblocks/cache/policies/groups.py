"""What `partition` is made of: groups of blocks with the same users, and models. Values only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.cache.policies.slots import Chain

if TYPE_CHECKING:
    from icnblocks.naming import Digest

_SIGNATURE_BYTES: Final = 16


class Group:
    """Blocks with the same users.

    Attributes:
        number: its position in `Partition.groups`.
        users: the models that list these blocks, by their numbers.
        evictable: the blocks that are here and not pinned, oldest first.
        others: the rest of them, not here or pinned.
        known, known_bytes: blocks, and their bytes, here or not.
        resident: blocks that are here.
        holders: users that hold it; `holder_sum` is the sum of their numbers, so that a single
            holder is known without a search.
        signature: XOR of the users' signatures: groups with the same users have the same.
        leaners: adapters that lean on it.
        weight: sum of the users' request weights.
        version: of its entry in the policy's heap.
    """

    __slots__ = (
        "evictable", "holder_sum", "holders", "known", "known_bytes", "leaners", "number",
        "others", "resident", "signature", "users", "version", "weight",
    )  # fmt: skip

    def __init__(self, number: int, users: dict[int, Model]) -> None:
        self.number = number
        self.users = users
        self.evictable = Chain()
        self.others = Chain()
        self.known = 0
        self.known_bytes = 0
        self.resident = 0
        self.holders = 0
        self.holder_sum = 0
        self.leaners = 0
        self.signature = 0
        self.weight = 0.0
        self.version = 0

    @property
    def whole(self) -> bool:
        """Is every block of it here?"""
        return self.resident == self.known


class Model:
    """A manifest that is known.

    Attributes:
        number: rises with every manifest learnt; never used again.
        digest: of the manifest.
        base: digest of the base's manifest, for adapters.
        groups: what its blocks fall into.
        own_bytes: of its distinct blocks, here or not.
        missing: groups that are not whole.
        arriving: is it being pulled?
        holding: does it hold its groups?
        leaners: adapters that lean on it.
        exclusive: bytes, here or not, of the groups that it alone holds.
        weight: of the requests for it.
        version: of its entry in the policy's heap.
    """

    __slots__ = (
        "arriving", "base", "digest", "exclusive", "groups", "holding", "leaners", "missing",
        "number", "own_bytes", "signature", "version", "weight",
    )  # fmt: skip

    def __init__(self, number: int, digest: Digest, base: Digest | None) -> None:
        self.number = number
        self.digest = digest
        self.signature = int.from_bytes(digest[:_SIGNATURE_BYTES], "big")
        self.base = base
        self.groups: dict[int, Group] = {}
        self.own_bytes = 0
        self.missing = 0
        self.arriving = False
        self.holding = False
        self.leaners = 0
        self.exclusive = 0
        self.weight = 0.0
        self.version = 0

    @property
    def complete(self) -> bool:
        """Is every block of it here?"""
        return not self.missing and bool(self.groups)

    def resident(self) -> int:
        """Its blocks that are here."""
        return sum(group.resident for group in self.groups.values())

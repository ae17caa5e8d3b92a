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
        number: its position in `Partition.groups`; never used again.
        users: the models that list these blocks, by their numbers.
        held: the blocks that are here to stay, oldest first.
        others: the rest of them: not here, passing through, or pinned.
        known, known_bytes: blocks, and their bytes, here or not.
        here_bytes, held_bytes, pinned_bytes: those of the blocks that are here, held, pinned.
        quota: bytes that the plan keeps of it.
        rank: what a byte of it is worth; the least worth leaves first.
        signature: XOR of the users' signatures: groups with the same users have the same.
        version: of its entry in the policy's heap.
    """

    __slots__ = (
        "held", "held_bytes", "here_bytes", "known", "known_bytes", "number", "others",
        "pinned_bytes", "quota", "rank", "signature", "users", "version",
    )  # fmt: skip

    def __init__(self, number: int, users: dict[int, Model]) -> None:
        self.number = number
        self.users = users
        self.held = Chain()
        self.others = Chain()
        self.known = 0
        self.known_bytes = 0
        self.here_bytes = 0
        self.held_bytes = 0
        self.pinned_bytes = 0
        self.quota = 0
        self.rank = 0.0
        self.signature = 0
        self.version = 0

    @property
    def block(self) -> float:
        """Bytes of a block of it, on the average; 1 at least."""
        return max(self.known_bytes / max(self.known, 1), 1.0)


class Model:
    """A manifest that is known.

    Attributes:
        number: rises with every manifest learnt; never used again.
        digest: of the manifest.
        base: digest of the base's manifest, if it has one.
        groups: what its blocks fall into.
        row: of its rate.
        price: what a missing byte of it costs, 1 if it comes from the origin.
    """

    __slots__ = ("base", "digest", "groups", "number", "price", "row", "signature")

    def __init__(self, number: int, digest: Digest, base: Digest | None) -> None:
        self.number = number
        self.digest = digest
        self.signature = int.from_bytes(digest[:_SIGNATURE_BYTES], "big")
        self.base = base
        self.groups: dict[int, Group] = {}
        self.row = -1
        self.price = 1.0

    @property
    def size(self) -> int:
        """Bytes of its distinct blocks, here or not."""
        return sum(group.known_bytes for group in self.groups.values())

"""The contract of eviction policies, and the registry of them by name.

A policy is a plain object that is told what happens and asked whom to evict. It is pure: the
time comes as an argument (seconds of a clock that never goes backward), and it erases nothing:
the content store erases and then says so with `removed`. `icnblocks.testing.policy_contract` is the
conformance suite; every operation is O(log n), amortised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from icnblocks.naming import Digest


class Policy(Protocol):
    """Decides which blocks leave first."""

    name: ClassVar[str]

    def inserted(self, digest: Digest, size: int, now: float) -> None:
        """A block of `size` bytes (its footprint) came into the store."""
        ...

    def hit(self, digest: Digest, now: float) -> None:
        """A block that is in the store was asked for. Unknown digests are ignored."""
        ...

    def removed(self, digest: Digest) -> None:
        """A block left the store. Unknown digests are ignored."""
        ...

    def pinned(self, digest: Digest) -> None:
        """A block that is in the store must stay: `victims` passes it over until `unpinned`.

        It still counts as being there. Unknown digests, and a second call, are ignored.
        """
        ...

    def unpinned(self, digest: Digest, now: float) -> None:
        """A pinned block may leave again; it counts as just asked for. Others are ignored."""
        ...

    def learn(self, manifest: Digest, blocks: Mapping[Digest, int], base: Digest | None) -> None:
        """A manifest became known: its distinct blocks with footprints, and its base's digest.

        Told again, it changes nothing. Linear in the blocks.
        """
        ...

    def forget(self, manifest: Digest) -> None:
        """A manifest is no longer known. Unknown ones are ignored."""
        ...

    def requested(self, manifest: Digest, now: float) -> None:
        """Somebody began to pull this model (once a pull, not once a block).

        Unknown ones are ignored.
        """
        ...

    def victims(self, now: float) -> Iterator[Digest]:
        """Blocks in the order in which they should leave, each at most once.

        Drawn to its end it gives every block that is in the store and not pinned. The content
        store draws from it until enough is freed, passing over blocks that are leased. What was
        drawn may or may not be removed; between draws only `removed` for digests already drawn
        is called, and only the iterator made last is drawn from.
        """
        ...


POLICIES: dict[str, Callable[[], Policy]] = {}


def register(factory: type[Policy]) -> type[Policy]:
    """Class decorator: make a policy known under its `name`."""
    POLICIES[factory.name] = factory
    return factory


def make_policy(name: str) -> Policy:
    """A fresh policy by its registered name.

    Raises:
        UsageError: if there is none of that name.
    """
    import icnblocks.cache.policies  # noqa: F401  (registers the built-in ones)

    if name not in POLICIES:
        raise UsageError(
            f"no eviction policy {name!r}", hint=f"one of: {', '.join(sorted(POLICIES))}"
        )
    return POLICIES[name]()

"""The contract of eviction policies, and the registry of them by name.

A policy is a plain object that is told what happens and asked whom to evict. It is pure: the
time comes as an argument (seconds of a clock that never goes backward), and it erases nothing:
the content store erases and then says so with `removed`. `icnblocks.testing.policy_contract` is the
conformance suite; every operation is O(log n), amortised.

Admission has no call of its own: a policy that thinks a block not worth keeping gives it among
its first `victims`, so that it passes through and what is worth more stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from icnblocks.cache import options
from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from icnblocks.naming import Digest


class Policy(Protocol):
    """Decides which blocks leave first. To be subclassed: the bulk calls are inherited.

    A registered policy's constructor takes `capacity`, the budget in bytes or None (unbounded),
    and by keyword what `options` declares.

    Attributes:
        name: under which it is registered.
        options: what may stand after its name in a spec (see `make_policy`), by key.
        steady: True if drawing `victims` for several blocks at once gives the same as making room
            for one, telling that it was `inserted`, and so on. Whoever relies on it must see to
            it that there was something else to evict for each of them.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, options.Option]] = {}
    steady: ClassVar[bool] = False

    # --- blocks ---------------------------------------------------------------------------

    def inserted(self, digest: Digest, size: int, now: float) -> None:
        """A block of `size` bytes (its footprint) came into the store.

        For a block that is here already it is a `hit`.
        """
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

    # --- many blocks at once: the same as one call for each, in order -----------------------

    def inserted_all(self, blocks: Iterable[tuple[Digest, int]], now: float) -> None:
        """`inserted` for each block and its footprint."""
        for digest, size in blocks:
            self.inserted(digest, size, now)

    def hits(self, digests: Iterable[Digest], now: float) -> None:
        """`hit` for each block."""
        for digest in digests:
            self.hit(digest, now)

    def removed_all(self, digests: Iterable[Digest]) -> None:
        """`removed` for each block."""
        for digest in digests:
            self.removed(digest)

    # --- models ---------------------------------------------------------------------------

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

    # --- what leaves ----------------------------------------------------------------------

    def victims(self, now: float) -> Iterator[Digest]:
        """Blocks in the order in which they should leave, each at most once.

        Drawn to its end it gives every block that is in the store and not pinned. The content
        store draws from it until enough is freed, passing over blocks that are leased. What was
        drawn may or may not be removed, one by one or together before the next draw. Between
        draws only `removed` and `removed_all` for digests already drawn are called, and only the
        iterator made last is drawn from. A look that is followed by no removal changes nothing, and
        what is removed after the end was reached did not leave as a victim.
        """
        ...


POLICIES: dict[str, Callable[..., Policy]] = {}
_OPTIONS: dict[str, Mapping[str, options.Option]] = {}
_P = TypeVar("_P", bound=Policy)


def register(factory: type[_P]) -> type[_P]:
    """Class decorator: make a policy known under its `name`."""
    POLICIES[factory.name] = factory
    _OPTIONS[factory.name] = factory.options
    return factory


def policy_options(name: str) -> Mapping[str, options.Option]:
    """The options that a registered policy declares, by key.

    Raises:
        UsageError: if there is none of that name.
    """
    import icnblocks.cache.policies  # noqa: F401  (registers the built-in ones)

    if name not in POLICIES:
        raise UsageError(
            f"no eviction policy {name!r}", hint=f"one of: {', '.join(sorted(POLICIES))}"
        )
    return _OPTIONS[name]


def make_policy(spec: str, capacity: int | None = None) -> Policy:
    """A fresh policy from `NAME[:key=value,...]`, such as `lru` or `sharing:half_life=6h`.

    Args:
        spec: its registered name, and values for options that it declares.
        capacity: the budget in bytes of the content store that will use it; None: unbounded.

    Raises:
        UsageError: if there is none of that name, or an option of it is unknown or wrong.
    """
    name, _ = options.split(spec)
    declared = policy_options(name)
    values: dict[str, Any] = options.arguments(spec, declared)
    return POLICIES[name](capacity, **values)

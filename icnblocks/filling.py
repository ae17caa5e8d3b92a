"""Filling an assembly: from other models on this machine, and the rest from sources.

One after the other: both at once was tried, and took as long (docs/performance-log.md). This
module must not resolve names, nor decide where a model lies.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from icnblocks.assembly.reuse import LocalReuse, can_share
from icnblocks.client.engine import Catalogued, Engine, EngineOptions, Hint
from icnblocks.client.resolve import NO_SOURCE
from icnblocks.errors import IcnError, IncompleteError, NotFoundError, SourceError, StorageError
from icnblocks.store.database import storage_errors
from icnblocks.wire.bundle import PULL_BYTES, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from icnblocks.assembly.assembler import Assembler
    from icnblocks.client.resolve import Resolved
    from icnblocks.client.settings import Settings
    from icnblocks.client.source import Source
    from icnblocks.naming import Digest, Name
    from icnblocks.share import Sharer
    from icnblocks.share.offers import Offer
    from icnblocks.store.base import Verified
    from icnblocks.store.inplace import InPlaceStore
    from icnblocks.wire.bundle import Want

_QUIET_S: Final = 5.0
"""Where no block comes for so long, and sources said why, the user hears of it."""

_ELSEWHERE: Final = "name another source with --from (sources=); what came is kept"


class Progress(Protocol):
    """Hears how it goes; its methods are called on several threads."""

    def moved(self, count: int) -> None:
        """`count` more bytes came over the network and are in place."""
        ...

    def reused(self, count: int) -> None:
        """`count` more bytes were taken from another model on this machine."""
        ...

    def warned(self, text: str) -> None:
        """Something odd that did not stop the pull."""
        ...


class Follower(Protocol):
    """Uses a model while it is pulled. May raise an IcnError, which ends the pull."""

    def asking(self, stop: Callable[[], None]) -> None:
        """Sources are asked from now on; `stop` ends all questions, from any thread."""
        ...

    def assembling(self, assembler: Assembler) -> None:
        """It is being assembled; what was on this machine is in place. Its files are not in use."""
        ...

    def fetching(self, stop: Callable[[], None]) -> None:
        """Blocks are taken from this machine, or fetched, from now on; `stop` ends that.

        From any thread. Of bases too, of which it hears nothing else.
        """
        ...

    def placed(self) -> None:
        """More blocks are in place. Called on several threads."""
        ...


class Moved(NamedTuple):
    """Bytes of blocks that came over the network: of use, in vain, and from other devices."""

    received: int = 0
    wasted: int = 0
    neighbours: int = 0


class _Sink:
    """The engine's sink: blocks go into the assembly, refusals are collected."""

    def __init__(
        self,
        assembler: Assembler,
        progress: Progress,
        offer: Offer | None,
        follower: Follower | None,
    ) -> None:
        self._assembler = assembler
        self._progress = progress
        self._offer = offer
        self._follower = follower
        self._lock = threading.Lock()
        self._refused: list[IcnError] = []
        self.received = 0

    def accept(self, blocks: Sequence[Verified]) -> None:
        self._assembler.accept(blocks)
        if self._offer is not None:
            for block in blocks:
                self._offer.arrived(block.digest)
        count = sum([len(block.data) for block in blocks])
        with self._lock:
            self.received += count
        self._progress.moved(count)
        if self._follower is not None:
            self._follower.placed()

    def refuse(self, want: Want, error: IcnError) -> None:  # noqa: ARG002
        with self._lock:
            self._refused.append(error)

    def settle(self, name: Name) -> None:
        """Raise what stands for all refusals, if there were any."""
        if not self._refused:
            return
        first = self._refused[0]
        if isinstance(first, StorageError):
            raise first
        passes = any(error.retry for error in self._refused)
        # That of another class is about what was asked for by itself.
        hint = first.hint if isinstance(first, SourceError) else "" if passes else _ELSEWHERE
        failure = IncompleteError(
            f"{len(self._refused)} blocks of {name} could not be had; the first: {first}", hint=hint
        )
        failure.retry = passes
        raise failure


class Filling:
    """Fills one assembly.

    Args:
        resolved: what is pulled.
        assembler: what is filled.
        places: the models on this machine.
        sources: whom to ask for the rest; may be none.
        settings: how.
        progress: hears how it goes.
        follower: uses it meanwhile, so that it comes in order.
        fetching: told how to end it, as a follower is.
    """

    def __init__(
        self,
        resolved: Resolved,
        assembler: Assembler,
        places: InPlaceStore,
        sources: Sequence[Source],
        settings: Settings,
        progress: Progress,
        follower: Follower | None = None,
        fetching: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._fetching = fetching
        self._resolved = resolved
        self._assembler = assembler
        self._sources = sources
        self._settings = settings
        self._progress = progress
        self._follower = follower
        self._places = places if places.directories() else None
        self._sharing: tuple[Sharer, Offer] | None = None

    def reuse(self) -> None:
        """Take from other models here what can be had; the rest stays missing.

        Raises:
            StorageError: if the disk refuses.
        """
        if self._places is None:
            return
        missing = self._assembler.missing()
        try:
            self._refuse_full_disk(missing)
        except StorageError:  # what files share takes no room
            if not can_share(self._assembler.directory):
                raise
        reuse = LocalReuse(self._assembler, self._places, self._progress.reused)
        if self._fetching is not None:
            self._fetching(reuse.stop)
        reuse.take(missing)
        self._places.close_idle()  # who follows needs descriptors

    def share(self, sharer: Sharer, offer: Offer) -> None:
        """Get blocks from neighbours too, and offer what comes to them."""
        self._sharing = sharer, offer

    def run(self) -> Moved:
        """Fetch what is missing.

        Raises:
            IcnError: as its class says; what arrived is kept.
        """
        if self._follower is None:
            parts = self._assembler.parts(self._settings.connections)
        else:
            self._follower.assembling(self._assembler)
            parts = [self._assembler.listed()]
        missing = [want for part in parts for want in part]
        if not missing:
            return Moved()
        self._refuse_full_disk(missing)
        if not self._sources:
            raise NotFoundError(
                f"{len(missing)} blocks of {self._resolved.name} are not on this machine and no"
                " source was asked",
                hint=NO_SOURCE,
            )
        self._assembler.reserve()
        return self._fetch(parts)

    def _fetch(self, parts: list[list[Want]]) -> Moved:
        hint = Hint(
            self._resolved.name,
            self._resolved.digest,
            os.urandom(PULL_BYTES),
            priority=self._settings.priority,
        )
        offer = self._sharing and self._sharing[1]
        sink = _Sink(self._assembler, self._progress, offer, self._follower)
        with ExitStack() as stack:
            engine = self._engine(sink, hint, stack)
            if self._fetching is not None:
                self._fetching(engine.close)
            for number, part in enumerate(parts):
                engine.add(part, hint, None if number else self._blocks, part=number)
            self._wait(engine)
            wasted = sum(engine.counters().wasted.values())
            others = engine.status()[len(self._sources) :]
        sink.settle(self._resolved.name)
        return Moved(sink.received, wasted, sum(each.received_bytes for each in others))

    def _wait(self, engine: Engine) -> None:
        """Wait for the end, and say once what is waited for: that may take minutes."""
        told, before = False, 0
        while not engine.wait(None if told else _QUIET_S):
            status, came = engine.status()[: len(self._sources)], engine.counters().blocks
            whys = [each.last_error for each in status if each.wait_s and each.last_error]
            told = bool(whys) and came == before
            before = came
            if told:
                self._progress.warned(
                    f"{self._resolved.name}: no block has come for {_QUIET_S:.0f} s:"
                    f" {'; '.join(whys)}; asking again"
                )

    def _blocks(self) -> list[Digest]:
        return list(self._resolved.manifest.lengths())

    def _engine(self, sink: _Sink, hint: Hint, stack: ExitStack) -> Engine:
        options = EngineOptions(
            connections=self._settings.connections,
            retry_s=self._settings.retry_s,
            limit_rate=self._settings.limit_rate,
            order=Order.ANY if self._follower is None else Order.LISTED,
        )
        if self._sharing is None:
            return stack.enter_context(Engine(self._sources, sink, options))
        from icnblocks.client.neighbourly import NeighbourlyEngine

        sharer, offer = self._sharing
        about = Catalogued(self._resolved.digest, self._resolved.name, list(offer.lengths))
        engine = NeighbourlyEngine(self._sources, sink, about, hint, sharer.port, options)
        stack.enter_context(sharer.joined(offer, engine))
        return stack.enter_context(engine)

    def _refuse_full_disk(self, missing: Sequence[Want]) -> None:
        """Say so before the work, not after it, where the disk cannot hold what is wanted."""
        root, wanted = self._assembler.directory.root, self._assembler.room(missing)
        with storage_errors(root):
            total, _, free = shutil.disk_usage(root)
        if not total:  # a file system that does not tell, such as ramfs
            return
        if wanted > free:  # much of it may be there, of another version
            wanted = min(wanted, self._assembler.unallocated())
        if wanted > free:
            raise StorageError(f"{root}: {wanted} bytes are needed and {free} are free on its disk")

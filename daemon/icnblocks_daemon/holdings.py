"""What this daemon has: the content store, and blocks that lie in place in model directories.

Used from the event loop, except where a method says otherwise. It must not fetch anything.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from icnblocks.errors import IcnError, StorageError
from icnblocks.store.base import verify
from icnblocks.wire.bundle import NO_PULL
from icnblocks_daemon.overflow import Overflow

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from icnblocks.cache.content_store import ContentStore
    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest
    from icnblocks.store.base import Lease
    from icnblocks.store.inplace import InPlaceStore
    from icnblocks.wire.bundle import Want

T = TypeVar("T")
_PULLS_REMEMBERED: Final = 16_384
_RECALLS: Final = 256
"""Manifests that may wait to be read again for the policy; pulls of more are not counted."""


class Listener(Protocol):
    """Hears of demand, on the loop; must return at once."""

    def learnt(self, digest: Digest) -> None:
        """A manifest became known."""
        ...

    def requested(self, digest: Digest) -> None:
        """Somebody began to pull this model."""
        ...


class Holdings:
    """Blocks by digest, wherever they lie on this machine.

    Args:
        content: the blocks that the daemon itself stores.
        places: the blocks in model directories; other processes add to it.
        clock: seconds that never go backward.
        evicts: whether the content store may evict.
        recall: a known manifest, for a policy that has forgotten it, or None; called on a thread.
        overflow: blocks in memory that could not be stored; without one, there are none.
    """

    def __init__(
        self,
        content: ContentStore,
        places: InPlaceStore,
        clock: Callable[[], float],
        *,
        evicts: bool,
        recall: Callable[[Digest], Manifest | None],
        overflow: Overflow | None = None,
    ) -> None:
        self.content = content
        self.overflow = Overflow(0) if overflow is None else overflow
        self.listener: Listener | None = None
        """Told of models that became known, and of pulls."""
        self._recall = recall
        self.places = places
        self._clock = clock
        self._evicts = evicts
        self._pulls: OrderedDict[tuple[Digest, bytes], None] = OrderedDict()
        self._recalls: dict[Digest, int] = {}  # manifests that are read again: pulls of them
        self._recalling: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._flush_next: asyncio.Task[None] | None = None

    @property
    def evicts(self) -> bool:
        """Whether blocks may be evicted, so that what must stay has to be pinned."""
        return self._evicts

    def contains(self, digest: Digest) -> bool:
        """Is it here? May be called from any thread."""
        return digest in self.content.store or digest in self.places

    def at_hand(self, digest: Digest) -> bool:
        """Could it be sent now? It may be about to be forgotten, when it could not be stored."""
        return self.contains(digest) or digest in self.overflow

    def held(self, digests: Iterable[Digest]) -> bytes:
        """A byte for each of them: 1 if it is here. May be called from any thread."""
        if len(self.places):
            return bytes(map(self.contains, digests))
        # Where nothing lies in place, as at most edges, its index need not be asked 35,000 times.
        store = self.content.store
        return bytes(digest in store for digest in digests)

    def open(self, digest: Digest, *, counted: bool = True) -> Lease | None:
        """Lease a block for sending, or None if it is not here.

        Args:
            digest: of the block.
            counted: False if it was counted that it was asked for (see `ContentStore.open`).

        Raises:
            ChangedError: if it lies in a file that was changed, and nowhere else.
            StorageError: if the disk refuses.
        """
        if not counted or digest in self.content.store:  # else it would count as a miss
            lease = self.content.open(digest, self._clock(), counted=counted)
            if lease is not None:
                return lease
        return self.overflow.open(digest) or self.places.open(digest)

    def read(self, digest: Digest, length: int) -> bytes | None:
        """The bytes of a block that `touch` found; None if it must be opened instead, or is gone.

        Raises:
            ChangedError: if the store's file was cut short.
            StorageError: if the disk refuses.
        """
        return self.content.store.read(digest, length)

    def touch(self, digest: Digest) -> bool:
        """A block was asked for: told to the policy before it is opened. Asks no disk.

        Returns:
            Whether it is in the content store; else it may still be at hand.
        """
        return self.content.touch(digest, self._clock())

    def look(self) -> Callable[[Digest], bool]:
        """Is it here? As `contains`, but of blocks in place the files are looked at, each once.

        What a publisher is told must hold: a model directory may have been moved or edited since.
        May be called from any thread; not on the loop, as disks are asked.
        """
        store, in_place = self.content.store, self.places.look()
        return lambda digest: digest in store or in_place(digest)

    def missing(self, wants: Iterable[Want]) -> list[int]:
        """Indexes of the wants that are not here (see `look`)."""
        is_here = self.look()
        return [index for index, want in enumerate(wants) if not is_here(want.digest)]

    def requested(self, manifest: Digest, pull: bytes) -> None:
        """A request belongs to this pull: told to the policy once a pull."""
        if pull == NO_PULL or (manifest, pull) in self._pulls:
            return
        self._pulls[manifest, pull] = None
        if len(self._pulls) > _PULLS_REMEMBERED:
            self._pulls.popitem(last=False)
        if not self._tell_requested(manifest) and (
            manifest in self._recalls or len(self._recalls) < _RECALLS
        ):
            self._recalls[manifest] = self._recalls.get(manifest, 0) + 1
            if self._recalling is None:
                self._recalling = _task(self._recall_all())

    def _tell_requested(self, manifest: Digest) -> bool:
        """Tell the policy and the listener, if the policy knows the model."""
        if not self.content.requested(manifest, self._clock()):
            return False
        if self.listener is not None:
            self.listener.requested(manifest)
        return True

    async def _recall_all(self) -> None:
        """Let the policy learn again what it forgot and somebody pulls, one model after the other.

        Reading and decoding take up to seconds, and whoever asks can choose what is read: not on
        the loop.
        """
        try:
            while self._recalls:
                manifest = next(iter(self._recalls))
                try:
                    known = await asyncio.to_thread(self._recalled, manifest)
                except IcnError:  # that it cannot be read is no matter of who pulls
                    known = None
                finally:
                    pulls = self._recalls.pop(manifest)
                if known is not None:
                    self.content.learn(manifest, *known)
                    for _ in range(pulls):
                        self._tell_requested(manifest)
        finally:
            self._recalling = None

    def _recalled(self, manifest: Digest) -> tuple[Manifest, Mapping[Digest, int]] | None:
        known = self._recall(manifest)
        return None if known is None else (known, known.lengths())

    def learn(
        self, digest: Digest, manifest: Manifest, lengths: Mapping[Digest, int] | None = None
    ) -> None:
        """A manifest became known: told to the policy; `lengths` are its own, if at hand."""
        self.content.learn(digest, manifest, lengths)
        if self.listener is not None:
            self.listener.learnt(digest)

    async def put(self, digest: Digest, data: bytes | bytearray | memoryview) -> None:
        """Verify and store a block that somebody brought; `flush` makes it last.

        Once begun it is done to its end, also if the caller is cancelled.

        Raises:
            CorruptError: if the bytes have another digest.
            StorageError: if there is no room in the budget or the disk refuses.
        """
        await shielded(self._put(digest, memoryview(data)))

    async def _put(self, digest: Digest, view: memoryview) -> None:
        reservation = self.content.reserve(digest, len(view), self._clock())
        if reservation is None:
            raise StorageError(
                "the store's capacity is used up", hint="the operator can raise `capacity`"
            )
        try:
            await asyncio.to_thread(lambda: self.content.store.put(verify(digest, view)))
        except BaseException:
            self.content.release(reservation)
            raise
        self.content.commit(reservation, self._clock())

    async def flush(self) -> None:
        """Return when everything put before this call is on disk. Calls share flushes.

        Raises:
            StorageError: if the disk refuses.
        """
        if self._flushing is None:
            self._flushing = _task(self._flush())
            await asyncio.shield(self._flushing)
            return
        # The one under way may have begun before our blocks were put: the next one counts.
        if self._flush_next is None:
            self._flush_next = _task(self._flush_after(self._flushing))
        await asyncio.shield(self._flush_next)

    async def _flush_after(self, under_way: asyncio.Task[None]) -> None:
        await asyncio.wait([under_way])
        self._flushing, self._flush_next = self._flush_next, None
        await self._flush()

    async def _flush(self) -> None:
        try:
            await asyncio.to_thread(self.content.store.flush)
        finally:
            if self._flushing is asyncio.current_task():
                self._flushing = None

    def close(self) -> None:
        """Flush and let go of all."""
        self.content.store.close()
        self.places.close()
        self.overflow.close()


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, which goes on to its end when the caller is cancelled."""
    return await asyncio.shield(_task(work))


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; a caller that is cancelled stays until it ends, with whatever it holds.

    For what runs on a thread, which does not stop: else who leaves and comes again has many run.
    """
    task = _task(work)
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


def _task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task whose error is read even if everyone who waited for it has left."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task

"""Blocks that another local model has are taken from it: reflinked where the file system can.

Every block is read and verified before it counts, so a bad disk is noticed here. A reflink needs
source and target offsets that agree modulo the file system's block, which holds when two models
have headers of one length; else, and on file systems without reflinks (ext4), the bytes are
copied. This module must not fetch anything.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING, Final, TypeAlias

from icnblocks.assembly.directory import STATE
from icnblocks.errors import ChangedError, CorruptError, StorageError
from icnblocks.store.base import verify
from icnblocks.store.extents import read_all, write_all
from icnblocks.store.facts import FileFacts
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from icnblocks.assembly.assembler import Assembler
    from icnblocks.assembly.directory import ModelDirectory
    from icnblocks.store.base import Lease, ReadableStore
    from icnblocks.wire.bundle import Want

FICLONERANGE: Final = 0x4020940D
"""ioctl_ficlonerange(2)."""
_RANGE: Final = struct.Struct("=qQQQ")
PAGE: Final = 4096
_NO_CLONE: Final = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS}
_BATCH: Final = 32 * 1024 * 1024
"""Bytes that a thread takes on at once: bounds how much is noted late."""
_ENDS_S: Final = 60.0
"""For a thread to end its block when all are to stop."""
_THREADS: Final = 4
"""At most: each holds a block in memory."""
_Facts: TypeAlias = "tuple[int, FileFacts]"
"""Of a file: its device, and what it was when it was read."""


def can_share(directory: ModelDirectory) -> bool:
    """Whether files of a locked directory can share room, by trying it with a hole."""
    path, size = f"{STATE}/sharing", 16 * PAGE  # as large as blocks of file systems are
    try:
        fd = directory.open(path, os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(fd, 2 * size)
            fcntl.ioctl(fd, FICLONERANGE, _RANGE.pack(fd, 0, size, size))
        finally:
            os.close(fd)
            directory.remove(path)
    except OSError:
        return False
    return True


@dataclass(slots=True)
class _Stretch:
    """Verified blocks that lie one after the other in a source file and in a target file."""

    facts: _Facts
    source: int
    file: int
    target: int
    length: int = 0
    wants: list[Want] = field(default_factory=list)

    def goes_on(self, facts: _Facts, source: int, file: int, target: int) -> bool:
        return (
            self.facts == facts
            and self.file == file
            and self.source + self.length == source
            and self.target + self.length == target
        )


class LocalReuse:
    """Takes blocks from a store on this machine into an assembly, on a few threads.

    Hashing takes longest and leaves the interpreter to others, and so does copying.

    Args:
        assembler: where they are needed.
        store: where they may be.
        progress: told of every count of bytes taken, on one thread at a time.
    """

    def __init__(
        self, assembler: Assembler, store: ReadableStore, progress: Callable[[int], None]
    ) -> None:
        self.assembler = assembler
        self.store = store
        self._progress = progress
        self._lock = threading.Lock()
        self.shares: dict[int, bool] = {}
        """Whether the file system of a device can share, where that is known."""
        self.stopped = False
        """Nobody begins another block."""

    def stop(self) -> None:
        """End it within a block, also if it has not begun; from any thread."""
        self.stopped = True

    def take(self, wants: Iterable[Want]) -> None:
        """Take what can be had; what cannot stays missing in the assembly. Once.

        Raises:
            StorageError: if the disk refuses.
        """
        work, errors = deque(_batches(wants)), deque[BaseException]()
        ended = threading.Semaphore(0)

        def run() -> None:
            try:
                taker = _Taker(self)
                while batch := _first(work):
                    taker.take(batch)
            except BaseException as error:
                self._stop(error, errors)
            finally:
                ended.release()

        begun = 1
        try:
            for _ in range(min(len(work), _THREADS, len(os.sched_getaffinity(0))) - 1):
                begun += 1
                threading.Thread(target=run, name="icn-reuse").start()
        except RuntimeError:  # the system has no threads left
            begun -= 1
        except KeyboardInterrupt as error:
            self._stop(error, errors)
        run()
        while begun:  # nobody may be at work on files that are closed after this
            try:
                if not ended.acquire(timeout=_ENDS_S if self.stopped else None):
                    break
                begun -= 1
            except KeyboardInterrupt as error:
                self._stop(error, errors)
        if errors:
            raise errors[0]

    def _stop(self, error: BaseException, errors: deque[BaseException]) -> None:
        """No further block is begun. Who interrupts is heard first."""
        if isinstance(error, Exception):
            errors.append(error)
        else:
            errors.appendleft(error)
        self.stopped = True

    def taken(self, length: int) -> None:
        """So many more bytes are in their place."""
        with self._lock:
            self._progress(length)


def _first(work: deque[list[Want]]) -> list[Want] | None:
    """The next batch, unless another thread took the last one."""
    try:
        return work.popleft()
    except IndexError:
        return None


def _batches(wants: Iterable[Want]) -> Iterator[list[Want]]:
    """Wants that follow one another, so many that a thread has something to do."""
    batch: list[Want] = []
    size = 0
    for want in wants:
        batch.append(want)
        size += want.length
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Taker:
    """What one thread takes."""

    def __init__(self, reuse: LocalReuse) -> None:
        self._reuse = reuse
        self._assembler = reuse.assembler
        self._store = reuse.store
        self._stretch: _Stretch | None = None

    def take(self, wants: Iterable[Want]) -> None:
        for want in wants:
            if self._reuse.stopped:
                return
            try:
                lease = self._store.open(want.digest)
            except ChangedError:
                continue
            if lease is None:
                continue
            with lease:
                self._take_one(want, lease)
        self._flush()

    def _take_one(self, want: Want, lease: Lease) -> None:
        if lease.length != want.length:
            return
        try:
            block = verify(want.digest, lease.read())
            lease.check()
        except (CorruptError, StorageError):  # rotten, changed, or the disk cannot read it
            return
        spots = self._assembler.spots(want.digest)
        facts = _facts(lease)
        shares = self._reuse.shares.get(facts[0])
        if shares is False or len(spots) != 1 or (lease.offset - spots[0].offset) % PAGE:
            self._assembler.accept((block,))
            self._reuse.taken(want.length)
            return
        file, target = spots[0].file, spots[0].offset
        if self._stretch is None or not self._stretch.goes_on(facts, lease.offset, file, target):
            self._flush()
            self._stretch = _Stretch(facts, lease.offset, file, target)
        self._stretch.length += want.length
        self._stretch.wants.append(want)
        if shares is None:  # found out with one block: what cannot be shared is read again
            self._flush()

    def _flush(self) -> None:
        """Clone the stretch and note its blocks; copy them one by one where that fails.

        They stay missing if the file was changed since they were read there.
        """
        stretch, self._stretch = self._stretch, None
        if stretch is None:
            return
        try:
            lease = self._store.open(stretch.wants[0].digest)
            if lease is None:
                return
            with lease:
                if (_facts(lease), lease.offset) != (stretch.facts, stretch.source):
                    return
                cloned = self._clone(stretch, lease)
                if cloned is None:
                    self._reuse.shares[stretch.facts[0]] = False
                    self.take(stretch.wants)
                    return
                if cloned:
                    self._reuse.shares.setdefault(stretch.facts[0], True)
                lease.check()
        except ChangedError:
            return
        self._assembler.note(want.digest for want in stretch.wants)
        self._reuse.taken(stretch.length)

    def _clone(self, stretch: _Stretch, lease: Lease) -> int | None:
        """Share whole pages, write the two edges.

        Returns:
            How many bytes are shared; None if the file system cannot share.
        """
        first = -(-stretch.target // PAGE) * PAGE
        last = (stretch.target + stretch.length) // PAGE * PAGE
        shift = stretch.source - stretch.target
        with self._assembler.writing(stretch.file) as fd:
            if last > first:
                request = _RANGE.pack(lease.fd, first + shift, last - first, first)
                try:
                    fcntl.ioctl(fd, FICLONERANGE, request)
                except OSError as error:
                    if error.errno not in _NO_CLONE:
                        raise
                    if error.errno != errno.EXDEV:  # all of it will be written then
                        self._assembler.reserve()
                    return None
            else:
                first = last = stretch.target
            end = stretch.target + stretch.length
            for low, high in ((stretch.target, min(first, end)), (max(last, stretch.target), end)):
                write_all(fd, read_all(lease.fd, high - low, low + shift), low)
        return last - first


def _facts(lease: Lease) -> _Facts:
    stat = os.fstat(lease.fd)
    return stat.st_dev, FileFacts.of(stat)

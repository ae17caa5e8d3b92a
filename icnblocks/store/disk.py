"""The store on disk: blocks appended to segment files, notes of them in SQLite.

Data first, then the note: a block's bytes are written before its note, and its note is struck
out before its bytes are freed, so that a process killed at any point leaves notes that are
right. What a power cut may do is undone by `recovery`. Bytes are written on the caller's thread;
`contains`, `open`, `erase` and a lease's `close` touch memory only and suit an event loop.
One process at a time has a store open. It must not decide what to keep.
"""

from __future__ import annotations

import errno
import logging
import struct
import threading
from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Literal, Self, TypeVar

from icnblocks.errors import ChangedError, IcnError, StorageError, UsageError
from icnblocks.limits import MAX_BLOCK_BYTES
from icnblocks.naming import Digest
from icnblocks.store.boot import boot_id
from icnblocks.store.changes import Changes
from icnblocks.store.commits import Commits
from icnblocks.store.database import DamagedError, storage_error, storage_errors
from icnblocks.store.extents import write_all
from icnblocks.store.layout import Layout
from icnblocks.store.lease import ExtentLease, read_extent
from icnblocks.store.notes import NEW, Notes, State
from icnblocks.store.recovery import recover
from icnblocks.store.segments import (
    PAGE,
    SEGMENT_BYTES,
    Segments,
    address,
    can_punch,
    footprint,
    locate,
    segment_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from icnblocks.store.base import Verified
    from icnblocks.store.files import OpenFile
    from icnblocks.store.places import Place

T = TypeVar("T")
_log = logging.getLogger(__name__)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class DiskStore:
    """Blocks in a directory (layout.py says what is in it). Implements `base.Store`.

    A block that was put is served at once and survives kill -9 after the next commit (every 256
    changes or second of putting), a power cut after the next `flush`. Space that `erase` frees is
    returned to the file system at the next commit.

    Args:
        path: the directory; made if it is missing.
        create: False refuses a directory that is no store yet.
        on_damage: what to do when the index is unreadable: "refuse" raises; "empty" forgets all
            blocks with a warning, as suits a cache. Where segments are missing, or are not in the
            index, and no crash explains it, "refuse" raises, too, and "empty" drops them.
        segment_bytes: size at which the next segment file is begun, at most 1 GiB.
        one_per_file: each block in a file of its own; None decides by whether the file system
            can free part of a file and say where.

    Raises:
        BusyError: if the store is open elsewhere.
        NotFoundError: if there is none and `create` is False.
        VersionError: if a newer program wrote it.
        DamagedError: if the index is unreadable, or does not fit the segments, and `on_damage` is
            "refuse".
        StorageError: if the disk refuses.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        on_damage: Literal["refuse", "empty"] = "refuse",
        segment_bytes: int = SEGMENT_BYTES,
        one_per_file: bool | None = None,
    ) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._calm = threading.Condition(self._lock)
        self._commit_lock = threading.Lock()
        self._closing = self._closed = False
        self._layout = Layout(path, create=create)
        try:
            with storage_errors(path):
                self._segments = Segments(self._layout.segments)
                self._alone = not can_punch(path) if one_per_file is None else one_per_file
                pages = 1 if self._alone else min(segment_bytes, SEGMENT_BYTES) // PAGE
                self._segment_pages = pages
                self._careful = on_damage == "refuse"
                self._begin()
        except BaseException:
            self._layout.close()
            raise

    def _begin(self) -> None:
        try:
            self._layout.with_spare(self._read_notes)
        except DamagedError as error:
            if self._careful:
                raise
            _log.warning("the index of the store is damaged; it starts empty: %s", error)
            self._layout.remove_index()
            for number in self._segments.sizes():
                self._segments.unlink(number)
            self._read_notes()
        self._boot = boot_id()
        self._changes = Changes()
        self._emptied: set[int] = set()
        """Segments that may have no block left."""
        self._writing: set[int] = set()
        self._awaited = 0
        """Threads in `flush` that wait for what is being written."""
        self._leased: dict[int, int] = {}
        self._doomed: dict[int, int] = {}
        """Erased while leased: address -> length."""

    def _read_notes(self) -> None:
        self._notes = Notes(self._layout.index)
        try:
            state = self._notes.state()
            seen = self._layout.read_serial()
            boot, ways = boot_id(), {"careful": self._careful, "alone": self._alone}
            found = recover(self._notes, self._segments, state, boot=boot, seen=seen, **ways)
            if state == NEW:
                self._layout.forget_serial()
            self._places, self._used, self._live = found.places, found.used, found.live
            self._segment, offset = locate(found.end)
            self._page = offset // PAGE
            self._started = bool(found.live[self._segment])
            survived = state.clean or (boot and state.boot == boot)
            flushed = found.end if state.clean else min(state.flushed_to, found.end)
            dirty = {n for n in found.live if n >= segment_of(flushed) and not state.clean}
            self._commits = Commits(
                self._layout, self._segments, self._notes, careful=self._careful, dirty=dirty
            )
            # Durable, so that addresses freed by an earlier process may be used again.
            self._say(State(boot, clean=False, flushed_to=flushed))
            if found.verified or not survived:
                _log.warning("unclean start: %d blocks were hashed again", found.verified)
        except (TypeError, ValueError, struct.error) as error:
            self._notes.close()
            raise DamagedError(f"{self._layout.index}: what it notes makes no sense") from error
        except BaseException:
            self._notes.close()
            raise

    def _say(self, state: State) -> None:
        """Note how the store is, and then beside the segments which notes are theirs."""
        self._layout.write_serial(self._notes.set_state(state))

    def __contains__(self, digest: Digest) -> bool:
        with self._lock:
            return digest in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def used_bytes(self) -> int:
        """Bytes of disk that the blocks take, in whole pages."""
        return self._used

    def footprint(self, length: int) -> int:
        """Bytes of disk that a block of `length` takes."""
        return footprint(length)

    def length(self, digest: Digest) -> int | None:
        """The block's bytes, or None if it is not here."""
        with self._lock:
            place = self._places.get(digest)
        return None if place is None else place.length

    def open(self, digest: Digest) -> ExtentLease | None:
        """Lease a block for sending, or None if it is not here."""
        with self._lock:
            place = self._places.get(digest)
            segment = place and self._borrow(digest, place)
            if place is None or segment is None:
                return None
            self._leased[place.at] = self._leased.get(place.at, 0) + 1

        def give_back() -> None:
            self._segments.give_back(segment)
            self._end_lease(place.at)

        return ExtentLease(segment.fd, locate(place.at)[1], place.length, give_back)

    def read(self, digest: Digest, length: int) -> bytes | None:
        """The bytes of a block of `length`, or None if there is no such block.

        Raises:
            ChangedError: if its segment was cut short.
            StorageError: if the disk cannot read them.
        """
        with self._lock:
            place = self._places.get(digest)
            if place is None or place.length != length:
                return None
            segment = self._borrow(digest, place)
        if segment is None:
            return None
        try:
            data = read_extent(segment.fd, locate(place.at)[1], length)
        except ChangedError:
            self._leave(segment_of(place.at))
            raise
        finally:
            self._segments.give_back(segment)
        with self._lock:  # no lease kept its bytes; they are never put at the same place twice
            return data if self._places.get(digest) == place else None

    def _borrow(self, digest: Digest, place: Place) -> OpenFile | None:
        """The segment of a block, or None if it was removed. Called with self._lock held."""
        try:
            return self._segments.borrow(segment_of(place.at))
        except FileNotFoundError:
            _log.error("segment %s was removed; its blocks are lost", segment_of(place.at))
            self._forget(digest)
            return None
        except OSError as error:
            raise StorageError.of(error, "cannot open a segment") from error

    def _end_lease(self, at: int) -> None:
        with self._lock:
            self._leased[at] -= 1
            if not self._leased[at]:
                del self._leased[at]
                if at in self._doomed:
                    self._changes.bury(at, self._doomed.pop(at))

    def blocks(self) -> Iterator[tuple[Digest, int]]:
        """Every block with its length, oldest first.

        What is here from the beginning to the end comes exactly once. What is erased meanwhile, or
        was being put at the beginning, may come; what is put later does not.
        """
        with self._commit_lock, self._lock:
            self._check_open()
            # A slow put is noted after faster ones that lie above it: these may lie anywhere.
            fresh = sorted((at, *block) for at, block in self._changes.adds.items())
            end = address(self._segment, self._page * PAGE)
        last = -1
        new = bytes.__new__  # the lengths are known to be right
        while last < end:
            with self._commit_lock:
                self._check_open()
                chunk = self._notes.after(last, end)
                last = chunk[-1][0] if chunk else end
                with self._lock:
                    struck = set(self._changes.strikes)
                    count = bisect_right(fresh, last, key=itemgetter(0))
                    early = [one for one in fresh[:count] if self._lies_at(*one[:2])]
            if early:  # some may be noted by now
                chunk = sorted({note[0]: note for note in (*early, *chunk)}.values())
            fresh = fresh[count:]
            for at, raw, length in chunk:
                if at not in struck:
                    yield new(Digest, raw), length

    def put(self, block: Verified) -> bool:
        """Store a block; returns True if it was new.

        Raises:
            StorageError: if the disk refuses; the block is then not here, and nothing of it is.
        """
        digest, view = block.digest, memoryview(block.data).cast("B")
        length = len(view)
        if not 0 < length <= MAX_BLOCK_BYTES:
            raise UsageError(f"a block has 1 to {MAX_BLOCK_BYTES} bytes, not {length}")
        at = self._with_room(lambda: self._allot(digest, length))
        if at is None:
            return False
        try:
            if self._changes.crowded:
                self._commit()
            self._with_room(lambda: self._write_at(at, view))
        except BaseException:
            self._abandon(at, length)
            raise
        with self._lock:
            new = digest not in self._places
            if new:
                self._enter(digest, at, length)
            else:  # another thread was faster with the same block
                self._changes.bury(at, length)
            self._done_writing(at)
            due = self._changes.due()
        if due:
            try:
                self._commit()
            except IcnError:
                if new:
                    self._withdraw(digest)
                raise
        return new

    def erase(self, digest: Digest) -> int:
        """Forget a block; its bytes are freed at the next commit after its last lease is closed.

        Returns:
            Its footprint, or 0 if it was not here.
        """
        with self._lock:
            self._check_open(to_change=True)
            return self._forget(digest)

    def flush(self) -> None:
        """Make everything put so far survive a power cut, and free what was erased.

        Raises:
            StorageError: if the disk refuses. Where it lost what was to be written, that is so
                until the store is opened again; else it may be tried again.
        """
        with self._lock:
            self._check_open()
            waiting = set(self._writing)
            self._awaited += 1
            self._calm.wait_for(lambda: not waiting & self._writing)
            self._awaited -= 1
            # Blocks being written now lie above; those below are written.
            reached = min(self._writing, default=address(self._segment, self._page * PAGE))
        self._commit()
        with self._commit_lock, storage_errors(self._path):
            self._check_open()
            self._commits.sync()
            self._say(State(self._boot, clean=False, flushed_to=reached))

    def close(self) -> None:
        """Flush and let go of files and locks. Idempotent.

        What another thread is putting is waited for; what begins after this is refused.

        Raises:
            StorageError: if the last flush failed; the store is closed all the same.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
            if self._started and self._segment not in self._live:
                self._next_segment()  # so that it is removed: its blocks are gone
        try:
            self.flush()
            with self._commit_lock:
                reached = address(self._segment, self._page * PAGE)
                with self._lock:  # what was being sent until now is freed by nobody any more
                    clean = not (self._commits.left_over or self._doomed or self._changes.dead)
                self._say(State(self._boot, clean=clean, flushed_to=reached))
        finally:
            with self._commit_lock, self._lock:
                self._closed = True
                self._segments.close()
                self._notes.close()
                self._layout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # What follows, down to _forget, is called with self._lock held.

    def _check_open(self, *, to_change: bool = False) -> None:
        if self._closed or (to_change and self._closing):
            raise UsageError("the store is closed")

    def _lies_at(self, at: int, digest: Digest) -> bool:
        place = self._places.get(digest)
        return place is not None and place.at == at

    def _next_segment(self) -> None:
        self._emptied.add(self._segment)
        self._segment, self._page, self._started = self._segment + 1, 0, False

    def _done_writing(self, at: int) -> None:
        self._writing.discard(at)
        if self._awaited:
            self._calm.notify_all()

    def _enter(self, digest: Digest, at: int, length: int) -> None:
        taken, segment = footprint(length), segment_of(at)
        self._places.add(digest, at, length)
        self._changes.add(at, digest, length)
        self._used += taken
        self._live[segment] += taken // PAGE
        self._commits.wrote(segment)

    def _forget(self, digest: Digest) -> int:
        place = self._places.remove(digest)
        if place is None:
            return 0
        freed = footprint(place.length)
        self._used -= freed
        segment = segment_of(place.at)
        self._live[segment] -= freed // PAGE
        if not self._live[segment]:
            del self._live[segment]
            self._emptied.add(segment)
        self._changes.strike(place.at)
        if place.at in self._leased:
            self._doomed[place.at] = place.length
        else:
            self._changes.bury(place.at, place.length)
        return freed

    # What follows is called without self._lock.

    def _leave(self, number: int) -> None:
        """A segment was cut short: what is appended would make zeros of the rest of its blocks."""
        with self._lock:
            if self._started and number == self._segment:
                self._next_segment()

    def _with_room(self, act: Callable[[], T]) -> T:
        """Do it; on a full disk, once more after what was erased is freed."""
        freeing = self._commit_lock.locked()  # by another thread, maybe
        try:
            return act()
        except OSError as error:
            if error.errno not in _FULL or not (freeing or self._changes.dead):
                raise storage_error(error, str(self._path)) from error
            self._commit()
            with storage_errors(self._path):
                return act()

    def _allot(self, digest: Digest, length: int) -> int | None:
        """An address for a block, in a segment that is there; None if the block is here."""
        pages = footprint(length) // PAGE
        with self._lock:
            self._check_open(to_change=True)
            if digest in self._places:
                return None
            if not self._started or (self._page and self._page + pages > self._segment_pages):
                if self._started:
                    self._next_segment()
                self._segments.create(self._segment)
                self._started = True
            at = address(self._segment, self._page * PAGE)
            self._page += pages
            self._writing.add(at)
            return at

    def _write_at(self, at: int, view: memoryview) -> None:
        number, offset = locate(at)
        segment = self._segments.borrow(number)
        try:
            write_all(segment.fd, view, offset)
        finally:
            self._segments.give_back(segment)

    def _abandon(self, at: int, length: int) -> None:
        """Free what a failed write left; its address is free again if it was the last."""
        self._commits.free(at, length)
        with self._lock:
            end = address(self._segment, self._page * PAGE)
            if at + footprint(length) // PAGE == end:
                self._page = locate(at)[1] // PAGE
            self._done_writing(at)

    def _withdraw(self, digest: Digest) -> None:
        """Take back a block whose note could not be written."""
        with self._lock:
            place = self._places.get(digest)
            if place is None:
                return
            never_noted = place.at in self._changes.adds and place.at not in self._leased
            self._forget(digest)
            if never_noted:
                self._changes.dig_up(place.at, place.length)
        if never_noted:
            self._commits.free(place.at, place.length)

    def _commit(self) -> None:
        """Write all notes, then free what they no longer claim."""
        with self._commit_lock:
            with self._lock:
                self._check_open()
                changes, self._changes = self._changes, Changes()
                # Taken now: the notes of what is emptied from here on are struck out next time.
                busy = {segment_of(at) for at in self._writing} | {self._segment}
                gone = {n for n in self._emptied if n not in self._live} - busy
                self._emptied &= busy  # one with blocks comes back with the last of them
            try:
                self._commits.note(changes)
            except BaseException:
                with self._lock:
                    self._changes = changes.then(self._changes)
                    self._emptied |= gone
                raise
            left = self._commits.free_all(changes.dead, gone)
            with self._lock:
                self._emptied |= left

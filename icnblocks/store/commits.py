"""What a commit and a flush of a disk store do on the disk.

Notes are written before the bytes that they no longer claim are freed. It must not know which
blocks there are, nor decide when anything is done.
"""

from __future__ import annotations

import errno
import logging
import threading
from typing import TYPE_CHECKING, Final

from icnblocks.errors import StorageError
from icnblocks.store.segments import CANNOT_PUNCH, footprint, locate, punch, runs, segment_of
from icnblocks.store.whole import sync_directory

if TYPE_CHECKING:
    from icnblocks.store.changes import Changes
    from icnblocks.store.layout import Layout
    from icnblocks.store.notes import Notes
    from icnblocks.store.segments import Segments

_log = logging.getLogger(__name__)
_NOT_TRIED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""A file could not be opened: nothing was written back, and nothing lost."""


class Commits:
    """The disk's side of one store.

    `wrote` and `free` may be called from any thread, the rest by one at a time.

    Args:
        layout: the store's directory.
        segments: where the blocks' bytes are.
        notes: which of them are blocks.
        careful: nobody has the blocks again.
        dirty: segments that may not be on the disk yet.
    """

    def __init__(
        self, layout: Layout, segments: Segments, notes: Notes, *, careful: bool, dirty: set[int]
    ) -> None:
        self._layout = layout
        self._segments = segments
        self._notes = notes
        self._careful = careful
        self._lock = threading.Lock()
        self._dirty = dirty
        self._sync_failed = False
        self._stuck: list[tuple[int, int]] = []
        self.left_over = False
        """Something erased could not be freed: the next start must tidy up as after a kill."""

    def wrote(self, number: int) -> None:
        """A segment was written to, or freed in part: a clean end must not promise it before."""
        with self._lock:
            self._dirty.add(number)

    def note(self, changes: Changes) -> None:
        """Write the notes.

        Raises:
            StorageError: if the disk refuses; then nothing was noted.
        """
        if changes.adds or changes.strikes:
            notes = [(at, digest, length) for at, (digest, length) in changes.adds.items()]
            # On a full disk erasing must go on, else nothing would ever become free.
            self._layout.with_spare(lambda: self._notes.write(notes, changes.strikes))

    def free_all(self, dead: list[tuple[int, int]], gone: set[int]) -> set[int]:
        """Free what no note claims any more: addresses with lengths, and whole segments.

        Bytes that the disk does not take back are offered again by the next call.

        Returns:
            The segments that could not be removed.
        """
        left = set(gone)
        try:
            if gone and self._careful:
                self._notes.sync()  # else a power cut leaves notes of segments that are missing
            for number in gone:
                self._segments.unlink(number)
                left.remove(number)
        except (OSError, StorageError) as error:
            self.left_over = True
            _log.warning("cannot remove a segment: %s", error)
        todo = [*self._stuck, *dead]
        self._stuck = [
            (at, length)
            for at, length in runs(todo)
            if segment_of(at) not in gone and not self.free(at, length)
        ]
        self._layout.restore_spare()
        return left

    def free(self, at: int, length: int) -> bool:
        """Give the bytes of a block, or of a run of them, back; False if the disk refuses."""
        number, offset = locate(at)
        try:
            segment = self._segments.borrow(number)
            try:
                punch(segment.fd, offset, footprint(length))
            finally:
                self._segments.give_back(segment)
            self.wrote(number)
        except OSError as error:
            if error.errno not in (*CANNOT_PUNCH, errno.ENOENT):
                level = logging.DEBUG if self.left_over else logging.WARNING  # not each second
                self.left_over = True
                _log.log(level, "cannot free the bytes of an erased block: %s", error)
                return False
        return True

    def sync(self) -> None:
        """Bring all segments written to the disk.

        Raises:
            OSError: as the system does.
            StorageError: if it did before, and lost what was to be written.
        """
        if self._sync_failed:
            raise StorageError(
                "an earlier flush failed; what it covered is not known to be safe",
                hint="see to the disk, then start the program again: it finds what is whole",
            )
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        try:
            for number in dirty:
                self._segments.sync(number)
            self._segments.sync_names()
            sync_directory(self._layout.path)
        except OSError as error:
            # The system reports a failed write-back once: a second sync would lie.
            self._sync_failed = error.errno not in _NOT_TRIED
            with self._lock:
                self._dirty |= dirty
            raise

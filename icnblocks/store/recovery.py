"""What a disk store does before it serves: believe the notes as far as the last end allows.

After a clean end, or a kill in this same boot of the machine (the page cache survived), the notes
are right. After a power cut a note may have outlived its bytes, and a hole may have outlived the
striking of its note; so what was not known to be flushed, and whatever touches a hole, or may, is
hashed. It must not raise for a block that turns out bad: that block is forgotten. Where nobody has
the blocks again, what no crash explains is refused, and nothing is changed: segments that are not
there (a disk is not mounted), segments that no note knows, and notes that are older than they are.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from dataclasses import field, replace
from typing import TYPE_CHECKING, Final

from icnblocks.errors import IcnError
from icnblocks.limits import MAX_BLOCK_BYTES, MIB
from icnblocks.naming import DIGEST_BYTES, Digest
from icnblocks.store.database import DamagedError, storage_errors
from icnblocks.store.lease import read_extent
from icnblocks.store.notes import NEW
from icnblocks.store.places import Places
from icnblocks.store.segments import (
    CANNOT_PUNCH,
    PAGE,
    PAGE_BITS,
    PAGE_MASK,
    footprint,
    locate,
    punch,
    segment_of,
)
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from icnblocks.store.notes import Note, Notes, State
    from icnblocks.store.segments import Segments

_log = logging.getLogger(__name__)
_CRASH_LEAVES: Final = 512 * MAX_BLOCK_BYTES
"""Bytes that a crash may leave in segments after the last noted one: two batches of the largest
blocks, or what a fast disk takes between two flushes of a daemon (5 s)."""


@dataclass(slots=True)
class Found:
    """What a store holds.

    Attributes:
        places: where each block lies.
        used: footprints of all blocks, in bytes.
        live: pages of blocks in each segment that has any.
        end: the address after the last block.
        verified: blocks that had to be hashed.
        forgotten: addresses of notes that must be struck out.
        noted: segments of which any block is noted, with the first address, whole or not.
    """

    places: Places = field(default_factory=Places)
    used: int = 0
    live: Counter[int] = field(default_factory=Counter)
    end: int = 0
    verified: int = 0
    forgotten: list[int] = field(default_factory=list)
    noted: dict[int, int] = field(default_factory=dict)


def recover(
    notes: Notes,
    segments: Segments,
    state: State,
    *,
    boot: str,
    seen: int | None,
    careful: bool,
    alone: bool,
) -> Found:
    """Read all notes, check those that need it, and free what no note claims.

    Args:
        notes: what is noted.
        segments: what is there.
        state: how the store was left.
        boot: id of this boot of the machine.
        seen: serial number of the last notes that were seen with these segments, if one is known.
        careful: refuse where notes and segments differ by more than a crash explains.
        alone: each block has a file of its own, since the holes in a file may not be seen.

    Raises:
        DamagedError: if there are blocks and not even a note that there is none; or if `careful`
            says so. Nothing was changed then.
        StorageError: if the disk refuses to give the notes or to be tidied.
    """
    sizes = segments.sizes()
    if state == NEW and any(sizes.values()):
        raise DamagedError(
            "the block index is missing beside the blocks that it lists",
            hint=f"bring it back; without it, remove {segments.directory} and publish again",
        )
    older = state != NEW and seen is not None and seen > state.serial
    if older and careful:
        raise DamagedError(
            f"the block index is older than the segments in {segments.directory}",
            hint="bring back the index that belongs to them, or all of the store from one backup;"
            f" to go on with what is whole of what this index lists, remove"
            f" {segments.directory / 'serial'}, and publish again what came later",
        )
    power_cut = not state.clean and (not boot or state.boot != boot)
    unsure = doubted = state if power_cut else None
    if older or (seen is None and state.serial):  # the number was removed, as is told above
        doubted = replace(state, flushed_to=0)
    found = Found()
    _read(notes, segments, sizes, found, doubted, alone=alone)
    if careful:
        _refuse_missing(segments, sizes, found, unsure)
        _refuse_unknown(segments, sizes, found, state)
    if found.forgotten:
        _log.warning("%d noted blocks were not whole and are forgotten", len(found.forgotten))
        # Durable, so that no note comes back of a segment that is removed below.
        notes.write((), found.forgotten, durable=True)
    with storage_errors(segments.directory):
        _remove_unnoted(segments, sizes, found)
        # What was copied by a program that knows no holes has none, however it ended.
        for number, pages in found.live.items():
            usual = pages * PAGE * 17 // 16 + MIB
            if not state.clean or segments.allocated(number) > usual:
                _tidy(notes, segments, number, sizes[number], pages)
    return found


def _read(
    notes: Notes,
    segments: Segments,
    sizes: dict[int, int],
    found: Found,
    unsure: State | None,
    *,
    alone: bool,
) -> None:
    # A million times round: everything is inline, and only what is needed.
    add, live = found.places.add, found.live
    segment, size, end, used, in_segment = -1, -1, 0, 0, 0
    for at, digest, length in notes.all():
        if at >> PAGE_BITS != segment:
            live[segment] += in_segment
            segment, in_segment = at >> PAGE_BITS, 0
            size = sizes.get(segment, -1)
            found.noted[segment] = at
        if (
            len(digest) != DIGEST_BYTES
            or at < end
            or not 0 < length <= MAX_BLOCK_BYTES
            or (at & PAGE_MASK) * PAGE + length > size
            or (unsure and not _proven(segments, unsure, found, (at, digest, length), alone=alone))
        ):
            found.forgotten.append(at)
            continue
        add(digest, at, length)
        pages = (length + PAGE - 1) // PAGE
        end = at + pages
        in_segment += pages
        used += pages
    live[segment] += in_segment
    for number in [n for n, pages in live.items() if not pages]:
        del live[number]
    found.used, found.end = used * PAGE, end


def _refuse_missing(
    segments: Segments, sizes: dict[int, int], found: Found, unsure: State | None
) -> None:
    """Data comes before its note, and goes after it: only a power cut takes what was not flushed.

    Raises:
        DamagedError: if noted segments are missing that must be there.
    """
    lost = [
        number
        for number, first in found.noted.items()
        if number not in sizes and (unsure is None or first < unsure.flushed_to)
    ]
    if lost:
        raise DamagedError(
            f"{len(lost)} segments that the block index lists are missing, the first is"
            f" {segments.path(lost[0])}",
            hint="bring them back: is their disk mounted? If they are lost, put empty files in"
            " their places, and publish again what `icn-verify --complete` misses",
        )


def _refuse_unknown(segments: Segments, sizes: dict[int, int], found: Found, state: State) -> None:
    """A clean end leaves nothing that is not noted; a crash, what was put or erased last.

    Raises:
        DamagedError: if there is more: these notes are older than the segments.
    """
    unknown = sizes.keys() - found.noted.keys()
    with storage_errors(segments.directory):
        if state.clean:
            strange = sorted(number for number in unknown if _holds_data(segments, number))
        else:
            last = max(segment_of(state.flushed_to), max(found.noted, default=0))
            strange = sorted(number for number in unknown if number > last)
            if sum(map(segments.allocated, strange)) <= _CRASH_LEAVES:
                return
    if strange:
        raise DamagedError(
            f"{len(strange)} segments hold blocks that the block index does not list, the first is"
            f" {segments.path(strange[0])}",
            hint="bring back the index that belongs to them; what an older one does not list must"
            " be published again, once these segments are moved away",
        )


def _holds_data(segments: Segments, number: int) -> bool:
    """Whether any byte of a segment is not zero; of a copy without holes, all may be."""
    segment = segments.borrow(number)
    try:
        at = os.lseek(segment.fd, 0, os.SEEK_DATA)
        while data := os.pread(segment.fd, MIB, at):
            if data.count(0) < len(data):
                return True
            at = os.lseek(segment.fd, at + len(data), os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # only a hole is left
            raise
    finally:
        segments.give_back(segment)
    return False


def _proven(segments: Segments, state: State, found: Found, note: Note, *, alone: bool) -> bool:
    """After a power cut: flushed and not punched, or hashed and right."""
    at, digest, length = note
    if digest in found.places:
        return False
    if at < state.flushed_to and not _may_be_hole(segments, at, length, alone=alone):
        return True
    found.verified += 1
    return _matches(segments, at, digest, length)


def _may_be_hole(segments: Segments, at: int, length: int, *, alone: bool) -> bool:
    number, offset = locate(at)
    segment = segments.borrow(number)
    try:
        if alone and os.fstat(segment.fd).st_size > footprint(length):
            return True  # from before each had a file of its own, or from another file system
        return os.lseek(segment.fd, offset, os.SEEK_HOLE) < offset + length
    except OSError:
        return True
    finally:
        segments.give_back(segment)


def _matches(segments: Segments, at: int, digest: bytes, length: int) -> bool:
    number, offset = locate(at)
    segment = segments.borrow(number)
    try:
        return Digest.of(read_extent(segment.fd, offset, length)) == digest
    except IcnError:
        return False
    finally:
        segments.give_back(segment)


def _remove_unnoted(segments: Segments, sizes: dict[int, int], found: Found) -> None:
    """Remove segments of which no block is noted: emptied, or written just before a kill."""
    gone = sizes.keys() - found.live.keys()
    if lost := sum(map(segments.allocated, gone)):
        _log.warning("%d bytes in which no block is noted are removed", lost)
    for number in gone:
        segments.unlink(number)


def _tidy(notes: Notes, segments: Segments, number: int, size: int, pages: int) -> None:
    """Free what a killed process had written without noting it, or struck out without freeing."""
    segment = segments.borrow(number)
    try:
        end = _free_gaps(notes, number, segment.fd, pages * PAGE)
        if end < size:
            os.ftruncate(segment.fd, end)
    finally:
        segments.give_back(segment)


def _gives_back(fd: int, offset: int, length: int) -> bool:
    """Punch a hole; False where the file system knows none (the store came from another one)."""
    try:
        punch(fd, offset, length)
    except OSError as error:
        if error.errno not in CANNOT_PUNCH:
            raise
        return False
    return True


def _free_gaps(notes: Notes, number: int, fd: int, live_bytes: int) -> int:
    """Punch what lies between noted blocks of a segment; return where the last one ends."""
    first, end = number << PAGE_BITS, 0
    crowded = os.fstat(fd).st_blocks * 512 > live_bytes
    chunk: list[Note] = notes.after(first - 1, first + (1 << PAGE_BITS))
    while chunk:
        for at, _, length in chunk:
            offset = locate(at)[1]
            if crowded and offset > end:
                crowded = _gives_back(fd, end, offset - end)
            end = offset + footprint(length)
        chunk = notes.after(chunk[-1][0], first + (1 << PAGE_BITS))
    return end

"""Stretches of files: room for them is taken at once where that is possible."""

import errno
import os

import pytest

from icnblocks.limits import MIB
from icnblocks.store.extents import read_all, reserve, write_all
from icnblocks.testing.faults import MountImpossibleError, small_disk


@pytest.fixture
def file(tmp_path):
    """A file of a file system that can reserve."""
    try:
        with small_disk(tmp_path / "disk", 4 * MIB) as disk:
            fd = os.open(disk / "file", os.O_RDWR | os.O_CREAT)
            yield fd
            os.close(fd)
    except MountImpossibleError as error:
        pytest.skip(str(error))


def test_room_is_taken_and_what_was_written_stays(file):
    """Catches: an unknown request, which is not told; a size that changes; bytes that go."""
    os.ftruncate(file, 3 * MIB)
    write_all(file, b"there", MIB)
    reserve(file, 2 * MIB)
    facts = os.fstat(file)
    assert facts.st_blocks * 512 == 2 * MIB
    assert facts.st_size == 3 * MIB
    assert read_all(file, 7, MIB - 1) == b"\0there\0"


def test_a_disk_without_room_is_told_by_the_write_and_not_before(file):
    """Catches: a pull refused that would have had room, for what it shares or was written over."""
    reserve(file, 8 * MIB)
    with pytest.raises(OSError, match="No space") as told:
        write_all(file, bytes(8 * MIB), 0)
    assert told.value.errno == errno.ENOSPC


def test_what_cannot_reserve_is_left_as_it_is():
    """Catches: no pull onto file systems without fallocate, such as NFS before 4.2."""
    reading, writing = os.pipe()
    try:
        reserve(writing, MIB)
    finally:
        os.close(reading)
        os.close(writing)

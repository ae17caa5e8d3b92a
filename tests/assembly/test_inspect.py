"""What lies in a directory: what is whole, whose it is, and what cannot be read."""

import errno
import os
import signal

import pytest

import icnblocks.assembly.contents as contents_module
from icnblocks.assembly.assembler import Assembler
from icnblocks.assembly.directory import ModelDirectory
from icnblocks.assembly.inspect import salvage
from icnblocks.assembly.recheck import recheck_directory
from icnblocks.errors import ConflictError
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.placement.plan import Plan
from icnblocks.publish.scan import scan
from icnblocks.store.extents import read_all

BLOCK = 4096


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    root.mkdir()
    (root / "a.bin").write_bytes(os.urandom(4 * BLOCK + 3))
    (root / "empty.txt").touch()
    return root


def test_a_sector_that_cannot_be_read_is_a_wrong_block(model, monkeypatch):
    def read(fd, length, offset):
        if offset == BLOCK:
            raise OSError(errno.EIO, "Input/output error")
        return read_all(fd, length, offset)

    manifest = scan(model, Kind.PACK, block_bytes=BLOCK).manifest
    monkeypatch.setattr(contents_module, "read_all", read)
    [wrong] = recheck_directory(model, manifest)
    assert (wrong.path, wrong.blocks) == ("a.bin", 1)
    directory = ModelDirectory(model)
    plan = Plan(manifest)
    assembler = Assembler(directory, digest_of(encode(manifest)), manifest, plan, frozenset())
    salvage(assembler, (0,))
    assert [want.length for want in assembler.missing()] == [BLOCK]
    assembler.close()
    directory.close()


@pytest.fixture
def impatient():
    """Whoever waits for anything is woken after a while, and fails."""

    def wake(*_):
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT])
def test_a_pipe_in_the_place_of_a_file_is_a_conflict(tmp_path, impatient, flags):
    """Catches: a pull that waits for ever for who writes there, and keeps the directory locked."""
    os.mkfifo(tmp_path / "file")
    directory = ModelDirectory(tmp_path)
    with pytest.raises(ConflictError, match="no model's"):
        directory.open("file", flags)
    with pytest.raises(ConflictError, match="no model's"):
        directory.open_existing("file")
    directory.close()

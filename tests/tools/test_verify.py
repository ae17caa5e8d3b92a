"""`icn-verify` on a store whose disk refuses now and then."""

import errno
import json
import os

import pytest

from icnblocks.naming import Digest
from icnblocks.store import extents
from icnblocks.store.disk import DiskStore
from icnblocks.testing.faults import flip_bit
from icnblocks.testing.store_contract import block, fetch, put
from icnblocks_tools.output import make_output
from icnblocks_tools.verify import _RESULTS, _blocks


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.EMFILE])
def test_a_repair_erases_what_is_wrong_and_not_what_could_not_be_read(
    tmp_path, monkeypatch, capsys, number
):
    """Catches: one refused read, and the only copy of a good block is erased as rotten."""
    with DiskStore(tmp_path) as store:
        digests = [put(store, block(n, 5000)) for n in range(3)]
    flip_bit(tmp_path / "segments" / "0000000000", 100)
    refusals = [OSError(number, os.strerror(number)), None]
    pread = os.pread

    def refuse_the_second(fd, length, offset):
        if offset == 8192 and (error := refusals.pop(0)):
            raise error
        return pread(fd, length, offset)

    with (
        DiskStore(tmp_path, create=False) as store,
        make_output(as_json=True, results=_RESULTS) as output,
    ):
        monkeypatch.setattr(extents.os, "pread", refuse_the_second)
        assert _blocks(store, output, repair=True) == 1
        assert [digest for digest, _ in store.blocks()] == digests[1:]
        assert Digest.of(fetch(store, digests[1])) == digests[1]
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["event"], event.get("digest")) for event in told] == [
        ("wrong", str(digests[0])),
        ("unreadable", str(digests[1])),
        ("repaired", None),
    ]
    assert os.strerror(number) in told[1]["what"]

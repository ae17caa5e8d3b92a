"""What publishers send, when they leave in the middle of it or mix up its parts."""

import asyncio
import threading
from types import SimpleNamespace

from icnblocks.naming import Digest
from icnblocks.testing.exchange import call
from icnblocks_daemon.http.writes import Writes


class Gate:
    """A clock whose first reader is held, on its thread, until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.opened.wait(20)
        return 0.0


async def test_whoever_leaves_while_a_part_is_written_lets_nobody_into_the_file(tmp_path):
    """The lock was given back while the thread still wrote: two of them in one file."""
    gate, data = Gate(), b"abcdefgh"
    writes = Writes(SimpleNamespace(clock=gate, spool=str(tmp_path)))
    first = asyncio.create_task(writes._append(Digest.of(data), "bytes 0-3/8", data[:4]))
    await asyncio.to_thread(gate.reached.wait, 20)
    first.cancel()
    await asyncio.wait([first])
    assert writes._appending.locked()
    gate.opened.set()
    assert await writes._append(Digest.of(data), "bytes 4-7/8", data[4:]) == data


def test_parts_of_a_manifest_out_of_order_are_told_what_to_send(origin, model):
    """They were told to use another directory, or --overwrite."""
    path, raw = f"/v1/manifests/{model.digest}", model.raw
    last = {"Content_Range": f"bytes 200-{len(raw) - 1}/{len(raw)}"}
    first = {"Content_Range": f"bytes 0-99/{len(raw)}"}
    for before in ({}, first):
        if before:
            assert call(origin, "PUT", path, raw[:100], **before).status == 202
        reply = call(origin, "PUT", path, raw[200:], **last)
        assert (reply.status, reply.json["error"]) == (409, "conflict")
        assert "from the first one on" in reply.json["hint"]

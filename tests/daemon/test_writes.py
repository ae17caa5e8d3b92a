"""What publishers send, when they leave in the middle of it."""

import asyncio
import threading
from types import SimpleNamespace

from icnblocks.naming import Digest
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

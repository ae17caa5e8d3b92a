"""How much of an answer has come, while it comes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from icnblocks.client.hedged import FLOW_BYTES
from icnblocks.client.source import Source
from icnblocks.limits import MIB
from icnblocks.naming import Digest
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.testing.processes import poll_until
from icnblocks.testing.relay import Relay


def test_a_source_tells_how_much_of_a_long_answer_has_come():
    """Catches: a source that looks silent while megabytes of a manifest come."""
    manifest = os.urandom(MIB)
    with (
        LyingServer({}, respond=lambda _: Reply(200, manifest)) as server,
        Relay(server.port, hold_after=MIB // 2) as relay,
        Source(relay.url) as source,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(source.manifest, Digest.of(manifest))
        try:
            poll_until(lambda: source.coming() >= FLOW_BYTES)
        finally:
            relay.let_go()
        assert answer.result() == manifest
        assert source.coming() == 0

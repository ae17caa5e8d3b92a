"""A device that ends takes leave of its edges, and none of them can keep it from ending."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from icnblocks.client.source import Source
from icnblocks.naming import Digest, Name
from icnblocks.share.neighbourhood import Neighbourhood
from icnblocks.testing.device import Device
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.testing.processes import poll_until, start_edge
from tests.share.blocks import MANIFEST

NAME = Name.parse("acme/x")
TOLD = b'{"neighbours": [], "ttl": 60}'


@contextmanager
def vanishing():
    """An edge that takes one announcement, and is not to be reached from then on; URL and event."""
    gone = threading.Event()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        where = listener.getsockname()

        def serve() -> None:
            sock = stack.enter_context(listener.accept()[0])
            sock.recv(65536)
            for _ in range(3):  # the queue is full: connecting hangs
                other = stack.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(where)
            head = f"HTTP/1.1 200 OK\r\nICN-Version: 1\r\nContent-Length: {len(TOLD)}\r\n\r\n"
            sock.sendall(head.encode() + TOLD)
            gone.set()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{where[1]}", gone
        thread.join(10)


def test_edges_that_cannot_be_reached_are_left_together_in_two_seconds() -> None:
    """Catches: ten seconds for each edge that packets do not reach, one after the other."""
    with ExitStack() as stack:
        edges = [stack.enter_context(vanishing()) for _ in range(3)]
        well = stack.enter_context(LyingServer({}, respond=lambda _: Reply(200, TOLD)))
        sources = [stack.enter_context(Source(url)) for url in [*(e[0] for e in edges), well.url]]
        made = Neighbourhood(4261, 8, lambda _: None)
        made.add(MANIFEST, NAME, sources)
        for number in range(2):
            made.add(Digest(bytes([number]) * 32), NAME, sources[-1:])
        announced = [edge for model in made._models.values() for edge in model.edges]
        poll_until(lambda: all(edge.told for edge in announced))
        assert all(gone.is_set() for _, gone in edges)
        began = time.monotonic()
        made.close()
        assert time.monotonic() - began < 8.0
        left = {request.path for request in well.requests if request.method == "DELETE"}
    assert left >= {
        f"/v1/manifests/{each}/neighbours?port=4261" for each in (MANIFEST, Digest(bytes(32)))
    }, "the one that can be reached is told, of each model"


@pytest.fixture
def edge(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(bytes(1000))
    with start_edge(tmp_path / "edge") as daemon:
        Device(tmp_path / "publisher").publish(tmp_path / "model", "acme/x", daemon.url)
        yield daemon
        daemon.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("second", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_a_second_signal_ends_a_device_at_once(second, code, tmp_path, edge) -> None:
    """Catches: a device that nothing but kill -9 ends while an edge does not answer."""
    process = Device(tmp_path / "device").start(
        "fetch", "acme/x", "--from", edge.url, "--trust-first-use", "--share"
    )

    def heard(event: str) -> None:
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["event"] != event:
            pass

    with process:
        heard("sharing")
        poll_until(lambda: edge.metric("icn_neighbours") == 1)
        os.kill(edge.process.pid, signal.SIGSTOP)  # it hears of the leave, and does not answer
        process.send_signal(signal.SIGINT)
        heard("shared")
        process.send_signal(second)
        assert process.wait(10) == code

"""Clients that take places and give nothing: slow, silent, half gone, too many, and asking for
what does not exist. Others are served meanwhile."""

import contextlib
import random
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

from icnblocks.limits import MIB
from icnblocks.naming import Digest
from icnblocks.testing.exchange import bundle, make_model, publish
from icnblocks.testing.processes import peak_mb, poll_until, start_edge
from icnblocks.wire.bundle import BundleRequest, Want, encode_request
from icnblocks.wire.frames import Reason

PART_OF_A_HEAD = b"POST /v1/bundles HTTP/1.1\r\nHost: x\r\nX-Slow: "


def is_closed(sock):
    """Has the other end closed it?"""
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.slow
def test_those_who_ask_slowly_or_never_are_closed_by_deadline_and_others_are_served(tmp_path):
    """Catches: a head, or a silence, that keeps a connection for ever if a byte comes at times."""
    model = make_model("acme/quick", seed=71)
    options = ("--idle-timeout", "2s")  # an honest one may be held up for a moment
    with start_edge(tmp_path / "origin", *options) as origin, contextlib.ExitStack() as stack:
        publish(origin, model)
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", origin.port)))
            for _ in range(60)
        ]
        for sock in socks[:30]:  # the others say nothing at all
            sock.sendall(PART_OF_A_HEAD)

        def trickle():
            for sock in socks[:30]:
                with contextlib.suppress(OSError):
                    sock.send(b"a")
            return all(is_closed(sock) for sock in socks)

        assert bundle(origin, model.wants)[0] == model.blocks
        poll_until(trickle, what="all slow ones closed")
        poll_until(lambda: origin.metric("icn_connections") <= 1)
        assert bundle(origin, model.wants)[0] == model.blocks


def test_more_connections_than_are_allowed_close_the_idle_and_not_the_busy(tmp_path):
    """Catches: silent connections that take the last descriptor, and the store's with it."""
    model = make_model("acme/busy", seed=73, size=16 * MIB, block_bytes=MIB)
    options = ("--max-connections", "64")
    with start_edge(tmp_path / "origin", *options) as origin, contextlib.ExitStack() as stack:
        publish(origin, model)
        body = encode_request(BundleRequest(model.wants))
        busy = stack.enter_context(socket.create_connection(("127.0.0.1", origin.port)))
        busy.sendall(b"POST /v1/bundles HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        received = bytearray(busy.recv(1))  # until it is answered it is idle as the others are
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", origin.port)))
        poll_until(lambda: origin.metric("icn_connections_closed_total") >= 200)
        poll_until(lambda: origin.metric("icn_connections") <= 66)
        while piece := busy.recv(MIB):
            received += piece
        assert len(received) > model.size, "the one at work was not closed"
        assert "Traceback" not in origin.logged()


SILENT = """
import resource, socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
socks = []
for number in range(count):
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    if number % 2:
        sock.sendall(b"POST /v1/bundles HTTP/1.1\\r\\nHost: x\\r\\nX-Slow: ")
    socks.append(sock)
print("all", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_ten_thousand_silent_connections(tmp_path):
    """Catches: memory and descriptors that grow with connections, and a loop that is busy with
    them; half of them have begun a head. They leave by deadline."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 12_000:
        pytest.skip("this system allows too few open files")
    model = make_model("acme/thousands", seed=74, size=4 * MIB, block_bytes=MIB)
    options = ("--idle-timeout", "20s", "--max-connections", "11000")
    with start_edge(tmp_path / "origin", *options) as origin:
        publish(origin, model)
        before = peak_mb(origin.process.pid)
        command = [sys.executable, "-c", SILENT, str(origin.port), "10000"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as silent:
            assert silent.stdout.readline() == b"all\n"
            began = time.monotonic()
            assert bundle(origin, model.wants)[0] == model.blocks
            assert time.monotonic() - began < 10
            assert peak_mb(origin.process.pid) - before < 400
            poll_until(lambda: origin.metric("icn_connections") <= 2, timeout_s=90)
            silent.communicate()
        assert bundle(origin, model.wants)[0] == model.blocks
        assert "Traceback" not in origin.logged()


def absent(count, seed):
    """Wants for blocks that nobody has."""
    source = random.Random(seed)
    return [Want(Digest(source.randbytes(32)), 1000) for _ in range(count)]


def ask_for_what_is_not_there(count, honest, tmp_path, ceiling_mb):
    """One client asks for `count` blocks that do not exist, twice; another one pulls meanwhile."""
    model = make_model("local/there", seed=75, size=2 * MIB)
    publish(honest, model, record=False)
    wants = absent(count, 76)
    bundles = [tuple(wants[at : at + 1024]) for at in range(0, count, 1024)]
    refused_before = honest.metric("icn_nacks_total", reason="not_found")
    with start_edge(tmp_path / "edge", "--upstream", honest.url, "--negative-ttl", "10m") as edge:
        wrong = []

        def ask():
            for each in bundles:
                got, refused = bundle(edge, each)
                if got or {reason for reason, _ in refused.values()} != {Reason.NOT_FOUND}:
                    wrong.append(each)

        thread = threading.Thread(target=ask)
        thread.start()
        while True:
            assert bundle(edge, model.wants)[0] == model.blocks
            thread.join(0.25)
            if not thread.is_alive():
                break
        assert not wrong
        asked = honest.metric("icn_nacks_total", reason="not_found") - refused_before
        assert asked == count, "one question for each"
        for each in bundles[-4:]:  # the last are remembered, however many there were
            bundle(edge, each)
        assert honest.metric("icn_nacks_total", reason="not_found") - refused_before == asked
        poll_until(lambda: edge.status()["pit"]["blocks"] == 0)
        poll_until(lambda: edge.metric("icn_store_reserved_bytes") == 0)
        assert peak_mb(edge.process.pid) < ceiling_mb
        assert "Traceback" not in edge.logged()


@pytest.mark.slow
def test_blocks_that_do_not_exist_cost_one_question_each(honest, tmp_path):
    """Catches: refusals that are not remembered, and a crowd of them that holds up a pull."""
    ask_for_what_is_not_there(4_000, honest, tmp_path, 150)


@pytest.mark.slow
def test_more_blocks_that_do_not_exist_than_are_remembered(honest, tmp_path):
    """Catches, beside that: a memory of refusals without a bound.

    A million of them took 123 MB at most, and minutes.
    """
    ask_for_what_is_not_there(200_000, honest, tmp_path, 200)

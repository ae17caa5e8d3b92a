"""Clients that leave before they are answered are no fault; a daemon that leaves keeps its time."""

import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icnblocks.naming import Digest
from icnblocks.testing.exchange import begun, make_model, publish
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.wire.bundle import BundleRequest, Want, encode_request

HANGUP = 1 << signal.SIGHUP - 1
"""In the set of caught signals: the last one that is."""


def test_clients_that_leave_at_once_are_counted_and_not_logged_as_failures(fresh_origin):
    body = encode_request(BundleRequest((Want(Digest.of(b"x"), 1),)))
    head = f"POST /v1/bundles HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", fresh_origin.port))
        # Closed without lingering: the daemon is told by a reset, mostly before it answers.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(head + body)
        client.close()
    poll_until(lambda: fresh_origin.metric("icn_requests_total", status="499") > 0)
    assert "Traceback" not in fresh_origin.logged()


def test_a_client_that_leaves_while_it_is_answered_is_counted_as_gone(tmp_path):
    """Its request ends by a cancellation, which counted it nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with start_edge(tmp_path / "edge", "--upstream", url) as edge:
            with begun(edge, (Want(Digest.of(b"x"), 1),)) as client:
                assert client.recv(12) == b"HTTP/1.0 200"
            poll_until(lambda: edge.metric("icn_cut_off_total", cause="gone") == 1)
            assert edge.metric("icn_requests_total", status="499") == 1


@pytest.mark.slow
def test_a_stop_waits_for_what_is_sent_as_long_as_it_was_told(tmp_path):
    """It waited twice as long: by default five seconds less than until systemd kills it."""
    model = make_model("acme/unread", size=40 << 20, block_bytes=1 << 20)
    with start_edge(tmp_path / "origin", "--stop-timeout", "6s") as edge:
        publish(edge, model)
        body = encode_request(BundleRequest(model.wants))
        head = f"POST /v1/bundles HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", edge.port)) as client:
            client.sendall(head.encode() + body)
            assert client.recv(12) == b"HTTP/1.1 200"
            began = time.monotonic()
            edge.process.terminate()
            assert edge.process.wait(30) == 0
            assert 5 < time.monotonic() - began < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_the_middle_of_the_start_is_obeyed_after_it(tmp_path, number):
    """SIGHUP ended the daemon, and the others ended it with other exit codes than 0."""
    command = [sys.executable, "-m", "icnblocks_daemon", "--store", str(tmp_path / "store")]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as daemon:
        status = Path(f"/proc/{daemon.pid}/status")
        poll_until(lambda: int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & HANGUP)
        daemon.send_signal(number)
        assert daemon.stdout.readline()  # it is ready
        if number == signal.SIGHUP:
            assert any(b"reloaded" in line for line in daemon.stderr)
            daemon.terminate()
        assert daemon.wait(30) == 0

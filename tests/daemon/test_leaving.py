"""Clients that leave before they are answered are no fault of the daemon's."""

import socket
import struct

from icnblocks.naming import Digest
from icnblocks.testing.processes import poll_until
from icnblocks.wire.bundle import BundleRequest, Want, encode_request


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

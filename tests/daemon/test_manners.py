"""What holds for every request of a real daemon: it is HTTP, and its body is as it was sent."""

import gzip
import json
import socket

import pytest

from icnblocks.testing.exchange import call

SECRET = b"echoed"
MALFORMED = {
    "no-host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two-lengths": b"POST /v1/bundles HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
    b"Content-Length: 4\r\n\r\n",
    "length-and-chunks": b"POST /v1/bundles HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
    "path": b"GET /echoed\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "long": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + SECRET * 2000 + b"\r\n\r\n",
}  # fmt: skip


def exchanged(edge, data):
    """What comes back for these bytes until the daemon closes."""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=30) as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_what_is_no_http_is_told_in_the_form_of_the_protocol(fresh_origin):
    """Each was answered as aiohttp answers, the request repeated, and logged with a traceback."""
    for why, data in MALFORMED.items():
        head, _, body = exchanged(fresh_origin, data).partition(b"\r\n\r\n")
        assert b" 400 " in head.partition(b"\r\n")[0], why
        assert b"\r\nICN-Version: 1" in head, why
        assert b"aiohttp" not in head, why
        assert json.loads(body)["error"] == "format", why
        assert SECRET not in body, why
    logged = fresh_origin.logged()
    assert logged.count("no HTTP") == 1  # the first; a minute later, how many there were
    assert "Traceback" not in logged
    assert SECRET.decode() not in logged
    assert len(logged) < 1000


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "foo"])
def test_a_body_with_a_content_coding_is_refused(origin, coding):
    """A corrupt one was an internal error with two tracebacks, a right one was unpacked."""
    for body in (b"plain", gzip.compress(b"packed")):
        reply = call(origin, "POST", "/v1/bundles", body, Content_Encoding=coding)
        assert (reply.status, reply.json["error"]) == (415, "usage"), reply
    assert call(origin, "POST", "/v1/missing", b"", Content_Encoding="identity").status == 200

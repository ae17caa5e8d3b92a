"""Connections to a TLS port count from the start, whether they ever say anything or not."""

import http.client
import socket
import ssl
from contextlib import ExitStack, contextmanager

from icnblocks.testing.processes import poll_until, start_edge
from tests.daemon.test_origin import make_certificate

MOST = 16
"""The fewest connections that a daemon may be told to keep to."""


@contextmanager
def tls_edge(folder, *args):
    """A daemon that keeps to few connections, and what trusts it."""
    cert, key = make_certificate(folder)
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--max-connections", str(MOST))
    with start_edge(folder / "o", *options, *args, scheme="https") as edge:
        yield edge, ssl.create_default_context(cafile=cert)


def dial(edge):
    """A connection on which nothing is said."""
    return socket.create_connection(("127.0.0.1", edge.port), timeout=30)


def is_closed(sock):
    """Whether the daemon has closed it: it says nothing else to who says nothing."""
    sock.settimeout(0)
    try:
        return sock.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def status(connection, path="/healthz"):
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_silent_connections_are_few_and_keep_nobody_out(tmp_path):
    """Catches: they counted from the end of the handshake on only, so that three thousand were
    taken where 64 were allowed, and 900 MB with them."""
    with tls_edge(tmp_path, "--idle-timeout", "60s") as (edge, trust), ExitStack() as opened:
        early = http.client.HTTPSConnection("127.0.0.1", edge.port, timeout=30, context=trust)
        opened.callback(early.close)
        assert status(early) == 200
        kept, silent = early.sock, [opened.enter_context(dial(edge)) for _ in range(5 * MOST)]
        # In less time than a handshake may take: those who leave then make no difference.
        poll_until(lambda: sum(not is_closed(sock) for sock in silent) <= MOST, timeout_s=4)
        late = http.client.HTTPSConnection("127.0.0.1", edge.port, timeout=30, context=trust)
        opened.callback(late.close)
        assert [status(late), status(early)] == [200, 200]
        assert early.sock is kept  # what was of use is not closed for what says nothing
        assert "Traceback" not in edge.logged()


def test_a_handshake_has_no_more_time_than_an_idle_connection(tmp_path):
    """Catches: one that never comes held its connection for 15 s, whatever `idle_timeout` is."""
    with tls_edge(tmp_path, "--idle-timeout", "1s") as (edge, _), dial(edge) as sock:
        poll_until(lambda: is_closed(sock), timeout_s=4)


def test_idle_tls_connections_leave_at_once_when_there_are_too_many(tmp_path):
    """Catches: each that was closed to make room stayed until it agreed, up to 30 s, and
    whoever never does could hold any number."""
    with tls_edge(tmp_path, "--idle-timeout", "60s") as (edge, trust), ExitStack() as opened:
        for _ in range(4 * MOST):  # none of them ever reads that it is closed
            raw = opened.enter_context(dial(edge))
            opened.enter_context(trust.wrap_socket(raw, server_hostname="127.0.0.1"))
        last = http.client.HTTPSConnection("127.0.0.1", edge.port, timeout=30, context=trust)
        opened.callback(last.close)

        def count():
            last.request("GET", "/metrics")
            lines = last.getresponse().read().decode().splitlines()
            return next(float(x.split()[1]) for x in lines if x.startswith("icn_connections "))

        poll_until(lambda: count() <= MOST, timeout_s=10)

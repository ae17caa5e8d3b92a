"""What strangers can cause without end does not fill the log."""

import asyncio
import signal
import socket
from contextlib import ExitStack

from icnblocks.testing.exchange import call
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks_daemon.floods import EVERY_S, Flood, quiet_accepts

FEW_FILES = ("sh", "-c", 'ulimit -n 64; exec "$0" "$@"')


def test_a_flood_is_one_line_a_minute_and_none_is_forgotten():
    now = 0.0
    flood = Flood(lambda: now)
    assert [flood.due() for _ in range(3)] == [1, 0, 0]
    now = EVERY_S
    assert [flood.due() for _ in range(2)] == [3, 0]


async def test_all_else_that_the_loop_meets_is_logged_as_ever(caplog):
    loop, sock = asyncio.get_running_loop(), socket.create_server(("127.0.0.1", 0))
    quiet_accepts(loop)
    loop.call_exception_handler({"message": "a bug"})
    assert caplog.messages == ["a bug"]
    sock.close()  # what asyncio does a second after it could not accept, the daemon stopping
    loop.call_soon(loop._start_serving, None, sock)
    await asyncio.sleep(0)
    assert caplog.messages == ["a bug"]


def test_running_out_of_files_at_accept_is_one_line(tmp_path):
    """asyncio logged a traceback for each place of the backlog, every second: 2 MB of it."""
    with start_edge(tmp_path / "origin", within=FEW_FILES) as edge, ExitStack() as opened:
        edge.process.send_signal(signal.SIGSTOP)  # so that it meets all of them at once
        for _ in range(100):
            opened.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=30))
        edge.process.send_signal(signal.SIGCONT)
        poll_until(lambda: "connections cannot be taken" in edge.logged())
        opened.close()
        assert call(edge, "GET", "/healthz").status == 200
        logged = edge.logged()
    assert logged.count("connections cannot be taken") == 1
    assert "socket.accept()" not in logged

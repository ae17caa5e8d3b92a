"""What strangers can cause without end does not fill the log."""

import asyncio
import signal
import socket
from contextlib import ExitStack

from icnblocks.testing.exchange import call
from icnblocks.testing.processes import start_edge
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
    quiet_accepts(loop, lambda: None)
    loop.call_exception_handler({"message": "a bug"})
    assert caplog.messages == ["a bug"]
    sock.close()  # what asyncio does a second after it could not accept, the daemon stopping
    loop.call_soon(loop._start_serving, None, sock)
    await asyncio.sleep(0)
    assert caplog.messages == ["a bug"]


def test_idle_connections_beyond_the_limit_of_files_hold_nobody_up(tmp_path):
    """A thousand were taken before it was looked how many there were: nobody was answered for as
    long as they stayed, and asyncio logged a traceback for each."""
    with start_edge(tmp_path / "origin", within=FEW_FILES) as edge, ExitStack() as opened:
        edge.process.send_signal(signal.SIGSTOP)  # so that it meets all of them at once
        for _ in range(100):
            opened.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=30))
        edge.process.send_signal(signal.SIGCONT)
        assert call(edge, "GET", "/healthz").status == 200
        logged = edge.logged()
    assert logged.count("connections cannot be taken") <= 1
    assert "socket.accept()" not in logged


def test_a_connection_that_cannot_be_taken_makes_room_and_one_line(caplog):
    """Nothing was closed then, since that was looked at for taken ones only."""
    loop, relieved = asyncio.new_event_loop(), []
    quiet_accepts(loop, lambda: relieved.append(True))
    for _ in range(3):
        loop.call_exception_handler({"message": "socket.accept() out of system resource"})
    loop.close()
    assert len(relieved) == 3
    assert caplog.text.count("connections cannot be taken") == 1

"""The daemon's life: open the node, serve, obey signals, stop gracefully.

The plain asyncio loop is used: uvloop has no sendfile (docs/decisions/pit-and-fanout.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

from icnblocks.errors import IcnError, UsageError
from icnblocks.store.whole import write_whole
from icnblocks_daemon.floods import quiet_accepts
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.http.connections import AT_ONCE, Connections, most_connections
from icnblocks_daemon.logs import set_up_logs
from icnblocks_daemon.node import Node
from icnblocks_daemon.node_report import VERSION
from icnblocks_daemon.notify import Notifier
from icnblocks_daemon.preflight import server_tls
from icnblocks_daemon.scrub import scrub

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from aiohttp.web_server import Server

    from icnblocks_daemon.config import Config

_LOG = logging.getLogger(__name__)
_BACKLOG: Final = 1024
"""Connections that wait to be taken. asyncio takes as many at once as it is told of, before it is
looked how many there are: `AT_ONCE`."""
_HANDSHAKE_S: Final = 5.0
"""For TLS to begin, or as long as a connection may be idle, if that is less."""
CHORE_AGAIN_S: Final = 60.0
"""After a chore that failed."""


def serve(config: Config, reread: Callable[[], Config], early: Sequence[int] = ()) -> int:
    """Run the daemon until it is told to stop.

    Args:
        config: the settings.
        reread: reads them anew, for SIGHUP.
        early: signals that came so far, and may still come until they are handled here.

    Returns:
        The exit code.

    Raises:
        IcnError: if it cannot start.
    """
    set_up_logs(config.log_level, config.log_format)
    return asyncio.run(_Daemon(config, reread, early).run())


class _Daemon:
    def __init__(
        self, config: Config, reread: Callable[[], Config], early: Sequence[int] = ()
    ) -> None:
        self._config = config
        self._reread = reread
        self._early = early
        self._stop = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._notifier = Notifier()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        for came in self._early:
            signal.raise_signal(came)
        sock = _listen(self._config)
        try:
            tls = server_tls(self._config)
            node = Node(self._config)
        except BaseException:
            sock.close()
            raise
        try:
            await self._serve(node, sock, tls)
        finally:
            await node.close()
        _LOG.info("stopped")
        return 0

    async def _serve(self, node: Node, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        connections = Connections(most_connections(self._config.max_connections), node.clock)
        runner = web.AppRunner(
            make_app(node, connections),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=self._config.idle_timeout,
            # aiohttp waits twice: what goes on after the first time goes on through the second.
            shutdown_timeout=max(self._config.stop_timeout, 0.01) / 2,  # 0 would be for ever
        )
        await runner.setup()
        server = cast("Server", runner.server)
        quiet_accepts(asyncio.get_running_loop(), lambda: connections.relieve(server.connections))
        node.metrics.observe(lambda: _figures(server, connections))
        shake_s = min(_HANDSHAKE_S, self._config.idle_timeout)
        listening = await asyncio.get_running_loop().create_server(
            connections.guarded(server, lambda: node.config.send_grace, tls=tls is not None),
            sock=sock, ssl=tls, backlog=AT_ONCE,
            ssl_handshake_timeout=shake_s if tls is not None else None,
        )  # fmt: skip
        sock.listen(_BACKLOG)
        content, rate = node.holdings.content, self._config.scrub_rate
        chores = [
            asyncio.create_task(_kept_up(name, work), name=name)
            for name, work in {
                "watchdog": self._notifier.feed_watchdog,
                "house": node.keep_house,
                "plans": node.keep_plans,
                "scrub": lambda: scrub(content, node.rechecks.recheck, rate),
                "reloads": lambda: self._keep_reloading(node),
            }.items()
        ]
        try:
            self._say_ready(sock)
            await self._stop.wait()
            node.stopping = True
            self._notifier.stopping()
            _LOG.info("stopping: no new requests; what is being sent is finished")
        finally:
            listening.close()
            await runner.cleanup()
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)

    def _say_ready(self, sock: socket.socket) -> None:
        host, port = sock.getsockname()[:2]
        if self._config.port_file is not None:
            write_whole(self._config.port_file, f"{port}\n".encode(), durable=False)
        line = {"event": "ready", "host": host, "port": port, "version": VERSION}
        print(json.dumps(line), flush=True)
        role = "edge" if self._config.upstream else "origin"
        _LOG.info("ready", extra={"role": role, "host": host, "port": port})
        self._notifier.ready(f"{role} on {host}:{port}")

    async def _keep_reloading(self, node: Node) -> None:
        """Reload when SIGHUP came, once for all that came meanwhile; until cancelled."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            if not node.stopping:
                await self._reload(node)

    async def _reload(self, node: Node) -> None:
        self._notifier.reloading()
        said = "the last reload failed: the log says why"
        try:
            # Disks that hang hold up nobody but who waits for the reload.
            config = await asyncio.to_thread(self._reread)
            left = await node.reload(config)
        except (IcnError, OSError) as error:
            _LOG.error("nothing was reloaded: %s", error)
        else:  # what fails from here on is no longer "nothing"; whoever keeps reloading logs it
            set_up_logs(config.log_level, config.log_format)
            said = "reloaded"
            _LOG.info(
                "reloaded tokens, trust, policy, strategy, trace, sending limits and log settings"
            )
            if left:
                _LOG.warning("changed, but in effect only after a restart: %s", ", ".join(left))
        finally:
            if not node.stopping:
                self._notifier.ready(said)  # `systemctl reload` waits for it, however this ended


async def _kept_up(name: str, chore: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do a chore; one that fails is said at once, and begun anew: blocks are served meanwhile."""
    while True:
        try:
            return await chore()
        except Exception:
            _LOG.exception("the chore %s failed; it begins anew in %.0f s", name, CHORE_AGAIN_S)
        await asyncio.sleep(CHORE_AGAIN_S)


def _figures(server: Server, connections: Connections) -> Iterator[tuple[str, str, float]]:
    yield "icn_connections", "Open connections of clients", len(server.connections)
    yield "icn_connections_closed_total", "Idle ones closed to make room", connections.closed


def _listen(config: Config) -> socket.socket:
    """Bind before anything else, so that a taken port is found before the store is opened."""
    address = config.listen
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, proto, _, place = found[0]
        sock = socket.socket(family, kind, proto)
    except UnicodeError:
        raise UsageError(f"cannot listen on {str(address)[:120]}: not a host name") from None
    except OSError as error:
        raise UsageError(f"cannot listen on {address}: {error.strerror}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # some systems have none for both families
                # `[::]` is for everybody, IPv4 included, whatever the system's default.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, place[0] != "::")
        sock.bind(place)
    except OSError as error:
        sock.close()
        raise UsageError(
            f"cannot listen on {address}: {error.strerror}",
            hint="name another address or port with --listen",
        ) from None
    sock.setblocking(False)
    return sock

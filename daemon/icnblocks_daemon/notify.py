"""What systemd is told: ready, still alive, reloading, stopping, and a status line.

Without NOTIFY_SOCKET everything here does nothing. The watchdog is fed from the event loop, so
that a loop that hangs is found; this module must not start threads.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import sdnotify

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """Speaks to the service manager that started this process, if any."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._socket = sdnotify.SystemdNotifier()
        self._watchdog_s = _watchdog(environ)

    def ready(self, status: str) -> None:
        """Requests are answered from now on."""
        self._socket.notify(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` says when it is done."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._socket.notify(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """No new requests are taken."""
        self._socket.notify("STOPPING=1")

    async def feed_watchdog(self) -> None:
        """Give a sign of life three times an interval, until cancelled."""
        if self._watchdog_s is None:
            return
        while True:
            self._socket.notify("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 3)


def _watchdog(environ: Mapping[str, str]) -> float | None:
    text = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID", "")
    number = text.isascii() and text.isdigit() and len(text) < 20
    if not number or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6

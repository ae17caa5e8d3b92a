"""How the daemon logs: one line an event on stderr, as text or JSON, with fields for machines.

Loggers are `icnblocks_daemon.*`; fields go in `extra`. No secrets: tokens and headers of
requests are never logged.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Text(logging.Formatter):
    """`LEVEL logger: message key=value ...`; the journal has the time."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        extra = {key: value for key, value in vars(record).items() if key not in _PLAIN}
        words = [f"{key}={value}" for key, value in extra.items()]
        return " ".join([line, *words]).replace("\n", " | ")


def set_up_logs(level: str, form: str) -> None:
    """Log to stderr from now on; may be called again to change level or format."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        from pythonjsonlogger.json import JsonFormatter

        fields = "{levelname}{name}{message}"
        renamed = {"levelname": "level", "name": "logger"}
        handler.setFormatter(
            JsonFormatter(fields, style="{", rename_fields=renamed, timestamp="time")
        )
    else:
        handler.setFormatter(_Text("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)

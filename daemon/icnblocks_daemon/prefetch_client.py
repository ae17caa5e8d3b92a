"""A running daemon's `/v1/prefetch`, asked from a command line: where it is, and what it says.

This module must not print anything.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from icnblocks.client.answers import check_answer
from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.settings import load_settings
from icnblocks.client.source import Source
from icnblocks.errors import FormatError, RefusedError, SourceError, UsageError
from icnblocks.limits import MAX_REQUEST_BYTES
from icnblocks_daemon.config import DEFAULT_PORT, ENV_PREFIX, load_config
from icnblocks_daemon.prefetch_order import PREFETCH_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from icnblocks_daemon.config import Config

PUT_S: Final = 600.0
"""A plan's names are followed before it is answered."""
_ASK_S: Final = 15.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


class Daemon:
    """One daemon. The token and the private CAs are those of the client's settings (ICN_TOKEN).

    Args:
        url: where it answers.

    Raises:
        UsageError: if the URL or the settings cannot be meant.
    """

    def __init__(self, url: str) -> None:
        settings = load_settings()
        options = SourceOptions(ca_file=settings.ca_file, token=settings.token)
        self._token = settings.token
        self._connection = Source(url, options).connect()
        self.url = str(self._connection)

    def status(self) -> dict[str, Any]:
        """How far the plan in force is.

        Raises:
            IcnError: if the daemon cannot be asked.
        """
        return self._ask("GET", None, _ASK_S)

    def put(self, order: bytes) -> dict[str, Any]:
        """Put an order in force; its status.

        Raises:
            RefusedError: if one may not, or its pins do not fit.
            IcnError: if the daemon cannot be asked.
        """
        if len(order) > MAX_REQUEST_BYTES:
            raise RefusedError(
                f"the plan comes to {len(order)} bytes for this edge; at most {MAX_REQUEST_BYTES}"
                " can be sent",
                hint="leave the models of least worth out",
            )
        return self._ask("PUT", order, PUT_S)

    def cancel(self) -> dict[str, Any]:
        """End the plan in force; its status.

        Raises:
            IcnError: as `put`.
        """
        return self._ask("DELETE", None, _ASK_S)

    def _ask(self, method: str, body: bytes | None, answer_s: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            answer = self._connection.request(
                method, PREFETCH_PATH, body, headers, answer_s=answer_s
            )
        except SourceError as error:
            hint = "does the daemon run there? --url names another"
            raise type(error)(str(error), hint=hint) from None
        check_answer(answer, f"the plan at {self.url}")
        try:
            told = json.loads(answer.read(MAX_REQUEST_BYTES))
            state = told["state"]
        except (ValueError, TypeError, KeyError):
            state = None
        if not isinstance(state, str):
            raise FormatError(f"{self.url} does not answer as an icn-edge", hint="check the URL")
        return dict(told)


def daemon_url(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> str:
    """Where the daemon answers that these settings are of; by default, on this machine.

    Args:
        path: its TOML file, or None.
        environ: the environment.
        flags: values by key, as `load_config` takes them.

    Raises:
        UsageError: if the settings are wrong, or their port is none.
    """
    given = any(value not in {None, ()} for value in flags.values())
    if path is None and not given and not any(key.startswith(ENV_PREFIX) for key in environ):
        return f"http://127.0.0.1:{DEFAULT_PORT}"
    # The store is of no account here, and need not be named.
    config = load_config(path, {f"{ENV_PREFIX}STORE": ".", **environ}, flags)
    host = _ANY_ADDRESS.get(config.listen.host, config.listen.host)
    scheme = "https" if config.tls_cert is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{_port(config)}"


def _port(config: Config) -> int:
    if config.listen.port or config.port_file is None:
        port = config.listen.port
    else:
        try:
            port = int(config.port_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            port = 0
    if not port:
        raise UsageError("the settings name no port", hint="name the daemon with --url")
    return port

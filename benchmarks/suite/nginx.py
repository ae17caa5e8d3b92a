"""Debian's nginx as a static server, the half of the peer that serves."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.suite.peers import command
from icnblocks.testing.processes import poll_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONFIG: Final = """
{user} daemon off; worker_processes auto; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  types {{ application/json json; }} default_type application/octet-stream;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  server {{ listen 127.0.0.1:{port} {ssl}; root {files}; {more} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx: where it answers, and the process whose children are its workers."""

    url: str
    pid: int


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def answers(port: int) -> bool:
    """Does somebody listen there?"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(
    files: Path, root: Path, *, tls: tuple[Path, Path] | None = None, more: str = ""
) -> Iterator[Nginx]:
    """Serve a directory, with sendfile and one worker for each core, as nginx comes.

    Args:
        files: what is served.
        root: a directory to be made for its own files.
        tls: certificate and key, to serve https.
        more: further lines of its server block.
    """
    port = free_port()
    root.mkdir()
    config = root / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # its workers must be able to read the files
    if tls is not None:
        more += f" ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};"
    ssl = "" if tls is None else "ssl"
    text = _CONFIG.format(user=user, root=root, port=port, files=files, ssl=ssl, more=more)
    config.write_text(text)
    process = subprocess.Popen(
        [command("nginx"), "-p", str(root), "-c", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        poll_until(lambda: answers(port), what="nginx")
        yield Nginx(f"http{'' if tls is None else 's'}://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait()

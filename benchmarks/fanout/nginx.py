"""Debian's nginx on a host of the network: as a server of files, and as a cache before one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from icnblocks.testing.processes import poll_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.testing.network import Host

_MAIN: Final = """
{user} daemon off; worker_processes {workers}; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  {more}
  server {{ listen {address}:{port}; {server} }}
}}
"""
_CACHE: Final = (
    "proxy_cache_path {root}/cache keys_zone=one:16m max_size=20g inactive=60m use_temp_path=off;"
)
_PASS: Final = (
    "location / {{ proxy_pass {origin}; proxy_http_version 1.1; proxy_set_header Connection '';"
    " proxy_cache one; proxy_cache_valid any 60m; proxy_cache_lock on;"
    " proxy_cache_lock_timeout 600s; proxy_cache_lock_age 600s; {slice} }}"
)
_SLICE: Final = "slice 1m; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;"


@contextmanager
def nginx(folder: Path, host: Host | None, address: str, port: int, files: Path) -> Iterator[str]:
    """Serve a directory; yields the URL."""
    with _run(folder, host, address, port, f"root {files};", "") as root:
        yield root


@contextmanager
def cache(
    folder: Path, host: Host | None, address: str, port: int, origin: str, *, sliced: bool
) -> Iterator[str]:
    """A cold cache with `proxy_cache_lock`, in slices of 1 MB or of whole files; yields the URL."""
    server = _PASS.format(origin=origin, slice=_SLICE if sliced else "")
    with _run(folder, host, address, port, server, _CACHE) as url:
        yield url


@contextmanager
def _run(
    folder: Path, host: Host | None, address: str, port: int, server: str, more: str
) -> Iterator[str]:
    root = Path(tempfile.mkdtemp(prefix="nginx-", dir=folder))
    user = "user root;" if os.geteuid() == 0 else ""  # its workers must be able to read the files
    config = root / "nginx.conf"
    config.write_text(
        _MAIN.format(
            user=user, workers=os.cpu_count(), root=root, address=address, port=port,
            server=server, more=more.format(root=root),
        )
    )  # fmt: skip
    within = host.within if host else ()
    process = subprocess.Popen([*within, "nginx", "-p", str(root), "-c", str(config)])
    try:
        poll_until(lambda: answers(host, address, port), what="nginx")
        yield f"http://{address}:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(root, ignore_errors=True)


def answers(host: Host | None, address: str, port: int) -> bool:
    """Whether something listens there."""
    within = host.within if host else ()
    probe = [*within, "curl", "-s", "--noproxy", "*", "-o", "/dev/null", "-m", "2"]
    return subprocess.run([*probe, f"http://{address}:{port}/"], check=False).returncode == 0

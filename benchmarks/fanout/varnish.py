"""Debian's Varnish on a host of the network: a cache that streams to all while it fetches."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from benchmarks.fanout.nginx import answers
from icnblocks.testing.processes import poll_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.testing.network import Host


@contextmanager
def varnish(folder: Path, host: Host | None, address: str, port: int, origin: str) -> Iterator[str]:
    """A cold Varnish that keeps what it fetched in memory, before an origin; yields the URL."""
    root = Path(tempfile.mkdtemp(prefix="varnish-", dir=folder))
    root.chmod(0o755)
    within = host.within if host else ()
    words = [*within, "varnishd", "-F", "-j", "none", "-n", str(root / "work")]
    words += ["-a", f"{address}:{port}", "-b", urlsplit(origin).netloc, "-s", "malloc,4G"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        poll_until(lambda: answers(host, address, port), what="varnishd", timeout_s=60)
        yield f"http://{address}:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(root, ignore_errors=True)

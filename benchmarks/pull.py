"""A verified pull from a warm edge, beside curl from nginx: wall time, CPU and peak memory.

    python -m benchmarks.pull [--runs N] [--small] [--json]

Makes a Llama-shaped model of 2.02 GB in two shards (0.1 GB with --small), publishes it to an
origin, warms an edge by one pull, and then alternates: nginx serving the same files to curl, to
disk, unverified; and icn-fetch from the edge, every block verified, to disk. Before each run as
much memory as it will use is touched and freed, for both alike. Prints every run, medians and
the ratio of each pair. Needs Debian's nginx and curl.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icnblocks.testing.device import Device
from icnblocks.testing.models import write_llama, write_llama_2gb
from icnblocks.testing.processes import peak_mb, poll_until, start_edge

if TYPE_CHECKING:
    from collections.abc import Iterator

NGINX = """
{user} daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  server {{ listen 127.0.0.1:{port}; root {files}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One timed run of a client: wall and CPU seconds, and peak resident memory in MB."""

    who: str
    wall_s: float
    cpu_s: float
    rss_mb: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def nginx(files: Path, root: Path) -> Iterator[str]:
    """Serve a directory with Debian's nginx; yields the URL."""
    port = free_port()
    root.mkdir()
    config = root / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # its workers must be able to read the files
    config.write_text(NGINX.format(user=user, root=root, port=port, files=files))
    process = subprocess.Popen(["nginx", "-p", str(root), "-c", str(config)])
    try:
        poll_until(lambda: _answers(port), what="nginx")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def touch_memory(size: int) -> None:
    """Take and give back as much page cache as a run will use, so that both sides find it warm."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        piece = os.urandom(1 << 20)
        for _ in range(size >> 20):
            file.write(piece)


def timed(who: str, command: list[str], environ: dict[str, str] | None = None) -> Run:
    """Run a command to its end and measure it."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ
    )
    peak = 0.0
    # The peak is read while it runs: what wait4 tells counts the parent before exec as well.
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak = max(peak, peak_mb(process.pid))
        time.sleep(0.01)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{who} failed with {process.returncode}: {' '.join(command)}")
    return Run(who, wall, usage.ru_utime + usage.ru_stime, peak)


def measure(small: bool, runs: int) -> dict[str, Any]:
    """All runs, and what they come to."""
    with tempfile.TemporaryDirectory(prefix="bench-pull-") as folder:
        root = Path(folder)
        make = write_llama if small else write_llama_2gb
        model = make(root / "model", hidden=1024, layers=8) if small else make(root / "model")
        files = sorted(path.name for path in model.iterdir())
        size = sum((model / name).stat().st_size for name in files)
        device = Device(root / "device")
        with (
            nginx(model, root / "nginx") as url,
            start_edge(root / "origin") as origin,
            start_edge(root / "edge", "--upstream", origin.url) as edge,
        ):
            Device(root / "publisher").publish(model, "acme/model", origin.url)
            device.fetch("acme/model", edge.url)
            found: list[Run] = []
            for _ in range(runs):
                found.append(_curl(root, url, files, size))
                found.append(_fetch(edge.url, device, size))
            edge_mb = peak_mb(edge.process.pid)
        return _summary(found, size, edge_mb)


def _curl(root: Path, url: str, files: list[str], size: int) -> Run:
    touch_memory(size)
    target = root / "curl"
    target.mkdir()
    command = ["curl", "-sS", "--fail", "--remote-name-all", "--output-dir", str(target)]
    run = timed("curl", command + [f"{url}/{name}" for name in files])
    shutil.rmtree(target)
    return run


def _fetch(url: str, device: Device, size: int) -> Run:
    shutil.rmtree(device.root / "models", ignore_errors=True)
    shutil.rmtree(device.root / "store")
    touch_memory(size)
    command = [sys.executable, "-m", "icnblocks_tools", "fetch", "acme/model"]
    command += ["--from", url, "--trust-first-use"]
    return timed("icn-fetch", command, device.environ)


def _summary(found: list[Run], size: int, edge_mb: float) -> dict[str, Any]:
    curl = [run for run in found if run.who == "curl"]
    fetch = [run for run in found if run.who == "icn-fetch"]
    ratios = [two.wall_s / one.wall_s for one, two in zip(curl, fetch, strict=True)]
    return {
        "bytes": size,
        "runs": [asdict(run) for run in found],
        "curl_wall_s": statistics.median(run.wall_s for run in curl),
        "fetch_wall_s": statistics.median(run.wall_s for run in fetch),
        "fetch_cpu_s": statistics.median(run.cpu_s for run in fetch),
        "fetch_rss_mb": max(run.rss_mb for run in fetch),
        "edge_rss_mb": edge_mb,
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="0.1 GB instead of 2.02 GB")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    options = parser.parse_args()
    for needed in ("nginx", "curl"):
        if shutil.which(needed) is None and not Path(f"/usr/sbin/{needed}").exists():
            raise SystemExit(f"{needed} is not installed (Debian: apt-get install {needed})")
    result = measure(options.small, options.runs)
    if options.json:
        print(json.dumps(result))
        return
    for run in result.pop("runs"):
        print("{who:10} {wall_s:7.3f} s  {cpu_s:6.2f} CPU s  {rss_mb:7.1f} MB".format(**run))
    for key, value in result.items():
        print(f"{key:14} {value:.6g}")


if __name__ == "__main__":
    main()

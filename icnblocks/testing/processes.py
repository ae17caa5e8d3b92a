"""Real daemons for tests: started as processes, waited for, and gone at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

READY_S: Final = 30.0


@dataclass(slots=True)
class Edge:
    """A running `icn-edge`.

    Attributes:
        process: the process; its stdout is read by this class.
        url: where it answers.
        port: the bound port.
        store: its store directory.
        log: file with everything that it logged.
        command: how it was started, without the port.
    """

    process: subprocess.Popen[bytes]
    url: str
    port: int
    store: Path
    log: Path
    command: list[str]
    environ: dict[str, str] = field(default_factory=dict)

    def status(self) -> dict[str, Any]:
        """What /v1/status says."""
        return dict(json.loads(self.get("/v1/status")))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 if there are none."""
        total = 0.0
        for line in self.get("/metrics").decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] != name:
                continue
            if all(f'{key}="{text}"' in sample for key, text in labels.items()):
                total += float(value)
        return total

    def get(self, path: str) -> bytes:
        """The body of a GET.

        Raises:
            urllib.error.HTTPError: if it is refused.
        """
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:  # noqa: S310
            body: bytes = answer.read()
        return body

    def stop(self, *, timeout_s: float = 30.0) -> int:
        """Ask it to stop gracefully; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._wait(timeout_s)

    def kill(self) -> None:
        """kill -9."""
        if self.process.poll() is None:
            self.process.kill()
        self._wait(10.0)

    def logged(self) -> str:
        """Everything that it logged so far."""
        return self.log.read_text(errors="replace")

    def _wait(self, timeout_s: float) -> int:
        code = self.process.wait(timeout_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


def launch_edge(
    store: Path,
    *args: str,
    environ: Mapping[str, str] | None = None,
    listen: str = "127.0.0.1:0",
    scheme: str = "http",
    within: Sequence[str] = (),
) -> Edge:
    """Start an `icn-edge` and wait until it is ready; the caller stops it.

    Args:
        store: its `--store`; the log goes beside it.
        *args: further options.
        environ: variables over the test's own; proxies are taken out.
        listen: `--listen`.
        scheme: `https` when `args` name a certificate.
        within: words before the command, for example `ip netns exec NAME`.

    Raises:
        RuntimeError: if it does not become ready; the text has its log.
    """
    command = [*within, sys.executable, "-m", "icnblocks_daemon", "--store", str(store), *args]
    full = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    full.pop("PYTHONDONTWRITEBYTECODE", None)  # it starts as where it was installed: compiled
    full |= environ or {}
    log = store.with_name(f"{store.name}.log")
    with log.open("ab") as err:
        process = subprocess.Popen(
            [*command, "--listen", listen], stdout=subprocess.PIPE, stderr=err, env=full
        )
    line = _first_line(process)
    if not line:
        code = process.wait(10)
        if process.stdout is not None:
            process.stdout.close()
        raise RuntimeError(f"icn-edge ended with {code}: {log.read_text(errors='replace')}")
    port = int(json.loads(line)["port"])
    host = listen.rpartition(":")[0]
    return Edge(process, f"{scheme}://{host}:{port}", port, store, log, command, full)


@contextmanager
def start_edge(
    store: Path,
    *args: str,
    environ: Mapping[str, str] | None = None,
    listen: str = "127.0.0.1:0",
    scheme: str = "http",
    within: Sequence[str] = (),
) -> Iterator[Edge]:
    """`launch_edge` as a context: whatever happens, the process is gone at the end."""
    edge = launch_edge(store, *args, environ=environ, listen=listen, scheme=scheme, within=within)
    try:
        yield edge
    finally:
        try:
            edge.stop()
        except subprocess.TimeoutExpired:
            edge.kill()


def poll_until(condition: Any, *, timeout_s: float = 20.0, what: str = "") -> Any:
    """Call `condition` until it gives something true, and return that.

    Raises:
        TimeoutError: naming `what`, if it does not in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {timeout_s:g} s: {what or condition}")
        time.sleep(0.02)


def peak_mb(pid: int) -> float:
    """VmHWM of a process in MB (10^6 bytes); 0 when it has just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """The ready line; empty if the process ended or did not become ready in time."""
    import select

    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], READY_S)
    if not readable:
        process.kill()
        return b""
    return process.stdout.readline()

"""Run commands and measure all their processes: wall and CPU seconds, peak resident memory."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SAMPLE_MS: Final = 20
"""How often peaks are read: VmHWM never falls, so only what a process adds in its last
moments can be missed."""
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run: its words, and its environment when that is not ours."""

    words: Sequence[str | Path]
    environ: Mapping[str, str] | None = None
    stdin: Path | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended well: when it began and ended, in seconds of the performance
    counter, its CPU seconds, its peak RSS in MB, and what it printed.
    """

    began: float
    ended: float
    cpu_s: float
    rss_mb: float
    out: str

    @property
    def wall_s(self) -> float:
        """How long it took."""
        return self.ended - self.began


def run(*commands: Command) -> list[Ended]:
    """Run commands at the same time, each to its end.

    Raises:
        RuntimeError: if one fails; the text has its standard error.
    """
    with tempfile.TemporaryDirectory(prefix="bench-out-") as folder:
        running = [_Running(command, Path(folder) / str(n)) for n, command in enumerate(commands)]
        try:
            return _follow(running)
        finally:
            for one in running:
                one.kill()


class _Running:
    """One process under way, with its descendants."""

    def __init__(self, command: Command, log: Path) -> None:
        self._log = log
        self._command = command
        self._peaks: dict[int, float] = {}
        source = command.stdin or Path(os.devnull)
        with (
            source.open("rb") as stdin,
            log.with_suffix(".out").open("wb") as out,
            log.with_suffix(".err").open("wb") as err,
        ):
            self._began = time.perf_counter()
            self._process = subprocess.Popen(
                [str(word) for word in command.words],
                stdin=stdin,
                stdout=out,
                stderr=err,
                env=None if command.environ is None else dict(command.environ),
            )
        self.fd = os.pidfd_open(self._process.pid)

    def sample(self) -> None:
        for pid in tree(self._process.pid):
            self._peaks[pid] = max(self._peaks.get(pid, 0.0), peak_mb(pid))

    def ended(self) -> Ended:
        ended = time.perf_counter()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self.fd)
        if self._process.returncode:
            said = self._log.with_suffix(".err").read_text(errors="replace")[-2000:]
            words = " ".join(map(str, self._command.words))
            raise RuntimeError(f"{words[:500]}: exit code {self._process.returncode}\n{said}")
        out = self._log.with_suffix(".out").read_text(errors="replace")
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(self._began, ended, cpu, sum(self._peaks.values()), out)

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()


def _follow(running: list[_Running]) -> list[Ended]:
    """Wait for all, reading peaks meanwhile; in the order in which they were given."""
    poller, by_fd = select.poll(), {one.fd: n for n, one in enumerate(running)}
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    found: dict[int, Ended] = {}
    while by_fd:
        for fd, _ in poller.poll(_SAMPLE_MS):
            poller.unregister(fd)
            number = by_fd.pop(fd)
            found[number] = running[number].ended()
        for number in by_fd.values():
            running[number].sample()
    return [found[number] for number in range(len(running))]


def tree(pid: int) -> Iterator[int]:
    """A process and all its living descendants."""
    yield pid
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii")
        except OSError:
            continue
        for child in children.split():
            yield from tree(int(child))


def peak_mb(pid: int) -> float:
    """VmHWM of a process in MB; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def cpu_s(pids: Sequence[int]) -> float:
    """User and system seconds of processes and their descendants so far, in ticks of 10 ms."""
    total = 0
    for root in pids:
        for pid in tree(root):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / _TICK


def peaks_mb(pids: Sequence[int]) -> float:
    """VmHWM summed over processes and their descendants, in MB."""
    return sum(peak_mb(pid) for root in pids for pid in tree(root))

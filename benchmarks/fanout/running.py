"""Processes that run side by side: started, timed one by one, and never left behind.

Those that are held (see `held`) are started first and let go together; the clock starts then.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEADLINE_S: Final = 240.0
_WATCH_S: Final = 0.02
HELD: Final = ("READY", "GATE")
"""Words of a held command that stand for its descriptors."""


class RunFailedError(Exception):
    """A process failed or took too long; the text has what it said."""


@dataclass(frozen=True, slots=True)
class Command:
    """A process to be.

    Attributes:
        words: the command.
        log: file for all that it prints.
        environ: its variables; None: ours.
        at: seconds after the first one at which it is started.
        awaited: False if it is ended as soon as the others are done.
        until: it counts as ended, and runs on until all have, when its log has this text.
        held: it takes two descriptors in the place of HELD, and waits until it is let go.
    """

    words: Sequence[str]
    log: Path
    environ: Mapping[str, str] | None = None
    at: float = 0.0
    awaited: bool = True
    until: str = ""
    held: bool = False


@dataclass(slots=True)
class Times:
    """When processes began and ended, in seconds after the first was started or let go.

    Attributes:
        began: one for each process.
        ended: the same.
        user_s: seconds of processor that they used, all together, in their own code.
        system_s: the same in the kernel.
    """

    began: list[float]
    ended: list[float]
    user_s: float
    system_s: float

    @property
    def seconds(self) -> float:
        """Until the last one ended."""
        return max(self.ended)

    @property
    def each(self) -> list[float]:
        """How long each one took from its own start."""
        return [end - begin for begin, end in zip(self.began, self.ended, strict=True)]


def run_together(
    commands: Sequence[Command],
    *,
    deadline_s: float = DEADLINE_S,
    prepare: Callable[[], None] = lambda: None,
) -> Times:
    """Run processes side by side to their ends.

    Args:
        commands: in the order of their starts.
        deadline_s: after so long all are killed.
        prepare: done when those that are held have loaded, before the time begins.

    Returns:
        The times of those that are awaited, in their order.

    Raises:
        RunFailedError: if one of them fails, or the time is over.
    """
    with ExitStack() as stack:
        return _Batch(commands, stack).run(deadline_s, prepare)


class _Batch:
    def __init__(self, commands: Sequence[Command], stack: ExitStack) -> None:
        self._commands = commands
        self._stack = stack
        self._poll = select.poll()
        self._running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
        self._began = [0.0] * len(commands)
        self._ended = [0.0] * len(commands)
        self._user_s = self._system_s = 0.0
        self._watched: dict[int, str] = {}  # by number: what its log is to have
        self._origin = time.perf_counter()

    def run(self, deadline_s: float, prepare: Callable[[], None]) -> Times:
        waiting = self._hold()
        prepare()
        self._origin = time.perf_counter()
        left = sum(command.awaited for command in self._commands)
        while left:
            now = self._now()
            if now > deadline_s:
                raise RunFailedError(f"not done in {deadline_s:g} s: {self._commands[0].words}")
            while waiting and waiting[0][0] <= now:
                waiting.pop(0)[1]()
            pause = 1.0 if not waiting else max(waiting[0][0] - self._now(), 0.0)
            if self._watched:
                pause = min(pause, _WATCH_S)
            for fd, _ in self._poll.poll(pause * 1000):
                left -= self._end(fd)
            left -= self._look()
        return self._times()

    def _hold(self) -> list[tuple[float, Callable[[], None]]]:
        """Start those that are held; what is to be done when, in order."""
        ready, said = os.pipe()
        self._stack.callback(os.close, ready)
        plan: list[tuple[float, Callable[[], None]]] = []
        held = 0
        for number, command in enumerate(self._commands):
            if not command.held:
                plan.append((command.at, partial(self._start, number, command.words)))
                continue
            inner, outer = os.pipe()
            plan.append((command.at, partial(self._let_go, number, outer)))
            names = dict(zip(HELD, (str(said), str(inner)), strict=True))
            words = [names.get(word, word) for word in command.words]
            self._start(number, words, (said, inner))
            os.close(inner)
            held += 1
        os.close(said)
        self._wait_for(ready, held)
        return sorted(plan, key=lambda step: step[0])

    def _wait_for(self, ready: int, held: int) -> None:
        """All that are held have loaded, or one has failed, which is found out later."""
        until = time.monotonic() + DEADLINE_S
        while held and select.select([ready], [], [], until - time.monotonic())[0]:
            said = os.read(ready, held)
            if not said:
                return
            held -= len(said)

    def _let_go(self, number: int, gate: int) -> None:
        self._began[number] = self._now()
        os.close(gate)

    def _start(self, number: int, words: Sequence[str], fds: Sequence[int] = ()) -> None:
        command = self._commands[number]
        self._began[number] = self._now()
        with command.log.open("wb") as log:
            process = subprocess.Popen(
                words, env=command.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=fds,
            )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        fd = os.pidfd_open(process.pid)
        self._stack.callback(os.close, fd)
        self._running[fd] = number, process
        if command.until:
            self._watched[number] = command.until
        self._poll.register(fd, select.POLLIN)

    def _end(self, fd: int) -> bool:
        self._poll.unregister(fd)
        number, process = self._running.pop(fd)
        self._ended[number] = self._now()
        command = self._commands[number]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self._user_s += usage.ru_utime
        self._system_s += usage.ru_stime
        if command.until and number not in self._watched:
            return False  # it had counted as ended before
        self._watched.pop(number, None)
        if process.returncode and command.awaited:
            said = command.log.read_text(errors="replace")[-2000:]
            raise RunFailedError(f"{' '.join(command.words)}: {process.returncode}\n{said}")
        return command.awaited

    def _look(self) -> int:
        """How many of those that are watched have said that they are done."""
        said = [
            number
            for number, text in self._watched.items()
            if text in self._commands[number].log.read_text(errors="replace")
        ]
        for number in said:
            del self._watched[number]
            self._ended[number] = self._now()
        return len(said)

    def _now(self) -> float:
        return time.perf_counter() - self._origin

    def _times(self) -> Times:
        chosen = [number for number, command in enumerate(self._commands) if command.awaited]
        return Times(
            [self._began[n] for n in chosen],
            [self._ended[n] for n in chosen],
            self._user_s,
            self._system_s,
        )


def processor_s(pid: int) -> float:
    """Seconds of processor that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

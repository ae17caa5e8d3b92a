"""Runs calculations in processes of their own, a few at a time, each within a time limit.

A process is a fork: what was made before it began need not be sent to it. What a calculation
prints is dropped (libraries written in C print as they please), and one that crashes or is too
slow takes nothing with it.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess


@dataclass(frozen=True, slots=True)
class Job:
    """One calculation.

    Attributes:
        key: to know its outcome by.
        run: is called without arguments; what it returns must be picklable.
        limit_s: seconds of its processor after which it is ended; by the clock, ten times that.
    """

    key: Hashable
    run: Callable[[], Any]
    limit_s: int = 3600


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no outcome."""

    reason: str


def run_all(
    jobs: Iterable[Job], at_once: int, done: Callable[[Hashable, Any], None] | None = None
) -> dict[Hashable, Any]:
    """The outcome of each job, or a `Failure`; `done` is told of each as it comes."""
    waiting = list(jobs)[::-1]
    running: dict[Connection, tuple[Job, ForkProcess, float]] = {}
    outcomes: dict[Hashable, Any] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            job = waiting.pop()
            end, process = _start(job)
            running[end] = (job, process, time.monotonic() + 10 * job.limit_s)
        soonest = min(limit for _, _, limit in running.values())
        ready = wait(list(running), timeout=max(soonest - time.monotonic(), 0.0))
        for end in list(running):
            job, process, limit = running[end]
            if end in ready:
                outcome = _outcome(job, end, process)
            elif time.monotonic() >= limit:
                process.kill()
                process.join()
                outcome = Failure(_late(job))
            else:
                continue
            end.close()
            del running[end]
            outcomes[job.key] = outcome
            if done is not None:
                done(job.key, outcome)
    return outcomes


def _start(job: Job) -> tuple[Connection, ForkProcess]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs))
    process.start()
    theirs.close()
    return ours, process


def _work(job: Job, answer: Connection) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (job.limit_s, job.limit_s + 1))
    try:
        outcome: Any = job.run()
    except Exception as error:
        outcome = Failure(f"{type(error).__name__}: {error}")
    answer.send(outcome)
    answer.close()
    # Without the parent's exit handlers, and without waiting for what a library left running.
    os._exit(0)


def _late(job: Job) -> str:
    return f"not done within {job.limit_s} s"


def _outcome(job: Job, end: Connection, process: ForkProcess) -> Any:
    try:
        outcome = end.recv()
    except EOFError:
        process.join()
        if process.exitcode in {-signal.SIGXCPU, -signal.SIGKILL}:
            return Failure(_late(job))
        return Failure(f"ended with {process.exitcode}")
    process.join()
    return outcome

"""Several replays of one trace at a time, each in a process forked from this one.

The trace is read once and shared by the fork: nothing of it is copied or sent. A process that
dies (it was killed, or there was no memory) is an error and not a hang, and none outlives the one
that it reports to. This module must not print anything.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Final, TypeAlias

from icnblocks.cache.replay.replay import Links, Replay, Result
from icnblocks.errors import IcnError, UsageError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.context import ForkProcess

    from icnblocks.cache.replay.trace import Trace

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)
"""Held back while a process begins: it would act on them as this one does, which may go on."""
_Message: TypeAlias = "Result | IcnError | MemoryError | int"


@dataclass(frozen=True, slots=True)
class Job:
    """A replay to be made: a policy with its options, and the bytes of each edge."""

    policy: str
    capacity: int


def processors() -> int:
    """How many replays this machine does at a time."""
    return len(os.sched_getaffinity(0))


def replay_all(
    trace: Trace,
    jobs: Sequence[Job],
    *,
    links: Links | None = None,
    warmup: float = 0.0,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Result]:
    """Replay a trace for each job; the results come in the order of the jobs, as they are there.

    Args:
        trace: what is asked for.
        jobs: policies and capacities.
        links: for the pull times.
        warmup: the share of the requests, from the first, that is not counted.
        processes: at most so many at a time; None: as many as there are processors.
        progress: told now and then how many more requests are done, of all jobs together.

    Raises:
        UsageError: as `Replay` does, before anything is replayed.
        IcnError: if a process died.
        MemoryError: if there is not enough for one.
    """
    made = [Replay(trace, job.policy, job.capacity, links=links, warmup=warmup) for job in jobs]
    limit = processes or processors()
    if limit < 1:
        raise UsageError("at least one process is needed")
    if limit == 1 or len(made) == 1:
        while made:
            yield made.pop(0).run(progress)
        return
    yield from _forked(made, limit, progress)


def _forked(
    made: list[Replay], limit: int, progress: Callable[[int], None] | None
) -> Iterator[Result]:
    context = multiprocessing.get_context("fork")
    running: dict[Connection, tuple[int, ForkProcess]] = {}
    done: dict[int, Result] = {}
    started = given = 0
    gc.freeze()  # else the first collection in each process would copy the whole trace
    try:
        while given < len(made):
            while started < len(made) and len(running) < limit:
                ours, theirs = context.Pipe(duplex=False)
                others = (ours, *running)
                process = context.Process(
                    target=_work, args=(made[started], theirs, others), daemon=True
                )
                before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
                try:
                    process.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                theirs.close()
                running[ours] = (started, process)
                started += 1
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                number, process = running[ready]
                message = _receive(ready, process)
                if isinstance(message, Result):
                    done[number] = message
                    process.join()
                    ready.close()
                    del running[ready]
                elif isinstance(message, IcnError | MemoryError):
                    raise message
                elif progress is not None:
                    progress(message)
            while given in done:
                yield done.pop(given)
                given += 1
    finally:
        gc.unfreeze()
        for connection, (_, process) in running.items():
            process.terminate()
            process.join()
            connection.close()


def _receive(connection: Connection, process: ForkProcess) -> _Message:
    try:
        message: _Message = connection.recv()
    except (EOFError, OSError):  # at its beginning, or in the middle of what it said
        process.join()
        return IcnError(f"a replay died (exit status {process.exitcode})", hint="try less --jobs")
    return message


def _work(replay: Replay, connection: Connection, others: Iterable[Connection]) -> None:
    """In the forked process.

    The parent may be gone without a chance to end its processes. They notice when they tell it
    something, but only if none of them holds the ends open from which it read.
    """
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    for other in others:
        other.close()
    try:
        connection.send(replay.run(connection.send))
    except BrokenPipeError:  # nobody waits for the result any more
        return
    except (IcnError, MemoryError) as error:
        connection.send(error)

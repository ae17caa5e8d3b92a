"""Solves a plan's problem without holding up the event loop.

A small problem is solved on a thread: it takes milliseconds. A large one would hold Python's lock
for a second, and every answer would wait for it again and again (benchmarks/plan_beside.py), so it
goes to a process of its own, which ends with the plan and costs memory only meanwhile. Where no
process can be started, the thread must do.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
from typing import TYPE_CHECKING, Final

from icnblocks.cache.planning import solve

if TYPE_CHECKING:
    from icnblocks.cache.planning import Plan, Problem

_LOG = logging.getLogger(__name__)
SMALL: Final = 5_000
"""Memberships of models in groups: such a problem takes tens of milliseconds, as a process does."""

LIMIT_S: Final = 300.0
"""A hundred times what the largest plans that are known of take."""


async def solve_beside(problem: Problem) -> Plan:
    """`solve`, elsewhere. Cancelled, it ends the process, or leaves the thread to its end.

    Raises:
        TimeoutError: if the process takes longer than `LIMIT_S`: a thread would take no less.
    """
    if len(problem.members) > SMALL:
        plan = await _in_a_process(problem)
        if plan is not None:
            return plan
    return await asyncio.to_thread(solve, problem)


async def _in_a_process(problem: Problem) -> Plan | None:
    """The plan, or None if there was no process or it failed."""
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "icnblocks_daemon.solving",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the daemon alone
        )  # fmt: skip
    except OSError as error:
        _LOG.warning("no process for a plan, a thread solves it: %s", error)
        return None
    try:
        async with asyncio.timeout(LIMIT_S):
            answer, _ = await process.communicate(pickle.dumps(problem))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        _LOG.warning("the process for a plan ended with %s, a thread solves it", process.returncode)
        return None
    plan: Plan = pickle.loads(answer)  # noqa: S301  (our own child wrote it)
    return plan


if __name__ == "__main__":
    pickle.dump(solve(pickle.load(sys.stdin.buffer)), sys.stdout.buffer)  # noqa: S301

"""Lets a policy plan: takes the problem from it, solves it beside the event loop, hands back.

One plan at a time. A plan that fails is logged and tried again later; one that is under way when
the policy is changed or the daemon stops is thrown away. This module must not know any policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from icnblocks.cache.planning import Planner
from icnblocks_daemon.solving import solve_beside

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.cache.content_store import ContentStore
    from icnblocks.cache.policy import Policy

_LOG = logging.getLogger(__name__)
LOOK_S: Final = 1.0
"""How often it is looked whether a plan is due: never while somebody waits for an answer."""
PAUSE_S: Final = 60.0
"""After a plan that failed."""


class Plans:
    """Drives the content store's policy, if it is a Planner. Lives on the event loop.

    Args:
        content: whose policy is asked.
        clock: seconds that never go backward.
    """

    def __init__(self, content: ContentStore, clock: Callable[[], float]) -> None:
        self._content = content
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self.made = 0
        """Plans adopted."""
        self.failed = 0
        """Plans that failed."""
        self.last_s = 0.0
        """How long the last one took, on the loop and beside it."""
        self.models = 0
        """Models that the last one keeps whole."""
        self.kept_bytes = 0
        """Bytes that it keeps."""

    def look(self) -> None:
        """Begin a plan if one is due and none is under way."""
        policy = self._content.policy
        if not isinstance(policy, Planner):
            return
        now = self._clock()
        due = policy.plan_due(now)  # asked in any case: so it knows that its plans are driven
        if due and self._task is None and now >= self._not_before:
            self._task = asyncio.create_task(self._plan(policy, policy), name="plan")

    async def close(self) -> None:
        """Throw away what is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _plan(self, policy: Policy, planner: Planner) -> None:
        try:
            began = time.perf_counter()
            problem = planner.problem(self._clock())
            plan = await solve_beside(problem)
            if self._content.policy is policy:
                planner.adopt(plan, self._clock())
                self.made += 1
                self.models, self.kept_bytes = plan.models, int(plan.kept.sum())
                self.last_s = time.perf_counter() - began
        except Exception:
            self.failed += 1
            self._not_before = self._clock() + PAUSE_S
            _LOG.exception("a plan failed; the next one is tried in %.0f s", PAUSE_S)
        finally:
            self._task = None

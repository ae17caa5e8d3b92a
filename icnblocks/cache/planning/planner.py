"""What a policy may do beside the contract of policies: plan, remember, weigh other holders.

Each is a protocol of its own; whoever drives a content store asks `isinstance` and does its part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from icnblocks.cache.planning.problem import Plan, Problem
    from icnblocks.naming import Digest


@runtime_checkable
class Planner(Protocol):
    """Is driven as `if plan_due(now): adopt(solve(problem(now)), now)`.

    `solve` may run on another thread or in another process, the policy being used meanwhile; not
    so the others.
    """

    def plan_due(self, now: float) -> bool:
        """Is it time for a plan? O(1). Whoever never asks leaves planning to the policy."""
        ...

    def problem(self, now: float) -> Problem:
        """A snapshot to be solved: some tens of milliseconds for 10,000 models."""
        ...

    def adopt(self, plan: Plan, now: float) -> None:
        """Carry this plan out from now on, whatever changed since the snapshot."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """Knows things that should survive a restart."""

    def state(self, now: float) -> bytes:
        """What was learnt of demand, in the policy's own format."""
        ...

    def restore(self, state: bytes, now: float, elapsed_s: float) -> None:
        """Go on from there, in a fresh policy; models may be learnt before or after.

        Args:
            state: what `state` gave.
            now: seconds, of the clock that all later calls use.
            elapsed_s: seconds that passed meanwhile.

        Raises:
            FormatError: if it is damaged or of another version; then nothing was restored.
        """
        ...


@runtime_checkable
class Priced(Protocol):
    """Weighs models by what a miss of them costs."""

    def priced(self, manifest: Digest, factor: float, now: float) -> None:
        """A miss of this model costs `factor` (0 to 1) of what it costs from the origin.

        Less than 1 if another edge nearby has it. Unknown models are ignored.
        """
        ...

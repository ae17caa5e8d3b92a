"""`fail-over`: the first upstream of the route that is well. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from icnblocks_daemon.strategies.measured import Measured
from icnblocks_daemon.strategies.strategy import register

if TYPE_CHECKING:
    from collections.abc import Hashable

    from icnblocks_daemon.fib import Route


@register
class FailOver(Measured):
    """The first upstream of the route that is well; when none is, the one that rests shortest."""

    name: ClassVar[str] = "fail-over"

    def prefer(
        self, well: Route, now: float, length: int, waiting: int, model: Hashable = None
    ) -> str:
        """See Measured."""
        del now, length, waiting, model
        return well[0]

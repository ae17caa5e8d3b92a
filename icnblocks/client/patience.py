"""Coming back to a source that is busy: when it asks for it, and not for ever.

`Patience` decides and is pure; `Waiter` does what it says. This module must not know what is asked.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, TypeVar

from icnblocks.client.answers import ThrottledError

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST_S: Final = 0.5
"""Between two questions to a source that does not say when to come back, at least."""
_JITTER: Final = 0.25
"""By chance a wait is up to this part longer: those who were refused together come back apart."""

T = TypeVar("T")


class Patience:
    """How long a busy source is waited for. Pure: time and chance are arguments.

    Args:
        budget_s: seconds of refusals, with no progress between, in which all waits must end; with
            0 there is none.
    """

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._since: float | None = None

    def progressed(self) -> None:
        """Something was answered: the refusals before are forgotten."""
        self._since = None

    def refused(self, after_s: float, now: float, chance: float) -> float | None:
        """It is busy: how many seconds to wait now, or None to give up.

        Args:
            after_s: it asked to be left alone for so long; it never is for less.
            now: the time.
            chance: from 0 to 1, for jitter.
        """
        if self._since is None:
            self._since = now
        left = self._since + self._budget_s - now
        wait = max(after_s, _LEAST_S)
        return min(wait * (1.0 + _JITTER * chance), left) if wait <= left else None


class Waiter:
    """Waits for a busy source in one piece of work, such as a publish, as `Patience` says.

    Args:
        budget_s: of the Patience.
        clock: monotonic seconds.
        pause: waits so many seconds; an interrupt must end it.
        chance: a number from 0 to 1.
    """

    def __init__(
        self,
        budget_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._patience = Patience(budget_s)
        self._pause = pause
        self._chance = chance
        self.clock = clock

    def ask(self, call: Callable[[], T]) -> T:
        """What `call` returns, called again each time that the source is busy.

        Raises:
            ThrottledError: of the last call, when there is no patience left.
        """
        while True:
            try:
                answer = call()
            except ThrottledError as error:
                self.refused(error)
            else:
                self.progressed()
                return answer

    def progressed(self) -> None:
        """Something was answered."""
        self._patience.progressed()

    def refused(self, error: ThrottledError) -> None:
        """Wait as long as the source asks for.

        Raises:
            ThrottledError: this one, when there is no patience left.
        """
        wait_s = self._patience.refused(error.after_s, self.clock(), self._chance())
        if wait_s is None:
            raise error
        self._pause(wait_s)

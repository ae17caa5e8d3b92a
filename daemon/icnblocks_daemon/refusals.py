"""What questions ended with a moment ago, so that upstream is not asked again at once. Pure.

This module must not know which answers deserve to be remembered: whoever notes them does.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

    from icnblocks.errors import IcnError

K = TypeVar("K", bound="Hashable")
A = TypeVar("A")
REMEMBERED: Final = 65_536


class Refusals(Generic[K, A]):
    """Questions and their answers, until those are over.

    Args:
        for_s: how long an answer is remembered; 0 for not at all.
        most: how many are; the oldest is forgotten.
    """

    __slots__ = ("_answers", "_for_s", "_most")

    def __init__(self, for_s: float, most: int = REMEMBERED) -> None:
        self._for_s = for_s
        self._most = most
        self._answers: OrderedDict[K, tuple[float, A]] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        """How many are remembered; some of them may be over."""
        return len(self._answers)

    def note(self, key: K, answer: A, now: float, for_s: float = 0.0) -> None:
        """The question for `key` ended with this now; remembered for `for_s`, if that is longer."""
        for_s = max(for_s, self._for_s)
        if for_s <= 0:
            return
        self._answers[key] = (now + for_s, answer)
        self._answers.move_to_end(key)
        while len(self._answers) > self._most or self._first() <= now:
            self._answers.popitem(last=False)

    def forget(self, key: K) -> None:
        """It may be asked again."""
        self._answers.pop(key, None)

    def recall(self, key: K, now: float) -> A | None:
        """What the question ended with; None if it may be asked."""
        until, answer = self._answers.get(key, (now, None))
        return answer if now < until else None

    def _first(self) -> float:
        return next(iter(self._answers.values()))[0]


class Failures(Refusals[K, "IcnError"]):
    """The same of errors, which are raised again."""

    __slots__ = ()

    def note(self, key: K, answer: IcnError, now: float, for_s: float = 0.0) -> None:
        """See Refusals."""
        super().note(key, _bare(answer), now, for_s)

    def check(self, key: K, now: float) -> None:
        """Return if the question may be asked.

        Raises:
            IcnError: what it ended with a moment ago.
        """
        error = self.recall(key, now)
        if error is not None:
            raise _bare(error)


def _bare(error: IcnError) -> IcnError:
    """The same error without what it would keep in memory of the request that met it."""
    bare = type(error).__new__(type(error), *error.args)
    vars(bare).update(vars(error))
    return bare

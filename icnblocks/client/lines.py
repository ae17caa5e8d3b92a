"""Wants that wait to be asked for, in lines of those that the same sources may be asked for. Pure.

What sources say that they lack is kept here, since it decides where a want lines up. A want that
ended meanwhile stays in its line and is passed over. This module must not know whose turn it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from icnblocks.limits import BUNDLE_WANTS, MAX_WANTS, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator

    from icnblocks.client.stealing import Queue
    from icnblocks.naming import Digest
    from icnblocks.wire.bundle import Want

HintT = TypeVar("HintT", bound="Hashable")

_MANY_BYTES: Final = 4 * MIB  # bundles of tiny blocks grow until here


class Lines(Generic[HintT]):
    """The lines of one scheduler, the one drawn from longest ago first.

    Args:
        is_waiting: whether a want in a line still waits.
        ordered: what was ranked first should come first.

    Attributes:
        waiting_bytes: of all wants that wait.
        pressed: blocks that are asked for although sources lack them, since nobody holds them.
        ranks: where the order matters, the place of each block in it.
    """

    def __init__(self, is_waiting: Callable[[Want], bool], *, ordered: bool) -> None:
        self.waiting_bytes = 0
        self.pressed: set[Digest] = set()
        self.ranks: dict[Digest, int] = {}
        self.ordered = ordered
        self._is_waiting = is_waiting
        self._lines: dict[Queue[HintT], deque[Want]] = {}
        self._lacks: dict[int, set[Digest]] = {}

    def __iter__(self) -> Iterator[Queue[HintT]]:
        return iter(list(self._lines))

    def __contains__(self, queue: Queue[HintT]) -> bool:
        return queue in self._lines

    def __getitem__(self, queue: Queue[HintT]) -> deque[Want]:
        """The line of a queue, the next first; ended wants among it."""
        return self._lines[queue]

    @property
    def any_lacks(self) -> bool:
        """Whether some source said what it lacks: a queue's wants may wait in several lines."""
        return bool(self._lacks)

    def lacked_by(self, source: int) -> Collection[Digest]:
        """What a source says that it does not hold."""
        return self._lacks.get(source, ())

    def rank(self, want: Want) -> int:
        """Where a want comes in the order; 0 where there is none."""
        return self.ranks[want.digest] if self.ordered else 0

    def add(self, want: Want, queue: Queue[HintT], *, first: bool = False) -> None:
        """A want begins to wait, at the front of its line or at its end."""
        self.line_up(want, queue, first=first)
        self.waiting_bytes += want.length

    def line_up(self, want: Want, queue: Queue[HintT], *, first: bool = False) -> None:
        """Put a want that waits where those wait that the same sources may be asked for."""
        queue = self.placed(want, queue)
        line = self._lines.get(queue)
        if line is None:
            line = self._lines[queue] = deque()
        if first:
            line.appendleft(want)
        else:
            line.append(want)

    def placed(self, want: Want, queue: Queue[HintT]) -> Queue[HintT]:
        """The same queue, but of those that the same sources say that they lack."""
        if not (self._lacks or queue.lacking):
            return queue
        lacking = [index for index, lacks in self._lacks.items() if want.digest in lacks]
        pressed = want.digest in self.pressed
        return replace(queue, lacking=frozenset(() if pressed else lacking))

    def told(self, source: int, known: Iterable[Digest], lacking: Collection[Digest]) -> None:
        """A source said which of the `known` blocks it does not hold and would not fetch."""
        lacks = self._lacks.setdefault(source, set())
        lacks.difference_update(known)
        lacks.update(lacking)
        lines, self._lines = self._lines, {}
        for queue, line in lines.items():
            plain = replace(queue, lacking=frozenset())
            for want in filter(self._is_waiting, line):
                self.line_up(want, plain)
        if self.ordered:
            for queue, line in self._lines.items():
                self._lines[queue] = deque(sorted(line, key=self.rank))

    def head(self, queue: Queue[HintT]) -> Want | None:
        """The next of a line; None if nobody waits there any more."""
        line = self._lines[queue]
        while line and not self._is_waiting(line[0]):
            line.popleft()
        if not line:
            del self._lines[queue]
            return None
        return line[0]

    def draw(self, queue: Queue[HintT], most: float) -> tuple[Want, ...]:
        """Take the next off a line, for one bundle.

        Args:
            queue: of the line.
            most: bytes, but for the first.
        """
        line, total = self._lines[queue], 0
        drawn: dict[Digest, Want] = {}
        while line and len(drawn) < MAX_WANTS:
            want = line[0]
            if want.digest in drawn or not self._is_waiting(want):
                line.popleft()
                continue
            if drawn and total + want.length > most:
                break
            if len(drawn) >= BUNDLE_WANTS and total >= _MANY_BYTES:
                break
            drawn[line.popleft().digest] = want
            total += want.length
        self.waiting_bytes -= total
        if not line:
            del self._lines[queue]
        return tuple(drawn.values())

    def to_the_end(self, hint: HintT) -> None:
        """Lines of other hints come before those of this one."""
        for each in [each for each in self._lines if each.hint == hint]:
            self._lines[each] = self._lines.pop(each)

    def take(self, queue: Queue[HintT]) -> Iterator[Want]:
        """Dissolve a line; the wants of it that wait when their turn comes, counted still."""
        return filter(self._is_waiting, self._lines.pop(queue))

    def clear(self) -> None:
        """Nobody waits any more."""
        self._lines.clear()

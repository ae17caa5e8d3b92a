"""Bundles under way, and what of them an idle source had better take over.

A source that has nothing left to ask for takes from another what that one is expected to begin
last: so that both end together, and what the other has begun stays its own. What follows closely
on a begun block counts as begun too: it may lie in the buffers of the connection, sent and not
yet read. Only when that is later than its own history explains, and the idle source would have
it much sooner, it is taken too; what the other sent of it by then is lost, and counted. Pure.
This module must not decide who is idle.
"""

from __future__ import annotations

from dataclasses import field
from math import inf
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from icnblocks.limits import KIB
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Iterable, Iterator

    from icnblocks.naming import Digest
    from icnblocks.wire.bundle import Want

HintT = TypeVar("HintT", bound="Hashable")

REQUEST_S: Final = 0.05
"""What a request costs before its first byte comes, at most, on a link that is worth it."""
UNKNOWN_S: Final = 1.0
"""What one block is taken to cost from a source of which nothing is known yet."""
GAIN_S: Final = 0.1
"""Nothing is taken for less: what is on its way to the one who loses it comes in vain."""
LATE: Final = 2.0
"""What has begun is taken when it would come so many times sooner."""
LATE_S: Final = 0.5
"""Nothing that has begun is late before: a busy machine may do nothing else for so long."""
_AGAIN: Final = 2.0
"""For a source that was late itself it must be so many times later, each time that it changed
hands: slow sources must not play it back and forth, and others need not wait for them."""
_LEAST_S: Final = 0.001
SENT_BYTES: Final = 512 * KIB
"""What may lie in the buffers of a connection behind the block that is being received."""


@dataclass(frozen=True, slots=True)
class Queue(Generic[HintT]):
    """Which wants wait together.

    Attributes:
        hint: what bundles of them say.
        refused: sources that have refused them.
        lacking: sources that say that they do not hold them.
        part: of what was added with the hint.
        doubt: sources that gave wrong bytes for them are asked once more, and told so.
    """

    hint: HintT
    refused: frozenset[int] = frozenset()
    lacking: frozenset[int] = frozenset()
    part: int = 0
    doubt: bool = False

    def may(self, source: int) -> bool:
        """Whether a source may be asked for them."""
        return source not in self.refused and source not in self.lacking


@dataclass(slots=True, eq=False)
class Bundle(Generic[HintT]):
    """What to ask a source for now, and how far it is. The scheduler's; read only.

    Attributes:
        source: who is asked.
        queue: where its wants waited.
        wants: what is asked for, in order.
        began: when.
        heard: when the last block of it came.
        got: bytes of blocks of it that came.
        left: what is still expected of it, in order: neither answered, cancelled nor taken over.
        taken: wants that others took over; what comes of them here is waste.
        rescues: how often its want was taken over after it had begun elsewhere.
    """

    source: int
    queue: Queue[HintT]
    wants: tuple[Want, ...]
    began: float
    heard: float
    got: int = 0
    left: dict[Digest, Want] = field(default_factory=dict)
    taken: set[Digest] = field(default_factory=set)
    rescues: int = 0

    @property
    def hint(self) -> HintT:
        """What the request says beside its wants."""
        return self.queue.hint

    def left_bytes(self) -> int:
        """Bytes of what is still expected of it."""
        return _bytes(self.left.values())

    def outlook(self, now: float, usual: float | None) -> tuple[float, float]:
        """When its next block may be expected, and how fast the others after it.

        Args:
            now: the time.
            usual: bytes a second that a lane of its source received so far, or None.

        Returns:
            Seconds, and bytes a second (`inf` while nothing is known of it). What is late is
            expected to be as late again.
        """
        known = self.got / max(self.heard - self.began, _LEAST_S) if self.got else usual or inf
        first = next(iter(self.left.values())).length if self.left else 0
        silent = now - self.heard
        if silent <= first / known:
            return first / known - silent, known
        return silent - first / known, min(known, first / silent)


class UnderWay(Generic[HintT]):
    """The bundles under way, the oldest first."""

    def __init__(self) -> None:
        self._bundles: dict[Bundle[HintT], None] = {}

    def __bool__(self) -> bool:
        return bool(self._bundles)

    def __iter__(self) -> Iterator[Bundle[HintT]]:
        return iter(self._bundles)

    def begin(self, bundle: Bundle[HintT]) -> None:
        """It is asked for."""
        self._bundles[bundle] = None

    def end(self, bundle: Bundle[HintT]) -> None:
        """It has ended. No error if it had before."""
        self._bundles.pop(bundle, None)

    def of(self, source: int) -> list[Bundle[HintT]]:
        """Those of a source."""
        return [bundle for bundle in self._bundles if bundle.source == source]

    def busy(self, source: int, queue: Queue[HintT]) -> int:
        """How many of a queue's hint a source is working on."""
        return sum(bundle.hint == queue.hint for bundle in self.of(source))

    def drawn_from(self, queue: Queue[HintT]) -> int:
        """How many are of a queue's part."""
        return sum(
            each.queue.part == queue.part and each.hint == queue.hint for each in self._bundles
        )


@dataclass(frozen=True, slots=True)
class Theft(Generic[HintT]):
    """What to take over from whom, and how often that was taken when it had begun."""

    victim: Bundle[HintT]
    wants: tuple[Want, ...]
    rescues: int = 0


def choose(
    thief: int,
    usual: float | None,
    bundles: Iterable[tuple[Bundle[HintT], float | None]],
    now: float,
    lacking: Container[Digest] = (),
    *,
    late: bool = False,
    rescues: bool = True,
) -> Theft[HintT] | float | None:
    """What an idle source should take over.

    Args:
        thief: the idle source.
        usual: bytes a second that a lane of it receives, or None.
        bundles: those under way, each with what a lane of its source receives.
        now: the time.
        lacking: what the idle source does not hold.
        late: what had begun was taken from the idle source, and nothing came of it since.
        rescues: whether it may take what has begun.

    Returns:
        What to take; or when to look again; or None if nothing can be taken from anybody.
    """
    behind: list[tuple[float, float, int, Bundle[HintT]]] = []
    for number, (bundle, rate) in enumerate(bundles):
        if bundle.source != thief and bundle.left and bundle.queue.may(thief):
            first_s, pace = bundle.outlook(now, rate)
            rest = bundle.left_bytes() - next(iter(bundle.left.values())).length
            behind.append((first_s + rest / pace, pace, number, bundle))
    behind.sort(reverse=True)
    for due, pace, _, bundle in behind:
        left = list(bundle.left.values())
        begun = _begun(left)
        later = [want for want in left[begun:] if want.digest not in lacking]
        wants = _cut(later, due, pace, usual)
        if wants:
            return Theft(bundle, wants)
        if begun == len(left) and rescues:
            wants = tuple(want for want in left if want.digest not in lacking)
            takes = UNKNOWN_S if usual is None else REQUEST_S + _bytes(wants) / usual
            patience = (LATE * takes + LATE_S) * (_AGAIN**bundle.rescues if late else 1.0)
            if wants and due > patience:
                return Theft(bundle, wants, bundle.rescues + 1)
    return now + min(max(behind[0][0] / 2, REQUEST_S), 1.0) if behind else None


def _begun(left: list[Want]) -> int:
    """How many of the first wants of a bundle are on their way already, or may be."""
    behind = 0
    for number, want in enumerate(left[1:], 1):
        behind += want.length
        if behind > SENT_BYTES:
            return number
    return len(left)


def _bytes(wants: Iterable[Want]) -> int:
    return sum(want.length for want in wants)


def _cut(later: list[Want], due: float, pace: float, usual: float | None) -> tuple[Want, ...]:
    """Of wants that have not begun, how many of the last to take, so that both end together."""
    stays, takes, cut = due, UNKNOWN_S if usual is None else REQUEST_S, 0
    speed = usual or inf
    for want in reversed(later):
        if takes + want.length / speed > stays - want.length / pace:
            break
        takes += want.length / speed
        stays -= want.length / pace
        cut += 1
    return tuple(later[len(later) - cut :]) if due - max(stays, takes) >= GAIN_S else ()

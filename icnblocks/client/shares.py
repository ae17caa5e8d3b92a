"""How much to ask a source for at a time, so that all finish together. Pure.

This module must not know which blocks are wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from icnblocks.client.stealing import GAIN_S, LATE, REQUEST_S
from icnblocks.limits import BLOCK_BYTES, BUNDLE_WANTS, KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from icnblocks.client.states import SourceState
    from icnblocks.client.stealing import Bundle

HintT = TypeVar("HintT", bound="Hashable")

_MOST_BYTES: Final = BUNDLE_WANTS * BLOCK_BYTES
_LEAST_BYTES: Final = 256 * KIB  # bundles are not split below this
_LEAST_OF_ONE: Final = 16 * MIB  # the same where there is one source: its lanes share what is slow
_FIRST_BYTES: Final = 8 * MIB  # from a source whose rate is not known
_FIRST_OF_MANY: Final = 2 * MIB  # the same where there are others to compare it with
_PROBE_BYTES: Final = MIB
_SECONDS: Final = 4.0  # what a bundle should take
_ORDERED_SECONDS: Final = 0.5  # the same where the order matters


def bundle_bytes(
    state: SourceState, sources: Sequence[SourceState], waiting: int, *, ordered: bool
) -> float:
    """Bytes that the next bundle of a source should not exceed, but for its first want.

    Args:
        state: the source.
        sources: all of them.
        waiting: bytes of all wants that are not in flight.
        ordered: what was added first should come first.
    """
    if state.failures:
        return _PROBE_BYTES
    # Half of a share by rate: so lanes that finish early find something left to take.
    well = [each for each in sources if not each.failures and not each.given_up]
    known = [each.lane_rate for each in well if each.lane_rate is not None]
    usual = sum(known) / len(known) if known else 1.0
    together = sum(each.lanes * (each.lane_rate or usual) for each in well)
    share = waiting * (state.lane_rate or usual) / (2 * together)
    if state.lane_rate is None:
        rated: float = _FIRST_BYTES if len(sources) == 1 else _FIRST_OF_MANY
    else:
        rated = state.lane_rate * (_ORDERED_SECONDS if ordered else _SECONDS)
    # Each bundle begins with a wait, and an edge behind it can only fetch what it is asked for:
    # were the last asked for when the one before has come, its backhaul would be idle meanwhile.
    least = _LEAST_OF_ONE if len(sources) == 1 else _LEAST_BYTES
    return min(max(share, least), rated, _MOST_BYTES)


def pace(state: SourceState, bundles: Iterable[Bundle[HintT]], now: float) -> float:
    """Bytes a second of all lanes of a source.

    Args:
        state: the source.
        bundles: those of it under way: where one has become slow, that counts.
        now: the time.
    """
    usual = state.lane_rate or 0.0
    paces = [min(each.outlook(now, state.lane_rate)[1], usual) for each in bundles if each.left]
    return sum(paces) + usual * (state.lanes - len(paces))


def hold_back(
    state: SourceState, rate: float, length: int, waiting: int, now: float
) -> float | None:
    """Whether others will have all that waits before a source had one more block.

    Args:
        state: the source; told since when it has been holding back.
        rate: bytes a second of the others who may be asked for the same.
        length: of the block that it would begin with.
        waiting: bytes of all wants that are not in flight.
        now: the time.

    Returns:
        When to look again, or None if it should ask. It waits no longer than its own block
        would take: the others may have failed unnoticed.
    """
    if state.lane_rate is None:
        return None
    mine = length / state.lane_rate
    rest = waiting / rate if rate else mine
    if mine <= LATE * (rest + REQUEST_S) + GAIN_S:
        return None
    if state.held_since is None:
        state.held_since = now
    if now - state.held_since >= mine:
        return None
    return now + min(max(rest, REQUEST_S), mine)

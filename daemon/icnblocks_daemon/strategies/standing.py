"""What is known of one upstream: how fast it is, what it owes, how long it rests. Pure.

The time is an argument everywhere. This module must not know whom to ask: strategies do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import field
from enum import StrEnum
from math import exp
from typing import TYPE_CHECKING, Final

from icnblocks.limits import KIB, MIB
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Hashable

FIRST_REST_S: Final = 1.0
"""Of an upstream that failed; doubled at each further failure without success between."""
FIRST_CORRUPT_REST_S: Final = 8.0
MOST_REST_S: Final = 60.0
MOST_CORRUPT_REST_S: Final = 600.0
FORGIVEN_S: Final = 600.0
"""Corrupt blocks are forgotten when none came for so long."""
_DOUBLINGS: Final = 16
_SPAN_S: Final = 3.0
"""What was measured fades within this time, so that what is new counts more..."""
_LEAST_FADE: Final = 0.1
"""...but an idle time, however long, leaves this much of it."""
_TRIES: Final = 16
"""The share of wants that it had is that of the last so many, roughly."""
_LEAST_FOUND: Final = 1 / 64
_HISTORY: Final = 128
_WINDOW_S: Final = 0.5
_FIRST_WINDOW: Final = 4 * MIB
_LEAST_WINDOW: Final = 2 * MIB
_OVERTAKEN: Final = 0.5
"""A block that came before so much of what was owed of other models did not stand in line behind
that: the upstream has it, and waits for the others itself."""
_MOST_QUICK: Final = 1024
"""So many models of which it owes nothing are remembered as quick."""
_LEAST_BUSY_S: Final = 1e-6
LEAST_RATE: Final = 1.0 * KIB
"""A rate is not taken to be lower: the time that a block takes must stay a number."""


class Failure(StrEnum):
    """What an upstream did wrong."""

    BROKEN = "broken"  # could not be reached, was cut off, or broke the protocol
    SLOW = "slow"  # sent nothing while another was asked for the same, and gave it
    BUSY = "busy"  # asked to be left alone
    CORRUPT = "corrupt"  # sent bytes of another digest


@dataclass(frozen=True, slots=True)
class Asked:
    """A block that was asked of an upstream, and how things stood then.

    Attributes:
        upstream: whom.
        length: bytes of the block.
        at: when.
        ahead: bytes that the upstream owed before.
        ended: bytes of all that it had been asked for and no longer owed.
        model: what the block is of.
        others: of `ahead`, those of other models.
    """

    upstream: str
    length: int
    at: float
    ahead: int
    ended: int
    model: Hashable = None
    others: int = 0


@dataclass(slots=True)
class Standing:
    """One upstream. Read it; only its own methods change it.

    Attributes:
        owed: bytes that it was asked for and has neither given nor refused.
        ended: bytes of all that it was asked for and no longer owes.
        rests_until: it is passed over until then where there is another.
        why: its last failure, or None.
        demotions: how often it was made to rest.
        asked_at: when it was last asked for a block; None: never.
        heard_at: when it last gave a block, or began to owe one.
        found: share of the wants, lately, that it had.
    """

    owed: int = 0
    ended: int = 0
    rests_until: float = 0.0
    why: Failure | None = None
    demotions: int = 0
    asked_at: float | None = None
    heard_at: float = 0.0
    found: float = 1.0
    _owed_of: dict[Hashable, int] = field(default_factory=dict)  # what it owes of each model
    _quick: set[Hashable] = field(default_factory=set)  # models that stand behind no other
    _probe: Asked | None = None  # of a model that may be quick
    _failures: int = 0
    _corrupts: int = 0
    _corrupt_at: float = 0.0
    _bytes: float = 0.0
    _busy_s: float = 0.0
    _mark: float = 0.0
    _waits: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    _ranked: list[float] = field(default_factory=list)  # the same, sorted when that is asked for

    # --- events ---------------------------------------------------------------------------

    def asked(self, upstream: str, length: int, now: float, model: Hashable = None) -> Asked:
        """It is asked for a block of so many bytes."""
        if not self.owed:
            fade = max(exp(-max(now - self._mark, 0.0) / _SPAN_S), _LEAST_FADE)
            self._bytes *= fade
            self._busy_s *= fade
            self._mark = self.heard_at = now
            self._quick.clear()
        own = self._owed_of.get(model, 0)
        asked = Asked(upstream, length, now, self.owed, self.ended, model, self.owed - own)
        if model not in self._quick and self._in_line() >= self.window(now):
            self._probe = asked
        self.owed += length
        self._owed_of[model] = own + length
        self.asked_at = now
        return asked

    def delivered(self, asked: Asked, now: float) -> None:
        """It gave the block, and it was verified."""
        busy = max(now - self._mark, 0.0)
        fade = max(exp(-busy / _SPAN_S), _LEAST_FADE)
        self._bytes = self._bytes * fade + asked.length
        self._busy_s = self._busy_s * fade + busy
        self._mark = self.heard_at = now
        rate = self.rate(now)
        queued = asked.ahead / rate if rate else 0.0
        self._waits.append(max(now - asked.at - queued, 0.0))
        self._ranked.clear()
        if asked is self._probe or asked.model in self._quick:
            overtook = self.ahead_of(asked) > _OVERTAKEN * asked.others
            (self._quick.add if overtook else self._quick.discard)(asked.model)
        self.found += (1.0 - self.found) / _TRIES
        self.end(asked)
        self.well(now)

    def lacked(self, asked: Asked, now: float) -> None:
        """It has not got the block, and said so properly."""
        self.found = max(self.found * (1 - 1 / _TRIES), _LEAST_FOUND)
        self.heard_at = now
        self.end(asked)
        self.well(now)

    def end(self, asked: Asked) -> None:
        """Nothing is expected of it for this any more."""
        if asked is self._probe:
            self._probe = None
        self.owed -= asked.length
        self.ended += asked.length
        self._owed_of[asked.model] -= asked.length
        if not self._owed_of[asked.model]:
            del self._owed_of[asked.model]
            if len(self._quick) > _MOST_QUICK:  # anybody can make models up
                self._quick.discard(asked.model)

    def well(self, now: float) -> None:
        """It answered: what went wrong is over, but for corrupt blocks, which it must sit out."""
        self._failures = 0
        if self.why is not Failure.CORRUPT:
            self.rests_until = min(self.rests_until, now)

    def failed(self, kind: Failure, now: float, *, least_s: float = 0.0) -> None:
        """It failed, and is demoted; while it rests already, that is of the same incident.

        It rests on, then, if it asks for that.

        Args:
            kind: how.
            now: the time.
            least_s: it asked to be left alone for so long.
        """
        if kind is Failure.CORRUPT and now - self._corrupt_at > FORGIVEN_S:
            self._corrupts = 0
        worse = kind is Failure.CORRUPT and self.why is not Failure.CORRUPT
        asked_for = now + min(least_s, MOST_REST_S)
        if self.rests_until > now and not worse:
            self.rests_until = max(self.rests_until, asked_for)
            return
        if kind is Failure.CORRUPT:
            rest = min(FIRST_CORRUPT_REST_S * 2.0**self._corrupts, MOST_CORRUPT_REST_S)
            self._corrupts = min(self._corrupts + 1, _DOUBLINGS)
            self._corrupt_at = now
        else:
            rest = min(FIRST_REST_S * 2.0**self._failures, MOST_REST_S)
            self._failures = min(self._failures + 1, _DOUBLINGS)
        self.rests_until = max(self.rests_until, now + rest, asked_for)
        self.why = kind
        self.demotions += 1

    # --- questions ------------------------------------------------------------------------

    def resting(self, now: float) -> float:
        """Seconds for which it is passed over where there is another; 0 when it is well."""
        return max(0.0, self.rests_until - now)

    def silence(self, now: float) -> float:
        """Seconds for which it has owed something and given nothing."""
        return max(now - self.heard_at, 0.0) if self.owed else 0.0

    def rate(self, now: float) -> float | None:
        """Bytes a second while it owed something, lately; None if nothing ever came.

        A silence that is longer than its blocks usually take counts: so one that stalls sinks.
        """
        if not self._bytes:
            return None
        silent = self.silence(now)
        usual = 2 * self._busy_s * MIB / self._bytes
        busy = self._busy_s + (silent if silent > usual else 0.0)
        return max(self._bytes / max(busy, _LEAST_BUSY_S), LEAST_RATE)

    def past_rate(self) -> float | None:
        """The same, whatever the silence now."""
        return self._bytes / max(self._busy_s, _LEAST_BUSY_S) if self._bytes else None

    def window(self, now: float) -> float:
        """Bytes that it should owe at most: half a second's worth."""
        rate = self.rate(now)
        return _FIRST_WINDOW if rate is None else max(rate * _WINDOW_S, _LEAST_WINDOW)

    def may_ask(self, length: int, now: float, model: Hashable = None) -> bool:
        """Is there room in its window for a block of a model?

        A block may go beyond the window, so that small ones do not take all the room for which a
        large one waits. What the upstream waits for itself shall hold up nothing else: so one
        block at a time, of a model of which it owes nothing, goes beside a full window. A model
        whose block came before what was owed of others has a window of its own, as long as that
        goes on.
        """
        own = self._owed_of.get(model, 0)
        if model in self._quick:
            return not own or own + length <= self.window(now)
        if self._in_line() < self.window(now):
            return True
        return not own and (self._probe is None or now - self._probe.at >= _WINDOW_S)

    def may_help(self, length: int, now: float, model: Hashable = None) -> bool:
        """May it be asked for a block with which another is late, whatever else it owes?"""
        owed = self._owed_of.get(model, 0)
        return not owed or owed + length <= self.window(now)

    def _in_line(self) -> int:
        """Bytes that it owes of models that are not quick."""
        quick = sum(owed for model, owed in self._owed_of.items() if model in self._quick)
        return self.owed - quick

    def ahead_of(self, asked: Asked) -> int:
        """Bytes that it still owes of those that it owed when it was asked for this."""
        return max(0, asked.ahead - (self.ended - asked.ended))

    def patience(self, quantile: float) -> float | None:
        """Seconds within which so great a part of its blocks came, once it was their turn.

        None if too few came to say.
        """
        if len(self._waits) < _TRIES:
            return None
        ranked = self._ranked = self._ranked or sorted(self._waits)
        return ranked[min(int(quantile * len(ranked)), len(ranked) - 1)]

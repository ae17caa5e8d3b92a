"""The fetch engine of a device that has neighbours: they join while it runs.

A neighbour has one lane. When there is nothing to ask it for, its lane listens to what it gets.
This module must not find neighbours, and must not decide what to ask whom: the scheduler does.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from icnblocks.client.answers import ThrottledError
from icnblocks.client.engine import Engine
from icnblocks.client.gathering import Deal, Gathering
from icnblocks.client.lane import Lane
from icnblocks.client.neighbours import deal, listen
from icnblocks.errors import ForeignError, FormatError, IcnError, NotFoundError, SourceError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from icnblocks.client.events import Listener
    from icnblocks.client.holders import Catalogued
    from icnblocks.client.source import Source
    from icnblocks.client.states import RetryOptions
    from icnblocks.client.terms import EngineOptions, Hint, Sink

_LISTEN_S: Final = 1.0
"""A neighbour that has nothing new may keep us waiting for so long."""
_STALE_S: Final = 1.5
"""What a neighbour holds is asked anew after so long, also while there is something to ask for."""
_QUIET_S: Final = 0.5
"""One that answers at once, and nothing new, is left alone for so long."""


@dataclass(slots=True)
class _Heard:
    """What a neighbour last said."""

    held: int = -1
    at: float = float("-inf")
    quiet_until: float = float("-inf")


class NeighbourlyEngine(Engine):
    """An Engine for one manifest that neighbours can join.

    Args:
        sources: whom to ask; they stay the caller's to close.
        sink: where blocks and refusals go.
        about: the manifest.
        hint: what bundles say about its blocks; `add` must be given the same.
        port: where this device serves its neighbours.
        options: how to work; the order is any.
        listener: told of every event.
        clock: monotonic seconds.
        random: for jitter, and to break ties.

    Raises:
        UsageError: if there is no source.
    """

    _scheduler: Gathering[Hint]

    def __init__(
        self,
        sources: Sequence[Source],
        sink: Sink,
        about: Catalogued,
        hint: Hint,
        port: int,
        options: EngineOptions | None = None,
        listener: Listener | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self._about = about
        self._hint = hint
        self._port = port
        self._heard: dict[int, _Heard] = {}
        super().__init__(sources, sink, options, listener, clock=clock, random=random)
        self._several = True

    def _make_scheduler(
        self, sources: Sequence[tuple[str, int]], random: Random, retry: RetryOptions
    ) -> Gathering[Hint]:
        return Gathering(sources, random, retry, blocks=self._about.blocks, hint=self._hint)

    def join(self, neighbour: Source) -> None:
        """Ask a neighbour from here on. From any thread; returns at once.

        Args:
            neighbour: stays the caller's to close, after the engine.
        """
        with self._lock:
            if self._closed:
                return
            index = self._scheduler.join(neighbour.url)
            self._heard[index] = _Heard()
            self._received.append(0)
            self._lanes.append(Lane(index, neighbour))
            self._start()

    def let_go(self, url: str) -> None:
        """Do not ask a neighbour any more. From any thread; returns at once."""
        error = SourceError(f"{url} has given nothing for long")
        with self._lock:
            for index in range(self._sources, len(self._scheduler.sources)):
                if self._scheduler.sources[index].name != url or self._scheduler.dropped(index):
                    continue
                refusals = self._scheduler.drop(index, error, self._clock())
                if refusals:
                    self._refusals.append(refusals)  # a lane delivers them
                self._note(refusals)

    def dropped(self) -> dict[str, IcnError]:
        """Neighbours that are not asked any more, by URL, and why; not those that came back."""
        found: dict[str, IcnError] = {}
        with self._lock:
            for index in range(self._sources, len(self._scheduler.sources)):
                state = self._scheduler.sources[index]
                found.pop(state.name, None)
                if self._scheduler.dropped(index) and state.last_error is not None:
                    found[state.name] = state.last_error
        return found

    def _is_over(self, lane: Lane) -> bool:
        return lane.index >= self._sources and self._scheduler.dropped(lane.index)

    def _errand(self, lane: Lane, now: float) -> Callable[[], None] | bool:
        if lane.index >= self._sources:
            due = now - self._heard[lane.index].at >= _STALE_S and bool(self._scheduler)
            return partial(self._listen, lane, 0.0) if due else False
        errand = super()._errand(lane, now)
        if errand is not False:
            return errand
        due_deal = self._scheduler.deal(lane.index, now)
        return partial(self._deal, lane, due_deal) if isinstance(due_deal, Deal) else due_deal

    def _pastime(self, lane: Lane, until: float | None, now: float) -> Callable[[], None] | None:
        if lane.index < self._sources or not self._scheduler:
            return None
        wait_s = _LISTEN_S if until is None else min(max(until - now, 0.05), _LISTEN_S)
        quiet_s = self._heard[lane.index].quiet_until - now
        if quiet_s > 0:
            self._changed.wait(min(quiet_s, wait_s))
            return _nothing
        return partial(self._listen, lane, wait_s)

    def _listen(self, lane: Lane, wait_s: float) -> None:
        """Ask a neighbour what it holds; without an answer it is let go."""
        heard, about = self._heard[lane.index], self._about
        began = self._clock()
        known = heard.held if wait_s else -1
        try:
            have = listen(
                lane.connection, about.manifest, len(about.blocks), known, wait_s, self._port
            )
        except IcnError as error:
            failure: IcnError = error
            if isinstance(error, NotFoundError):  # it may have begun anew, and know it soon
                failure = SourceError(str(error))
            with self._lock:
                refusals = self._scheduler.drop(lane.index, failure, self._clock())
                self._note(refusals)
            self._handover.refuse(refusals)
            return
        with self._lock:
            heard.at = self._clock()
            heard.held = have.held
            fresh = self._scheduler.heard(lane.index, have.flags)
            if not fresh and heard.at - began < wait_s / 2:
                heard.quiet_until = heard.at + _QUIET_S

    def _deal(self, lane: Lane, due: Deal) -> None:
        """Have a source deal. If it fails, it will fail at a bundle too, and be demoted for it."""
        indexes: list[int] | None = []
        try:
            indexes = deal(
                lane.connection, self._about.manifest, self._about.name, due.had, due.most
            )
        except (FormatError, ForeignError):
            indexes = None
        except ThrottledError as error:
            self._put_off(lane, error)
            return
        except IcnError:
            pass
        with self._lock:
            self._scheduler.dealt(lane.index, indexes)
            self._wake()


def _nothing() -> None:
    """Look again."""

"""What a fetch engine hands to its sink, tells its listener, and counts.

The counts are guarded by the engine's lock; the sink and the listener are called without it. This
module must not decide what is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icnblocks.client.events import Counters, Demoted, Received, Refused, Waste

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from icnblocks.client.events import Event, Listener
    from icnblocks.client.scheduler import Refusal
    from icnblocks.client.states import SourceState
    from icnblocks.client.terms import Sink
    from icnblocks.errors import IcnError
    from icnblocks.store.base import Verified


class SinkFailure(Exception):
    """Wraps what the sink raised, so that it is not taken for a source's failure."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Handover:
    """For all lanes of one engine.

    Args:
        sink: where blocks and refusals go.
        listener: told of every event.
        lock: the engine's.
        delivered: called, with the lock, after each call of the sink that `due` counted.

    Attributes:
        due: calls of the sink that have begun or are about to. Whoever will call `accept` or
            `refuse` counts it first, while the lock is held in which the wants ended.
        blocks: how many were accepted.
        wasted: payload bytes in vain, by cause.
    """

    def __init__(
        self,
        sink: Sink,
        listener: Listener | None,
        lock: threading.Lock,
        delivered: Callable[[], None],
    ) -> None:
        self._sink = sink
        self._listener = listener
        self._lock = lock
        self._delivered = delivered
        self._refused = 0
        self.due = 0
        self.blocks = 0
        self.wasted = dict.fromkeys(Waste, 0)

    def counters(self, received: int) -> Counters:
        """Payload bytes so far; call it with the lock."""
        return Counters(received, dict(self.wasted), self.blocks, self._refused)

    def accept(self, source: str, blocks: Sequence[Verified]) -> None:
        """Hand over what came together from a source; nothing, if it is nothing.

        Raises:
            SinkFailure: what the sink raised.
        """
        if not blocks:
            return
        try:
            self._sink.accept(blocks)
        except BaseException as error:
            raise SinkFailure(error) from error
        if self._listener is not None:  # an event costs as much as a small block
            for block in blocks:
                self._listener(Received(source, block.digest, len(block.data)))
        with self._lock:
            self._over()

    def refuse(self, refusals: Sequence[Refusal]) -> None:
        """Hand over refusals, counted in `due` as one; nothing, if there are none.

        Raises:
            SinkFailure: what the sink raised.
        """
        if not refusals:
            return
        for refusal in refusals:
            try:
                self._sink.refuse(refusal.want, refusal.error)
            except BaseException as error:
                raise SinkFailure(error) from error
            self.tell(Refused(refusal.want.digest, refusal.error))
        with self._lock:
            self._refused += len(refusals)
            self._over()

    def _over(self) -> None:
        self.due -= 1
        self._delivered()

    def tell(self, event: Event) -> None:
        """Tell the listener, if there is one."""
        if self._listener is not None:
            self._listener(event)

    def tell_demoted(self, state: SourceState, error: IcnError, now: float) -> None:
        """A source had a setback: tell the listener if it is left alone for that."""
        wait_s = state.retry_at - now
        if wait_s > 0:
            self.tell(Demoted(state.name, error, wait_s))

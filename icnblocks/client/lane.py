"""A lane: one connection to a source, with a buffer that its blocks are received in.

For one thread. This module must not decide what is asked for, nor judge what comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icnblocks.wire.bundle import BundleRequest, Order
from icnblocks.wire.frames import buffer_bytes
from icnblocks.wire.headers import VIA_HEADER

if TYPE_CHECKING:
    import threading

    from icnblocks.client.http import Connection
    from icnblocks.client.source import BundleStream, Pacer, Source
    from icnblocks.client.stealing import Bundle
    from icnblocks.client.terms import Hint


class Lane:
    """A thread's source, its connection and what it is working on.

    Args:
        index: of the source.
        source: whom it asks.
    """

    def __init__(self, index: int, source: Source) -> None:
        self.index = index
        self.source = source
        self.connection: Connection = source.connect()
        self.bundle: Bundle[Hint] | None = None  # what it is working on
        self.abandoned = False  # nobody wants the rest of the bundle
        self.thread: threading.Thread | None = None
        self.buffer = memoryview(b"")

    def ask(self, bundle: Bundle[Hint], order: Order, pacer: Pacer | None) -> BundleStream:
        """Ask for a bundle.

        Args:
            bundle: what to ask for.
            order: in which order it must be answered; if in any, as its hint says.
            pacer: holds back what is read.

        Raises:
            IcnError: as the source refuses, or cannot be reached.
        """
        need = buffer_bytes(max(want.length for want in bundle.wants))
        if len(self.buffer) < need:
            self.buffer = memoryview(bytearray(need))
        hint = bundle.hint
        request = BundleRequest(
            bundle.wants, hint.name, hint.manifest, hint.pull, hint.hops,
            hint.order if order is Order.ANY else order, hint.priority,
            hint.doubt or bundle.queue.doubt,
        )  # fmt: skip
        headers = {VIA_HEADER: hint.via} if hint.via else None
        return self.source.bundle(
            request, self.connection, self.buffer, headers=headers, pacer=pacer
        )

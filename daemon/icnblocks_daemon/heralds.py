"""Begins to fetch the first blocks of a model for a client that is about to ask for them.

Between a manifest and the first bundle a client takes a round trip and some work, and the link to
an upstream would stand idle meanwhile. A client that has nothing of the model yet says so with its
question for the manifest (`ICN-Expect: blocks`). Where that manifest is new here, none of its
blocks is likely to be here, and the first ones are wanted at once, as if the client had asked for
them: its bundle joins them, or finds them. What has not come after a while is given up, unless
somebody wants it by then. On the loop. This module must not know HTTP.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from icnblocks.limits import MIB
from icnblocks.wire.bundle import Want

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from icnblocks.naming import Digest
    from icnblocks.wire.frames import Reason
    from icnblocks_daemon.forwarder import Forwarder
    from icnblocks_daemon.interests import Hint

AHEAD_BYTES: Final = 8 * MIB
"""So much of a model is wanted: what a link of 1 Gbit/s carries in 70 ms."""
PATIENCE_S: Final = 2.0
"""A client that has not asked for a block by then is taken to be gone."""
_MOST: Final = 16
"""Models at a time for which this is done."""


class Heralds:
    """Those of one daemon.

    Args:
        forwarder: gets the blocks.
        is_here: whether one needs no getting.
    """

    def __init__(self, forwarder: Forwarder, is_here: Callable[[Digest], bool]) -> None:
        self._forwarder = forwarder
        self._is_here = is_here
        self._expected: dict[Digest, Hint] = {}
        self._heralds: dict[_Herald, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """How many wait for blocks."""
        return len(self._heralds)

    @contextmanager
    def expecting(self, manifest: Digest, hint: Hint) -> Iterator[None]:
        """While a client is given this manifest: it will ask for all of its blocks, as `hint`."""
        self._expected.setdefault(manifest, hint)
        try:
            yield
        finally:
            self._expected.pop(manifest, None)

    def fetched(self, manifest: Digest, lengths: Mapping[Digest, int]) -> None:
        """A manifest came from upstream; its distinct blocks, in order."""
        hint = self._expected.pop(manifest, None)
        if hint is None or len(self._heralds) >= _MOST:
            return
        herald = _Herald(self._forwarder)
        herald.begin(self._first(lengths), hint)
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._end, herald)
        self._heralds[herald] = timer

    def close(self) -> None:
        """Give up what has not come; of a manifest that still comes nothing is expected."""
        self._expected.clear()
        for herald, timer in list(self._heralds.items()):
            timer.cancel()
            self._end(herald)

    def _first(self, lengths: Mapping[Digest, int]) -> Iterator[Want]:
        taken = 0
        for digest, length in lengths.items():
            taken += length
            if taken > AHEAD_BYTES:
                return
            if not self._is_here(digest):
                yield Want(digest, length)

    def _end(self, herald: _Herald) -> None:
        del self._heralds[herald]
        herald.close()


class _Herald:
    """Waits for the first blocks of one model; see `Waiter`."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._waiting: set[Digest] = set()

    def begin(self, wants: Iterable[Want], hint: Hint) -> None:
        for want in wants:
            self._waiting.add(want.digest)
            self._forwarder.want(self, want, hint, counted=False)

    def landed(self, digest: Digest) -> None:
        """See Waiter."""
        self._waiting.discard(digest)

    def refused(self, digest: Digest, reason: Reason, text: str) -> None:  # noqa: ARG002
        """See Waiter. Who asks for it will be told."""
        self._waiting.discard(digest)

    def close(self) -> None:
        while self._waiting:
            self._forwarder.leave(self, self._waiting.pop())

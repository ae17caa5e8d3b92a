"""Walking an OrderedDict of blocks that changes meanwhile. It must not know any policy."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Iterator

    from icnblocks.naming import Digest


def walk(order: OrderedDict[Digest, Any]) -> Iterator[Digest]:
    """Its blocks from first to last.

    What was given may be removed meanwhile, and others added at the end. They are looked up in
    pieces, each twice as long as the one before: the work is at most twice that for what is used
    of them.
    """
    first = next(iter(order), None)
    if first is None:
        return
    yield first
    piece, length = [first], 1
    given: list[Digest] = []
    while piece:
        # What was given and not removed stands at the head; of earlier pieces too, what was still
        # there when this one was made may have been removed since.
        given = [digest for digest in chain(given, piece) if digest in order]
        length *= 2
        piece = list(islice(order, len(given), len(given) + length))
        yield from piece

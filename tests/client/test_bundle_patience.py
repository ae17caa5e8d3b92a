"""How long a source may say that it is at work, without a block: not for ever."""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING

import pytest

from icnblocks.client.source import BundleStream
from icnblocks.errors import SourceError
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import (
    ALIVE,
    PREAMBLE,
    FrameDecoder,
    buffer_bytes,
    data_header,
    end_frame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK = bytes(1000)
PATIENCE_S = 300.0


class Slow:
    """An answer that comes in these pieces, each a second after the one before."""

    where = "there"

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def readinto(self, view: memoryview) -> int:
        self.now += 1.0
        piece = next(self._pieces, b"")
        view[: len(piece)] = piece
        return len(piece)

    def forgive(self) -> None:
        pass

    def finish(self) -> None:
        pass


def read(pieces: Iterable[bytes], monkeypatch: pytest.MonkeyPatch) -> Slow:
    """An answer of these pieces, read to its end."""
    slow = Slow(chain([PREAMBLE], pieces))
    monkeypatch.setattr("icnblocks.client.source.time", slow)
    buffer = memoryview(bytearray(buffer_bytes(len(BLOCK))))
    decoder = FrameDecoder([Want(Digest.of(BLOCK), len(BLOCK))], buffer)
    for _ in BundleStream(slow, decoder, PATIENCE_S):  # type: ignore[arg-type]
        pass
    return slow


@pytest.mark.parametrize("at", [0, 1, 4, 7])
def test_a_source_that_only_says_it_is_at_work_is_left_however_that_is_cut(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: Alive frames in two pieces each, which hung a pull for ever.

    The first piece completes no frame, and what completed none counted as a sign of a block.
    """
    pieces = [piece for piece in (ALIVE[:at], ALIVE[at:]) if piece]
    with pytest.raises(SourceError, match="has sent nothing for 300 s"):
        read(chain.from_iterable(repeat(pieces, 2000)), monkeypatch)


def test_a_block_that_comes_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes count though no frame of it is whole, also where an Alive comes with them."""
    first = ALIVE + data_header(0, len(BLOCK)) + BLOCK[:1]
    rest = [BLOCK[at : at + 1] for at in range(1, len(BLOCK))]
    almost = [ALIVE] * int(PATIENCE_S - 10)
    slow = read([*almost, first, *rest, end_frame(1)], monkeypatch)
    assert slow.now > len(BLOCK)

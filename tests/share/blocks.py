"""Blocks that tests of sharing hand round."""

from __future__ import annotations

from random import Random

from icnblocks.naming import Digest

MANIFEST = Digest(b"m" * 32)


def blocks_of(count: int, length: int = 30_000, seed: int = 0) -> dict[Digest, bytes]:
    random = Random(seed)
    made = [random.randbytes(length) for _ in range(count)]
    return {Digest.of(block): block for block in made}

"""A set of very many digests in little memory: 8 bytes each, by their first 8 bytes.

Two digests that share these are not told apart, which here only keeps a block that could go.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from icnblocks.naming import DIGEST_BYTES, Digest

_BYTES: Final = 8


class Prefixes:
    """Digests that were added, as far as 8 bytes tell."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, digests: bytes) -> None:
        """Add digests that are packed one after the other, 32 bytes each."""
        rows = np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)[:, :_BYTES]
        fresh = np.ascontiguousarray(rows).view(np.uint64).ravel()
        self._sorted = np.union1d(self._sorted, fresh)

    def __contains__(self, digest: Digest) -> bool:
        value = np.frombuffer(digest[:_BYTES], dtype=np.uint64)[0]
        at = int(np.searchsorted(self._sorted, value))
        return at < len(self._sorted) and bool(self._sorted[at] == value)

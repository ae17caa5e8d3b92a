"""What a disk store has not committed yet: notes to write and to strike out, bytes to free.

Pure but for the clock. It must not touch a file; whoever uses it from several threads locks it.
"""

from __future__ import annotations

import time
from dataclasses import field
from typing import TYPE_CHECKING, Final

from icnblocks.limits import MIB
from icnblocks.store.segments import footprint
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from icnblocks.naming import Digest

_BATCH: Final = 256
"""Changes after which they are due."""
_BATCH_DEAD_BYTES: Final = 8 * MIB
"""Erased bytes after which they crowd the disk: what it may hold beyond the store's blocks."""
_MAX_DELAY_S: Final = 1.0
"""Age of the oldest change after which they are due, however few they are."""


@dataclass(slots=True)
class Changes:
    """Changes since the last commit.

    Attributes:
        adds: blocks to be noted, by address: digest and length.
        strikes: addresses whose notes must be struck out.
        dead: addresses and lengths to be freed once no note claims them.
        dead_bytes: their footprints.
        since: when the oldest of them was made; None if there is none.
    """

    adds: dict[int, tuple[Digest, int]] = field(default_factory=dict)
    strikes: list[int] = field(default_factory=list)
    dead: list[tuple[int, int]] = field(default_factory=list)
    dead_bytes: int = 0
    since: float | None = None

    def add(self, at: int, digest: Digest, length: int) -> None:
        """A block was put."""
        self.adds[at] = (digest, length)
        self._changed()

    def strike(self, at: int) -> None:
        """A block was forgotten; its bytes may still be leased."""
        if self.adds.pop(at, None) is None:
            self.strikes.append(at)

    def bury(self, at: int, length: int) -> None:
        """A block's bytes are of no more use."""
        self.dead.append((at, length))
        self.dead_bytes += footprint(length)
        self._changed()

    def dig_up(self, at: int, length: int) -> None:
        """They are freed by somebody else."""
        self.dead.remove((at, length))
        self.dead_bytes -= footprint(length)

    @property
    def crowded(self) -> bool:
        """Whether they must be committed before more is put."""
        return self.dead_bytes >= _BATCH_DEAD_BYTES

    def due(self) -> bool:
        """Whether they should be committed now."""
        if self.since is None:
            return False
        many = len(self.adds) + len(self.dead) >= _BATCH
        return many or time.monotonic() - self.since >= _MAX_DELAY_S

    def then(self, later: Changes) -> Changes:
        """These, which could not be committed, and those made meanwhile."""
        return Changes(
            self.adds | later.adds,
            self.strikes + later.strikes,
            self.dead + later.dead,
            self.dead_bytes + later.dead_bytes,
            time.monotonic(),
        )

    def _changed(self) -> None:
        if self.since is None:
            self.since = time.monotonic()

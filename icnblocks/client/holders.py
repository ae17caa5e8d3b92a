"""Who holds what: which source should be asked for a have-map, and what its answer means. Pure.

Each source is asked once for each manifest, by one lane while its others wait, and again after it
refused a block that it should have, or may have as far as was known. A map never refuses anything:
it only says whom to ask first. This module must not ask anybody.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.naming import Digest, Name
    from icnblocks.wire.havemap import HaveMap

_AGAIN_S: Final = 2.0
"""Seconds between two questions to a source about one manifest."""


@dataclass(frozen=True, slots=True)
class Catalogued:
    """A manifest whose blocks are wanted: what its maps mean.

    Attributes:
        manifest: its digest.
        name: the model, or None: where a daemon may look for it.
        blocks: its distinct blocks, in order of their first places.
    """

    manifest: Digest
    name: Name | None
    blocks: Sequence[Digest]


class _Stand(Enum):
    """How far a source and a manifest are."""

    DUE = auto()
    ASKED = auto()
    TOLD = auto()
    UNTOLD = auto()  # it gave no map: older, or failing


@dataclass(slots=True)
class _Talk:
    about: Catalogued
    stand: list[_Stand]
    asked_at: list[float] = field(default_factory=list)


class Holders:
    """Keeps account of have-maps for one engine.

    Args:
        sources: how many there are.
    """

    def __init__(self, sources: int) -> None:
        self._sources = sources
        self._talks: dict[Digest, _Talk] = {}

    def learn(self, about: Catalogued) -> None:
        """Blocks of this manifest will be wanted."""
        if about.manifest not in self._talks:
            never = [float("-inf")] * self._sources
            self._talks[about.manifest] = _Talk(about, [_Stand.DUE] * self._sources, never)

    def next(self, source: int, now: float) -> Catalogued | bool:
        """What a lane of a source should ask first.

        Returns:
            The manifest to ask about; or True while another lane is asking; or False.
        """
        for talk in self._talks.values():
            stand = talk.stand[source]
            if stand is _Stand.ASKED:
                return True
            if stand is _Stand.DUE:
                talk.stand[source] = _Stand.ASKED
                talk.asked_at[source] = now
                return talk.about
        return False

    def told(
        self, source: int, manifest: Digest, have: HaveMap | None, *, busy: bool = False
    ) -> tuple[Sequence[Digest], list[Digest]] | None:
        """A source answered, or gave no map.

        Args:
            source: which.
            manifest: about which manifest.
            have: the map.
            busy: it had no time for one: what it lacks is found out as when a map is old.

        Returns:
            The manifest's blocks, and those that the source does not hold and would not fetch;
            None if nothing is known about it.
        """
        talk = self._talks[manifest]
        talk.stand[source] = _Stand.UNTOLD if have is None and not busy else _Stand.TOLD
        if have is None:
            return None
        blocks = talk.about.blocks
        return blocks, [] if have.fetches else [blocks[at] for at in have.absent()]

    def not_found(self, source: int, manifest: Digest | None, now: float) -> None:
        """A source was asked for a block of a manifest, and does not have it: its map is old.

        Or it was too busy to give one.

        Others than the sources (neighbours) say in another way what they hold.
        """
        talk = None if manifest is None else self._talks.get(manifest)
        if talk is None or source >= self._sources or talk.stand[source] is not _Stand.TOLD:
            return
        if now - talk.asked_at[source] >= _AGAIN_S:
            talk.stand[source] = _Stand.DUE

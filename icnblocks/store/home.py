"""The directory of a daemon or a user: a catalog, an index of places, and maybe a block store.

It says whether a directory is one, and must not open or make anything.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from icnblocks.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

CATALOG: Final = "catalog.sqlite"
PLACES: Final = "places.sqlite"
BLOCKS: Final = "blocks"
_INDEXES: Final = frozenset({CATALOG, PLACES})
_HARMLESS: Final = frozenset({BLOCKS, "lost+found"})
"""May lie in a directory that is to become a store: a start that was killed, a fresh disk."""


def is_store(path: Path) -> bool:
    """Whether somebody has used this directory as a store."""
    return any((path / name).exists() for name in _INDEXES)


def check_is_store(path: Path) -> None:
    """Refuse a directory that is none.

    Raises:
        NotFoundError: saying so.
    """
    if not is_store(path):
        raise NotFoundError(f"there is no store in {path}", hint="check the path")


def check_may_be_store(path: Path) -> None:
    """Refuse a directory that holds something else.

    Raises:
        UsageError: saying so.
        OSError: if it cannot be read.
    """
    names = set(os.listdir(path)) if path.exists() else set()
    if names - _HARMLESS and not names & _INDEXES:
        raise UsageError(
            f"{path} is not empty and not a store",
            hint="name a directory of its own; models are published with icn-publish",
        )

"""Manifests of versions that a device went on from: nothing asks for them, and each has 32 bytes
a block. This module must not touch a daemon's manifests, which others may ask it for.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from icnblocks.errors import IcnError
from icnblocks.manifest.record import reopen_record
from icnblocks.store.home import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from icnblocks.naming import Digest
    from icnblocks.store.catalog import Catalog
    from icnblocks.store.inplace import InPlaceStore


def forget_unused(
    store: Path, catalog: Catalog, places: InPlaceStore, digests: Iterable[Digest | None]
) -> None:
    """Of these manifests, forget those of no directory in the index and of no record, if possible.

    Args:
        store: where the two lie; nothing is forgotten of one that has blocks, a daemon's.
        catalog: has the manifests.
        places: knows the directories.
        digests: manifests that a directory was of, or that were pulled into it in vain.
    """
    with suppress(IcnError):  # a model that has come has come
        unused = {one for one in digests if one is not None and not places.roots_of(one)}
        if not unused or (store / BLOCKS).exists():
            return
        records = [reopen_record(stored.raw) for stored in catalog.records()]
        for digest in unused - {record.manifest for record in records if record is not None}:
            catalog.remove_manifest(digest)

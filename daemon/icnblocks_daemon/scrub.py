"""Scrubbing: stored blocks are read and hashed again, slowly, so that bit rot is found early.

A block that is not as named is erased, logged and counted: a cache fetches it again when it is
wanted, an origin misses it and its publisher's next `icn-publish` brings it. Receivers check for
themselves in any case. Blocks in place are not scrubbed; `icn-verify` does that.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from typing import TYPE_CHECKING, Final

from icnblocks.errors import CorruptError, StorageError
from icnblocks.store.base import verify

if TYPE_CHECKING:
    from icnblocks.cache.content_store import ContentStore
    from icnblocks.naming import Digest
    from icnblocks_daemon.metrics import Metrics

_LOG = logging.getLogger(__name__)
_BATCH: Final = 256
REST_S: Final = 3600.0
"""Between two rounds through the store."""


async def scrub(content: ContentStore, metrics: Metrics, rate: int) -> None:
    """Go round and round through the store; until cancelled.

    Args:
        content: whose blocks are checked.
        metrics: counts what was found.
        rate: bytes a second; 0 returns at once.
    """
    while rate:
        try:
            await _round(content, metrics, rate)
        except StorageError as error:
            _LOG.error("scrubbing broke off; it begins anew in a while: %s", error)
        await asyncio.sleep(REST_S)


async def _round(content: ContentStore, metrics: Metrics, rate: int) -> None:
    blocks = iter(content.store.blocks())
    while batch := await asyncio.to_thread(lambda: list(islice(blocks, _BATCH))):
        for digest, length in batch:
            if not await asyncio.to_thread(_is_right, content, digest):
                _discard(content, digest, metrics)
            await asyncio.sleep(length / rate)


def _is_right(content: ContentStore, digest: Digest) -> bool:
    """Whether a block is as named, or not here any more."""
    try:
        lease = content.store.open(digest)
        if lease is not None:
            with lease:
                verify(digest, lease.read())
    except CorruptError:
        return False
    except StorageError as error:
        _LOG.warning("block %s could not be read: %s", digest, error)
    return True


def _discard(content: ContentStore, digest: Digest, metrics: Metrics) -> None:
    metrics.corrupt_blocks.inc()
    try:
        content.discard(digest)
        _LOG.error("block %s had rotted on disk and is erased", digest)
    except StorageError as error:
        _LOG.error("block %s had rotted on disk and cannot be erased: %s", digest, error)

"""Scrubbing: stored blocks are read and hashed again, slowly, so that bit rot is found early.

A block that is not as named is erased, logged and counted: a cache fetches it again when it is
wanted, an origin misses it and its publisher's next `icn-publish` brings it. Receivers check for
themselves in any case. Blocks in place are not scrubbed; `icn-verify` does that. A block that the
disk cannot read is erased where it can be fetched again; elsewhere the disk may yet recover. One
that was not read because the process or machine is short of something stays everywhere.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from itertools import islice
from typing import TYPE_CHECKING, Final

from icnblocks.errors import ChangedError, CorruptError, StorageError
from icnblocks.store.base import verify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from icnblocks.cache.content_store import ContentStore
    from icnblocks.naming import Digest
    from icnblocks_daemon.metrics import Metrics

_LOG = logging.getLogger(__name__)
_BATCH: Final = 256
_NOT_OF_THE_DISK: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
REST_S: Final = 3600.0
"""Between two rounds through the store."""


async def scrub(
    content: ContentStore, recheck: Callable[[Digest], Awaitable[object]], rate: int
) -> None:
    """Go round and round through the store; until cancelled.

    Args:
        content: whose blocks are checked.
        recheck: what is done with each.
        rate: bytes a second; 0 returns at once.
    """
    while rate:
        try:
            await _round(content, recheck, rate)
        except StorageError as error:
            _LOG.error("scrubbing broke off; it begins anew in a while: %s", error)
        await asyncio.sleep(REST_S)


async def _round(
    content: ContentStore, recheck: Callable[[Digest], Awaitable[object]], rate: int
) -> None:
    blocks = iter(content.store.blocks())
    while batch := await asyncio.to_thread(lambda: list(islice(blocks, _BATCH))):
        for digest, length in batch:
            await recheck(digest)
            await asyncio.sleep(length / rate)


async def erased_if_rotten(
    content: ContentStore, digest: Digest, metrics: Metrics, *, replaceable: bool
) -> bool:
    """Read and hash a stored block, and erase it if it is not as named.

    Args:
        content: where it may lie.
        digest: the block.
        metrics: counts it.
        replaceable: whether it can be fetched again.

    Returns:
        Whether it was erased.
    """
    if await asyncio.to_thread(_is_right, content, digest, replaceable):
        return False
    return _discard(content, digest, metrics)


def _is_right(content: ContentStore, digest: Digest, replaceable: bool) -> bool:
    """Whether a block is as named, or not here any more; what was not read may be."""
    try:
        length = content.store.length(digest)
        data = None if length is None else content.store.read(digest, length)
        if data is not None:
            verify(digest, data)
    except (CorruptError, ChangedError):
        return False
    except StorageError as error:
        _LOG.warning("block %s could not be read: %s", digest, error)
        cause = error.__cause__
        unreadable = isinstance(cause, OSError) and cause.errno not in _NOT_OF_THE_DISK
        return not (replaceable and unreadable)
    return True


def _discard(content: ContentStore, digest: Digest, metrics: Metrics) -> bool:
    try:
        if not content.discard(digest):  # it is gone, or brought again just now
            return False
    except StorageError as error:
        _LOG.error("block %s had rotted on disk and cannot be erased: %s", digest, error)
        return False
    metrics.corrupt_blocks.inc()
    _LOG.error("block %s had rotted on disk and is erased", digest)
    return True

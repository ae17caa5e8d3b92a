"""Manifests that come from publishers in parts, in order: put together on disk, then stored.

Several publishers may send one at the same time, and each may send a part again whose answer was
lost. What is not whole is forgotten after a while. This module must not decide who may send.
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import IO, TYPE_CHECKING, Final

from icnblocks.errors import BusyError, ConflictError
from icnblocks_daemon.holdings import shielded

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.naming import Digest
    from icnblocks.store.catalog import Catalog
    from icnblocks_daemon.manifests import Manifests

OPEN_MANIFESTS: Final = 16
"""Manifests of which parts are still to come, at once."""
EXPIRE_S: Final = 600.0
"""What is not whole is forgotten so long after its last part."""


class _Growing:
    """A manifest that comes in parts, in order, in a file without a name."""

    __slots__ = ("file", "size", "total", "touched")

    def __init__(self, total: int, folder: str, now: float) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.size = 0
        self.total = total
        self.touched = now


class ManifestParts:
    """Takes parts of manifests.

    Args:
        folder: where those that are not whole lie.
        manifests: takes those that are.
        catalog: where it keeps them.
        clock: seconds that never go backward.
    """

    def __init__(
        self, folder: str, manifests: Manifests, catalog: Catalog, clock: Callable[[], float]
    ) -> None:
        self._folder = folder
        self._manifests = manifests
        self._catalog = catalog
        self._clock = clock
        self._growing: dict[Digest, _Growing] = {}
        self._turn = asyncio.Lock()

    def __len__(self) -> int:
        """How many are not whole."""
        return len(self._growing)

    async def take(self, digest: Digest, first: int, total: int, body: bytes) -> bool:
        """Take the part of a manifest of `total` bytes that begins at `first`.

        Begun, it is done to its end, also if the caller is cancelled: the next part would come in
        beside this one's thread, or what became whole would be lost.

        Returns:
            Whether the manifest is stored now: this was the last part, or it was stored before.

        Raises:
            ConflictError: if those before it have not come.
            BusyError: if too many are not whole.
            IcnError: if it was the last part, as `Manifests.put`.
        """
        return await shielded(self._take(digest, first, total, body))

    async def expire(self) -> None:
        """Forget those of which nothing came for too long."""
        async with self._turn:
            await asyncio.to_thread(self._forget_old)

    def close(self) -> None:
        """Forget what is not whole."""
        for digest in list(self._growing):
            self._forget(digest)

    async def _take(self, digest: Digest, first: int, total: int, body: bytes) -> bool:
        async with self._turn:  # also while one is stored, so that a repeat of its last part waits
            data = await asyncio.to_thread(self._add, digest, first, total, body)
            if data is None:
                return False
            await self._manifests.put(digest, data)
            return True

    def _add(self, digest: Digest, first: int, total: int, body: bytes) -> bytes | None:
        """Write a part; the manifest if it is whole with it."""
        self._forget_old()
        growing = self._growing.get(digest)
        if growing is None and first:
            return self._stored(digest, first, total, body)
        if growing is None or (first == 0 and growing.total != total):
            growing = self._begin(digest, total)
        if growing.total != total or first > growing.size:
            raise ConflictError(
                f"the next part of {digest} begins at {growing.size} of {growing.total},"
                f" not {first} of {total}",
                hint="go on from there, or send all parts again, from the first one on",
            )
        growing.touched = self._clock()
        growing.file.seek(first)
        growing.file.write(body)
        growing.size = max(growing.size, first + len(body))
        if growing.size < total:
            return None
        growing.file.seek(0)
        data = growing.file.read()
        self._forget(digest)
        return data

    def _begin(self, digest: Digest, total: int) -> _Growing:
        self._forget(digest)
        if len(self._growing) >= OPEN_MANIFESTS:
            raise BusyError("too many manifests at once", hint="try again in a minute")
        growing = self._growing[digest] = _Growing(total, self._folder, self._clock())
        return growing

    def _stored(self, digest: Digest, first: int, total: int, body: bytes) -> bytes:
        """A manifest that became whole before this part of it came, once more or from another."""
        data = self._catalog.manifest(digest)
        if data is None or len(data) != total or data[first : first + len(body)] != body:
            raise ConflictError(
                f"part {first} of {digest} without those before",
                hint="send the parts in order, from the first one on",
            )
        return data

    def _forget_old(self) -> None:
        now = self._clock()
        for digest, growing in list(self._growing.items()):
            if now - growing.touched > EXPIRE_S:
                self._forget(digest)

    def _forget(self, digest: Digest) -> None:
        growing = self._growing.pop(digest, None)
        if growing is not None:
            growing.file.close()

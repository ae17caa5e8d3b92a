"""What a device offers: models that it has or is getting, and where their blocks lie.

A block counts as held only after it was verified and written. While a model is under way its blocks
lie in partial files; once it is whole, in the in-place store, which refuses files that
changed. This module must not offer anything that it was not told to.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from icnblocks.assembly.directory import PARTIAL
from icnblocks.errors import ChangedError
from icnblocks.store.files import OpenFiles
from icnblocks.store.lease import ExtentLease

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from icnblocks.assembly.directory import ModelDirectory
    from icnblocks.naming import Digest
    from icnblocks.placement.plan import Plan
    from icnblocks.store.base import Lease


class Shelf(Protocol):
    """Where the blocks of a model lie."""

    def open(self, digest: Digest) -> Lease | None:
        """Lease a block for sending; None if it is not here.

        Raises:
            IcnError, OSError: if it cannot be read, or changed.
        """
        ...


class PartialShelf:
    """The blocks of a pull under way, in partial files and in whole ones. Thread-safe.

    Its files are opened for it alone, so that they stay what they are when they are renamed.

    Args:
        directory: of the pull; must stay open until `close`.
        plan: where blocks go.
        whole: indexes of the files that were whole before; beside them an earlier pull may have
            left partial ones of another model.
    """

    def __init__(self, directory: ModelDirectory, plan: Plan, whole: Collection[int] = ()) -> None:
        self._directory = directory
        self._plan = plan
        self._whole = whole
        self._files: OpenFiles[int] = OpenFiles(64)
        self._closed = False

    def open(self, digest: Digest) -> Lease | None:
        """See Shelf."""
        if digest not in self._plan:
            return None
        file, offset = self._plan.spots(digest)[0]
        opened = self._files.borrow(file, lambda: self._open(file))
        length = self._plan.length(digest)
        return ExtentLease(opened.fd, offset, length, lambda: self._files.give_back(opened))

    def _open(self, file: int) -> int:  # one at a time, and none when `close` has dropped all
        if self._closed:
            raise ChangedError("the pull that it was of is over")
        path = self._plan.manifest.files[file].path
        if file not in self._whole:
            try:
                return self._directory.open(path + PARTIAL, os.O_RDONLY)
            except FileNotFoundError:
                pass  # it was renamed
        return self._directory.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Let go of the files; leases stay readable."""
        self._closed = True
        self._files.close()


class Offer:
    """One model that is offered. Thread-safe.

    Args:
        manifest: its digest.
        lengths: its distinct blocks with their lengths, in order of their first places.
        raw: gives its manifest's bytes, or None.
        shelf: where its blocks lie.
        missing: those that are not here yet.
    """

    def __init__(
        self,
        manifest: Digest,
        lengths: Mapping[Digest, int],
        raw: Callable[[], bytes | None],
        shelf: Shelf,
        missing: Iterable[Digest] = (),
    ) -> None:
        self.manifest = manifest
        self.lengths = lengths
        self._raw = raw
        self._reading = threading.Lock()
        self._read: bytes | None = None
        self._readers = 0
        self._shelf = shelf
        self._index = {digest: index for index, digest in enumerate(lengths)}
        self._flags = bytearray(b"\1" * len(lengths))
        for digest in missing:
            self._flags[self._index[digest]] = 0
        self._held = self._flags.count(1)
        self._changed = threading.Condition()
        self._ended = False

    @contextmanager
    def reading(self) -> Iterator[bytes | None]:
        """The manifest's bytes, or None; however many read them at once, there is one copy."""
        with self._reading:
            if not self._readers:
                self._read = self._raw()
            self._readers += 1
        try:
            yield self._read
        finally:
            with self._reading:
                self._readers -= 1
                if not self._readers:
                    self._read = None

    def arrived(self, digest: Digest) -> None:
        """A block was verified and written."""
        with self._changed:
            index = self._index[digest]
            if not self._flags[index]:
                self._flags[index] = 1
                self._held += 1
                self._changed.notify_all()

    def is_whole_in(self, shelf: Shelf) -> None:
        """All of it is here now, and lies there."""
        with self._changed:
            self._shelf = shelf
            self._flags = bytearray(b"\1" * len(self._flags))
            self._held = len(self._flags)
            self._changed.notify_all()

    def is_gone(self) -> None:
        """Nothing of it is given any more: the pull failed."""
        with self._changed:
            self._flags = bytearray(len(self._flags))
            self._held = 0

    def end(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def open(self, digest: Digest) -> Lease | None:
        """Lease a block that is here; None if it is not. What is gone or changed is not held on.

        Raises:
            IcnError, OSError: if it cannot be read, or changed.
        """
        with self._changed:
            index = self._index.get(digest)
            if index is None or not self._flags[index]:
                return None
            shelf = self._shelf
        try:
            lease = shelf.open(digest)
        except ChangedError as error:
            if self._shelf is not shelf:  # it became whole meanwhile
                return self.open(digest)
            if error.__cause__ is None:  # else it could not be looked at now: it may come back
                self._lost(index, shelf)
            raise
        if lease is None:
            self._lost(index, shelf)
        return lease

    def _lost(self, index: int, shelf: Shelf) -> None:
        """A block is not where it lay: neighbours let go of who promises what it cannot give."""
        with self._changed:
            if self._flags[index] and self._shelf is shelf:
                self._flags[index] = 0
                self._held -= 1

    def flags(self, known: int, wait_s: float, linger_s: float = 0.0) -> bytes:
        """What is held, a byte for each block; waits until it is more than `known` blocks.

        Args:
            known: how many whoever asks knows of.
            wait_s: waits no longer.
            linger_s: more may come within so long after the first: one answer tells of all.
        """
        until = time.monotonic() + wait_s
        with self._changed:
            waited = False
            while self._held <= known < len(self._flags) and not self._ended:
                left = until - time.monotonic()
                if left <= 0:
                    break
                waited = True
                self._changed.wait(left)
        if waited and linger_s:
            time.sleep(min(linger_s, max(until - time.monotonic(), 0.0)))
        with self._changed:
            return bytes(self._flags)

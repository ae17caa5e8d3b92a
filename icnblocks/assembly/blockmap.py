"""The block map: which blocks of a pull under way are in the partial files, kept on disk.

Written after the data, one note a block, so that a killed pull knows what it has. The page cache
survives a kill, not a power cut: the map carries the boot id, and after another boot its notes
are only a list of what to verify again. This module must not read model files.

Format: 8 bytes `ICNMAP\\x01\\n`, 32 bytes manifest digest, 36 bytes boot id (ASCII, as Linux
prints it; blank where it does not, and where a partial file could not be closed), then one
big-endian u32 a block: its first index in the manifest.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from icnblocks.assembly.directory import STATE
from icnblocks.errors import StorageError
from icnblocks.naming import DIGEST_BYTES, Digest
from icnblocks.store.boot import boot_id
from icnblocks.store.database import storage_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from icnblocks.assembly.directory import ModelDirectory

MAGIC: Final = b"ICNMAP\x01\n"
BOOT_BYTES: Final = 36
HEADER_BYTES: Final = len(MAGIC) + DIGEST_BYTES + BOOT_BYTES
PATH: Final = f"{STATE}/map"
_NOTE: Final = struct.Struct(">I")


def _boot() -> bytes:
    """This boot's id; blank where the kernel does not say."""
    return boot_id().encode().ljust(BOOT_BYTES)


def _is_this_boot(boot: bytes) -> bool:
    return bool(boot.strip()) and boot == _boot()


def manifest_of(directory: ModelDirectory) -> Digest | None:
    """The manifest that the directory's map speaks of, or None if it has none."""
    fd = directory.open_existing(PATH)
    if fd is None:
        return None
    try:
        with storage_errors(directory.root / PATH):
            head = os.pread(fd, HEADER_BYTES, 0)
    finally:
        os.close(fd)
    return _manifest_in(head)


def _manifest_in(head: bytes) -> Digest | None:
    if not head.startswith(MAGIC) or len(head) < HEADER_BYTES:
        return None
    return Digest(head[len(MAGIC) : len(MAGIC) + DIGEST_BYTES])


class BlockMap:
    """The open block map of one directory.

    Attributes:
        manifest: the manifest that the notes speak of.
        noted: indexes of the blocks that may be there: those noted before, in range, without
            repeats; all of them, where the map was another manifest's and partial files are left.
        same_boot: whether they were written since this machine started.
        lost: whether the page cache may hold of them what will never be on disk: those that read
            right have to be written again.
        written_ns: when the last of them was written, as the file system says.
    """

    def __init__(
        self,
        fd: int,
        path: Path,
        manifest: Digest,
        noted: Collection[int],
        *,
        same_boot: bool,
        written_ns: int,
        lost: bool = False,
    ) -> None:
        self._fd = fd
        self._path = path
        self.manifest = manifest
        self.noted = noted
        self.same_boot = same_boot
        self.lost = lost
        self.written_ns = written_ns

    @classmethod
    def open(cls, directory: ModelDirectory, manifest: Digest, count: int) -> BlockMap:
        """Go on with the directory's map, or begin one if there is none for this manifest.

        Args:
            directory: a locked directory.
            manifest: digest of the manifest being pulled.
            count: how many blocks it has.
        """
        path = directory.root / PATH
        with storage_errors(path):
            fd = directory.open(PATH, os.O_RDWR | os.O_CREAT)
            try:
                return cls._opened(fd, path, manifest, count)
            except BaseException:
                os.close(fd)
                raise

    @classmethod
    def _opened(cls, fd: int, path: Path, manifest: Digest, count: int) -> BlockMap:
        written_ns = os.fstat(fd).st_mtime_ns
        # Two threads may note the same block.
        data = os.pread(fd, HEADER_BYTES + 2 * _NOTE.size * count, 0)
        head, notes = data[:HEADER_BYTES], data[HEADER_BYTES:]
        former = _manifest_in(head)
        if former is None:
            os.ftruncate(fd, 0)
            os.pwrite(fd, MAGIC + manifest + _boot(), 0)
            os.lseek(fd, HEADER_BYTES, os.SEEK_SET)
            return cls(fd, path, manifest, (), same_boot=True, written_ns=written_ns)
        lost = not head[-BOOT_BYTES:].strip()
        if former != manifest:
            return cls(
                fd, path, manifest, range(count),
                same_boot=False, written_ns=written_ns, lost=lost,
            )  # fmt: skip
        whole = len(notes) // _NOTE.size * _NOTE.size
        noted = {number for (number,) in _NOTE.iter_unpack(notes[:whole]) if number < count}
        if os.fstat(fd).st_size != HEADER_BYTES + whole:  # it would say that it is of now
            os.ftruncate(fd, HEADER_BYTES + whole)
        os.lseek(fd, 0, os.SEEK_END)
        same = _is_this_boot(head[-BOOT_BYTES:])
        return cls(
            fd, path, manifest, frozenset(noted), same_boot=same, written_ns=written_ns, lost=lost
        )

    def rewrite(self, noted: list[int]) -> None:
        """Replace all notes by ones that were just verified, under this boot's id."""
        with storage_errors(self._path):
            os.ftruncate(self._fd, 0)
            notes = b"".join(map(_NOTE.pack, noted))
            os.pwrite(self._fd, MAGIC + self.manifest + _boot() + notes, 0)
            os.lseek(self._fd, 0, os.SEEK_END)
        self.noted, self.same_boot, self.lost = frozenset(noted), True, False

    def note(self, numbers: Iterable[int]) -> None:
        """Note blocks whose bytes have been written. Safe from several threads."""
        notes = b"".join(map(_NOTE.pack, numbers))
        try:
            written = os.write(self._fd, notes)
        except OSError as error:
            raise StorageError.of(error, str(self._path)) from error
        if written != len(notes):
            raise StorageError(f"{self._path}: the disk is full")

    def doubt(self) -> None:
        """Some of what was noted may never reach the disk, and nobody will be told again."""
        with storage_errors(self._path):
            try:
                os.pwrite(self._fd, b" " * BOOT_BYTES, HEADER_BYTES - BOOT_BYTES)
            except OSError:
                os.ftruncate(self._fd, 0)  # this needs no room

    def close(self) -> None:
        """Close it; it stays on disk. Idempotent.

        Raises:
            StorageError: if the disk refused some of it; then it is gone.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            os.close(fd)
        except OSError as error:
            self._path.unlink(missing_ok=True)  # a note that is not there reads as one of block 0
            raise StorageError.of(error, str(self._path)) from error

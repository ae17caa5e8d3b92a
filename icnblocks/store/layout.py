"""The directory of a disk store: who holds it, and which version of the format it has.

    format          one line, "icnblocks store 1"
    lock            held (flock), as is the directory, by the one process that has the store open
    index.sqlite    the notes (with -wal and -shm beside it)
    segments/       the blocks' bytes, and `serial`, the number of the notes that belong to them
    spare           room that is given up on a full disk, so that erasing can still be noted, and
                    the notes be opened

It must not know what is in the notes or the segments.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from icnblocks.errors import BusyError, NotFoundError, StorageError, VersionError
from icnblocks.limits import MIB
from icnblocks.store.database import DamagedError, storage_errors
from icnblocks.store.whole import sync_directory, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

VERSION: Final = 1
_FORMAT = re.compile(rb"icnblocks store ([1-9][0-9]{0,8})\n\Z")
_SPARE_BYTES: Final = MIB
_HARMLESS: Final = frozenset({"lock", ".format.new", "lost+found"})
"""May lie in a directory that is to become a store: of a start that was killed, of a fresh disk."""

MIGRATIONS: Mapping[int, Callable[[Path], None]] = {}
"""From a version to the next: functions that change a store's directory while its lock is held.
Each must be safe to run again after it was killed half-way."""


class Layout:
    """A store's directory, locked for this process until `close`.

    Raises:
        NotFoundError: if there is no store and none shall be created.
        BusyError: if another process (or this one) has it open.
        VersionError: if a newer program wrote it.
        StorageError: if the disk refuses, or the directory holds something else.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self.segments = path / "segments"
        self.index = path / "index.sqlite"
        self.serial = self.segments / "serial"
        self._spare = path / "spare"
        if not create and not (path / "format").exists():
            raise NotFoundError(f"there is no block store in {path}")
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            self._locks = _lock(path)
            try:
                self._bring_to_version()
                self.segments.mkdir(exist_ok=True)
                self.restore_spare()
            except BaseException:
                self.close()
                raise

    def read_serial(self) -> int | None:
        """The number of the last notes that these segments were seen with.

        Returns:
            It; 0 if it cannot be read, and None if there is none.
        """
        try:
            return int(self.serial.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return 0

    def write_serial(self, number: int) -> None:
        """These segments go with notes of this number, which a power cut cannot take back.

        It need not reach the disk: an older number only tells less. A new file each time, which
        the daemon can read and replace also if it was root who looked at its store.
        """
        with suppress(StorageError, OSError):
            write_whole(self.serial, b"%d\n" % number, durable=False)
            self.serial.chmod(0o644)

    def forget_serial(self) -> None:
        """Other notes begin, with numbers of their own; a power cut does not bring back the old."""
        if self.serial.exists():
            self.serial.unlink()
            sync_directory(self.segments)

    def remove_index(self) -> None:
        """Remove the notes, so that new ones can be begun."""
        for suffix in ("", "-wal", "-shm"):
            self.index.with_name(self.index.name + suffix).unlink(missing_ok=True)

    def with_spare(self, act: Callable[[], None]) -> None:
        """Do it; where the disk refuses, once more with the spare room, if there is some.

        Raises:
            StorageError: as it does the second time.
        """
        try:
            act()
        except DamagedError:
            raise
        except StorageError:
            if not self._give_up_spare():
                raise
            act()

    def _give_up_spare(self) -> bool:
        """Free the spare room; False if it was free already."""
        try:
            self._spare.unlink()
        except OSError:
            return False
        return True

    def restore_spare(self) -> None:
        """Take the spare room again, if the disk has it."""
        if self._spare.exists():
            return
        try:
            fd = os.open(self._spare, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(fd, 0, _SPARE_BYTES)
            finally:
                os.close(fd)
        except OSError:
            self._give_up_spare()

    def close(self) -> None:
        """Let another process have it."""
        for fd in self._locks:
            os.close(fd)

    def _bring_to_version(self) -> None:
        mark = self.path / "format"
        if mark.exists():
            found = _FORMAT.match(mark.read_bytes()[:64])
            if not found:
                raise StorageError(f"{mark} does not say that this is a block store")
            version = int(found[1])
        elif foreign := sorted({e.name for e in os.scandir(self.path)} - _HARMLESS):
            raise StorageError(
                f"{self.path} is not a block store: it holds {foreign[0]!r}",
                hint="name an empty or new directory",
            )
        else:
            version = VERSION
            self._mark(VERSION)
        if version > VERSION:
            raise VersionError(
                f"{self.path} is a block store of version {version}; this program knows {VERSION}"
            )
        for step in range(version, VERSION):
            MIGRATIONS[step](self.path)
            self._mark(step + 1)

    def _mark(self, version: int) -> None:
        write_whole(self.path / "format", b"icnblocks store %d\n" % version)


def _lock(path: Path) -> tuple[int, int]:
    """Lock the directory, and a file in it: who removes the file does not unlock the store."""
    file = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # over NFS only what can be written to can be locked
    except OSError as error:
        os.close(file)
        os.close(directory)
        if isinstance(error, BlockingIOError):
            raise BusyError(
                f"the block store {path} is in use",
                hint="one process writes a store: ask that process, or stop it",
            ) from error
        raise
    return file, directory

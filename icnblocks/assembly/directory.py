"""A model directory on disk, opened so that no path can lead outside it.

Every path is walked component by component from the root's descriptor without following links.
Files under way carry `.partial` behind their name; the state of a pull lies in `.icnblocks/`.
This module must not know blocks; the assembly does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from icnblocks.errors import BusyError, ConflictError
from icnblocks.store.database import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATE: Final = ".icnblocks"
PARTIAL: Final = ".partial"
MANIFEST: Final = "manifest"
"""Name below `.icnblocks/` of the manifest of what lies in the directory."""
NAME: Final = "name"
"""Name below `.icnblocks/` of the name that it was pulled by."""
_LOOK_S: Final = 0.1


class ModelDirectory:
    """A directory that one process at a time assembles a model in.

    Args:
        root: the directory; made, with its parents, if it is not there.
        check: called again and again where something takes long; what it raises ends that.

    Raises:
        StorageError: if it cannot be made or opened.
    """

    def __init__(self, root: Path, check: Callable[[], None] = lambda: None) -> None:
        self.root = root
        self.check = check
        self._lock = -1
        self._fd = -1
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            (root / STATE).mkdir(exist_ok=True)
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def lock(self, *, wait: bool, waiting: Callable[[], None] = lambda: None) -> None:
        """Hold the directory against other processes; the kernel lets go when this one dies.

        Args:
            wait: wait for another holder to finish rather than fail.
            waiting: called once when there is somebody to wait for.

        Raises:
            BusyError: if another process holds it and `wait` is false.
        """
        with storage_errors(self.root):
            self._lock = self.open(f"{STATE}/lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not wait:
                    raise BusyError(f"another process is pulling into {self.root}") from None
            waiting()
            while True:
                self.check()
                time.sleep(_LOOK_S)
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    pass

    def _parent(self, path: str, *, make: bool) -> tuple[int, str]:
        """The descriptor of the directory that `path` lies in (to be closed), and its last part."""
        *parts, last = path.split("/")
        here = os.dup(self._fd)
        try:
            for part in parts:
                if make:
                    try:
                        os.mkdir(part, dir_fd=here)
                    except FileExistsError:
                        pass
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(part, flags, dir_fd=here)
                os.close(here)
                here = below
        except BaseException:
            os.close(here)
            raise
        return here, last

    def open(self, path: str, flags: int) -> int:
        """Open a file below the root, making its directories when `flags` create.

        Raises:
            ConflictError: if a link or a file stands where a directory or a file belongs.
            FileNotFoundError: if it is not there.
            OSError: as the disk says.
        """
        try:
            parent, last = self._parent(path, make=bool(flags & os.O_CREAT))
            try:
                flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe waits for nobody
                fd = os.open(last, flags, 0o644, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}:
                raise self._in_the_way(path) from error
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._in_the_way(path)
        return fd

    def _in_the_way(self, path: str) -> ConflictError:
        return ConflictError(
            f"{self.root / path} is, or lies in, a link or something else that is no model's",
            hint="move it away, or use another directory with --to (to=)",
        )

    def open_existing(self, path: str) -> int | None:
        """Open a file for reading, or None if it is not there.

        Raises:
            ConflictError: if it is not a regular file.
            StorageError: if it cannot be read.
        """
        with storage_errors(self.root / path):
            try:
                return self.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None

    def rename(self, old: str, new: str) -> None:
        """Move a file within the directory, replacing what stands there."""
        with storage_errors(self.root / new):
            source, source_last = self._parent(old, make=False)
            try:
                target, target_last = self._parent(new, make=True)
                try:
                    os.rename(source_last, target_last, src_dir_fd=source, dst_dir_fd=target)
                finally:
                    os.close(target)
            finally:
                os.close(source)

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if it is not there."""
        with storage_errors(self.root / path):
            try:
                parent, last = self._parent(path, make=False)
            except FileNotFoundError:
                return
            try:
                os.unlink(last, dir_fd=parent)
            except FileNotFoundError:
                pass
            finally:
                os.close(parent)

    def remove_empty(self, path: str) -> None:
        """Remove the directories that `path` lay in, innermost first, while they are empty."""
        with storage_errors(self.root / path):
            while path := path.rpartition("/")[0]:
                try:
                    parent, last = self._parent(path, make=False)
                except FileNotFoundError:
                    continue
                try:
                    os.rmdir(last, dir_fd=parent)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    return
                finally:
                    os.close(parent)

    def read_state(self, name: str, most: int) -> bytes | None:
        """Read `.icnblocks/NAME`, or None if it is absent or longer than `most` bytes."""
        fd = self.open_existing(f"{STATE}/{name}")
        if fd is None:
            return None
        with os.fdopen(fd, "rb") as file:
            data = file.read(most + 1)
        return data if len(data) <= most else None

    def write_state(self, name: str, data: bytes) -> None:
        """Write `.icnblocks/NAME` at once or not at all."""
        fresh = f"{STATE}/{name}.new"
        with storage_errors(self.root / STATE / name):
            fd = self.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
        self.rename(fresh, f"{STATE}/{name}")

    def sync(self, paths: list[str]) -> None:
        """Flush files and every directory that they lie in to disk."""
        with storage_errors(self.root):
            folders = {"": None} | {path.rpartition("/")[0]: None for path in paths}
            for path in paths:
                _flush(self.open(path, os.O_RDONLY))
            for folder in folders:
                _flush(self._parent(f"{folder}/x" if folder else "x", make=False)[0])

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        if self._lock >= 0:
            # Closing is not enough: a process that was forked meanwhile has the descriptor, too.
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        for fd in (self._lock, self._fd):
            if fd >= 0:
                os.close(fd)
        self._lock = self._fd = -1


def _flush(fd: int) -> None:
    """Flush what a descriptor is of to disk, and close it."""
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

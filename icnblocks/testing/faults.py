"""Faults to be survived: flipped bits, disks that are full or read-only, kill -9 at any moment.

What a power cut leaves is made by `recorded_writes`. Mounting needs root on Linux; where that
is impossible, `MountImpossibleError` says why, and a test skips with that reason.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_MS_RDONLY, _MS_REMOUNT, _MNT_DETACH = 1, 32, 2


class MountImpossibleError(Exception):
    """This process may not mount file systems."""


def segment_files(store: Path) -> list[Path]:
    """The files in which a disk store keeps its blocks' bytes, in order."""
    return sorted(path for path in (store / "segments").iterdir() if path.name.isdecimal())


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file, and leave its times as they were, as a rotting disk does."""
    stat = path.stat()
    fd = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, offset)[0]
        os.pwrite(fd, bytes([byte ^ (1 << bit)]), offset)
    finally:
        os.close(fd)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """An empty directory that is a file system (tmpfs) of `size` bytes.

    Raises:
        MountImpossibleError: if this process may not mount.
    """
    path.mkdir(exist_ok=True)
    _mount(path, 0, f"size={size}")
    try:
        yield path
    finally:
        _libc().umount2(os.fsencode(path), _MNT_DETACH)


def make_read_only(path: Path) -> None:
    """Make a `small_disk` read-only; nothing on it may be open for writing.

    Raises:
        MountImpossibleError: if the system refuses.
    """
    _mount(path, _MS_REMOUNT | _MS_RDONLY, "")


def make_writable(path: Path) -> None:
    """Undo `make_read_only`."""
    _mount(path, _MS_REMOUNT, "")


def fill_disk(path: Path, *, leave: int = 0) -> None:
    """Write a file `filler` that takes all room of a file system but `leave` bytes."""
    fd = os.open(path / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            free = os.statvfs(path)
            try:
                os.posix_fallocate(fd, 0, max(1, free.f_bavail * free.f_bsize - leave))
            except OSError as error:
                if error.errno != errno.ENOSPC or free.f_bavail * free.f_bsize <= leave:
                    raise  # else somebody else took some of it meanwhile
            else:
                return
    finally:
        os.close(fd)


def kill_when(
    command: Sequence[str], reached: Callable[[bytes], bool], *, timeout_s: float = 30
) -> bytes:
    """Run a program and kill it (-9) as soon as what it printed satisfies `reached`.

    Returns:
        All it printed; the program may have come to its own end before.
    """
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdout
        said = b""
        while not reached(said) and time.monotonic() < deadline:
            piece = child.stdout.read(65536)
            if not piece:
                break
            said += piece
        child.send_signal(signal.SIGKILL)
        return said + child.stdout.read()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(path: Path, flags: int, options: str) -> None:
    target, kind = os.fsencode(path), b"tmpfs"
    if _libc().mount(kind, target, kind, ctypes.c_ulong(flags), options.encode() or None):
        number = ctypes.get_errno()
        raise MountImpossibleError(f"cannot mount at {path}: {os.strerror(number)}")

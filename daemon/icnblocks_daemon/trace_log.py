"""The access trace: who asked for which model when, appended to a file that `icn-sim` replays.

The event loop only notes digest and time. A thread writes what was noted every few seconds, looks
up the blocks of models that the file does not tell of yet, and never leaves half a line before a
whole one: after a failure or a kill the torn end is cut off before anything follows it. A disk
that refuses costs lines, and nothing else. docs/traces.md has the format.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from icnblocks.cache.replay.lines import get_line, model_line
from icnblocks.cache.replay.trace import MAX_TIME_S
from icnblocks.errors import BusyError, IcnError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest

_LOG = logging.getLogger(__name__)
MAX_WAITING: Final = 65_536
"""Notes that may wait for the disk; what comes when it refuses for longer is dropped, counted."""
WRITE_S: Final = 2.0
"""How often what was noted is written."""
_PIECE_BYTES: Final = 1 << 20
_OURS: Final = (b'{"model":', b'{"t":')
"""How a trace begins that this wrote."""


class TraceLog:
    """Appends to a trace. `learnt` and `requested` are for the event loop and only note.

    Args:
        path: the file; made if it is missing, continued if it is a trace.
        manifest: a known model, or None; called from a thread.
        clock: seconds that never go backward.
        wall: Unix seconds; read once, so that a step of the wall clock bends no trace.

    Raises:
        UsageError: if the file is no trace.
        BusyError: if another process writes to it.
        StorageError: if it cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        manifest: Callable[[Digest], Manifest | None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._path = path
        self._manifest = manifest
        self._clock = clock
        self._ahead = wall() - clock()
        self._notes: deque[tuple[float | None, Digest]] = deque()
        self._writing = threading.Lock()
        self._told: set[Digest] = set()
        self._reopen = False
        self._closed = False
        self._begun: asyncio.Task[None] | None = None
        self.failing = False
        """The last attempt to write was refused."""
        self.dropped = 0
        """Notes that are in no file."""
        self._file: _File | None = _File(path)

    def learnt(self, digest: Digest) -> None:
        """A manifest became known."""
        self._note(None, digest)

    def requested(self, digest: Digest) -> None:
        """Somebody began to pull this model."""
        self._note(self._clock() + self._ahead, digest)

    def reopen(self) -> None:
        """Go on in a new file of this name, if the old one was renamed: from the next write on."""
        self._reopen = True

    def status(self) -> dict[str, Any]:
        """For /v1/status."""
        return {"path": str(self._path), "failing": self.failing, "dropped": self.dropped}

    def begin_write(self) -> None:
        """Begin `write`, unless one that was begun is still under way: its disk may hang."""
        if self._begun is not None:
            if not self._begun.done():
                return
            begun, self._begun = self._begun, None
            begun.result()  # raises what nobody foresaw
        self._begun = asyncio.create_task(self.write(), name="trace")

    async def write(self) -> None:
        """Write what was noted so far, unless the disk refuses."""
        await asyncio.to_thread(self.write_now)

    def close(self) -> None:
        """Write what is left and let go of the file. Not for the loop."""
        self.write_now()
        with self._writing:
            self._closed = True
            if self._file is not None:
                self._file.close()
                self._file = None

    def _note(self, t: float | None, digest: Digest) -> None:
        if len(self._notes) < MAX_WAITING:
            self._notes.append((t, digest))
        else:
            self.dropped += 1

    # --- on a thread --------------------------------------------------------------------------

    def write_now(self) -> None:
        """`write`, on this thread."""
        with self._writing:
            if self._closed:  # a thread that came late must not open and lock the file again
                return
            try:
                self._write()
            except (OSError, IcnError) as error:
                # The file is opened anew next time, and its torn end, if there is one, cut off.
                if self._file is not None:
                    self._file.close()
                    self._file = None
                if not self.failing:
                    self.failing = True
                    why = getattr(error, "strerror", None) or error
                    _LOG.warning("the trace %s cannot be written: %s", self._path, why)
                return
            if self.failing:
                self.failing = False
                _LOG.info("the trace is written again", extra={"dropped": self.dropped})

    def _write(self) -> None:
        if self._reopen:
            self._reopen = False  # before the look: a rotation during it is for the next write
            if self._file is not None and not self._file.is_at(self._path):
                self._file.close()  # as it is: whoever renamed it may be packing it already
                self._file = None
        file = self._file
        if file is None:
            file = self._file = _File(self._path)
            self._told.clear()
        elif file.shrunk():
            self._told.clear()
        self._append_notes(file)

    def _append_notes(self, file: _File) -> None:
        """Write the notes, oldest first; each is taken out once its line is in the file."""
        lines, taken, untold, last = bytearray(), 0, 0, file.last
        fresh: set[Digest] = set()
        notes = list(self._notes)
        for number, (t, digest) in enumerate(notes, 1):
            if digest not in self._told and digest not in fresh:
                told = self._model_line(digest)
                if told:
                    fresh.add(digest)
                    lines += told
            if t is not None and (digest in fresh or digest in self._told):
                last = max(last, round(t, 6))  # the file may come from a clock that was ahead
                lines += get_line(last, str(digest)).encode()
            elif t is not None:
                untold += 1
            if len(lines) >= _PIECE_BYTES or number == len(notes):
                file.append(lines, last)
                self._told |= fresh
                for _ in range(number - taken):
                    self._notes.popleft()
                self.dropped += untold  # models that left the catalog before they were told
                taken, untold = number, 0
                lines.clear()
                fresh.clear()

    def _model_line(self, digest: Digest) -> bytes:
        """What a model is; empty if nobody knows."""
        manifest = self._manifest(digest)
        blocks = {} if manifest is None else manifest.lengths()
        if manifest is None or not blocks:
            return b""
        base = str(manifest.base.manifest) if manifest.base else None
        pairs = [(str(block), length) for block, length in blocks.items()]
        return model_line(str(digest), pairs, base).encode()


class _File:
    """A trace that is open for appending, locked, and ends with a whole line.

    Attributes:
        last: the time of its last request; 0 if it has none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            self._fd = os.open(path, flags, 0o640)
        except OSError as error:
            raise StorageError.of(error, f"trace: cannot open {path}") from None
        try:
            self._take()
        except OSError as error:
            os.close(self._fd)
            raise StorageError.of(error, f"trace: cannot read {path}") from None
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self) -> None:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise UsageError(f"trace: {self._path} is not a plain file")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"trace: another process writes to {self._path}") from None
        if not may_continue(self._fd):
            raise UsageError(
                f"trace: {self._path} is not empty and not a trace of a daemon",
                hint="name a file of its own",
            )
        self._size = self._mended()
        self.last = self._last_time()

    def is_at(self, path: Path) -> bool:
        """Is this the file of that name?"""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def shrunk(self) -> bool:
        """Was it cut short by somebody else (a rotation that copies and truncates)?"""
        size = os.fstat(self._fd).st_size
        before, self._size = self._size, size
        return size < before

    def append(self, lines: bytearray, last: float) -> None:
        """Write all of it, the last request at `last`, or nothing: it is written again later."""
        data = bytes(lines)
        start, at = os.fstat(self._fd).st_size, 0
        try:
            while at < len(data):
                at += os.write(self._fd, data[at:])
        except OSError:
            with contextlib.suppress(OSError):  # then only a torn end is cut off, at the opening
                os.ftruncate(self._fd, min(start, os.fstat(self._fd).st_size))
            raise
        self._size += len(data)
        self.last = last

    def close(self) -> None:
        """Let go. A file system that writes only now may say here that it could not."""
        try:
            os.close(self._fd)
        except OSError as error:
            _LOG.warning("the end of the trace %s may be lost: %s", self._path, error.strerror)

    def _mended(self) -> int:
        """Cut off what follows the last whole line; returns the size."""
        size = end = os.fstat(self._fd).st_size
        while end:
            start = self._line_start(end)
            if _whole(os.pread(self._fd, end - start, start)):
                break
            end = start
        if end < size:
            os.ftruncate(self._fd, end)
            _LOG.warning("the trace %s ended in a torn line: cut off", self._path)
        return end

    def _last_time(self) -> float:
        end = self._size
        while end:
            start = self._line_start(end)
            line = os.pread(self._fd, end - start, start)
            if b'"get"' in line[:_PIECE_BYTES] and (time := _time_of(line)) is not None:
                return time
            end = start
        return 0.0

    def _line_start(self, end: int) -> int:
        """Where the line begins whose last byte is before `end`."""
        at = end - 1
        while at > 0:
            size = min(at, _PIECE_BYTES)
            found = os.pread(self._fd, size, at - size).rfind(b"\n")
            if found >= 0:
                return at - size + found + 1
            at -= size
        return 0


def may_continue(fd: int) -> bool:
    """May this open file be continued as a trace? If it is empty, begins as one or is all zeros.

    Zeros are what a power cut leaves of a short trace. Other files begin with some too (disk
    images, fonts, films), and must not be cut off as if they were torn lines.
    """
    head = os.pread(fd, max(map(len, _OURS)), 0)
    if any(ours.startswith(head) or head.startswith(ours) for ours in _OURS):
        return True
    at = 0
    while piece := os.pread(fd, _PIECE_BYTES, at):
        if piece.count(0) < len(piece):
            return False
        at += len(piece)
    return True


def _whole(line: bytes) -> bool:
    """Is this a line to its end?"""
    return line.endswith(b"\n") and isinstance(_parsed(line), dict)


def _time_of(line: bytes) -> float | None:
    """The time of a request; None if the line, which may have been damaged, is none."""
    match _parsed(line):
        case {"get": _, "t": float() | int() as time} if 0 <= time <= MAX_TIME_S:
            return float(time)
    return None


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None

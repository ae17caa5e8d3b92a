"""Record what a program does to a directory, and replay what a kill or a power cut leaves of it.

`record` runs a program under ptrace (Linux, x86-64 and AArch64, single-threaded programs) and
notes every system call that changes files below a directory, SQLite's included, and every line
the program prints. From the recording, `after_kill` makes the directory as it is when the
program is killed at a given call (the page cache survives: all earlier calls took effect), and
`after_power_cut` one of the many that a power cut may leave: what was synced is there, of the
rest any pages and names may be missing. Writes by way of mmap are not recorded (SQLite's -shm is
made anew after a crash).
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from icnblocks.values import dataclass

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_PAGE: Final = 4096
_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_SYSGOOD_AND_EXITKILL: Final = 1 | 0x100000
_INFO = struct.Struct("<B3xIQQ7Q")
_PUNCH: Final = 2
_CALLS: Final[dict[str, dict[int, str]]] = {
    "x86_64": {
        1: "write",
        18: "pwrite",
        74: "sync",
        75: "sync",
        76: "truncate_path",
        77: "truncate",
        82: "rename",
        83: "mkdir",
        87: "unlink",
        257: "openat",
        285: "fallocate",
    },
    "aarch64": {
        34: "mkdirat",
        35: "unlinkat",
        38: "renameat",
        46: "truncate",
        47: "fallocate",
        56: "openat",
        64: "write",
        68: "pwrite",
        82: "sync",
        83: "sync",
    },
}


@dataclass(frozen=True, slots=True)
class Op:
    """One change: what (`write`, `truncate`, `punch`, `sync`, `create`, `unlink`, `rename`,
    `mkdir`, `said`), to which path below the directory, with which bytes or extent.
    """

    what: str
    path: str = ""
    offset: int = 0
    length: int = 0
    data: bytes = b""
    to: str = ""


class CannotTraceError(Exception):
    """This machine or sandbox does not let a process be traced."""


def record(command: Sequence[str], directory: Path) -> list[Op]:
    """Run a program to its end and return what it did below `directory`, in order.

    Raises:
        CannotTraceError: if ptrace is not to be had.
    """
    calls = _CALLS.get(platform.machine())
    if calls is None or sys.platform != "linux":
        raise CannotTraceError(f"not known how to trace on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: libc.ptrace(_TRACEME, 0, None, None),  # noqa: PLW1509
    ) as child:
        _, status = os.waitpid(child.pid, 0)
        if not os.WIFSTOPPED(status):
            child.returncode = os.waitstatus_to_exitcode(status)
            raise CannotTraceError("the program was not stopped at its start")
        libc.ptrace(_SETOPTIONS, child.pid, None, _SYSGOOD_AND_EXITKILL)
        tracer = _Tracer(child.pid, str(directory), calls)
        deliver = 0
        while True:
            libc.ptrace(_SYSCALL, child.pid, None, deliver)
            _, status = os.waitpid(child.pid, 0)
            if not os.WIFSTOPPED(status):
                child.returncode = os.waitstatus_to_exitcode(status)
                break
            deliver = os.WSTOPSIG(status)
            if deliver == signal.SIGTRAP | 0x80:
                deliver = 0
                raw = ctypes.create_string_buffer(_INFO.size)
                libc.ptrace(_GET_SYSCALL_INFO, child.pid, _INFO.size, raw)
                tracer.stop(raw.raw)
            elif deliver == signal.SIGTRAP:
                deliver = 0
    if child.returncode:
        raise AssertionError(f"the recorded program ended with {child.returncode}")
    return tracer.ops


class _Tracer:
    """Turns stops at system calls into ops."""

    def __init__(self, pid: int, directory: str, calls: dict[int, str]) -> None:
        self.ops: list[Op] = []
        self._pid = pid
        self._prefix = directory.rstrip("/") + "/"
        self._calls = calls
        self._pending: Op | None = None

    def stop(self, raw: bytes) -> None:
        kind, _, _, _, first, *arguments = _INFO.unpack(raw)
        if kind == 1:
            call = self._calls.get(first)
            self._pending = self._enter(call, arguments) if call else None
        elif kind == 2 and self._pending is not None:
            op, self._pending = self._pending, None
            result = ctypes.c_int64(first).value
            if result < 0:
                return
            if op.what in ("write", "said"):
                op = Op(op.what, op.path, op.offset, result, op.data[:result])
            self.ops.append(op)

    def _enter(self, call: str, a: list[int]) -> Op | None:
        if call in ("write", "pwrite", "sync", "truncate", "fallocate"):
            return self._enter_fd(call, a)
        if call in ("rename", "renameat"):
            one, two = (a[1], a[3]) if call.endswith("at") else (a[0], a[1])
            path, to = self._below(self._text(one)), self._below(self._text(two))
            return Op("rename", path, to=to or "") if path else None
        if call in ("unlink", "unlinkat", "mkdir", "mkdirat"):
            path = self._below(self._text(a[1] if call.endswith("at") else a[0]))
            return Op(call.removesuffix("at"), path) if path else None
        if call == "openat":
            text = self._text(a[1])
            path = self._below(text)
            temporary = a[2] & os.O_TMPFILE == os.O_TMPFILE
            if path and a[2] & os.O_CREAT and not temporary and not Path(text).exists():
                return Op("create", path)
            if path and a[2] & os.O_TRUNC:
                return Op("truncate", path)
        return None

    def _enter_fd(self, call: str, a: list[int]) -> Op | None:
        if call == "write" and a[0] == 1:
            return Op("said", data=self._memory(a[1], a[2]))
        try:
            path = self._below(str(Path(f"/proc/{self._pid}/fd/{a[0]}").readlink()))
        except OSError:
            return None
        if path is None or path.endswith(" (deleted)"):
            return None
        if call in ("write", "pwrite"):
            offset = a[3] if call == "pwrite" else self._position(a[0])
            return Op("write", path, offset, a[2], self._memory(a[1], a[2]))
        if call == "truncate":
            return Op("truncate", path, length=a[1])
        if call == "fallocate":
            return Op("punch" if a[1] & _PUNCH else "allocate", path, a[2], a[3])
        return Op("sync", path)

    def _below(self, path: str) -> str | None:
        if path + "/" == self._prefix:
            return "."
        return path[len(self._prefix) :] if path.startswith(self._prefix) else None

    def _memory(self, address: int, length: int) -> bytes:
        with open(f"/proc/{self._pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(length)

    def _text(self, address: int) -> str:
        # A path may end just before a page that cannot be read.
        until = (address // _PAGE + 1) * _PAGE
        text = self._memory(address, until - address)
        if b"\0" not in text:
            text += self._memory(until, _PAGE)
        return os.fsdecode(text.partition(b"\0")[0])

    def _position(self, fd: int) -> int:
        text = Path(f"/proc/{self._pid}/fdinfo/{fd}").read_text(encoding="ascii")
        return int(text.split(None, 2)[1])


def said(ops: Sequence[Op], until: int) -> list[str]:
    """The lines that the program had printed before op number `until`."""
    return b"".join(op.data for op in ops[:until] if op.what == "said").decode().splitlines()


def after_kill(ops: Sequence[Op], until: int, path: Path) -> None:
    """Make `path` the directory as it is when the program is killed before op `until`."""
    _build(ops, path, set(range(until)), {})


def after_power_cut(ops: Sequence[Op], until: int, path: Path, chance: random.Random) -> None:
    """Make `path` a directory that a power cut before op `until` may leave."""
    keep_rate = chance.choice([0.0, 0.3, 0.7, 1.0])
    durable = _durable(ops, until)
    names = {"create", "unlink", "rename"}
    # A journal keeps the order of names: of the unsynced ones, the first few are there.
    unsynced = [i for i in range(until) if i not in durable and ops[i].what in names]
    kept_names = set(unsynced[: chance.randint(0, len(unsynced))])
    applied: set[int] = set()
    torn: dict[int, set[int]] = {}
    for number in range(until):
        op = ops[number]
        if number in durable or number in kept_names or op.what == "mkdir":
            applied.add(number)
        elif op.what == "write":
            first, last = op.offset // _PAGE, (op.offset + op.length - 1) // _PAGE
            torn[number] = {p for p in range(first, last + 1) if chance.random() < keep_rate}
            applied.add(number)
        elif op.what not in names and chance.random() < keep_rate:
            applied.add(number)
    _build(ops, path, applied, torn)


def _durable(ops: Sequence[Op], until: int) -> set[int]:
    """Numbers of the ops that a later sync has brought to the disk."""
    waiting: dict[str, list[int]] = {}
    found: set[int] = set()
    for number, op in enumerate(ops[:until]):
        if op.what == "sync":
            found.update(waiting.pop(op.path, ()))
        elif op.what in ("create", "unlink", "rename"):
            parent = str(Path(op.path).parent)
            waiting.setdefault(parent, []).append(number)
            if op.what == "create":
                waiting.setdefault(op.path, []).append(number)
            elif op.what == "rename":
                waiting.setdefault(op.to, []).extend(waiting.pop(op.path, []))
        elif op.what in ("write", "truncate", "punch", "allocate"):
            waiting.setdefault(op.path, []).append(number)
    return found


@dataclass(slots=True)
class _Files:
    """Names and contents while ops are replayed."""

    names: dict[str, bytearray] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)

    def apply(self, op: Op, pages: set[int] | None) -> None:
        if op.what == "mkdir":
            self.directories.append(op.path)
        elif op.what == "create":
            self.names.setdefault(op.path, bytearray())
        elif op.what == "unlink":
            self.names.pop(op.path, None)
        elif op.what == "rename" and op.path in self.names:
            self.names[op.to] = self.names.pop(op.path)
        elif op.path in self.names:
            self._change(self.names[op.path], op, pages)

    def _change(self, content: bytearray, op: Op, pages: set[int] | None) -> None:
        if op.what == "truncate":
            del content[op.length :]
            content.extend(bytes(op.length - len(content)))
        elif op.what == "punch":
            end = min(op.offset + op.length, len(content))
            content[op.offset : end] = bytes(max(0, end - op.offset))
        elif op.what == "write":
            start, last = op.offset, op.offset + op.length
            while start < last:
                end = min((start // _PAGE + 1) * _PAGE, last)
                if pages is None or start // _PAGE in pages:
                    content.extend(bytes(max(0, end - len(content))))
                    content[start:end] = op.data[start - op.offset : end - op.offset]
                start = end


def _build(ops: Sequence[Op], path: Path, applied: set[int], torn: dict[int, set[int]]) -> None:
    files = _Files()
    for number in sorted(applied):
        files.apply(ops[number], torn.get(number))
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    for directory in files.directories:
        (path / directory).mkdir(exist_ok=True)
    for name, content in files.names.items():
        if not name.endswith("-shm"):
            _write_sparse(path / name, content)


def _write_sparse(path: Path, content: bytearray) -> None:
    """Pages of zeros become holes, as they were where a hole was punched."""
    with path.open("wb") as file:
        file.truncate(len(content))
        for start in range(0, len(content), _PAGE):
            piece = content[start : start + _PAGE]
            if piece.count(0) != len(piece):
                file.seek(start)
                file.write(piece)

"""From a model directory to its manifest: walk, cut and hash, in parallel and in bounded memory.

Every file's facts are taken before it is read and compared afterwards, so that a file that
changes meanwhile is noticed. This module must not send or store anything.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Self

from icnblocks.errors import ChangedError, StorageError, UsageError
from icnblocks.limits import BLOCK_BYTES, MAX_FILES, MAX_HEADER_BYTES
from icnblocks.manifest.cutting import CutFile, blocks_in, build_manifest, cut_runs, is_safetensors
from icnblocks.manifest.paths import faults
from icnblocks.naming import DIGEST_BYTES, Digest
from icnblocks.store.extents import read_all
from icnblocks.store.facts import FileFacts
from icnblocks.store.whole import sync_path
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from icnblocks.manifest.model import BaseRef, Kind, Manifest, Run

SKIPPED: Final = frozenset({".icnblocks", ".git", ".cache", "__pycache__"})
"""Folders that are not part of a model: our own state, version control, download caches."""
_TOLD: Final = 3
"""Names that may not be published, of which a message tells."""
_BATCH: Final = 32
"""Blocks hashed in one task: enough to make a thread switch cheap, few enough to share well."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A scanned model directory.

    Attributes:
        root: the directory.
        manifest: what it is made of.
        facts: by path, what each file was when it was read.
    """

    root: Path
    manifest: Manifest
    facts: dict[str, FileFacts]

    def check(self) -> None:
        """Are the files still what they were when they were read?

        Raises:
            ChangedError: if not.
        """
        for path, facts in self.facts.items():
            self._check(self.root / path, facts)

    def flush(self) -> None:
        """Make the files and their names survive a power cut: who wrote them may not have.

        Raises:
            StorageError: if the disk refuses.
        """
        folders = {str(folder) for path in self.facts for folder in PurePath(path).parents}
        for path in [*self.facts, *folders]:
            try:
                sync_path(self.root / path)
            except OSError as error:
                raise StorageError.of(error, f"cannot flush {self.root / path}") from error

    def _check(self, path: Path, facts: FileFacts) -> None:
        try:
            now = FileFacts.of(os.stat(path))
        except OSError as error:
            raise ChangedError(f"{path}: {error.strerror}") from error
        if now != facts:
            raise ChangedError(f"{path} changed while it was being published")


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what the system says of files that it cannot read into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError.of(error, f"cannot read {error.filename}") from error


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of the regular files (links to files are followed, to folders are not)."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in SKIPPED:
                        folders.append(f"{path}/")
                elif entry.is_file():
                    yield path
                else:
                    what = (
                        "is a link to a directory or to nothing"
                        if entry.is_symlink()
                        else ("is not a regular file")
                    )
                    raise UsageError(
                        f"{root / path} {what}",
                        hint="remove it, or publish a directory without it",
                    )


def _read_header(fd: int) -> bytes:
    """The 8 length bytes and the header of a safetensors file, as far as they are there."""
    start = os.pread(fd, 8, 0)
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        return start
    return start + read_all(fd, length, 8)


def _digest_batch(path: Path, spans: list[tuple[int, int]]) -> bytes:
    """Digests of (offset, length) spans of one file, packed.

    Raises:
        ChangedError: if the file is shorter than it was.
    """
    packed = bytearray()
    with path.open("rb", buffering=0) as file:
        for offset, length in spans:
            data = read_all(file.fileno(), length, offset)
            if len(data) != length:
                raise ChangedError(f"{path} became shorter while it was being read")
            packed += Digest.of(data)
    return bytes(packed)


def _spans(runs: tuple[Run, ...], block_bytes: int) -> Iterator[tuple[int, int]]:
    for run in runs:
        end = run.offset + run.length
        for offset in range(run.offset, end, block_bytes):
            yield offset, min(block_bytes, end - offset)


def _batches(spans: Iterator[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    while batch := list(islice(spans, _BATCH)):
        yield batch


class _Hashing:
    """Digests of many batches, by a few threads, with a bounded number under way."""

    def __init__(self, threads: int, progress: Callable[[int], None]) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="icn-hash")
        self._ahead = 4 * threads
        self._progress = progress
        self._queue: deque[tuple[Future[bytes], int]] = deque()
        self._packed: list[bytes] = []

    def add(self, path: Path, batch: list[tuple[int, int]]) -> None:
        if len(self._queue) >= self._ahead:
            self._take()
        size = sum(length for _, length in batch)
        self._queue.append((self._pool.submit(_digest_batch, path, batch), size))

    def _take(self) -> None:
        future, size = self._queue.popleft()
        self._packed.append(future.result())
        self._progress(size)

    def finish(self) -> bytes:
        while self._queue:
            self._take()
        return b"".join(self._packed)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _paths(root: Path) -> list[str]:
    with _readable():
        if not root.is_dir():
            raise UsageError(f"no such directory: {root}")
        paths = sorted(islice(_walk(root), MAX_FILES + 1))
    if not paths:
        raise UsageError(f"{root} holds no files")
    if len(paths) > MAX_FILES:
        raise UsageError(f"{root} holds more than {MAX_FILES} files")
    _check_names(root, paths)
    return paths


def _check_names(root: Path, paths: list[str]) -> None:
    wrong = faults(paths)
    if not wrong:
        return
    more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
    raise UsageError(
        f"{root} has {len(wrong)} file name{'s' if len(wrong) > 1 else ''} that a model may not"
        f" have: {'; '.join(wrong[:_TOLD])}{more}",
        hint="rename the files, or publish a directory without them",
    )


def size_of(root: Path) -> int:
    """Bytes of all files that a scan of `root` would read. Raises as `scan`."""
    paths = _paths(root)
    with _readable():
        return sum(os.stat(root / path).st_size for path in paths)


class Scanning:
    """A scan under way, on threads of its own; leaving the `with` ends it. Raises as `scan`.

    Args:
        root: the directory; links to files are followed, folders in SKIPPED are left out.
        block_bytes: the size at which runs are cut.
        threads: hashing threads; one for each core, at most 8, when None.
        progress: told of every count of bytes hashed, on another thread.
    """

    def __init__(
        self,
        root: Path,
        *,
        block_bytes: int = BLOCK_BYTES,
        threads: int | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._root = root
        self._block_bytes = block_bytes
        self._paths = _paths(root)
        self._hashing = _Hashing(threads or min(os.cpu_count() or 1, 8), progress)
        self._cuts: list[tuple[str, int, tuple[Run, ...]]] = []
        self._facts: dict[str, FileFacts] = {}
        self._left = threading.Event()
        self._driver = ThreadPoolExecutor(1, thread_name_prefix="icn-scan")
        self._digests = self._driver.submit(self._read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._left.set()
        self._driver.shutdown(wait=True)

    @property
    def has_tensors(self) -> bool:
        """Whether a safetensors file is among what is scanned."""
        return any(map(is_safetensors, self._paths))

    def end(self, kind: Kind, base: BaseRef | None = None) -> Scan:
        """Wait until all is hashed, and make the manifest.

        Args:
            kind: what the manifest shall say it is.
            base: the base of an adapter.
        """
        with _readable():
            digests = self._digests.result()
        manifest = _manifest(self._cuts, digests, kind, base, self._block_bytes)
        result = Scan(self._root, manifest, self._facts)
        result.check()
        return result

    def _read(self) -> bytes:
        try:
            for path in self._paths:
                if not self._left.is_set():
                    self._begin(path)
            return self._hashing.finish()
        finally:
            self._hashing.close()

    def _begin(self, path: str) -> None:
        full = self._root / path
        with full.open("rb", buffering=0) as file:
            facts = FileFacts.of(os.fstat(file.fileno()))
            header = _read_header(file.fileno()) if is_safetensors(path) else None
        runs = cut_runs(path, facts.size, header, block_bytes=self._block_bytes)
        self._cuts.append((path, facts.size, runs))
        self._facts[path] = facts
        for batch in _batches(_spans(runs, self._block_bytes)):
            if self._left.is_set():
                return
            self._hashing.add(full, batch)


def scan(
    root: Path,
    kind: Kind,
    base: BaseRef | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Scan:
    """Cut and hash a model directory; see `Scanning` for what the arguments mean.

    Raises:
        UsageError: if there is nothing to publish, something that is not a file, or a file by a
            name that a model may not have.
        FormatError: if a safetensors file is broken; the message names it.
        ChangedError: if a file changed while it was read.
        StorageError: if a file cannot be read.
    """
    with Scanning(root, block_bytes=block_bytes, threads=threads, progress=progress) as scanning:
        return scanning.end(kind, base)


def _manifest(
    cuts: list[tuple[str, int, tuple[Run, ...]]],
    digests: bytes,
    kind: Kind,
    base: BaseRef | None,
    block_bytes: int,
) -> Manifest:
    files, at = [], 0
    for path, size, runs in cuts:
        count = sum(blocks_in(run.length, block_bytes) for run in runs)
        end = at + count * DIGEST_BYTES
        files.append(CutFile(path, size, runs, digests[at:end]))
        at = end
    return build_manifest(kind, files, base=base, block_bytes=block_bytes)

"""Output files of `icn-sim`: there when they are whole, and never half of one."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import shutil
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from icnblocks.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def opened(path: str) -> Iterator[IO[str]]:
    """A text file to write to, or standard output (`-`).

    Compressed, always to the same bytes, if its name ends in `.gz`.

    Raises:
        StorageError: if it cannot be written; what was there before is left as it was.
        OSError: if standard output cannot be.
    """
    if path == "-":
        if sys.stdout is None:  # closed by whoever started the program
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        with _whole(os.path.realpath(path) if path else path) as raw:
            binary: IO[bytes] = raw
            if path.endswith(".gz"):
                binary = gzip.GzipFile("", "wb", 6, raw, 0)  # type: ignore[assignment]
            with io.TextIOWrapper(binary, encoding="utf-8", newline="\n") as text:
                yield text
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = "free space, see who may write there, or choose another place"
        said = f"cannot write {path or repr(path)}: {error.strerror}"
        raise StorageError(said, hint=hint) from error


@contextmanager
def _whole(path: str) -> Iterator[IO[bytes]]:
    """A file that takes its name when all is written; pipes and devices are written to as they are.

    A trace that is cut off after a line is a trace, too: nobody would notice.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            yield file
        return
    partial = f"{path}.partial" if path else path
    try:  # around all: an interrupt may come as soon as it is there
        with open(partial, "wb") as file:
            if os.path.exists(path):
                shutil.copymode(path, partial)
            yield file
            file.close()
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise

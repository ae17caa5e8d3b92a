"""What the system says when a model cannot be read, as errors that say what to do."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from icnblocks.errors import NotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ELSE: Final = "see whether the disk that it lies on can be read"
_HINTS: Final = dict.fromkeys(
    (errno.EACCES, errno.EPERM), "see who may read it, and enter the directories that it lies in"
) | dict.fromkeys(
    (errno.EMFILE, errno.ENFILE),
    "allow more open files (`ulimit -n`), or let go of models: each loaded file may keep one open",
)


@contextmanager
def reading(path: Path, what: str = "file") -> Iterator[None]:
    """Turn what the system raises when `path` is read into errors of the tree.

    Args:
        path: for the message.
        what: should be there: a word for the message.

    Raises:
        NotFoundError: if there is nothing at the path.
        StorageError: if it cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"there is no {what} {path}",
            hint="check the path; if the model was pulled, pull it again",
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0, _ELSE),
        ) from error

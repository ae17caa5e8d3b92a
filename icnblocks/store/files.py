"""Open files that are shared: bounded in number, closed when the last user is done.

It must not know what lies in the files.
"""

from __future__ import annotations

import os
import resource
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

Key = TypeVar("Key")


@dataclass(slots=True)
class OpenFile:
    """An open file and how many use it now."""

    fd: int
    users: int = 0
    dropped: bool = False


class OpenFiles(Generic[Key]):
    """Open files by key. Thread-safe.

    Args:
        limit: how many stay open beyond those in use; by default a quarter of what the system
            allows this process, at most 4096.
    """

    def __init__(self, limit: int | None = None) -> None:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._limit = limit or max(16, min(4096, allowed // 4))
        self._files: dict[Key, OpenFile] = {}
        self._lock = threading.Lock()

    def borrow(self, key: Key, opener: Callable[[], int]) -> OpenFile:
        """Share the open file of `key`, or open it; `give_back` must follow.

        Raises:
            OSError: as `opener` does.
        """
        with self._lock:
            file = self._files.pop(key, None)
            if file is None:
                self._close_idle(self._limit - 1)
                file = OpenFile(opener())
            self._files[key] = file  # at the end: the most recently used
            file.users += 1
            return file

    def give_back(self, file: OpenFile) -> None:
        """End a `borrow`."""
        with self._lock:
            file.users -= 1
            if file.dropped and file.users == 0:
                os.close(file.fd)

    def drop(self, key: Key) -> None:
        """Open it anew next time; those who use it keep it until they give it back."""
        with self._lock:
            self._drop(key)

    def close_idle(self) -> None:
        """Close what nobody uses: a file that is open keeps its room when it is removed."""
        with self._lock:
            idle = [key for key, file in self._files.items() if file.users == 0]
            files = [self._files.pop(key) for key in idle]
        for file in files:  # nobody is to wait for this: removing a large file takes its time
            os.close(file.fd)

    def close(self) -> None:
        """Drop all."""
        with self._lock:
            for key in list(self._files):
                self._drop(key)

    def _drop(self, key: Key) -> None:
        file = self._files.pop(key, None)
        if file is not None:
            file.dropped = True
            if file.users == 0:
                os.close(file.fd)

    def _close_idle(self, keep: int) -> None:
        while len(self._files) > keep:
            # The longest unused come first, so this looks at one or two.
            idle = next((key for key, file in self._files.items() if file.users == 0), None)
            if idle is None:
                return
            self._drop(idle)

"""A model's tensors while it is pulled: each as soon as it is there, in the order of its files.

A thread pulls; whoever asks for the next tensor waits for its blocks only. So a program builds its
layers, or moves them to a device, while the rest is on its way. What is handed out are views of
the files that the pull writes, mapped anew for every part of a file that has come: a page that a
program wrote into shows no more what comes into it later. This module must not fetch or write.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self, TypedDict

from icnblocks.assembly.directory import PARTIAL
from icnblocks.errors import FormatError, NotFoundError, SourceError, UsageError
from icnblocks.loader.files import INDEX, ONLY, choose
from icnblocks.loader.frameworks import framework_of
from icnblocks.loader.mapped import tensor_infos
from icnblocks.loader.model import Model
from icnblocks.loader.opened import enter
from icnblocks.loader.reading import reading
from icnblocks.manifest.cutting import is_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Unpack

    from icnblocks.assembly.assembler import Assembler
    from icnblocks.assembly.reach import Reach
    from icnblocks.client.settings import Settings
    from icnblocks.loader.mapped import TensorInfo
    from icnblocks.naming import Name
    from icnblocks.share import ShareOptions

_STEPS: Final = 128
"""Of a model so many parts are mapped, and one for each file: each may keep a descriptor."""
_OUTSIDE: Final = "a stream is used inside its `with` block"
_INSIDE: Final = "with icnblocks.stream(...) as tensors: ..."


class PullOptions(TypedDict, total=False):
    """The options of `icnblocks.pull`."""

    sources: str | Sequence[str]
    to: str | Path | None
    trust: str | None
    trust_first_use: bool
    offline: bool
    overwrite: bool
    max_age_s: float
    settings: Settings | None
    share: ShareOptions | None


class _Part(NamedTuple):
    """A file under way, and how far it has come."""

    path: Path
    reach: Reach
    fd: int | None  # of one with tensors: it stays the same file, whatever is pulled there later


class _Pulling:
    """A pull in a thread of its own, and what it has brought so far. For one other thread."""

    def __init__(self, name: str | Name, options: PullOptions) -> None:
        self._name, self._options = name, options
        self._news: SimpleQueue[None] = SimpleQueue()
        self.parts: dict[str, _Part] | None = None
        self.path: Path | None = None
        self._error: BaseException | None = None
        self._stops: list[Callable[[], None]] = []
        self._ended = self._closed = False
        self._thread = threading.Thread(target=self._pull, name="icn-stream", daemon=True)
        self._thread.start()

    # --- in the thread --------------------------------------------------------------------------

    def _pull(self) -> None:
        from icnblocks.facade import pull  # not needed, and not cheap, where a path is loaded

        try:
            self.path = pull(self._name, follower=self, **self._options)
        except BaseException as error:  # it is raised to whoever waits
            self._error = error
        self._ended = True
        self._tell()

    def asking(self, stop: Callable[[], None]) -> None:
        """See Follower."""
        self._stops.append(stop)
        self.placed()

    def assembling(self, assembler: Assembler) -> None:
        """See Follower."""
        from icnblocks.assembly.reach import Reach  # as above

        parts: dict[str, _Part] = {}
        try:
            for number, file in enumerate(assembler.manifest.files):
                fd = assembler.reading(number) if is_safetensors(file.path) else None
                path = assembler.directory.root / file.path
                parts[file.path] = _Part(path, Reach(assembler, number), fd)
        except BaseException:
            _let_go(parts)
            raise
        self.parts = parts
        self._tell()

    def fetching(self, stop: Callable[[], None]) -> None:
        """See Follower."""
        self._stops.append(stop)
        self.placed()

    def placed(self) -> None:
        """See Follower."""
        if self._closed:
            raise SourceError("the stream was closed")
        self._tell()

    def _tell(self) -> None:
        if self._news.empty():
            self._news.put(None)

    # --- in the other ---------------------------------------------------------------------------

    def wait(self, is_there: Callable[[], bool] = lambda: False) -> None:
        """Until something is there or the pull has ended; raise what that ended with."""
        if self._closed:
            raise UsageError(_OUTSIDE, hint=_INSIDE)
        # A bare queue, since Ctrl-C may come here at any time, and conditions do not bear it.
        while not is_there() and not self._ended:
            self._news.get()
        if self._error is not None and not is_there():
            raise self._error

    def reach(self, part: _Part, count: int) -> int:
        """Wait for so many bytes of a file; how many there are."""
        self.wait(lambda: part.reach.look() >= count)
        return part.reach.size if self.path is not None else part.reach.look()

    def read(self, part: _Part, count: int | None = None, offset: int = 0) -> bytes:
        """Bytes of a file, once they are there."""
        end = part.reach.size if count is None else min(part.reach.size, offset + count)
        self.reach(part, end)
        with reading(part.path), self._opened(part) as file:
            file.seek(offset)
            return file.read(max(0, end - offset))  # a single read gives 2 GiB at most

    def _opened(self, part: _Part) -> BinaryIO:
        if part.fd is not None:
            return open(part.fd, "rb", closefd=False)
        if self.path is None:  # else what has that name is of another pull
            try:
                return open(f"{part.path}{PARTIAL}", "rb")
            except FileNotFoundError:
                pass  # it has its name by now
        return open(part.path, "rb")

    def mapped(self, name: str) -> None:
        """A file is mapped as far as it will be: its mappings may keep descriptors of their own."""
        part = (self.parts or {}).get(name)
        if self.parts is not None and part is not None and part.fd is not None:
            self.parts[name] = part._replace(fd=None)
            os.close(part.fd)

    def close(self) -> None:
        """End the pull if it lasts, and let go of the files. Idempotent."""
        self._closed = True
        for stop in tuple(self._stops):
            stop()
        self._thread.join()
        _let_go(self.parts or {})
        self.parts = {}


def _let_go(parts: dict[str, _Part]) -> None:
    for part in parts.values():
        if part.fd is not None:
            os.close(part.fd)


class Stream:
    """A pull under way: a context manager that gives tensors while it lasts. For one thread.

    Inside its `with` block it can be iterated once, over (name, tensor), in the order of the files
    and of the tensors in them. Tensors are as those of `icnblocks.load`, and stay valid
    afterwards; those of a pull that did not end, until another version is pulled there.
    Leaving the block early ends the pull; what arrived is kept.

    Args:
        name: what to pull.
        framework: `numpy` or `torch`.
        options: those of `icnblocks.pull`.

    Raises:
        UsageError: for an unknown framework, or one that is not installed.
    """

    def __init__(self, name: str | Name, framework: str, options: PullOptions) -> None:
        self._name, self._options = name, options
        self._framework, self._framework_name = framework_of(framework), framework
        self._pulling: _Pulling | None = None
        self._used = self._iterated = False

    def __enter__(self) -> Self:
        if self._used:
            raise UsageError("a stream is used once", hint="make another: what came is kept")
        self._used = True
        self._pulling = _Pulling(self._name, self._options)
        return self

    def __exit__(self, *exc: object) -> None:
        pulling, self._pulling = self._pulling, None
        if pulling is not None:
            pulling.close()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        if self._iterated:
            raise UsageError("a stream is iterated once", hint="load the model when it has come")
        pulling = self._open()
        self._iterated = True
        return self._tensors(pulling)

    def read(self, name: str) -> bytes:
        """A file of the model, once it is there: files without tensors come first.

        Args:
            name: its path in the model, such as `config.json`.

        Raises:
            NotFoundError: if the model has no such file.
            IcnError: as the pull does.
        """
        pulling = self._open()
        pulling.wait(lambda: pulling.parts is not None)
        if pulling.parts is None:
            path = self.wait() / name
            with reading(path):
                return path.read_bytes()
        if name not in pulling.parts:
            raise NotFoundError(
                f"{self._name} has no file {name[:100]!r}",
                hint=f"`icn-show {self._name} --all` lists its files",
            )
        return pulling.read(pulling.parts[name])

    def wait(self) -> Path:
        """Wait for the end of the pull, and return the model's directory.

        Raises:
            IcnError: as the pull does.
        """
        pulling = self._open()
        pulling.wait()
        if pulling.path is None:
            raise SourceError("the pull has not ended well")
        return pulling.path

    def _open(self) -> _Pulling:
        if self._pulling is None:
            raise UsageError(_OUTSIDE, hint=_INSIDE)
        return self._pulling

    def _tensors(self, pulling: _Pulling) -> Iterator[tuple[str, Any]]:
        pulling.wait(lambda: pulling.parts is not None)
        parts = pulling.parts
        if parts is None:  # it was there before
            with Model(self.wait(), self._framework_name) as model:
                for name in model:
                    yield name, model.tensor(name)
            return
        names = {name for name in parts if "/" not in name}
        chosen = choose(names, lambda: pulling.read(parts[INDEX]), INDEX)
        if not chosen:
            raise NotFoundError(f"{self._name} holds no safetensors files", hint=ONLY)
        step = sum(part.reach.size for part in parts.values()) // _STEPS
        known: dict[str, TensorInfo] = {}
        for name, promised in chosen.items():
            part = parts[name]
            if part.fd is None:
                raise FormatError(f"{part.path}: not a safetensors file, though the index names it")
            infos = tensor_infos(part.path, part.reach.size, partial(pulling.read, part))
            enter(known, infos, promised, part.path)
            yield from self._tensors_of(pulling, part, part.fd, infos, step)
            pulling.mapped(name)
        self.wait()

    def _tensors_of(
        self, pulling: _Pulling, part: _Part, fd: int, infos: list[TensorInfo], step: int
    ) -> Iterator[tuple[str, Any]]:
        size, reach, mapping = part.reach.size, 0, None
        for info in infos:
            self._framework.check(info)
            end = info.offset + info.length
            if mapping is None or end > reach:
                reach = pulling.reach(part, min(size, max(end, reach + step)))
                with reading(part.path):
                    mapping = self._framework.map(fd, size)
            yield info.name, self._framework.tensor(mapping, info)


def stream(name: str | Name, framework: str = "numpy", **options: Unpack[PullOptions]) -> Stream:
    """Pull a model, and use its tensors while they come.

    ```
    with icnblocks.stream("acme/llm", "torch", sources="http://edge:4260") as tensors:
        config = json.loads(tensors.read("config.json"))
        for name, tensor in tensors:
            ...
    ```

    When the loop has ended the model lies in its directory, as after `pull`; a model that was
    there before is loaded from there.

    Args:
        name: `publisher/model[@tag]`.
        framework: `numpy` or `torch`.
        options: those of `icnblocks.pull`.

    Raises:
        UsageError: for an unknown framework, or one that is not installed. What the pull raises is
            raised inside the `with` block.
    """
    return Stream(name, framework, options)

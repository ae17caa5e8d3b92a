"""Models as tensors: all of them at once, or one by one, by name or from a directory.

A name is pulled first; what is loaded is the pulled directory itself, so there is no second copy
on disk, and none in memory until a tensor is written to. This module must not know what a
framework's tensors are: `frameworks` makes them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from icnblocks.errors import NotFoundError, UsageError
from icnblocks.loader.frameworks import framework_of
from icnblocks.loader.opened import open_files
from icnblocks.loader.reading import reading
from icnblocks.loader.steady import read_steadily
from icnblocks.naming import Name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.loader.mapped import TensorInfo


class Model:
    """An open model: a context manager that gives its tensors one by one.

    Tensors stay valid after it is closed: each keeps the mapping of its file alive. Closing lets
    go of the files that nothing uses.

    Args:
        path: a model directory, or one safetensors file.
        framework: `numpy` or `torch`.

    Raises:
        NotFoundError: if there are no safetensors files.
        FormatError: if one is broken or lacks a tensor that the index promises in it, or if two
            have a tensor of the same name.
        UsageError: for an unknown framework, or one that is not installed.
        StorageError: if a file cannot be read or mapped.
        ChangedError: if a pull into the directory was cut off while it replaced the files.
        BusyError: if one is replacing them, for seconds.
    """

    def __init__(self, path: Path, framework: str = "numpy") -> None:
        self.path = path
        self._framework = framework_of(framework)
        opened = read_steadily(path, lambda: open_files(path, self._framework.map))
        self._infos, self._mappings = opened.infos, opened.mappings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def keys(self) -> list[str]:
        """The names of its tensors, file by file in the order in which they lie there."""
        return list(self._infos)

    def info(self, name: str) -> TensorInfo:
        """A tensor's type, shape and place, without touching its bytes.

        Raises:
            NotFoundError: if there is no such tensor.
            UsageError: if `name` is no string.
        """
        if not isinstance(name, str):
            raise UsageError(
                f"not a tensor's name: {name!r:.100}", hint="keys() lists the names of its tensors"
            )
        try:
            return self._infos[name]
        except KeyError:
            raise NotFoundError(
                f"{self.path} has no tensor {name[:100]!r}",
                hint="keys() lists the names of its tensors",
            ) from None

    def tensor(self, name: str) -> Any:
        """A tensor, as a view of the mapped file that may be written to (the file never is).

        Raises:
            NotFoundError: if there is no such tensor.
            UsageError: if the framework has no type for it, or no such shape, the model is closed,
                or `name` is no string.
        """
        info = self.info(name)
        self._framework.check(info)
        mapping = self._mappings.get(info.file)
        if mapping is None:
            raise UsageError(f"{self.path} is closed; take tensors inside the `with` block")
        return self._framework.tensor(mapping, info)

    def tensors(self) -> dict[str, Any]:
        """All tensors by name.

        Raises:
            UsageError: if the framework has no type for one of them, or no such shape, or the model
                is closed.
        """
        return {name: self.tensor(name) for name in self._infos}

    def close(self) -> None:
        """Let go of the files. Idempotent."""
        # Dropped, not closed: a mapping goes when the last tensor that looks into it has gone.
        self._mappings.clear()


def open_model(model: str | Path | Name, framework: str = "numpy") -> Model:
    """Open a model to take single tensors from it.

    Args:
        model: a name, which is pulled with the settings of this machine (call `pull` first, and
            give its result here, for any other way); or an existing directory or safetensors
            file. A string that is an existing path means that path.
        framework: `numpy` or `torch`.

    Raises:
        IcnError: as its class says.
    """
    return Model(_path_of(model), framework)


def load(model: str | Path | Name, framework: str = "numpy") -> dict[str, Any]:
    """Load all tensors of a model, by name.

    Costs no copy: the tensors are views of the mapped files, read from disk when first touched.

    Args:
        model: as for `open_model`.
        framework: `numpy` or `torch`.

    Raises:
        IcnError: as its class says.
    """
    with open_model(model, framework) as opened:
        return opened.tensors()


def _path_of(model: str | Path | Name) -> Path:
    if isinstance(model, str) and (os.path.exists(model) or model.startswith((".", "/"))):
        model = Path(model)  # no name begins so
    if isinstance(model, Path):
        _check_there(model)
        return model
    if not isinstance(model, str | Name):
        raise UsageError(
            f"not a model: {model!r:.100}", hint="give a name or the path of a directory or file"
        )
    name = Name.parse(model) if isinstance(model, str) else model

    from icnblocks.facade import pull  # not needed, and not cheap, where a path is loaded

    return pull(name)


def _check_there(path: Path) -> None:
    try:
        with reading(path, "directory or file"):
            os.stat(path)
    except ValueError as error:
        raise UsageError(f"not a path: {str(path)!r:.100}", hint="it has a null byte") from error

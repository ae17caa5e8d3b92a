"""A model's files, mapped, and what each promises: its tensors by name.

This module must not know when a model may be opened, nor make tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icnblocks.errors import FormatError
from icnblocks.loader.files import tensor_files
from icnblocks.loader.mapped import map_file
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from icnblocks.loader.mapped import TensorInfo


@dataclass(frozen=True, slots=True)
class Opened:
    """A model's files, mapped.

    Attributes:
        infos: its tensors by name, file by file in the order in which they lie there.
        mappings: what the framework made of each file.
    """

    infos: dict[str, TensorInfo]
    mappings: dict[Path, Any]


def open_files(model: Path, mapper: Callable[[int, int], Any]) -> Opened:
    """Map the files of a model.

    Args:
        model: a directory, or one safetensors file.
        mapper: maps an open file, given its descriptor and size.

    Raises:
        NotFoundError: if there are no safetensors files, or one is missing.
        FormatError: if one is broken, lacks a tensor that the index promises in it, or has one
            of the name of another file's.
        StorageError: if one cannot be read or mapped.
    """
    opened = Opened({}, {})
    for file, promised in tensor_files(model).items():
        opened.mappings[file], infos = map_file(file, mapper)
        enter(opened.infos, infos, promised, file)
    return opened


def enter(
    known: dict[str, TensorInfo], infos: list[TensorInfo], promised: list[str], file: Path
) -> None:
    """Enter the tensors of one more file.

    Args:
        known: those of the model so far, by name.
        infos: those of the file.
        promised: names that an index promises in it.
        file: the file.

    Raises:
        FormatError: if it lacks one that is promised, or has one of the name of another file's.
    """
    missing = set(promised).difference(info.name for info in infos)
    if missing:
        raise FormatError(
            f"{file} has no tensor {min(missing)[:100]!r}, which the index promises there",
            hint="the index and the files are of different models: pull or publish them again",
        )
    for info in infos:
        if info.name in known:
            raise FormatError(
                f"{file.parent} has two tensors named {info.name[:100]!r},"
                f" in {known[info.name].file.name} and {file.name}",
                hint="open one of the files instead of the directory",
            )
        known[info.name] = info

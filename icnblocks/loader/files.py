"""Which files of a model directory hold its tensors, as the libraries that run models decide it.

This module must not look into the tensors: only at the directory and its index.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError, NotFoundError, StorageError
from icnblocks.limits import MAX_HEADER_BYTES

if TYPE_CHECKING:
    from pathlib import Path

_INDEX: Final = "model.safetensors.index.json"
_WHOLE: Final = ("model.safetensors", "adapter_model.safetensors")


def tensor_files(model: Path) -> list[Path]:
    """The safetensors files of a model, in order of their names.

    A directory with an index has the files that the index names; one with a whole model or a
    whole adapter has that; any other has every safetensors file in it (not below it). A single
    file is itself.

    Raises:
        NotFoundError: if there is none.
        FormatError: if the index is broken or names files elsewhere.
        StorageError: if the index cannot be read.
    """
    if model.is_file():
        return [model]
    if (model / _INDEX).is_file():
        return [model / file for file in sorted(set(_weight_map(model / _INDEX).values()))]
    for whole in _WHOLE:
        if (model / whole).is_file():
            return [model / whole]
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise NotFoundError(
            f"{model} holds no safetensors files",
            hint="only safetensors can be loaded; other files of a pulled model are used in place",
        )
    return files


def _weight_map(index: Path) -> dict[str, str]:
    """File by tensor, as the index says."""
    try:
        with index.open("rb") as file:
            text = file.read(MAX_HEADER_BYTES + 1)
    except OSError as error:
        raise StorageError(f"cannot read {index}: {error.strerror}") from error
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(f"{index} has more than {MAX_HEADER_BYTES} bytes")
    try:
        found = json.loads(text)["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise FormatError(f"{index} is no index of tensors: it has no weight_map") from None
    if not isinstance(found, dict) or not found:
        raise FormatError(f"{index} is no index of tensors: its weight_map is empty or no map")
    for file in found.values():
        if not isinstance(file, str) or not file or "/" in file or "\0" in file or file == "..":
            raise FormatError(f"{index} names a file that cannot be beside it: {file!r:.80}")
    return found

"""Which files of a model directory hold its tensors, as the libraries that run models decide it.

This module must not look into the tensors: only at the directory, its index, and what a pull
noted there.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Final

from icnblocks.assembly.directory import MANIFEST, STATE
from icnblocks.errors import FormatError, NotFoundError
from icnblocks.limits import MAX_HEADER_BYTES, MAX_MANIFEST_BYTES
from icnblocks.loader.reading import reading
from icnblocks.manifest.codec import decode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_WHOLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_ADAPTER: Final = "adapter_model.safetensors"
_SUFFIX: Final = ".safetensors"


def tensor_files(model: Path) -> dict[Path, list[str]]:
    """The safetensors files of a model, in order of their names.

    Of a pulled directory only what was pulled counts, whatever lies beside it. A directory with a
    whole model has that (whatever an index says, as transformers decides it); one with an index
    has the files that the index names; one with a whole adapter has that; any other has every
    safetensors file in it (not below it). A single file is itself.

    Returns:
        For each file the tensors that an index promises in it.

    Raises:
        NotFoundError: if there is none.
        FormatError: if the index is broken or names files elsewhere.
        StorageError: if something cannot be read.
    """
    if _is_file(model):
        return {model: []}
    pulled = _pulled(model)

    def has(name: str) -> bool:
        return _is_file(model / name) if pulled is None else name in pulled

    if has(_WHOLE):
        return {model / _WHOLE: []}
    if has(_INDEX):
        return _indexed(model / _INDEX)
    if has(_ADAPTER):
        return {model / _ADAPTER: []}
    with reading(model, "directory"):
        names = os.listdir(model) if pulled is None else pulled
    files: dict[Path, list[str]] = {
        model / name: [] for name in sorted(names) if name.endswith(_SUFFIX)
    }
    if not files:
        raise NotFoundError(
            f"{model} holds no safetensors files" + ("" if pulled is None else " that were pulled"),
            hint="only safetensors can be loaded; other files of a pulled model are used in place",
        )
    return files


def _is_file(path: Path) -> bool:
    try:
        with reading(path):
            return stat.S_ISREG(os.stat(path).st_mode)
    except NotFoundError:
        return False


def _pulled(model: Path) -> set[str] | None:
    """Names of the files that a pull put right into the directory; None if none can be told."""
    path = model / STATE / MANIFEST
    try:
        with reading(path), path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        return {file.path for file in decode(data).files if "/" not in file.path}
    except (NotFoundError, FormatError):
        return None


def _indexed(index: Path) -> dict[Path, list[str]]:
    """The files that an index names, with their tensors."""
    promised: dict[str, list[str]] = {}
    for tensor, file in _weight_map(index).items():
        promised.setdefault(file, []).append(tensor)
    return {index.parent / file: promised[file] for file in sorted(promised)}


def _weight_map(index: Path) -> Mapping[str, str]:
    """File by tensor, as the index says."""
    with reading(index), index.open("rb") as opened:
        text = opened.read(MAX_HEADER_BYTES + 1)
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

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
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

_WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_ADAPTER: Final = "adapter_model.safetensors"
_SUFFIX: Final = ".safetensors"
_LOOKED_FOR: Final = (_WHOLE, INDEX, _ADAPTER)
"""What is no file under one of these names does not count as such."""
ONLY: Final = "only safetensors can be loaded; other files of a pulled model are used in place"


def tensor_files(model: Path) -> dict[Path, list[str]]:
    """The safetensors files of a model, in order of their names.

    Of a pulled directory only what was pulled counts, whatever lies beside it. A directory with a
    whole model has that (whatever an index says, as transformers decides it); one with an index
    has the files that the index names; one with a whole adapter has that; any other has every
    safetensors file in it (not below it). A single file is itself.

    Returns:
        For each file the tensors that an index promises in it.

    Raises:
        NotFoundError: if there is none, or one that the index names is not there.
        FormatError: if the index is broken or names files elsewhere.
        StorageError: if something cannot be read.
    """
    if _is_file(model):
        return {model: []}
    pulled = _pulled(model)
    if pulled is None:
        with reading(model, "directory"):
            there = os.listdir(model)
        names = {name for name in there if name not in _LOOKED_FOR or _is_file(model / name)}
    else:
        names = pulled
    chosen = choose(names, lambda: _read_index(model / INDEX), model / INDEX)
    if not chosen:
        raise NotFoundError(
            f"{model} holds no safetensors files" + ("" if pulled is None else " that were pulled"),
            hint=ONLY,
        )
    return {model / name: promised for name, promised in chosen.items()}


def choose(
    names: Collection[str], index: Callable[[], bytes], index_path: object
) -> dict[str, list[str]]:
    """As `tensor_files`, of a directory with these names.

    Args:
        names: of its files.
        index: reads the index, which is asked for only if it counts.
        index_path: for messages.

    Returns:
        As `tensor_files`, by name; empty if there is none.

    Raises:
        NotFoundError: if the index names a file that is not among them.
        FormatError: if the index is broken or names files elsewhere.
    """
    if _WHOLE in names:
        return {_WHOLE: []}
    if INDEX in names:
        chosen = _indexed(index(), index_path)
        if absent := chosen.keys() - set(names):
            raise NotFoundError(
                f"there is no file {min(absent)!r:.100}, which {index_path} names",
                hint="pull it again; if it was published so, its index is of another model",
            )
        return chosen
    if _ADAPTER in names:
        return {_ADAPTER: []}
    return {name: [] for name in sorted(names) if name.endswith(_SUFFIX)}


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


def _indexed(text: bytes, path: object) -> dict[str, list[str]]:
    """The files that an index names, with their tensors."""
    promised: dict[str, list[str]] = {}
    for tensor, file in _weight_map(text, path).items():
        promised.setdefault(file, []).append(tensor)
    return {file: promised[file] for file in sorted(promised)}


def _read_index(path: Path) -> bytes:
    with reading(path), path.open("rb") as opened:
        return opened.read(MAX_HEADER_BYTES + 1)


def _weight_map(text: bytes, index: object) -> Mapping[str, str]:
    """File by tensor, as the index says."""
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

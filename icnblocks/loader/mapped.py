"""A safetensors file in memory without reading it: mapped copy-on-write, its header checked.

Tensors are views of the mapping, so a model takes its page cache once however many processes load
it, and writing into a tensor changes this process's copy of the page, never the file. The file
must not be truncated while mapped (the kernel ends a process that touches what is gone); pulls
and repairs of this project write new files and rename. This module must not know frameworks.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from icnblocks.errors import FormatError, StorageError
from icnblocks.loader.reading import reading
from icnblocks.manifest.dtypes import tensor_bytes
from icnblocks.manifest.safetensors_header import header_bytes, parse_header
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Reserve no memory for pages that will hardly be written, so that a file larger than the memory
# can be mapped. Newer mmap modules name this flag; the value is Linux's on x86 and ARM.
_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)
# Older mmap modules keep a descriptor for each mapping, so the limit of open files bounds them.
_NO_DESCRIPTOR: Final[dict[str, Any]] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
_LENGTH_BYTES: Final = 8
_HINT: Final = "if it was pulled, `icn-verify` on its directory tells what is wrong; pull it again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        name: as the file calls it.
        dtype: as safetensors spells it.
        shape: its dimensions.
        file: the file that holds it.
        offset: its first byte in the file.
        length: its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    length: int


def private_mapping(fd: int, size: int) -> mmap.mmap:
    """Map an open file copy-on-write.

    Raises:
        OSError: as the system says.
    """
    return mmap.mmap(
        fd,
        size,
        flags=mmap.MAP_PRIVATE | _NORESERVE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
        **_NO_DESCRIPTOR,
    )


def map_file(path: Path, mapper: Callable[[int, int], Any]) -> tuple[Any, list[TensorInfo]]:
    """Map a safetensors file and list its tensors in order of their offsets.

    Args:
        path: the file.
        mapper: maps an open file, given its descriptor and size, as `private_mapping` does.

    Raises:
        NotFoundError: if there is no such file.
        FormatError: if it is not a valid safetensors file.
        StorageError: if it cannot be opened or mapped.
    """
    try:
        with reading(path), path.open("rb") as file:
            size = file.seek(0, 2)
            infos = tensor_infos(path, size, lambda count, at: os.pread(file.fileno(), count, at))
            mapping = mapper(file.fileno(), size)
    except ValueError as error:  # it was cut off meanwhile
        raise StorageError(f"cannot map {path}: {error}", hint=_HINT) from error
    return mapping, infos


def tensor_infos(path: Path, size: int, read: Callable[[int, int], bytes]) -> list[TensorInfo]:
    """A file's tensors in order of their offsets.

    Args:
        path: the file.
        size: its bytes.
        read: gives so many bytes of it from an offset on; fewer at its end.

    Raises:
        FormatError: if it is not a valid safetensors file.
        IcnError: as `read` does.
    """
    try:
        first = read(_LENGTH_BYTES, 0)
        first += read(header_bytes(first, size) - _LENGTH_BYTES, _LENGTH_BYTES)
        header = parse_header(first, size)
    except FormatError as error:
        raise type(error)(f"{path}: {error}", hint=error.hint or _HINT) from None
    infos = []
    offset = header.length
    for tensor in header.tensors:
        length = tensor_bytes(tensor.dtype, tensor.shape)
        infos.append(TensorInfo(tensor.name, tensor.dtype, tensor.shape, path, offset, length))
        offset += length
    return infos

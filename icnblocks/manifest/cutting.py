"""The cutting rule: where the runs of a file begin, and how a model's manifest is put together.

A safetensors file is its header, as one run, and its tensors, each a run of its own: so a tensor
has the same blocks in whichever file, shard or model it lies. Any other file is one plain run.
Every run is cut from its own first byte into pieces of `block_bytes`, the last one shorter; a
tensor of no bytes has no blocks. This module must do no I/O: it is handed what was read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.manifest.dtypes import tensor_bytes
from icnblocks.manifest.model import BaseRef, File, Kind, Manifest, Run
from icnblocks.manifest.safetensors_header import parse_header
from icnblocks.naming import DIGEST_BYTES
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from icnblocks.manifest.model import Tensor

SAFETENSORS_SUFFIX: Final = ".safetensors"


def is_safetensors(path: str) -> bool:
    """Whether a file is cut by tensors: its name says so."""
    return path.endswith(SAFETENSORS_SUFFIX)


def cut_runs(
    path: str,
    file_size: int,
    header: bytes | memoryview | None,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[Run, ...]:
    """The runs of one file, their blocks numbered from 0.

    Args:
        path: the file's path; its suffix tells whether it is a safetensors file.
        file_size: bytes of it.
        header: for a safetensors file its first bytes, at least the header (see
            `safetensors_header.header_bytes`); else ignored.
        block_bytes: the size at which runs are cut.

    Raises:
        FormatError: if a safetensors file is not one.
    """
    if not is_safetensors(path):
        return (Run(0, file_size, 0),) if file_size else ()
    try:
        if header is None:
            raise FormatError("its header was not read")
        parsed = parse_header(header, file_size)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    runs = []
    offset = block = 0
    pieces: list[tuple[int, Tensor | None]] = [(parsed.length, None)]
    pieces += [(tensor_bytes(tensor.dtype, tensor.shape), tensor) for tensor in parsed.tensors]
    for length, tensor in pieces:
        runs.append(Run(offset, length, block, tensor))
        offset += length
        block += blocks_in(length, block_bytes)
    return tuple(runs)


def blocks_in(length: int, block_bytes: int) -> int:
    """How many blocks a run of `length` bytes has."""
    return -(-length // block_bytes)


@dataclass(frozen=True, slots=True)
class CutFile:
    """A file that was cut and hashed.

    Attributes:
        path: below the model directory, `/` between parts.
        size: bytes.
        runs: what `cut_runs` gave.
        digests: 32 bytes for each block, in order of runs and offsets.
    """

    path: str
    size: int
    runs: tuple[Run, ...]
    digests: bytes


def build_manifest(
    kind: Kind,
    files: Iterable[CutFile],
    *,
    base: BaseRef | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Manifest:
    """Put a manifest together from files in any order.

    `codec.encode` checks it as a whole.

    Raises:
        FormatError: if a file has not as many digests as blocks.
    """
    numbered: list[File] = []
    digests: list[bytes] = []
    first = 0
    for file in sorted(files, key=lambda file: file.path):
        blocks = sum(blocks_in(run.length, block_bytes) for run in file.runs)
        if len(file.digests) != blocks * DIGEST_BYTES:
            raise FormatError(f"{file.path}: has {blocks} blocks, its digests are for others")
        runs = tuple([replace(run, first_block=run.first_block + first) for run in file.runs])
        numbered.append(File(file.path, file.size, runs))
        digests.append(file.digests)
        first += blocks
    return Manifest(kind, block_bytes, tuple(numbered), b"".join(digests), base)

"""Safetensors files that are odd and yet legal, written by hand: each broke somebody's reader.

Whoever cuts, moves or loads models must give every one of them back bit for bit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from icnblocks.limits import MIB
from icnblocks.manifest.dtypes import DTYPE_BITS, tensor_bytes
from icnblocks.manifest.model import Tensor
from icnblocks.testing.models import header_of, noise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def odd_files() -> dict[str, bytes]:
    """The whole bytes of each file, by what is odd about it."""
    square = Tensor("w", "F32", (4, 4))
    return {
        "no-tensors": header_of([]),
        "only-metadata": header_of([], {"format": "pt"}),
        "metadata": _file([square], {"format": "pt", "note": "ä\n", "": ""}),
        "empty-tensors": _file([Tensor("a", "F32", (0,)), square, Tensor("z", "I8", (3, 0, 5))]),
        "scalar": _file([Tensor("step", "I64", ())]),
        "no-padding": _file([Tensor("x", "F16", (3,)), square], padding=1),
        "much-padding": _file([square], padding=4096),
        "every-dtype": _file([Tensor(dtype, dtype, (8, 3)) for dtype in sorted(DTYPE_BITS)]),
        "odd-offsets": _file([Tensor("mask", "BOOL", (3,)), Tensor("d", "F64", (2,)), square]),
        "odd-names": _file(
            [Tensor(name, "U8", (2,)) for name in ("a/b#c@d", "", "..", "ü 𝄞", '"')]
        ),
        "unsorted-header": _unsorted(),
        "repeated-blocks": _repeated(),
    }


def write_odd_model(directory: Path) -> Path:
    """Make a model directory that holds every odd file, below folders and beside empty files."""
    (directory / "deep" / "er").mkdir(parents=True, exist_ok=True)
    for what, content in odd_files().items():
        (directory / "deep" / f"{what}.safetensors").write_bytes(content)
    (directory / "deep" / "er" / "empty.bin").write_bytes(b"")
    (directory / "config.json").write_text("{}")
    return directory


def _file(
    tensors: Sequence[Tensor], metadata: Mapping[str, str] | None = None, *, padding: int = 8
) -> bytes:
    body = b"".join(piece for tensor in tensors for piece in _values(tensor))
    return header_of(tensors, metadata, padding=padding) + body


def _values(tensor: Tensor) -> list[bytes]:
    if tensor.dtype == "BOOL":
        return [bytes(n % 2 for n in range(tensor_bytes(tensor.dtype, tensor.shape)))]
    return list(noise(tensor, 5))


def _unsorted() -> bytes:
    """A header whose entries stand in another order than the tensors, with odd spacing."""
    entries = {
        "last": {"data_offsets": [12, 20], "shape": [2], "dtype": "F32"},
        "__metadata__": {"format": "np"},
        "first": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "middle": {"shape": [1, 2], "dtype": "I32", "data_offsets": [4, 12]},
    }
    text = json.dumps(entries, indent=1).encode() + b"\n "
    return len(text).to_bytes(8, "little") + text + bytes(range(20))


def _repeated() -> bytes:
    """Two tensors of zeros and one of ones: five blocks, of which two are different."""
    zeros, ones = bytes(2 * MIB), b"\x01" * MIB
    tensors = [
        Tensor("a", "U8", (2 * MIB,)),
        Tensor("b", "U8", (MIB,)),
        Tensor("c", "U8", (2, MIB)),
    ]
    return header_of(tensors) + zeros + ones + zeros

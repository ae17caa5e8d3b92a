"""Tensor data types of safetensors, as its headers spell them, and the bytes of a tensor.

This module must not know how the elements are represented: only how wide they are.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError
from icnblocks.limits import MAX_TENSOR_DIMS

if TYPE_CHECKING:
    from collections.abc import Sequence

DTYPE_BITS: Final[dict[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Width of one element, by dtype."""

_MAX: Final = (1 << 64) - 1


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor of this dtype and shape (row-major, packed, no padding).

    Elements and bits are counted in 64 bits from the left, as the safetensors library does:
    a shape that overflows on the way is refused even if a later dimension is 0.

    Raises:
        FormatError: for an unknown dtype, too many, negative or non-integer dimensions,
            overflow, or elements that do not fill whole bytes.
    """
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise FormatError(f"unknown dtype {dtype[:40]!r}")
    if len(shape) > MAX_TENSOR_DIMS:
        raise FormatError(f"{len(shape)} dimensions, where at most {MAX_TENSOR_DIMS} are allowed")
    for size in shape:
        if type(size) is not int or not 0 <= size <= _MAX:
            raise FormatError(f"a dimension that is no whole number of 64 bits: {size!r:.40}")
    elements = prod(shape)
    if elements * bits > _MAX or (not elements and _overflows(shape)):
        raise FormatError("the shape overflows 64 bits")
    if elements * bits % 8:
        raise FormatError(f"{elements} elements of {dtype} do not fill whole bytes")
    return elements * bits // 8


def _overflows(shape: Sequence[int]) -> bool:
    elements = 1
    for size in shape:
        elements *= size
        if elements > _MAX:
            return True
    return False

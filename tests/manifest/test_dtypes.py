"""Bytes of tensors, from dtype and shape."""

from __future__ import annotations

import pytest

from icnblocks.errors import FormatError
from icnblocks.limits import MAX_TENSOR_DIMS
from icnblocks.manifest.dtypes import DTYPE_BITS, tensor_bytes


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("F32", (), 4),
        ("F32", (2, 3), 24),
        ("BF16", (0, 5), 0),
        ("F4", (3, 2), 3),
        ("F6_E2M3", (4,), 3),
        ("F6_E3M2", (2, 2), 3),
        ("C64", (1,), 8),
        ("BOOL", (7,), 7),
        ("F64", (0, 1 << 63), 0),
        ("U8", (1 << 60,), 1 << 60),
    ],
)
def test_bytes_of_a_tensor(dtype, shape, expected):
    assert tensor_bytes(dtype, shape) == expected


@pytest.mark.parametrize(
    ("dtype", "shape", "says"),
    [
        ("F33", (1,), "unknown dtype"),
        ("f32", (1,), "unknown dtype"),
        ("F4", (3,), "whole bytes"),
        ("F6_E2M3", (2,), "whole bytes"),
        ("U8", (1 << 32, 1 << 32), "overflows"),
        ("U8", (1 << 61,), "overflows"),  # its bits are 2^64
        ("U8", (1 << 32, 1 << 32, 0), "overflows"),  # on the way to 0
        ("U8", (-1,), "whole number"),
        ("U8", (-1, -1), "whole number"),
        ("U8", (0, 1 << 64), "whole number"),
        ("U8", (True,), "whole number"),
        ("U8", (1.0,), "whole number"),
        ("U8", (1,) * (MAX_TENSOR_DIMS + 1), "dimensions"),
    ],
)
def test_shapes_that_lie_are_refused(dtype, shape, says):
    with pytest.raises(FormatError, match=says):
        tensor_bytes(dtype, shape)


def test_every_dtype_fills_bytes_in_eights():
    assert all(tensor_bytes(dtype, (8,)) == bits for dtype, bits in DTYPE_BITS.items())

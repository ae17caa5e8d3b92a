"""Bytes of a mapped file as tensors of a framework, without copying them.

This is the only module of the product that imports torch, and only when torch is asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from icnblocks.errors import UsageError

if TYPE_CHECKING:
    import mmap

    from icnblocks.loader.mapped import TensorInfo

_NUMPY: Final = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "C64": "<c8",
}
_ML_DTYPES: Final = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""Types that numpy has not, in the package ml_dtypes, used when it is installed."""
_TORCH: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
} | _ML_DTYPES


class Framework(Protocol):
    """Makes tensors of one framework."""

    def check(self, info: TensorInfo) -> None:
        """Can this tensor be made?

        Raises:
            UsageError: if the framework has no such type.
        """
        ...

    def tensor(self, mapping: mmap.mmap, info: TensorInfo) -> Any:
        """The tensor, a view of the mapping, which lives as long as the tensor does."""
        ...


def framework_of(name: str) -> Framework:
    """The framework of this name.

    Raises:
        UsageError: for a name other than `numpy` and `torch`, or if torch is not installed.
    """
    if name == "numpy":
        return _Numpy()
    if name != "torch":
        raise UsageError(f"not a framework: {name!r:.40}", hint="use 'numpy' or 'torch'")
    if find_spec("torch") is None:
        raise UsageError(
            "framework 'torch' was asked for, and torch is not installed",
            hint="install icnblocks[torch], or use framework='numpy'",
        )
    return _Torch()


class _Numpy:
    def __init__(self) -> None:
        self._types = {dtype: np.dtype(spelled) for dtype, spelled in _NUMPY.items()}
        if find_spec("ml_dtypes") is not None:
            more = import_module("ml_dtypes")
            self._types |= {
                dtype: np.dtype(getattr(more, spelled)) for dtype, spelled in _ML_DTYPES.items()
            }

    def check(self, info: TensorInfo) -> None:
        if info.dtype not in self._types:
            raise UsageError(
                f"tensor {info.name[:100]!r} is {info.dtype}, which numpy has no type for",
                hint="use framework='torch'"
                + (", or install ml_dtypes" if info.dtype in _ML_DTYPES else ""),
            )

    def tensor(self, mapping: mmap.mmap, info: TensorInfo) -> Any:
        dtype = self._types[info.dtype]
        count = info.length // dtype.itemsize
        return np.frombuffer(mapping, dtype, count, info.offset).reshape(info.shape)


class _Torch:
    def __init__(self) -> None:
        self._torch: Any = import_module("torch")

    def check(self, info: TensorInfo) -> None:
        if not hasattr(self._torch, _TORCH.get(info.dtype, "")):
            raise UsageError(
                f"tensor {info.name[:100]!r} is {info.dtype}, which torch has no type for",
                hint="open_model(...) gives the other tensors one by one",
            )

    def tensor(self, mapping: mmap.mmap, info: TensorInfo) -> Any:
        dtype = getattr(self._torch, _TORCH[info.dtype])
        if not info.length:
            return self._torch.empty(info.shape, dtype=dtype)
        if info.offset % dtype.itemsize:
            # torch's kernels take it that elements are aligned: these few are copied.
            copy = bytearray(mapping[info.offset : info.offset + info.length])
            return self._torch.frombuffer(copy, dtype=dtype).reshape(info.shape)
        flat = self._torch.frombuffer(
            mapping, dtype=dtype, count=info.length // dtype.itemsize, offset=info.offset
        )
        return flat.reshape(info.shape)

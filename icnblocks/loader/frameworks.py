"""Bytes of a mapped file as tensors of a framework, without copying them.

This is the only module of the product that imports torch, and only when torch is asked for.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.loader.mapped import private_mapping

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

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
    "F4": "float4_e2m1fn_x2",
} | _ML_DTYPES
_PER_ELEMENT: Final = {"F4": 2}
"""How many elements torch packs into one of its own, along the last dimension."""
_OTHERS: Final = "open_model(...) gives the other tensors one by one"


class Framework(Protocol):
    """Makes tensors of one framework."""

    def check(self, info: TensorInfo) -> None:
        """Can this tensor be made?

        Raises:
            UsageError: if the framework has no such type.
        """
        ...

    def map(self, fd: int, size: int) -> Any:
        """Map an open file, copy-on-write.

        Raises:
            OSError: as the system says.
        """
        ...

    def tensor(self, mapping: Any, info: TensorInfo) -> Any:
        """The tensor, a view of what `map` gave, which lives as long as the tensor does.

        Raises:
            UsageError: if it is empty, and of a shape that the framework cannot have.
        """
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


@contextmanager
def _shaping(info: TensorInfo) -> Iterator[None]:
    """A tensor without elements may have any other dimensions, also beyond a framework's bounds."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(
            f"tensor {info.name[:100]!r} is of the shape {list(info.shape)}: {error}"[:500],
            hint=_OTHERS,
        ) from error


class _Numpy:
    def __init__(self) -> None:
        self._types = {dtype: np.dtype(spelled) for dtype, spelled in _NUMPY.items()}
        if find_spec("ml_dtypes") is not None:
            more = import_module("ml_dtypes")
            self._types |= {
                dtype: np.dtype(getattr(more, spelled))
                for dtype, spelled in _ML_DTYPES.items()
                if hasattr(more, spelled)  # an older one has fewer
            }

    def check(self, info: TensorInfo) -> None:
        if info.dtype not in self._types:
            raise UsageError(
                f"tensor {info.name[:100]!r} is {info.dtype}, which numpy has no type for",
                hint=("use framework='torch'" if info.dtype in _TORCH else _OTHERS)
                + (", or install the newest ml_dtypes" if info.dtype in _ML_DTYPES else ""),
            )

    def map(self, fd: int, size: int) -> mmap.mmap:
        return private_mapping(fd, size)

    def tensor(self, mapping: mmap.mmap, info: TensorInfo) -> Any:
        dtype = self._types[info.dtype]
        count = info.length // dtype.itemsize
        with _shaping(info):
            return np.frombuffer(mapping, dtype, count, info.offset).reshape(info.shape)


class _Torch:
    def __init__(self) -> None:
        self._torch: Any = import_module("torch")

    def check(self, info: TensorInfo) -> None:
        if not hasattr(self._torch, _TORCH.get(info.dtype, "")):
            raise UsageError(
                f"tensor {info.name[:100]!r} is {info.dtype}, which torch has no type for",
                hint=("use a newer torch; " if info.dtype in _TORCH else "") + _OTHERS,
            )
        if info.shape and info.shape[-1] % _PER_ELEMENT.get(info.dtype, 1):
            raise UsageError(
                f"tensor {info.name[:100]!r} is {info.dtype} and its last dimension is odd,"
                " where torch has them in pairs",
                hint=_OTHERS,
            )

    def map(self, fd: int, size: int) -> Any:
        try:
            # Keeps no descriptor, of which a process has few, but reserves memory for all of it.
            storage = self._torch.UntypedStorage.from_file(
                f"/proc/self/fd/{fd}", shared=False, nbytes=size
            )
        except RuntimeError:  # more than there is, or no /proc
            mapping = private_mapping(fd, size)
            return self._torch.frombuffer(mapping, dtype=self._torch.uint8).untyped_storage()
        return storage

    def tensor(self, mapping: Any, info: TensorInfo) -> Any:
        dtype = getattr(self._torch, _TORCH[info.dtype])
        shape = info.shape
        if packed := _PER_ELEMENT.get(info.dtype):
            shape = (*shape[:-1], shape[-1] // packed)
        if not info.length:
            with _shaping(info):
                return self._torch.empty(shape, dtype=dtype)
        # Storages of their own: what copies or saves one takes all of it, and of one type.
        piece = mapping[info.offset : info.offset + info.length]
        flat = self._torch.empty(0, dtype=self._torch.uint8).set_(piece)
        if info.offset % dtype.itemsize:
            # torch's kernels take it that elements are aligned: these few are copied.
            flat = flat.clone()
        return flat.view(dtype).reshape(shape)

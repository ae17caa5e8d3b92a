"""Manifests as bytes: the encoding, and the whole check of what comes in.

A manifest that `decode` returned can be trusted in every number: paths are safe, runs cover
their files without gap, every block has its digest, and nothing is beyond its bound. What the
blocks hold is for digests to say, and who published it for records (icnblocks.manifest.record).
docs/format.md gives the format to the byte. This module must do no I/O.
"""

from __future__ import annotations

from itertools import pairwise
from sys import intern
from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError, UsageError, VersionError
from icnblocks.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCKS,
    MAX_EXTRA_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_RUNS,
    MAX_TENSOR_NAME_BYTES,
    MIN_BLOCK_BYTES,
)
from icnblocks.manifest.canonical import pack, unpack
from icnblocks.manifest.dtypes import DTYPE_BITS, tensor_bytes
from icnblocks.manifest.model import BaseRef, File, Kind, Manifest, Run, Tensor
from icnblocks.manifest.paths import check_path, check_together
from icnblocks.naming import DIGEST_BYTES, Digest, Name
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from icnblocks.manifest.canonical import Value

MAJOR: Final = 1
MINOR: Final = 0

_KEYS: Final = frozenset({"block_bytes", "digests", "files", "kind", "types", "v"})
_MAX_ITEMS: Final = 6 * MAX_RUNS
"""Elements of the whole encoding: a tensor has three, and few have a type of their own."""
_MAX_DEPTH: Final = 8
_MAX_VERSION: Final = (1 << 16) - 1


def digest_of(data: bytes | memoryview) -> Digest:
    """The name of a manifest: the digest of its encoding."""
    return Digest.of(data)


def encode(manifest: Manifest) -> bytes:
    """The one encoding of a manifest; whatever it returns, `decode` gives `manifest` back.

    Raises:
        FormatError: if the manifest is not one that `decode` would accept.
    """
    types: dict[str, tuple[int, Value]] = {}
    fields: dict[str, Value] = {
        "block_bytes": manifest.block_bytes,
        "digests": manifest.digests,
        "files": [[file.path, file.size, _run_values(file, types)] for file in manifest.files],
        "kind": str(manifest.kind),
        "types": [type_ for _, type_ in types.values()],
        "v": [MAJOR, manifest.minor],
    }
    if manifest.base is not None:
        fields["base"] = [str(manifest.base.name), manifest.base.manifest]
    for key, value in manifest.extra:
        fields[key] = unpack(value, max_bytes=MAX_EXTRA_BYTES)
    data = pack(fields)
    if decode(data) != manifest:
        raise FormatError("runs, blocks or extra fields of the manifest are not in order")
    return data


def _type_key(dtype: str, shape: tuple[int, ...]) -> str:
    """What tells types apart in a dict or set.

    Text, since its hash is salted: that of numbers is not, and whoever makes a model could choose
    hundreds of thousands of shapes that all have the same, which would take hours to tell apart.
    """
    return f"{dtype} {shape}"


def _run_values(file: File, types: dict[str, tuple[int, Value]]) -> list[Value]:
    """Runs as they are encoded; `types` numbers dtypes and shapes by their first use."""
    values: list[Value] = []
    for run in file.runs:
        if run.tensor is None:
            values.append(run.length)
        else:
            dtype, shape = run.tensor.dtype, run.tensor.shape
            number, _ = types.setdefault(_type_key(dtype, shape), (len(types), [dtype, shape]))
            values.append([run.tensor.name, number])
    return values


def decode(data: bytes | memoryview) -> Manifest:
    """Read and check a manifest.

    Raises:
        VersionError: if it is of a newer major version, or a newer minor one uses a dtype that
            this program does not know.
        FormatError: for anything else that is not a valid manifest.
    """
    try:
        return _decode(data)
    except VersionError:
        raise
    except FormatError as error:
        raise FormatError(f"not a valid manifest: {error}") from None


def _decode(data: bytes | memoryview) -> Manifest:
    fields = unpack(data, max_bytes=MAX_MANIFEST_BYTES, max_depth=_MAX_DEPTH, max_items=_MAX_ITEMS)
    if not isinstance(fields, dict):
        raise FormatError("it is not a map")
    minor = check_version(fields.get("v"), MAJOR, "manifest")
    missing = _KEYS - fields.keys()
    if missing:
        raise FormatError(f"field {min(missing)!r} is missing")
    kind = _kind(fields["kind"])
    block_bytes = _whole(fields["block_bytes"], MIN_BLOCK_BYTES, MAX_BLOCK_BYTES, "block_bytes")
    files = _Files(block_bytes, _types(fields["types"], newer=minor > MINOR))
    decoded = files.decode(fields["files"])
    digests = fields["digests"]
    if type(digests) is not bytes or len(digests) != files.blocks * DIGEST_BYTES:
        raise FormatError(f"the files have {files.blocks} blocks, the digests are for others")
    _check_lengths(decoded, digests, block_bytes)
    return Manifest(
        kind=kind,
        block_bytes=block_bytes,
        files=decoded,
        digests=digests,
        base=_base(fields, kind),
        minor=minor,
        extra=take_extra(fields, _KEYS | {"base"}, newer=minor > MINOR),
    )


def check_version(value: Value, major: int, what: str) -> int:
    """Read a [major, minor] pair and give the minor version back.

    Raises:
        VersionError: if the major version is newer than `major`.
        FormatError: if it is no such pair, or of a major version that never was.
    """
    if not isinstance(value, tuple) or len(value) < 2:
        raise FormatError("field 'v' is not [major, minor]")
    found = _whole(value[0], 1, _MAX_VERSION, "major version")
    if found > major:
        raise VersionError(f"this {what} is of format {found}, newer than {major}")
    if len(value) != 2 or found != major:
        raise FormatError("field 'v' is not [major, minor]")
    return _whole(value[1], 0, _MAX_VERSION, "minor version")


def take_extra(
    fields: dict[str, Value], known: frozenset[str], *, newer: bool
) -> tuple[tuple[str, bytes], ...]:
    """The fields that this version does not know, encoded, in order of their keys.

    Raises:
        FormatError: if there are any though the version is not newer, or they are too large.
    """
    unknown = sorted(fields.keys() - known)
    if unknown and not newer:
        raise FormatError(f"unknown field {unknown[0][:40]!r}")
    extra = tuple((key, pack(fields[key])) for key in unknown)
    if sum(len(key.encode()) + len(value) for key, value in extra) > MAX_EXTRA_BYTES:
        raise FormatError(f"unknown fields have more than {MAX_EXTRA_BYTES} bytes")
    return extra


def _whole(value: Value, low: int, high: int, what: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"{what} is not a whole number from {low} to {high}")
    return value


def _kind(value: Value) -> Kind:
    if not isinstance(value, str) or value not in Kind.__members__.values():
        raise FormatError("the kind is not base, adapter or pack")
    return Kind(value)


def _base(fields: dict[str, Value], kind: Kind) -> BaseRef | None:
    if ("base" in fields) != (kind is Kind.ADAPTER):
        raise FormatError("an adapter names its base, and nothing else does")
    if kind is not Kind.ADAPTER:
        return None
    match fields["base"]:
        case (str(text), bytes(digest)):
            name = parse_name(text)
            return BaseRef(name, Digest(digest))
    raise FormatError("the base is not [name, digest]")


def parse_name(text: str) -> Name:
    """Read a name in its one canonical spelling (the default tag is left out).

    Raises:
        FormatError: if it is another spelling, or no name.
    """
    try:
        name = Name.parse(text)
    except UsageError as error:
        raise FormatError(str(error)) from None
    if str(name) != text:
        raise FormatError(f"the name {name} is spelt otherwise")
    return name


@dataclass(frozen=True, slots=True)
class _Type:
    """What tensors of one dtype and shape share."""

    dtype: str
    shape: tuple[int, ...]
    length: int


def _types(value: Value, *, newer: bool) -> tuple[_Type, ...]:
    if not isinstance(value, tuple):
        raise FormatError("the types are not an array")
    types = tuple([_type(item, newer=newer) for item in value])
    if len({_type_key(type_.dtype, type_.shape) for type_ in types}) != len(types):
        raise FormatError("a type occurs twice")
    return types


def _type(item: Value, *, newer: bool) -> _Type:
    match item:
        case (str(dtype), tuple(shape)):
            pass
        case _:
            raise FormatError("a type is not [dtype, shape]")
    if dtype not in DTYPE_BITS and newer:
        raise VersionError(f"this manifest uses a dtype not known here: {dtype[:40]!r}")
    length = tensor_bytes(dtype, shape)  # type: ignore[arg-type]  # it checks each dimension
    return _Type(intern(dtype), shape, length)  # type: ignore[arg-type]


class _Files:
    """Reads the files; counts runs, blocks and types over all of them."""

    __slots__ = ("block_bytes", "blocks", "runs", "types", "types_used")

    def __init__(self, block_bytes: int, types: tuple[_Type, ...]) -> None:
        self.block_bytes = block_bytes
        self.types = types
        self.types_used = 0
        self.blocks = 0
        self.runs = 0

    def decode(self, value: Value) -> tuple[File, ...]:
        if not isinstance(value, tuple) or len(value) > MAX_FILES:
            raise FormatError(f"the files are not an array of at most {MAX_FILES}")
        files = tuple([self._file(entry) for entry in value])
        paths = [file.path for file in files]
        if any(a >= b for a, b in pairwise(paths)):
            raise FormatError("the files are out of order, or one occurs twice")
        check_together(paths)
        if self.types_used != len(self.types):
            raise FormatError("a type that no tensor has")
        return files

    def _file(self, entry: Value) -> File:
        match entry:
            case (str(path), int(size), tuple(items)):
                check_path(path)
            case _:
                raise FormatError("a file is not [path, size, runs]")
        _whole(size, 0, MAX_FILE_BYTES, f"size of {path!r}")
        self.runs += len(items)
        if self.runs > MAX_RUNS:
            raise FormatError(f"more than {MAX_RUNS} tensors and plain runs")
        try:
            runs, end = self._runs(items, size)
        except FormatError as error:
            raise FormatError(f"{path!r}: {error}") from None
        if end != size:
            raise FormatError(f"{path!r}: has {size} bytes, its runs {end}")
        return File(path, size, runs)

    def _runs(self, items: tuple[Value, ...], size: int) -> tuple[tuple[Run, ...], int]:
        runs: list[Run] = []
        names: set[str] = set()
        offset = 0
        for item in items:
            tensor: Tensor | None = None
            if type(item) is int:
                length = _whole(item, 1, MAX_FILE_BYTES, "length of a plain run")
            else:
                tensor, length = self._tensor(item)
                names.add(tensor.name)
            if offset + length > size:
                raise FormatError("its runs go beyond its end")
            runs.append(Run(offset, length, self.blocks, tensor))
            offset += length
            self.blocks += -(-length // self.block_bytes)
            if self.blocks > MAX_BLOCKS:
                raise FormatError(f"more than {MAX_BLOCKS} blocks")
        if len(names) != sum(run.tensor is not None for run in runs):
            raise FormatError("two tensors have one name")
        return tuple(runs), offset

    def _tensor(self, item: Value) -> tuple[Tensor, int]:
        if type(item) is not tuple or len(item) != 2:  # a pattern would cost twice as much
            raise FormatError("a run is neither a length nor [tensor, type]")
        name, number = item
        if type(name) is not str:
            raise FormatError("a run is neither a length nor [tensor, type]")
        if len(name) > MAX_TENSOR_NAME_BYTES or len(name.encode()) > MAX_TENSOR_NAME_BYTES:
            raise FormatError(f"a tensor name of more than {MAX_TENSOR_NAME_BYTES} bytes")
        # In the order of their first use, so that there is one encoding only.
        known = min(self.types_used + 1, len(self.types))
        if type(number) is not int or not 0 <= number < known:
            raise FormatError("types are not numbered by their first use")
        self.types_used = max(self.types_used, number + 1)
        type_ = self.types[number]
        return Tensor(name, type_.dtype, type_.shape), type_.length


def _check_lengths(files: tuple[File, ...], digests: bytes, block_bytes: int) -> None:
    """A digest names bytes, so it cannot stand for blocks of two lengths."""
    short: dict[bytes, int] = {}
    for file in files:
        for run in file.runs:
            tail = run.length % block_bytes
            if tail:
                at = (run.first_block + run.length // block_bytes) * DIGEST_BYTES
                if short.setdefault(digests[at : at + DIGEST_BYTES], tail) != tail:
                    raise FormatError("one digest stands for blocks of two lengths")
    if not short:
        return
    for file in files:
        for run in file.runs:
            start = run.first_block * DIGEST_BYTES
            for at in range(start, start + run.length // block_bytes * DIGEST_BYTES, DIGEST_BYTES):
                if digests[at : at + DIGEST_BYTES] in short:
                    raise FormatError("one digest stands for blocks of two lengths")

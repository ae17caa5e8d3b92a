"""Wants, and the request that carries many of them: the Interest side of the wire.

A want is 36 bytes: digest and length (big-endian u32). A bundle request is a canonical msgpack
map of packed wants and one forwarding hint (name, manifest, pull, hops), with the order and the
priority that its answer may have. docs/format.md has it to the byte. Sans-IO: this module must
not touch sockets, files or clocks.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError, UsageError, VersionError
from icnblocks.limits import (
    DEFAULT_PRIORITY,
    MAX_BLOCK_BYTES,
    MAX_BUNDLE_BYTES,
    MAX_PRIORITY,
    MAX_WANTS,
    MISSING_BATCH,
)
from icnblocks.manifest.canonical import pack, unpack
from icnblocks.naming import DIGEST_BYTES, Digest, Name
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icnblocks.manifest.canonical import Value

MAJOR: Final = 1
MINOR: Final = 0
PULL_BYTES: Final = 16
WANT_BYTES: Final = DIGEST_BYTES + 4
NO_PULL: Final = bytes(PULL_BYTES)
"""The pull of requests that belong to no pull (a repair, a probe)."""
_MAX_HOPS_FIELD: Final = 255
HERE_ONLY: Final = _MAX_HOPS_FIELD
"""As `hops`: what is not here is not wanted; `NOT_FOUND` is enough of an answer."""
_ORDERED_MINOR: Final = 1
"""Requests that use `order` or `priority` say this minor version; others the first one..."""
_DOUBTING_MINOR: Final = 2
"""...but those that use `doubt` say this one."""
_LENGTH = struct.Struct(">I")
_WANT = struct.Struct(f">{DIGEST_BYTES}sI")


@dataclass(frozen=True, slots=True)
class Want:
    """A block that is asked for: its digest, and its length in bytes (1 to MAX_BLOCK_BYTES)."""

    digest: Digest
    length: int


class Order(StrEnum):
    """In which order a bundle would best be answered. It asks; nothing is refused for it."""

    ANY = "any"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class BundleRequest:
    """One request for many blocks, under one forwarding hint.

    Attributes:
        wants: 1 to MAX_WANTS, no digest twice; answers refer to them by index.
        name: the model they are part of, for routing; None when unknown.
        manifest: the manifest they were found in; None when unknown.
        pull: 16 random bytes, the same for all requests of one pull.
        hops: how many daemons have passed it on.
        order: in which order the wants would best be answered.
        priority: 0 to MAX_PRIORITY; the larger goes first where not all can be served at once.
        doubt: these blocks came from here with wrong bytes: what is here is to be hashed first.

    Raises:
        FormatError: if a count, length or field is out of bounds.
    """

    wants: tuple[Want, ...]
    name: Name | None = None
    manifest: Digest | None = None
    pull: bytes = NO_PULL
    hops: int = 0
    order: Order = Order.ANY
    priority: int = DEFAULT_PRIORITY
    doubt: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.wants) <= MAX_WANTS:
            raise FormatError(f"a bundle has 1 to {MAX_WANTS} wants, not {len(self.wants)}")
        if len({want.digest for want in self.wants}) != len(self.wants):
            raise FormatError("a bundle asks for a block twice")
        if any(not 1 <= want.length <= MAX_BLOCK_BYTES for want in self.wants):
            raise FormatError(f"a block has 1 to {MAX_BLOCK_BYTES} bytes")
        if len(self.pull) != PULL_BYTES:
            raise FormatError(f"a pull has {PULL_BYTES} bytes, not {len(self.pull)}")
        if not 0 <= self.hops <= _MAX_HOPS_FIELD:
            raise FormatError(f"a bundle has 0 to {_MAX_HOPS_FIELD} hops, not {self.hops}")
        if not 0 <= self.priority <= MAX_PRIORITY:
            raise FormatError(f"a priority is 0 to {MAX_PRIORITY}, not {self.priority}")


def pack_wants(wants: Iterable[Want]) -> bytes:
    """36 bytes for each want: digest, then length as big-endian u32."""
    return b"".join(_WANT.pack(want.digest, want.length) for want in wants)


def unpack_wants(data: bytes, *, most: int = MISSING_BATCH) -> tuple[Want, ...]:
    """Read packed wants, in order; a digest may occur twice.

    Raises:
        FormatError: if `data` is not whole wants, more than `most`, or a length is out of bounds.
    """
    if len(data) % WANT_BYTES:
        raise FormatError(f"packed wants have {WANT_BYTES} bytes each, not {len(data)} in all")
    if len(data) > most * WANT_BYTES:
        raise FormatError(f"more than {most} wants")
    wants = tuple(Want(Digest(raw), length) for raw, length in _WANT.iter_unpack(data))
    for want in wants:
        if not 1 <= want.length <= MAX_BLOCK_BYTES:
            raise FormatError(f"a block has 1 to {MAX_BLOCK_BYTES} bytes, not {want.length}")
    return wants


def pack_indexes(indexes: Sequence[int]) -> bytes:
    """The answer to a missing-set query: 4 bytes (big-endian u32) for each missing want."""
    return struct.pack(f">{len(indexes)}I", *indexes)


def unpack_indexes(data: bytes, count: int) -> list[int]:
    """Read the answer to a missing-set query of `count` wants.

    Raises:
        FormatError: if it is not whole indexes, ascending and below `count`.
    """
    if len(data) % _LENGTH.size or len(data) > count * _LENGTH.size:
        raise FormatError(f"not the indexes of at most {count} wants: {len(data)} bytes")
    indexes = [index for (index,) in _LENGTH.iter_unpack(data)]
    if any(a >= b for a, b in zip(indexes, [*indexes[1:], count], strict=False)):
        raise FormatError(f"indexes are not ascending and below {count}")
    return indexes


def encode_request(request: BundleRequest) -> bytes:
    """The body of `POST /v1/bundles`. What has its default is left out where that is allowed."""
    fields: dict[str, Value] = {
        "name": "" if request.name is None else str(request.name),
        "manifest": None if request.manifest is None else bytes(request.manifest),
        "pull": request.pull,
        "hops": request.hops,
        "wants": pack_wants(request.wants),
    }
    later: dict[str, Value] = {}
    if request.order is not Order.ANY:
        later["order"] = request.order.value
    if request.priority != DEFAULT_PRIORITY:
        later["priority"] = request.priority
    minor = _ORDERED_MINOR if later else MINOR
    if request.doubt:
        later["doubt"], minor = True, _DOUBTING_MINOR
    return pack({"v": [MAJOR, minor], **fields, **later})


def decode_request(data: bytes) -> BundleRequest:
    """Read the body of `POST /v1/bundles`; keys of a newer minor version are passed over.

    Raises:
        VersionError: if its major version is another.
        FormatError: for anything else that is not a bundle request.
    """
    value = unpack(data, max_bytes=MAX_BUNDLE_BYTES)
    if not isinstance(value, dict):
        raise FormatError("a bundle request is a map")
    _check_version(value.get("v"))
    name, manifest, pull = value.get("name"), value.get("manifest"), value.get("pull")
    hops, wants = value.get("hops"), value.get("wants")
    if not (
        isinstance(name, str)
        and (manifest is None or isinstance(manifest, bytes))
        and isinstance(pull, bytes)
        and isinstance(hops, int)
        and not isinstance(hops, bool)
        and isinstance(wants, bytes)
    ):
        raise FormatError("a bundle request lacks a field, or one is of the wrong type")
    return BundleRequest(
        wants=unpack_wants(wants, most=MAX_WANTS),
        name=_name(name),
        manifest=None if manifest is None else Digest(manifest),
        pull=pull,
        hops=hops,
        order=_order(value.get("order", Order.ANY.value)),
        priority=_priority(value.get("priority", DEFAULT_PRIORITY)),
        doubt=_doubt(value.get("doubt", False)),
    )


def _order(value: object) -> Order:
    """An order that a newer version knows is as good as none."""
    if not isinstance(value, str):
        raise FormatError("the order in a bundle request is not a word")
    return Order(value) if value in set(Order) else Order.ANY


def _priority(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError("the priority in a bundle request is not a number")
    return value


def _doubt(value: object) -> bool:
    if not isinstance(value, bool):
        raise FormatError("the doubt in a bundle request is neither true nor false")
    return value


def _check_version(version: object) -> None:
    match version:
        case [int(major), int(_)] if not isinstance(major, bool):
            if major != MAJOR:
                raise VersionError(f"a bundle request of version {major}; this is {MAJOR}")
        case _:
            raise FormatError("a bundle request has no version")


def _name(text: str) -> Name | None:
    if not text:
        return None
    try:
        return Name.parse(text)
    except UsageError as error:
        raise FormatError(f"the name in a bundle request: {error}") from None

"""Records: the signed, mutable step from a name and tag to a manifest.

A record is Ed25519 (RFC 8032) over canonical bytes behind a prefix of its own, so that no
signature made for something else can pass for one. It carries the rotations that lead from the
publisher's earlier keys to the one that signed it. docs/format.md gives the format to the byte.

Here is what a record is and whether its signatures hold. Whether a key is trusted is for the
caller (icnblocks.client).
This module must do no I/O, hold no private keys, and read no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError, TrustError, UsageError, VersionError
from icnblocks.limits import (
    DEFAULT_LIFETIME_S,
    MAX_CLOCK_SKEW_S,
    MAX_LIFETIME_S,
    MAX_RECORD_BYTES,
    MAX_ROTATIONS,
)
from icnblocks.manifest.canonical import pack, unpack
from icnblocks.manifest.codec import check_version, take_extra
from icnblocks.naming import Digest, Name
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from icnblocks.manifest.canonical import Value

MAJOR: Final = 1
MINOR: Final = 0
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_SEQ: Final = (1 << 63) - 1
MAX_TIME_S: Final = (1 << 40) - 1

RECORD_PREFIX: Final = b"icnblocks record v1\0"
ROTATION_PREFIX: Final = b"icnblocks rotation v1\0"

_KEYS: Final = frozenset({"key", "lifetime", "manifest", "name", "seq", "tag", "time", "v"})
_ROTATION_KEYS: Final = frozenset({"new", "old", "publisher", "time"})
_MAX_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Rotation:
    """A statement, signed by the old key, that a publisher's key is now the new one.

    Attributes:
        publisher: whose key.
        old: 32 bytes, the public key that signed this.
        new: 32 bytes, the public key that takes its place.
        time: when, in whole seconds since 1970 by the publisher's clock.
        signature: 64 bytes, by the old key.
    """

    publisher: str
    old: bytes
    new: bytes
    time: int
    signature: bytes

    def statement(self) -> bytes:
        """The canonical bytes that are signed, behind ROTATION_PREFIX."""
        return pack(
            {"new": self.new, "old": self.old, "publisher": self.publisher, "time": self.time}
        )


@dataclass(frozen=True, slots=True)
class Record:
    """Which manifest a name and tag stand for, and who says so.

    Attributes:
        name: with the tag.
        manifest: its digest, or None: the tag is withdrawn.
        seq: 1 or more; a later record of the same name has a higher one.
        time: when it was made, in whole seconds since 1970 by the publisher's clock.
        key: 32 bytes, the public key that signs it.
        lifetime: seconds after which a copy should be checked with where it came from.
        rotations: how `key` came from earlier keys, oldest first; may be empty.
        minor: minor version of the format that wrote it.
        extra: fields this version does not know, as (key, encoded value).
    """

    name: Name
    manifest: Digest | None
    seq: int
    time: int
    key: bytes
    lifetime: int = DEFAULT_LIFETIME_S
    rotations: tuple[Rotation, ...] = ()
    minor: int = 0
    extra: tuple[tuple[str, bytes], ...] = ()


def fingerprint(key: bytes) -> str:
    """What people compare: 64 hex digits, the digest of the public key."""
    return str(Digest.of(key))


def public_bytes(private_key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public key that belongs to a private one."""
    return private_key.public_key().public_bytes_raw()


def rotate(
    old_private: Ed25519PrivateKey, new_public: bytes, publisher: str, time: int
) -> Rotation:
    """State with the old key that `publisher` signs with the new one from now on.

    Raises:
        FormatError: if `new_public` is not 32 bytes, or is the old key.
    """
    unsigned = Rotation(publisher, public_bytes(old_private), new_public, time, b"")
    statement = unsigned.statement()
    signature = old_private.sign(ROTATION_PREFIX + statement)
    return _open_rotation(statement, signature)


def sign_record(record: Record, private_key: Ed25519PrivateKey) -> bytes:
    """The record's envelope, signed; `open_record` gives `record` back.

    Raises:
        FormatError: if `open_record` would not accept it.
        TrustError: if the key is not the record's, or a rotation's signature does not hold.
    """
    body = _body(record)
    rotations: list[Value] = [[item.statement(), item.signature] for item in record.rotations]
    data = pack([body, private_key.sign(RECORD_PREFIX + body), rotations])
    if open_record(data) != record:
        raise FormatError("the extra fields of the record are not in order")
    return data


def _body(record: Record) -> bytes:
    fields: dict[str, Value] = {
        "key": record.key,
        "lifetime": record.lifetime,
        "manifest": record.manifest,
        "name": record.name.repo,
        "seq": record.seq,
        "tag": record.name.tag,
        "time": record.time,
        "v": [MAJOR, record.minor],
    }
    for key, value in record.extra:
        fields[key] = unpack(value, max_bytes=MAX_RECORD_BYTES)
    return pack(fields)


def open_record(data: bytes | memoryview) -> Record:
    """Read a record and check its signature and those of its rotations.

    That the keys are trusted, and the time is sensible, is not checked here.

    Raises:
        FormatError: if it is no valid record.
        VersionError: if it is of a newer major version.
        TrustError: if a signature does not hold.
    """
    match unpack(data, max_bytes=MAX_RECORD_BYTES):
        case (bytes(body), bytes(signature), tuple(rotations)):
            pass
        case _:
            raise FormatError("not a valid record: it is not [body, signature, rotations]")
    record = _open_body(body, _open_rotations(rotations))
    _verify(record.key, signature, RECORD_PREFIX + body, f"record of {record.name}")
    return record


def reopen_record(data: bytes | memoryview) -> Record | None:
    """A record that was checked when it was kept; None if it has rotted since.

    Raises:
        VersionError: if it is of a newer major version.
    """
    try:
        return open_record(data)
    except VersionError:
        raise
    except (FormatError, TrustError):
        return None


def _open_body(body: bytes, rotations: tuple[Rotation, ...]) -> Record:
    fields = unpack(body, max_bytes=MAX_RECORD_BYTES, max_depth=_MAX_DEPTH)
    if not isinstance(fields, dict):
        raise FormatError("not a valid record: its body is not a map")
    minor = check_version(fields.get("v"), MAJOR, "record")
    if _KEYS - fields.keys():
        raise FormatError(f"not a valid record: no field {min(_KEYS - fields.keys())!r}")
    manifest = fields["manifest"]
    record = Record(
        name=_name(fields["name"], fields["tag"]),
        manifest=None if manifest is None else Digest(_bytes(manifest, KEY_BYTES, "manifest")),
        seq=_whole(fields["seq"], 1, MAX_SEQ, "seq"),
        time=_whole(fields["time"], 0, MAX_TIME_S, "time"),
        key=_bytes(fields["key"], KEY_BYTES, "key"),
        lifetime=_whole(fields["lifetime"], 1, MAX_LIFETIME_S, "lifetime"),
        rotations=rotations,
        minor=minor,
        extra=take_extra(fields, _KEYS, newer=minor > MINOR),
    )
    _check_chain(record)
    return record


def _name(repo: Value, tag: Value) -> Name:
    if not isinstance(repo, str) or not isinstance(tag, str):
        raise FormatError("not a valid record: its name is not publisher/model and a tag")
    publisher, _, model = repo.partition("/")
    try:
        return Name(publisher, model, tag)
    except UsageError as error:
        raise FormatError(f"not a valid record: {error}") from None


def _bytes(value: Value, length: int, what: str) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise FormatError(f"not a valid record: its {what} is not {length} bytes")
    return value


def _whole(value: Value, low: int, high: int, what: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise FormatError(
            f"not a valid record: its {what} is not a whole number from {low} to {high}"
        )
    return value


def pack_rotations(rotations: tuple[Rotation, ...]) -> bytes:
    """A row of rotations as bytes, as a publisher keeps it beside the key."""
    return pack([[item.statement(), item.signature] for item in rotations])


def unpack_rotations(data: bytes) -> tuple[Rotation, ...]:
    """What `pack_rotations` packed, every signature checked.

    Raises:
        FormatError: if it is no row of rotations.
        TrustError: if a signature does not hold.
    """
    items = unpack(data, max_bytes=MAX_RECORD_BYTES)
    if not isinstance(items, tuple):
        raise FormatError("not a row of rotations")
    return _open_rotations(items)


def _open_rotations(items: tuple[Value, ...]) -> tuple[Rotation, ...]:
    if len(items) > MAX_ROTATIONS:
        raise FormatError(f"not a valid record: more than {MAX_ROTATIONS} rotations")
    rotations = []
    for item in items:
        match item:
            case (bytes(statement), bytes(signature)):
                rotations.append(_open_rotation(statement, signature))
            case _:
                raise FormatError("not a valid record: a rotation is not [statement, signature]")
    return tuple(rotations)


def _open_rotation(statement: bytes, signature: bytes) -> Rotation:
    fields = unpack(statement, max_bytes=MAX_RECORD_BYTES)
    if not isinstance(fields, dict) or fields.keys() != _ROTATION_KEYS:
        raise FormatError("not a valid record: a rotation has not the fields it should")
    publisher = fields["publisher"]
    if not isinstance(publisher, str):
        raise FormatError("not a valid record: a rotation's publisher is not text")
    rotation = Rotation(
        publisher=_name(f"{publisher}/x", "x").publisher,
        old=_bytes(fields["old"], KEY_BYTES, "rotation's old key"),
        new=_bytes(fields["new"], KEY_BYTES, "rotation's new key"),
        time=_whole(fields["time"], 0, MAX_TIME_S, "rotation's time"),
        signature=signature,
    )
    if rotation.new == rotation.old:
        raise FormatError("not a valid record: a rotation leads from a key to itself")
    _verify(rotation.old, signature, ROTATION_PREFIX + statement, f"rotation of {publisher}'s key")
    return rotation


def _check_chain(record: Record) -> None:
    """The rotations are this publisher's, and lead from key to key, never back, to the record's."""
    keys = [*(rotation.old for rotation in record.rotations), record.key]
    for rotation, following in zip(record.rotations, keys[1:], strict=True):
        if rotation.publisher != record.name.publisher:
            raise FormatError("not a valid record: a rotation is another publisher's")
        if rotation.new != following:
            raise FormatError("not a valid record: its rotations do not lead to its key")
    if len(set(keys)) != len(keys):
        raise FormatError("not a valid record: its rotations lead back to an earlier key")


def _verify(key: bytes, signature: bytes, message: bytes, what: str) -> None:
    # Imported late: it takes 25 ms, which a command that needs no record should not pay.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(signature) != SIGNATURE_BYTES:
        raise FormatError(f"the signature of the {what} is not {SIGNATURE_BYTES} bytes")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise TrustError(
            f"the signature of the {what} does not hold for key {fingerprint(key)}"
        ) from None


def trusted_via(record: Record, known_fingerprint: str) -> bool:
    """Whether a key of that fingerprint signed the record, or stands behind its rotations."""
    keys = (record.key, *(rotation.old for rotation in record.rotations))
    return any(fingerprint(key) == known_fingerprint for key in keys)


def check_time(record: Record, now: float) -> None:
    """Refuse a record from the future: it would outlive the publisher's next ones.

    Args:
        record: an opened record.
        now: seconds since 1970 by the own clock.

    Raises:
        TrustError: if it was made more than MAX_CLOCK_SKEW_S later than `now`.
    """
    ahead = max([record.time, *(rotation.time for rotation in record.rotations)]) - now
    if ahead > MAX_CLOCK_SKEW_S:
        raise TrustError(
            f"the record of {record.name} is dated {round(ahead)} s in the future",
            hint="check this machine's clock and the publisher's",
        )


def check_follows(old: Record, new: Record) -> None:
    """Refuse a record that must not take the place of one that is known.

    Clients, edges and origins ask this alike. It is so if both are of one name, the sequence
    number is higher (or everything is the same), and the key is the same or reached from the
    old one by rotations.

    Raises:
        TrustError: saying what is wrong.
    """
    if new.name != old.name:
        raise TrustError(f"the record is of {new.name}, not {old.name}")
    if new.seq < old.seq:
        raise TrustError(
            f"the record of {old.name} goes back from number {old.seq} to {new.seq}",
            hint="the source may be out of date or tampered with; try another",
        )
    if new.seq == old.seq and new != old:
        raise TrustError(f"there are two different records of {old.name} with number {old.seq}")
    if new.key != old.key and all(item.old != old.key for item in new.rotations):
        raise TrustError(
            f"the key of {old.name.publisher} changed from {fingerprint(old.key)} to "
            f"{fingerprint(new.key)}, and the old key did not sign that"
        )

"""Publisher keys on disk: made on first use, readable by their owner only, rotated with a trail.

A key is a PKCS#8 PEM file; beside it `FILE.chain` holds the rotations that lead to it, which go
into every record it signs. This module must not sign anything else than rotations.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from icnblocks.errors import StorageError, UsageError
from icnblocks.limits import MAX_ROTATIONS
from icnblocks.manifest.record import (
    Rotation,
    fingerprint,
    pack_rotations,
    public_bytes,
    rotate,
    unpack_rotations,
)
from icnblocks.store.whole import sync_directory
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from pathlib import Path

_MAX_KEY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class PublisherKey:
    """A key with the rotations that lead to it.

    Attributes:
        private: the Ed25519 key.
        rotations: oldest first; empty for a first key.
        made: whether it was made just now.
    """

    private: Ed25519PrivateKey
    rotations: tuple[Rotation, ...] = ()
    made: bool = False

    @property
    def public(self) -> bytes:
        """The 32 bytes of the public key."""
        return public_bytes(self.private)

    @property
    def fingerprint(self) -> str:
        """What people compare: 64 hex digits."""
        return fingerprint(self.public)


def _chain_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.chain")


def _write_private(path: Path, data: bytes, *, replace: bool = True) -> bool:
    """Write a file that only its owner can read, at once or not at all; it survives a power cut.

    Returns:
        False if it was there already and was not to be replaced.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as fresh:
            fresh.write(data)
            fresh.flush()
            os.fsync(fresh.fileno())
            if not replace:
                os.link(fresh.name, path)  # fails where another process was first
            else:
                beside = f"{fresh.name}.whole"
                os.link(fresh.name, beside)
                os.replace(beside, path)
        sync_directory(path.parent)  # before anything is signed: a key that is lost binds a name
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}",
            hint="make the directory writable, or name another place",
        ) from error


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError.of(error, f"cannot read {path}") from error


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_key(path: Path) -> PublisherKey | None:
    """The key in a file, or None if there is no such file.

    Raises:
        UsageError: if the file does not hold an unencrypted Ed25519 key in PEM.
    """
    data = _read(path)
    if data is None:
        return None
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{path} holds no unencrypted PEM key of the kind Ed25519",
            hint="`openssl pkey -in FILE -out NEW` writes one without its password",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} holds a key of another kind than Ed25519")
    return PublisherKey(key, _leading_to(public_bytes(key), _load_chain(_chain_path(path))))


def existing_key(path: Path) -> PublisherKey:
    """The key in a file.

    Raises:
        UsageError: if there is none.
    """
    found = load_key(path)
    if found is None:
        raise UsageError(
            f"there is no key in {path}", hint="name the publisher's key file with --key"
        )
    return found


def _load_chain(path: Path) -> tuple[Rotation, ...]:
    data = _read(path)
    return () if data is None else unpack_rotations(data)


def _leading_to(public: bytes, chain: tuple[Rotation, ...]) -> tuple[Rotation, ...]:
    """The part of a chain that ends in a key: a rotation that was cut off may have written more."""
    ends = [number for number, step in enumerate(chain, 1) if step.new == public]
    return chain[: ends[-1]] if ends else ()


def load_or_make_key(path: Path) -> PublisherKey:
    """The key in a file; made there if there is none."""
    found = load_key(path)
    if found is not None:
        return found
    key = Ed25519PrivateKey.generate()
    if _write_private(path, _pem(key), replace=False):
        return PublisherKey(key, made=True)
    return load_or_make_key(path)  # another process made one at this moment: that is the key


def rotate_key(path: Path, publisher: str, now: int) -> PublisherKey:
    """Replace the key in a file by a new one; the old one signs the change and is kept aside.

    Args:
        path: the key file. The old key is kept as `FILE.old-FINGERPRINT`.
        publisher: whose key it is.
        now: Unix seconds.

    Raises:
        UsageError: if there is no key there.
    """
    old = existing_key(path)
    fresh = Ed25519PrivateKey.generate()
    chain = (*old.rotations, rotate(old.private, public_bytes(fresh), publisher, now))
    _write_private(path.with_name(f"{path.name}.old-{old.fingerprint[:16]}"), _pem(old.private))
    chain = chain[-MAX_ROTATIONS:]
    # The chain first: of one that goes on the old key takes its part, a new key without is lost.
    _write_private(_chain_path(path), pack_rotations(chain))
    _write_private(path, _pem(fresh))
    return PublisherKey(fresh, chain, made=True)

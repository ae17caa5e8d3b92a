"""How a publisher shows a server that a key is theirs: a signed line good for some minutes.

`Authorization: ICN base64(canonical [publisher, key, time, signature])`, signed over a prefix of
its own, the publisher, the host and port as the client spells it, and the time. Without TLS it
can be repeated by an eavesdropper while it is valid; docs/operations.md says so.
This module must not read clocks or keys; it is handed them.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError, RefusedError
from icnblocks.manifest.canonical import pack, unpack
from icnblocks.manifest.record import public_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEME: Final = "ICN"
PREFIX: Final = b"icnblocks access v1\0"
WINDOW_S: Final = 600
_MOST_BYTES: Final = 4096


def _signed(publisher: str, host: str, time: int) -> bytes:
    return PREFIX + pack([publisher, host.lower(), time])


def sign_access(publisher: str, private: Ed25519PrivateKey, host: str, now: int) -> str:
    """The value of the Authorization header.

    Args:
        publisher: for whom.
        private: their key.
        host: `Host` header of the request.
        now: Unix seconds.
    """
    signature = private.sign(_signed(publisher, host, now))
    value = pack([publisher, public_bytes(private), now, signature])
    return f"{SCHEME} {base64.b64encode(value).decode()}"


def open_access(header: str, host: str, now: float) -> tuple[str, bytes]:
    """Check an Authorization header of this scheme.

    Returns:
        The publisher, and the 32 bytes of the key that signed; whether that key may write is
        for the caller to say.

    Raises:
        FormatError: if it is not such a header.
        RefusedError: if it is too old, from the future, for another host, or not signed rightly.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    scheme, _, text = header.partition(" ")
    try:
        value = unpack(base64.b64decode(text, validate=True), max_bytes=_MOST_BYTES)
    except (binascii.Error, ValueError) as error:
        raise FormatError("the Authorization header is not base64") from error
    match value:
        case (str(publisher), bytes(key), int(time), bytes(signature)) if scheme == SCHEME:
            pass
        case _:
            raise FormatError("the Authorization header is not [publisher, key, time, signature]")
    if abs(now - time) > WINDOW_S:
        raise RefusedError(
            "the signature of the request is too old or from the future",
            hint="check this machine's clock and the server's",
        )
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _signed(publisher, host, time))
    except (InvalidSignature, ValueError):
        raise RefusedError(f"the request is not signed rightly for {publisher}") from None
    return publisher, key

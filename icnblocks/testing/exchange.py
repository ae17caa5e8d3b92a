"""Small models, and the protocol spoken by hand: for tests of whoever answers it.

Nothing of the client is used here, so that its mistakes and the daemon's cannot cancel out.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.cutting import CutFile, build_manifest, cut_runs
from icnblocks.manifest.model import Kind, Manifest
from icnblocks.manifest.record import Record, public_bytes, sign_record
from icnblocks.naming import Digest, Name
from icnblocks.wire.bundle import BundleRequest, Want, encode_request, pack_wants, unpack_indexes
from icnblocks.wire.frames import Data, End, FrameDecoder, Nack, Reason, buffer_bytes
from icnblocks.wire.upload import pack_parts

if TYPE_CHECKING:
    from icnblocks.testing.processes import Edge

Payloads = dict[Digest, bytes]
Refusals = dict[Digest, tuple[Reason, str]]

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


@dataclass
class Model:
    """Random blocks and what names them."""

    name: Name
    blocks: dict[Digest, bytes]
    manifest: Manifest

    @property
    def raw(self) -> bytes:
        """Its encoded manifest."""
        return encode(self.manifest)

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return digest_of(self.raw)

    @property
    def wants(self) -> tuple[Want, ...]:
        """A want for each block."""
        return tuple(Want(digest, len(data)) for digest, data in self.blocks.items())

    @property
    def size(self) -> int:
        """Bytes of all blocks."""
        return sum(map(len, self.blocks.values()))

    def record(self, seq: int = 1, key: Any = KEY, **more: Any) -> bytes:
        """A signed record of it; `more` replaces fields of Record."""
        fields = {"manifest": self.digest, "time": int(time.time()), "lifetime": 60, **more}
        record = Record(self.name, seq=seq, key=public_bytes(key), **fields)
        return sign_record(record, key)


def make_model(
    name: str = "acme/tiny", *, size: int = 300_000, seed: int = 1, block_bytes: int = 64 * 1024
) -> Model:
    """A model of one file of `size` random bytes."""
    data = random.Random(seed).randbytes(size)
    pieces = [data[at : at + block_bytes] for at in range(0, size, block_bytes)]
    runs = cut_runs("weights.bin", size, None, block_bytes=block_bytes)
    digests = [Digest.of(piece) for piece in pieces]
    cut = CutFile("weights.bin", size, runs, b"".join(digests))
    manifest = build_manifest(Kind.PACK, [cut], block_bytes=block_bytes)
    return Model(Name.parse(name), dict(zip(digests, pieces, strict=True)), manifest)


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        return dict(json.loads(self.body))


def call(edge: Edge, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
    try:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.headers), answer.read())
    finally:
        connection.close()


def bundle(edge: Edge, wants: tuple[Want, ...], **fields: Any) -> tuple[Payloads, Refusals]:
    """Ask for a bundle; payloads by digest, and Nacks by digest."""
    request = BundleRequest(wants, pull=fields.pop("pull", os.urandom(16)), **fields)
    reply = call(edge, "POST", "/v1/bundles", encode_request(request))
    assert reply.status == 200, reply.body
    return decode_answer(wants, reply.body)


def begun(edge: Edge, wants: tuple[Want, ...]) -> socket.socket:
    """A connection on which a bundle was asked for in HTTP/1.0; nothing of it is read yet.

    The kernel takes little of the answer for a reader who does not read.
    """
    body = encode_request(BundleRequest(wants))
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", edge.port))
    head = f"POST /v1/bundles HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


def decode_answer(wants: tuple[Want, ...], body: bytes) -> tuple[Payloads, Refusals]:
    """Read a whole answer; it must end with END."""
    buffer = memoryview(bytearray(buffer_bytes(max(want.length for want in wants))))
    decoder, ended = FrameDecoder(wants, buffer), False
    got: Payloads = {}
    refused: Refusals = {}
    while body:
        room = decoder.wanted()
        piece, body = body[: len(room)], body[len(room) :]
        room[: len(piece)] = piece
        for event in decoder.filled(len(piece)):
            match event:
                case Data(index, payload):
                    got[wants[index].digest] = bytes(payload)
                case Nack(index, reason, text):
                    refused[wants[index].digest] = (reason, text)
                case End():
                    ended = True
    assert ended, "the answer was cut"
    return got, refused


def record_path(name: Name) -> str:
    """Where a name's record is."""
    return f"/v1/records/{name.publisher}/{name.model}/{name.tag}"


def publish(edge: Edge, model: Model, *, record: bool = True, **headers: str) -> None:
    """Upload all of a model, as icn-publish does."""
    for body in pack_parts(model.blocks.items()):
        assert call(edge, "POST", "/v1/uploads", body, **headers).status == 200
    put = call(edge, "PUT", f"/v1/manifests/{model.digest}", model.raw, **headers)
    assert put.status == 201, put.body
    if record:
        reply = call(edge, "PUT", record_path(model.name), model.record(), **headers)
        assert reply.status == 201, reply.body


def missing(edge: Edge, wants: tuple[Want, ...]) -> list[int]:
    """Indexes of the wants that the daemon does not have."""
    reply = call(edge, "POST", "/v1/missing", pack_wants(wants))
    return unpack_indexes(reply.body, len(wants))

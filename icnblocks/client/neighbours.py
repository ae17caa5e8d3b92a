"""What devices and their edge say to each other about who has what: announcing, dealing, listening.

One request each, on a connection of the caller's. Addresses of neighbours come from an edge and are
believed as little as anything from the network: literal addresses and ports only. This module must
not decide whom to ask.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any, Final

from icnblocks.client.answers import check_answer, not_icn
from icnblocks.client.endpoint import Endpoint, SourceOptions, is_loopback
from icnblocks.client.source import Source
from icnblocks.errors import IcnError, NotFoundError, RefusedError, UsageError
from icnblocks.limits import KIB, MAX_HAVE_BYTES, MAX_NEIGHBOURS
from icnblocks.wire.bundle import unpack_indexes
from icnblocks.wire.havemap import HaveMap, decode_have, encode_have
from icnblocks.wire.headers import NAME_HEADER

if TYPE_CHECKING:
    from icnblocks.client.http import Answer, Connection
    from icnblocks.naming import Digest, Name

PORT_HEADER: Final = "ICN-Port"
"""In what a device asks a neighbour: where it serves itself, so that both may ask each other."""
_MAX_BYTES: Final = 16 * KIB
_CONTROL_S: Final = 15.0
_MAX_TTL_S: Final = 3600.0

NEIGHBOUR_OPTIONS: Final = SourceOptions(
    connect_s=3.0, stall_s=5.0, floor_bytes=16 * KIB, patience_s=5.0, environment=False
)
"""How to talk to a neighbour: without patience, credentials or proxies."""


class NoNeighboursError(RefusedError):
    """The other side does not tell devices of each other."""


def announce(
    connection: Connection, manifest: Digest, name: Name | None, port: int
) -> tuple[list[str], float]:
    """Tell an edge that blocks of a model are served here, and ask who else does.

    Args:
        connection: to the edge.
        manifest: the model.
        name: under which the edge may look for it.
        port: where this device serves; the edge takes the address from the connection.

    Returns:
        URLs of some neighbours, at random, loopback ones only if the edge is at such an address;
        and after how many seconds this is forgotten.

    Raises:
        NoNeighboursError: if the edge does not do this, or not for this device.
        IcnError: if it fails otherwise.
    """
    body = json.dumps({"port": port}).encode()
    told = _json(_post(connection, f"{_path(manifest)}/neighbours", body, name), connection)
    listed, ttl = told.get("neighbours"), told.get("ttl")
    if not isinstance(listed, list) or isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise not_icn(str(connection))
    found = [url for text in listed[:MAX_NEIGHBOURS] if (url := neighbour_url(text)) is not None]
    host = connection.endpoint.host
    if not (is_loopback(host) or host == "localhost"):  # else it could have us ask what runs here
        found = [url for url in found if not is_loopback(Endpoint.parse(url).host)]
    return found, float(min(_MAX_TTL_S, max(1.0, ttl)))  # in this order 1 for what is no number


def withdraw(connection: Connection, manifest: Digest, port: int) -> None:
    """Tell an edge that a model is not served here any more.

    Raises:
        IcnError: if it fails.
    """
    path = f"{_path(manifest)}/neighbours?port={port}"
    answer = connection.request("DELETE", path, None, answer_s=2.0)
    check_answer(answer, f"taking leave of {connection}").read(_MAX_BYTES)


def deal(
    connection: Connection, manifest: Digest, name: Name | None, had: bytes, most: int
) -> list[int] | None:
    """Ask which blocks this source would best be asked for, so that devices get different ones.

    Args:
        connection: to the source.
        manifest: the model.
        name: under which it may look for the manifest.
        had: a byte for each of its distinct blocks, 1 for those not to be dealt.
        most: how many to deal.

    Returns:
        Their indexes; None if the source does not deal.

    Raises:
        IcnError: if it fails.
    """
    path = f"{_path(manifest)}/deal?most={most}"
    try:
        answer = _post(connection, path, encode_have(HaveMap(had, fetches=False)), name)
    except (NotFoundError, NoNeighboursError):
        return None
    indexes = unpack_indexes(answer.read(4 * most), len(had))
    return indexes[:most]


def listen(
    connection: Connection, manifest: Digest, count: int, known: int, wait_s: float, port: int
) -> HaveMap:
    """Which blocks a neighbour holds; answered as soon as they are more than `known`.

    Args:
        connection: to the neighbour.
        manifest: the model.
        count: how many distinct blocks it has.
        known: how many the neighbour held when it was asked last.
        wait_s: how long the neighbour may wait for more.
        port: where this device serves in turn.

    Raises:
        IcnError: if it fails, or knows nothing of the model.
    """
    path = f"{_path(manifest)}/have?known={known}&wait={wait_s:.2f}"
    until = NEIGHBOUR_OPTIONS.stall_s + wait_s
    answer = connection.request("GET", path, None, {PORT_HEADER: str(port)}, answer_s=until)
    check_answer(answer, f"have-map from {connection}")
    return decode_have(answer.read(MAX_HAVE_BYTES), count)


def neighbour_url(text: object) -> str | None:
    """The URL of a neighbour given as `ADDRESS:PORT`, as its source names itself.

    None if that is not what it is.
    """
    if not isinstance(text, str) or len(text) > 64:
        return None
    host, colon, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        return None
    if getattr(address, "scope_id", None) is not None:  # any text, and it holds on one link only
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_multicast or address.is_unspecified:
        return None
    shown = f"[{address}]" if address.version == 6 else str(address)
    return str(Endpoint.parse(f"http://{shown}:{int(port)}"))


def neighbour_source(url: str) -> Source:
    """A neighbour as a source, spoken to without patience and without our token."""
    return Source(url, NEIGHBOUR_OPTIONS)


def _path(manifest: Digest) -> str:
    return f"/v1/manifests/{manifest}"


def _post(connection: Connection, path: str, body: bytes, name: Name | None) -> Answer:
    headers = {"Content-Type": "application/octet-stream"}
    if name is not None:
        headers[NAME_HEADER] = str(name)
    answer = connection.request("POST", path, body, headers, answer_s=_CONTROL_S)
    try:
        return check_answer(answer, f"neighbours at {connection}")
    except (NotFoundError, RefusedError, UsageError) as error:
        raise NoNeighboursError(str(error)) from None
    except IcnError as error:
        if answer.status in {404, 405, 501}:  # it is older, or no daemon of ours
            raise NoNeighboursError(str(error)) from None
        raise


def _json(answer: Answer, connection: Connection) -> dict[str, Any]:
    try:
        told = json.loads(answer.read(_MAX_BYTES))
    except (ValueError, RecursionError):
        raise not_icn(str(connection)) from None
    if not isinstance(told, dict):
        raise not_icn(str(connection))
    return told

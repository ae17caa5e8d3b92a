"""Addresses as people write them in a configuration, and whose address is whose. Pure."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from icnblocks.values import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host name or IP address, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        ValueError: for anything else, also without a host: all addresses must be said.
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address is written [::1]:PORT")
    if not colon:
        raise ValueError(f"{text!r} is not HOST:PORT")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"{text!r}: the port is a number from 0 to 65535")
    if not host:
        raise ValueError(
            f"{text!r} names no host: 127.0.0.1:{port} for this machine alone,"
            f" 0.0.0.0:{port} or [::]:{port} for everybody"
        )
    if not host.isprintable() or " " in host or "/" in host:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return Address(host, int(port))


@lru_cache(maxsize=4096)
def counted_as(peer: str, local: str) -> str:
    """The client that an address is counted as, wherever clients have limits or take turns.

    An IPv4 address, also as IPv6 writes it, is one. An IPv6 host mostly has a /64 to itself and
    may come from any address of it, so all of it is one; not on a link of our own, where a /64 is
    that of many hosts, and where IPv4 addresses could be taken as freely.

    Args:
        peer: of the other end.
        local: of this end of the same connection.
    """
    try:
        address, ours = ip_address(peer), ip_address(local)
    except ValueError:
        return peer
    if not isinstance(address, IPv6Address):
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    net = int(address) >> 64
    if isinstance(ours, IPv6Address) and int(ours) >> 64 == net:
        return peer
    return f"{IPv6Address(net << 64)}/64"

"""Addresses as people write them in a configuration. Pure."""

from __future__ import annotations

from dataclasses import dataclass


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

"""Sizes, durations and addresses as people write them in a configuration. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SIZE: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_DURATION: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]*)\Z", re.ASCII)
MAX_DURATION_S: Final = 3650 * 86400.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host name or IP address, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_size(text: str) -> int:
    """Bytes from `20GB` (10^9), `20GiB` or `20G` (2^30), or a plain number.

    Raises:
        ValueError: for anything else.
    """
    value, unit = _split(text)
    if unit not in _SIZE:
        raise ValueError(f"{text!r} is not a size such as 20GB, 512MiB or 1000000")
    return int(value * _SIZE[unit])


def parse_duration(text: str) -> float:
    """Seconds from `90`, `90s`, `15m`, `24h`, `7d` or `250ms`.

    Raises:
        ValueError: for anything else.
    """
    value, unit = _split(text)
    if unit not in _DURATION or value * _DURATION[unit] > MAX_DURATION_S:
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 24h or 7d")
    return value * _DURATION[unit]


def format_size(size: int) -> str:
    """A size as `parse_size` reads it, in the largest unit that is exact."""
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB"):
        step = _SIZE[unit.lower()]
        if size and size % step == 0:
            return f"{size // step}{unit}"
    return str(size)


def format_duration(seconds: float) -> str:
    """A duration as `parse_duration` reads it, in the largest unit that is exact."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _DURATION[unit] == 0:
            return f"{seconds / _DURATION[unit]:.0f}{unit}"
    return f"{seconds:g}s"


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


def _split(text: str) -> tuple[float, str]:
    match = _QUANTITY.match(text.strip())
    if match is None:
        return 0.0, "?"
    return float(match[1]), match[2].lower()

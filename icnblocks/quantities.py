"""Sizes, durations and rates as people write them, in configurations and on command lines. Pure."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_DURATION: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_QUANTITY = re.compile(r"(\d{1,19}(?:\.\d{1,6})?)\s*([A-Za-z]*)\Z", re.ASCII)
_RATE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]+?)(?:/s|ps)?\Z", re.ASCII)
MAX_DURATION_S: Final = 3650 * 86400.0


def parse_size(text: str) -> int:
    """Bytes from `20GB` (10^9), `20GiB` or `20G` (2^30), or a plain number.

    Raises:
        ValueError: for anything else.
    """
    match = _QUANTITY.match(text.strip())
    if match is None or match[2].lower() not in _SIZE:
        raise ValueError(f"{text!r} is not a size such as 20GB, 512MiB or 1000000")
    # In whole numbers: as a float 1.001MB is a byte less.
    whole, _, part = match[1].partition(".")
    scale: int = 10 ** len(part)
    return int(whole + part) * _SIZE[match[2].lower()] // scale


def parse_duration(text: str) -> float:
    """Seconds from `90`, `90s`, `15m`, `24h`, `7d` or `250ms`.

    Raises:
        ValueError: for anything else.
    """
    value, unit = _split(text)
    if unit not in _DURATION or value * _DURATION[unit] > MAX_DURATION_S:
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 24h or 7d")
    return value * _DURATION[unit]


def parse_rate(text: str) -> float:
    """Bytes a second from `200Mbit`, `1Gbit/s` or `200Mbps` (bits), or `25MB/s` (bytes).

    Raises:
        ValueError: for anything else, also for a number without a unit and below a byte a second:
            who waits at such a rate would wait longer than clocks can say.
    """
    match = _RATE.match(text.strip())
    value = 0.0
    if match is not None:
        amount, unit = float(match[1]), match[2].lower()
        if unit.endswith("bit") and unit[:-3] in _BITS:
            value = amount * _BITS[unit[:-3]] / 8
        elif text.strip().endswith("bps") and unit[:-1] in _BITS:  # MBps are bytes
            value = amount * _BITS[unit[:-1]] / 8
        elif unit.endswith("b") and unit in _SIZE:
            value = amount * _SIZE[unit]
    if value < 1:
        raise ValueError(f"{text!r} is not a rate such as 200Mbit, 1Gbit or 25MB/s")
    return value


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


def human_bytes(count: float) -> str:
    """Bytes for people, in powers of 1000, as disks and links are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _split(text: str) -> tuple[float, str]:
    match = _QUANTITY.match(text.strip())
    if match is None:
        return 0.0, "?"
    return float(match[1]), match[2].lower()

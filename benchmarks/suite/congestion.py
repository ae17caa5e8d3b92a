"""How TCP of this machine avoids congestion while something is measured. Linux, root."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTING: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def congestion() -> str:
    """What connections get that are made now."""
    return _SETTING.read_text().strip()


@contextmanager
def congested_by(name: str | None) -> Iterator[None]:
    """Connections get this one meanwhile, all of the machine; as they are when None.

    Raises:
        OSError: where the kernel has no such, or nobody but root may say so.
    """
    before = congestion()
    if name is not None:
        _SETTING.write_text(name)
    try:
        yield
    finally:
        if name is not None:
            _SETTING.write_text(before)

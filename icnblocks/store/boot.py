"""Which start of the machine this is: the page cache survives a kill, and no other start.

This module must not import anything of the project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PATH: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Names this boot of the machine; empty (equal to no boot) where the kernel does not say."""
    try:
        return _PATH.read_text(encoding="ascii").strip()
    except OSError:
        return ""

"""Whom an Interest came through, so that a loop is found. Pure: a header's text in, values out."""

from __future__ import annotations

import re
from typing import Final

_MOST: Final = 32
_ID: Final = re.compile("[0-9a-f]{16}")
"""What a daemon takes for its own. Nothing else is sent on: it might not even go into a header."""


def parse_via(text: str) -> frozenset[str]:
    """The ids in a header; what is not an id is passed over, and beyond 32 nothing is read."""
    words = (word.strip().lower() for word in text.split(",")[:_MOST])
    return frozenset(word for word in words if _ID.fullmatch(word))


def format_via(ids: frozenset[str]) -> str:
    """The header's value."""
    return ", ".join(sorted(ids)[:_MOST])

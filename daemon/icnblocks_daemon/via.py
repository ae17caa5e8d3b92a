"""Whom an Interest came through, so that a loop is found. Pure: a header's text in, values out."""

from __future__ import annotations

from typing import Final

_MOST: Final = 32
_ID_CHARS: Final = 16


def parse_via(text: str) -> frozenset[str]:
    """The ids in a header; what is not an id is passed over, and beyond 32 nothing is read."""
    words = (word.strip().lower() for word in text.split(",")[:_MOST])
    return frozenset(word for word in words if len(word) == _ID_CHARS and word.isalnum())


def format_via(ids: frozenset[str]) -> str:
    """The header's value."""
    return ", ".join(sorted(ids)[:_MOST])

"""Documents with marks between which a command puts its tables. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_END: Final = "<!-- end -->"


def fill(document: str, tables: Mapping[str, str]) -> str:
    """The document with every table that it has marks for put between them."""
    for name, text in tables.items():
        mark = f"<!-- table {name} -->"
        before, found, rest = document.partition(mark)
        if found and _END in rest:
            document = f"{before}{mark}\n{text}\n{_END}{rest.partition(_END)[2]}"
    return document

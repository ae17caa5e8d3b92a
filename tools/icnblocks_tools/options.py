"""Reading what people write in options.

This module must not import what the values are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def read_option(option: str, text: str | None, parse: Callable[[str], T]) -> T | None:
    """What an option says; None where it was not given.

    Raises:
        UsageError: if `parse` raises ValueError; the option is named.
    """
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None

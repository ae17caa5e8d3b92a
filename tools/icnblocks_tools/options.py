"""Reading what people write in options.

This module must not import what the values are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

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


class PathType(click.Path):
    """A path that names something: an empty one is an unset variable, not the current directory.

    Raises:
        UsageError: for an empty one.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click.ParamType."""
        if value == "":
            what = param.get_error_hint(ctx).strip("'") if param else "it"
            raise UsageError(f"{what} is empty and names nothing", hint="is a variable not set?")
        return super().convert(value, param, ctx)

"""Options of policies, and of what else is named so: `NAME:key=value,...` is read by what each
declares.

Pure; it must not know any policy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from icnblocks.errors import UsageError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a policy.

    Attributes:
        argument: the constructor's keyword that takes the value.
        parse: makes the value from what was written; raises ValueError, with a message that says
            what is expected, for what cannot be meant.
        help: what it does, one line, with its default.
    """

    argument: str
    parse: Callable[[str], Any]
    help: str


def number(text: str) -> float:
    """A finite number, 0 or more.

    Raises:
        ValueError: for anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("a number of 0 or more is expected")
    return value


def fraction(text: str) -> float:
    """A number above 0 and below 1.

    Raises:
        ValueError: for anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise ValueError("a number above 0 and below 1 is expected")
    return value


def split(spec: str, what: str = "policy") -> tuple[str, dict[str, str]]:
    """`NAME[:key=value,...]` as the name and what was written for each key.

    Args:
        spec: what was written.
        what: the word for what it names, for messages.

    Raises:
        UsageError: if it has another form, or a key twice.
    """
    name, colon, rest = spec.partition(":")
    written: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (word.strip() for word in part.partition("="))
        if not (key and equals and value):
            raise UsageError(
                f"{what} {spec!r}: {part!r} is not KEY=VALUE", hint="NAME[:key=value,...]"
            )
        if key in written:
            raise UsageError(f"{what} {spec!r}: {key} is given twice")
        written[key] = value
    return name.strip(), written


def arguments(spec: str, declared: Mapping[str, Option], what: str = "policy") -> dict[str, Any]:
    """The constructor's keywords for what a spec says.

    Args:
        spec: what was written.
        declared: the options that there are.
        what: as `split`.

    Raises:
        UsageError: if it has an option that is not declared, or a value that cannot be meant.
    """
    found: dict[str, Any] = {}
    for key, text in split(spec, what)[1].items():
        option = declared.get(key)
        if option is None:
            known = ", ".join(sorted(declared)) or "none"
            raise UsageError(f"{what} {spec!r} has no option {key!r}", hint=f"its options: {known}")
        try:
            found[option.argument] = option.parse(text)
        except ValueError as error:
            raise UsageError(f"{what} {spec!r}: {key}: {error}", hint=option.help) from None
    return found

"""Which file paths a manifest may hold: safe below any directory, on any file system.

Written once here, so that whoever lays files out need not think of tricks: what passes is
relative, has no `.` or `..`, fits the usual 255 bytes of a name with `.partial` appended, and
no two paths of a model fall together, not even where case or Unicode form is ignored.
This module must not touch the file system.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from unicodedata import category, normalize

from icnblocks.errors import FormatError
from icnblocks.limits import MAX_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PARTIAL_SUFFIX: Final = ".partial"
"""Appended to a file's name while it is not whole."""
RESERVED_DIRECTORY: Final = ".icnblocks"
"""The directory, in a model directory, that is ours."""
MAX_COMPONENT_BYTES: Final = 255 - len(PARTIAL_SUFFIX)

# Control, format (invisible, or reversing the direction of text), unpaired surrogates, line and
# paragraph separators: what a path shows and what it is would differ.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# The others that Unicode says to ignore where they cannot be shown (fillers, variation selectors).
# File systems that ignore case pass over them too: `.icnblocks` and one of these is `.icnblocks`.
_IGNORABLE: Final = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2065, 0x2065),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF),
)  # fmt: skip
_IGNORED: Final = re.compile(
    "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _IGNORABLE) + "]"
).search


def check_path(path: str) -> str:
    """Give `path` back if a manifest may hold it.

    Raises:
        FormatError: naming what is wrong with it.
    """
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise _bad(path, "is not Unicode text") from None
    if length > MAX_PATH_BYTES:
        raise _bad(path, f"has {length} bytes, where at most {MAX_PATH_BYTES} are allowed")
    if "\\" in path:
        raise _bad(path, "holds a backslash")
    if not (path.isascii() and path.isprintable()) and (
        _IGNORED(path) or any(category(character) in _REFUSED_CATEGORIES for character in path)
    ):
        raise _bad(path, "holds control or invisible characters")
    parts = path.split("/")
    for part in parts:
        _check_part(path, part)
    if fold(parts[0]) == RESERVED_DIRECTORY:
        raise _bad(path, f"lies in the reserved directory {RESERVED_DIRECTORY}")
    return path


def _check_part(path: str, part: str) -> None:
    if not part:
        raise _bad(path, "is empty, absolute, or has an empty part")
    if part in {".", ".."}:
        raise _bad(path, f"has a part {part!r}")
    if len(part.encode()) > MAX_COMPONENT_BYTES:
        raise _bad(path, f"has a part of more than {MAX_COMPONENT_BYTES} bytes")
    if fold(part).endswith(PARTIAL_SUFFIX):
        raise _bad(path, f"has a part that ends in {PARTIAL_SUFFIX}, as unfinished files do")


def _bad(path: str, what: str) -> FormatError:
    return FormatError(f"file path {path[:100]!r} {what}")


def fold(text: str) -> str:
    """What a file system that ignores case and Unicode form makes of a name."""
    if text.isascii():
        return text.lower()
    return normalize("NFC", normalize("NFC", text).casefold())


def check_together(paths: Iterable[str]) -> None:
    """Check that paths can lie in one directory.

    Raises:
        FormatError: if one occurs twice, differs from another in case only, or is a file
            where another needs a directory.
    """
    for clash in _clashes(paths):
        raise FormatError(clash)


def faults(paths: Iterable[str]) -> list[str]:
    """What keeps paths out of one manifest, each in a few words; nothing if it may hold them."""
    found, good = [], []
    for path in paths:
        try:
            good.append(check_path(path))
        except FormatError as error:
            found.append(str(error))
    return [*found, *_clashes(good)]


def _clashes(paths: Iterable[str]) -> Iterator[str]:
    # With the lowest character between parts, a file sorts directly before what needs it to be
    # a directory, so neighbours are all there is to compare.
    last = ""
    for key in sorted(fold(path).replace("/", "\0") for path in paths):
        if last and (key == last or key.startswith(last + "\0")):
            shown = last.replace("\0", "/")[:100]
            yield f"two file paths clash at {shown!r} (case is ignored)"
        last = key

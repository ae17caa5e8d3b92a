"""Names of models: `publisher/model[@tag]`, the shape of a Hub repo id and revision.

Grammar (docs/format.md): each part is 1-96 of the ASCII characters `A-Z a-z 0-9 _ - .`, begins
with a letter or digit, does not end with `.` or `-`, and holds neither `..` nor `--`. So no part
can be a path trick, hold a control character or a look-alike, and `publisher--model` is free for
folder names.
This module must not touch the file system.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote

from icnblocks.errors import UsageError
from icnblocks.limits import MAX_PART_CHARS

DEFAULT_TAG: Final = "main"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)


def _check(part: str, what: str) -> str:
    if len(part) > MAX_PART_CHARS:
        raise UsageError(f"the {what} of a name has at most {MAX_PART_CHARS} characters")
    if not _PART.match(part) or ".." in part or "--" in part or part[-1] in ".-":
        raise UsageError(
            f"not a valid {what}: {part!r}",
            hint="names are publisher/model[@tag], of letters, digits, '.', '_' and '-'; no part"
            " may begin with '.', '_' or '-', end with '.' or '-', or hold '..' or '--'",
        )
    return part


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A model's name: who published it, what it is called, and which tag of it is meant.

    Raises:
        UsageError: if a part is outside the grammar.
    """

    publisher: str
    model: str
    tag: str = DEFAULT_TAG

    def __post_init__(self) -> None:
        _check(self.publisher, "publisher")
        _check(self.model, "model")
        _check(self.tag, "tag")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `publisher/model` or `publisher/model@tag`.

        Raises:
            UsageError: for anything else.
        """
        repo, at, tag = text.partition("@")
        publisher, slash, model = repo.partition("/")
        if not slash or (at and not tag):
            raise UsageError(
                f"not a model name: {text[:200]!r}", hint="a name is publisher/model[@tag]"
            )
        return cls(publisher, model, tag if at else DEFAULT_TAG)

    @property
    def repo(self) -> str:
        """`publisher/model`, without the tag."""
        return f"{self.publisher}/{self.model}"

    def __str__(self) -> str:
        return self.repo if self.tag == DEFAULT_TAG else f"{self.repo}@{self.tag}"

    def block(self, path: str, tensor: str, index: int) -> str:
        """A block's full name for people and logs: name, file path, tensor and index, escaped."""
        return f"{self.repo}@{self.tag}/{quote(path)}#{quote(tensor, safe='')}/{index}"

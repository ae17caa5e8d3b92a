"""What a bearer token of this daemon is, wherever it is written. Pure.

One rule for options, variables, TOML and token files, so that none of them opens writing by an
empty or guessable word. The texts of errors must not show a token: they end up in logs.
"""

from __future__ import annotations

from typing import Final

from icnblocks.errors import UsageError

MIN_TOKEN_CHARS: Final = 16
_HINT: Final = "make one with: openssl rand -hex 32"


def check_token(text: str) -> str:
    """A token as it is.

    Raises:
        UsageError: if it is not at least 16 printable ASCII characters without blanks.
    """
    printable = text.isascii() and text.isprintable() and " " not in text
    if not printable or len(text) < MIN_TOKEN_CHARS:
        raise UsageError(
            f"not a token of at least {MIN_TOKEN_CHARS} printable ASCII characters without blanks",
            hint=_HINT,
        )
    return text


def read_tokens(text: str) -> tuple[str, ...]:
    """The tokens of a token file: one a line; a word that begins with `#` begins a comment.

    Raises:
        UsageError: naming the line that has something else.
    """
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        comment = next((at for at, word in enumerate(words) if word.startswith("#")), len(words))
        if not words[:comment]:
            continue
        try:
            tokens.append(check_token(" ".join(words[:comment])))
        except UsageError as error:
            raise UsageError(f"line {number}: {error}", hint=error.hint) from None
    return tuple(tokens)

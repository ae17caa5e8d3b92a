"""Who may write and whose keys are trusted, as the settings and the files that they name say it.

A file that is named must be there and right: what is missing or misread never means "anyone".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icnblocks.client.trust import read_trust_file
from icnblocks.errors import UsageError
from icnblocks_daemon.access import Access
from icnblocks_daemon.fib import check_prefix
from icnblocks_daemon.tokens import read_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from icnblocks_daemon.config import Config

Trusted = dict[str, tuple[str, ...]]
"""Fingerprints by publisher."""


def read_rules(config: Config) -> tuple[Access, Trusted]:
    """Who may write, and whose keys are trusted, with the files read anew.

    Raises:
        UsageError: if a file is missing or wrong.
    """
    tokens = config.token
    if config.token_file is not None:
        tokens += _tokens_of(config.token_file)
    trusted = _trusted_of(config.trust_file) if config.trust_file is not None else {}
    return Access(tokens, config.publisher), trusted


def _tokens_of(path: Path) -> tuple[str, ...]:
    try:
        return read_tokens(_text_of("token_file", path))
    except UsageError as error:
        raise UsageError(_placed("token_file", path, error), hint=error.hint) from None


def _trusted_of(path: Path) -> Trusted:
    _text_of("trust_file", path)  # a client may do without this file; whoever names it may not
    try:
        trusted = read_trust_file(path)
        for publisher in trusted:
            if not publisher or "/" in publisher:
                raise UsageError(f"{publisher[:96]!r} is not a publisher")
            check_prefix(publisher)
    except UsageError as error:
        raise UsageError(_placed("trust_file", path, error), hint=error.hint) from None
    return trusted


def _text_of(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{key}: no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"{key}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{key}: {path} is not UTF-8 text") from None


def _placed(key: str, path: Path, error: UsageError) -> str:
    """The error's text with the key and the file before it, each said once."""
    text = str(error)
    if text.startswith(f"{key}:"):
        return text
    return f"{key}: {text}" if str(path) in text else f"{key}: {path}: {text}"

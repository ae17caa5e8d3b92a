"""Whose key may sign for a publisher: the provisioned trust file, else the habit of SSH.

The trust file is looked at first; a publisher in it is bound to the fingerprints there. Others
are met as SSH meets hosts: first use asks or is allowed by flag and is remembered, a changed key
is refused loudly unless the old key signed the change. This module must not verify signatures:
icnblocks.manifest.record has done so before a record gets here.
"""

from __future__ import annotations

import fcntl
from dataclasses import field
from typing import TYPE_CHECKING

from icnblocks.client.settings import read_toml
from icnblocks.errors import StorageError, TrustError, UsageError
from icnblocks.manifest.record import fingerprint, trusted_via
from icnblocks.store.whole import write_whole
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from icnblocks.manifest.record import Record

FINGERPRINT_CHARS = 64


def check_fingerprint(text: str) -> str:
    """A fingerprint as typed: 64 hex digits, in any case, blanks and colons allowed.

    Raises:
        UsageError: for anything else.
    """
    plain = text.replace(":", "").replace(" ", "").lower()
    if len(plain) != FINGERPRINT_CHARS or not set(plain) <= set("0123456789abcdef"):
        raise UsageError(f"not a fingerprint of 64 hex digits: {text[:100]!r}")
    return plain


def read_trust_file(path: Path) -> dict[str, tuple[str, ...]]:
    """The provisioned fingerprints by publisher; empty if there is no such file.

    Raises:
        UsageError: if it is not `publisher = "fingerprint"` or a list of them.
    """
    trusted: dict[str, tuple[str, ...]] = {}
    for publisher, value in read_toml(path, required=False).items():
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{path}: {publisher}: a fingerprint or a list of them is expected")
        try:
            trusted[publisher] = tuple(check_fingerprint(text) for text in texts)
        except UsageError as error:
            raise UsageError(f"{path}: {publisher}: {error}") from None
    return trusted


class KnownPublishers:
    """The file of keys met before, a line each: `publisher fingerprint`, `#` for comments.

    Behind the fingerprint stand those of keys that it has replaced, by rotations.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, publisher: str) -> str | None:
        """The fingerprint remembered for a publisher."""
        known = self._read().get(publisher)
        return known[0] if known else None

    def replaced(self, publisher: str) -> tuple[str, ...]:
        """The fingerprints of keys that the publisher had before, and signed over from."""
        return self._read().get(publisher, ())[1:]

    def remember(self, publisher: str, key: str, replaced: Iterable[str] = ()) -> None:
        """Set a publisher's fingerprint, keeping all other lines (safe between processes).

        Args:
            publisher: whose.
            key: the fingerprint to know from now on.
            replaced: the fingerprints of keys before it.

        Raises:
            StorageError: if the file cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(f"{self._path}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                lines = self._lines()
                kept = [line for line in lines if line.split()[:1] != [publisher]]
                line = " ".join([publisher, key, *(old for old in replaced if old != key)])
                write_whole(self._path, ("\n".join([*kept, line]) + "\n").encode())
        except OSError as error:
            raise StorageError.of(error, f"cannot write {self._path}") from error

    def _lines(self) -> list[str]:
        try:
            return self._path.read_text().splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    def _read(self) -> dict[str, tuple[str, ...]]:
        known: dict[str, tuple[str, ...]] = {}
        for number, line in enumerate(self._lines(), 1):
            words = line.split("#", 1)[0].split()
            if not words:
                continue
            try:
                known[words[0]] = tuple(map(check_fingerprint, words[1:] or [""]))
            except UsageError as error:
                raise UsageError(f"{self._path}, line {number}: {error}") from None
        return known


@dataclass(slots=True)
class Trust:
    """Judges whether a record's key may speak for its publisher.

    Attributes:
        known: keys met before.
        provisioned: fingerprints of the trust file.
        first_use: accept and remember the key of a publisher never met.
        expected: fingerprint that the user named on the command line, if any.
        ask: asks a person whether (publisher, fingerprint) is right; None where nobody sits.
        met: fingerprints accepted for the first time by this object, by publisher.
    """

    known: KnownPublishers
    provisioned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    first_use: bool = False
    expected: str | None = None
    ask: Callable[[str, str], bool] | None = None
    met: dict[str, str] = field(default_factory=dict)

    def judge(self, record: Record, *, accepted: bool = False) -> None:
        """Accept the record's key, remembering it where it is new or rotated.

        Args:
            record: opened, so its signatures hold.
            accepted: this very record was accepted before; then it may be signed by a key that
                was replaced since. A new record may not: the old key may be in wrong hands.

        Raises:
            TrustError: if this key may not sign for the publisher; nothing is remembered then.
        """
        publisher, key = record.name.publisher, fingerprint(record.key)
        if publisher in self.provisioned:
            if not any(trusted_via(record, good) for good in self.provisioned[publisher]):
                raise TrustError(
                    f"{record.name} is signed by {key}, which the trust file does not name"
                    f" for {publisher}"
                )
            return
        known, replaced = self.known.get(publisher), self.known.replaced(publisher)
        if key in replaced:
            if accepted and self.expected in {None, key}:
                return
            raise TrustError(
                f"{record.name} is signed with a key that {publisher} has replaced since",
                hint=f"ask {publisher} to publish {record.name} again with the new key",
            )
        if self.expected is not None:
            self._judge_expected(record, publisher, key)
        elif known is None:
            self._judge_first(publisher, key)
        elif not trusted_via(record, known):
            raise TrustError(
                f"THE KEY OF {publisher} HAS CHANGED: known {known}, now {key};"
                " the old key did not sign the change",
                hint=f"if the publisher confirms the new key: --trust {key} (trust=)",
            )
        elif key != known:
            self._remember(publisher, key, record)

    def _judge_expected(self, record: Record, publisher: str, key: str) -> None:
        if self.expected is None or not trusted_via(record, self.expected):
            raise TrustError(f"{record.name} is signed by {key}, not by {self.expected}")
        if self.known.get(publisher) != key:
            self._remember(publisher, key, record)

    def _judge_first(self, publisher: str, key: str) -> None:
        if not (self.first_use or (self.ask is not None and self.ask(publisher, key))):
            raise TrustError(
                f"{publisher} is not known yet; its key has the fingerprint {key}",
                hint=f"if that is right: --trust {key} (trust=), or --trust-first-use"
                " (trust_first_use=True, ICN_TRUST_FIRST_USE=1)",
            )
        self._remember(publisher, key)

    def _remember(self, publisher: str, key: str, record: Record | None = None) -> None:
        """Remember a key, and those that it replaced: known here and signed over from."""
        before = [self.known.get(publisher), *self.known.replaced(publisher)]
        led_from = [fingerprint(step.old) for step in record.rotations] if record else []
        self.known.remember(publisher, key, [old for old in before if old in led_from])
        self.met[publisher] = key

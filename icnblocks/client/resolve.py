"""From a name to its manifest: the record asked for, judged and remembered; offline from memory.

A record that is older than one seen before is never followed: the newer one, remembered, is used
instead. This module must not fetch blocks.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from icnblocks.client.answers import ThrottledError
from icnblocks.client.hedged import answers
from icnblocks.errors import (
    ForeignError,
    FormatError,
    IcnError,
    NotFoundError,
    SourceError,
    TrustError,
    VersionError,
    WithdrawnError,
)
from icnblocks.manifest.codec import decode
from icnblocks.manifest.record import (
    check_follows,
    check_time,
    fingerprint,
    open_record,
    reopen_record,
    trusted_via,
)
from icnblocks.values import dataclass
from icnblocks.wire.headers import EXPECT_BLOCKS, EXPECT_HEADER, NAME_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from icnblocks.client.source import Source
    from icnblocks.client.trust import Trust
    from icnblocks.manifest.model import Manifest
    from icnblocks.manifest.record import Record
    from icnblocks.naming import Digest, Name
    from icnblocks.store.catalog import Catalog


T = TypeVar("T")

_LEAST_S: Final = 0.5
"""Between two rounds of questions to sources that are busy, at least; doubled each time..."""
_MOST_S: Final = 8.0
"""...up to this, unless they ask for more."""
_KNOWN_S: Final = 10.0
"""Sources are not waited for any longer where what is known of a name will do."""

NO_SOURCE: Final = (
    "name an edge with --from URL (sources=), ICN_FROM or `from` in the config file, and ask it:"
    " not --offline"
)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A name, followed to its manifest.

    Attributes:
        name: what was asked for.
        digest: the manifest's digest.
        manifest: what to assemble.
        network_bytes: manifest bytes that came over the network (0 when remembered).
        encoded: the manifest as it is encoded.
    """

    name: Name
    digest: Digest
    manifest: Manifest
    network_bytes: int
    encoded: bytes


class _Rounds:
    """When busy sources are asked again: each when it asked for it, the others with the first.

    Args:
        most_s: for how long; what they take to answer counts.
    """

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self.waited = 0.0
        self._least = _LEAST_S
        self._began = time.monotonic()
        self._busy: dict[Source, ThrottledError] = {}
        self._rests: dict[Source, float] = {}  # for so many seconds more they are left alone

    def ask(self, call: Callable[[Source], T], source: Source) -> T:
        """What `call` returns; if the source is busy, that is noted."""
        try:
            return call(source)
        except ThrottledError as error:
            self._busy[source], self._rests[source] = error, error.after_s
            raise

    def begin(self, sources: Sequence[Source]) -> tuple[list[Source], list[IcnError]]:
        """Whom to ask now; and what those said who are left alone still."""
        self._rests = {source: rest for source, rest in self._rests.items() if rest > 0}
        due = [source for source in sources if source not in self._rests]
        return due, [self._busy[source] for source in self._rests]

    def next_in(self, failures: Sequence[IcnError]) -> float | None:
        """After how many seconds; None if that would not help."""
        if not self._rests or any(isinstance(error, TrustError) for error in failures):
            return None
        wait = max(min(self._rests.values()), self._least)
        self._least = min(2 * self._least, _MOST_S)
        passed = max(self.waited, time.monotonic() - self._began)
        return wait if passed + wait <= self.most_s else None

    def pass_over(self, wait: float) -> None:
        """So many seconds have passed."""
        self.waited += wait
        self._rests = {source: rest - wait for source, rest in self._rests.items()}


class Resolver:
    """Follows names and manifest digests, over sources and this machine's catalog.

    Args:
        sources: asked in this order, the next one also while one is slow; none means offline.
        catalog: records and manifests seen before; kept up to date where it can be written.
        trust: judges keys.
        now: wall clock, Unix seconds.
        warn: told, in one line, of everything odd that was passed over.
        patience_s: for so long sources that say that they are busy are asked again, each time
            after the seconds for which they asked; what others take to answer counts too. Where
            what is known will do, none is waited for longer than 10 s.
        pause: waits so many seconds.
        expects: asked when a manifest is about to be fetched: will all of its blocks be?
    """

    def __init__(
        self,
        sources: Sequence[Source],
        catalog: Catalog,
        trust: Trust,
        now: Callable[[], float],
        warn: Callable[[str], None] = lambda _: None,
        *,
        patience_s: float = 60.0,
        pause: Callable[[float], object] = time.sleep,
        expects: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sources = sources
        self._catalog = catalog
        self._trust = trust
        self._now = now
        self._warn = warn
        self._patience_s = patience_s
        self._pause = pause
        self._expects = expects

    def resolve(self, name: Name, *, max_age_s: float = 0.0) -> Resolved:
        """Follow a name to its manifest.

        Args:
            name: what to follow.
            max_age_s: a record fetched at most this long ago, and within its own lifetime, is
                used without asking again.

        Raises:
            NotFoundError: if no source knows the name, and this machine does not either.
            WithdrawnError: if the publisher has withdrawn the tag.
            TrustError: if the record must not be believed.
            SourceError: if no source could be reached and nothing is remembered.
        """
        record = self._remembered(name, max_age_s) or self._ask(name)
        if record.manifest is None:
            raise WithdrawnError(f"{name} was withdrawn by its publisher")
        return self.manifest(name, record.manifest)

    def _remembered(self, name: Name, max_age_s: float) -> Record | None:
        stored = self._catalog.record(name)
        if stored is None or max_age_s <= 0:
            return None
        record = reopen_record(stored.raw)
        if record is None:
            return None
        age = self._now() - stored.fetched_at
        fresh = 0 <= age <= min(max_age_s, record.lifetime)
        return record if fresh and self._trusted(record) else None

    def _trusted(self, record: Record) -> bool:
        """Whether a record that was accepted once may still be believed."""
        try:
            self._trust.judge(record, accepted=True)
        except TrustError:
            return False
        return True

    def _known(self, name: Name) -> Record | None:
        stored = self._catalog.record(name)
        return reopen_record(stored.raw) if stored else None

    def _rotted(self, name: Name) -> bytes | None:
        """What is kept of a name and is no record any more: only its number still binds."""
        stored = self._catalog.record(name)
        return stored.raw if stored and reopen_record(stored.raw) is None else None

    def _ask(self, name: Name) -> Record:
        """The newest believable record: of the sources, else the remembered one."""
        known = self._known(name)
        within_s = _KNOWN_S if known is not None and self._will_do(known) else None
        rounds = _Rounds(self._patience_s if within_s is None else min(within_s, self._patience_s))
        call = partial(rounds.ask, lambda source: record_of(source, name))
        while True:
            due, failures = rounds.begin(self._sources)
            for answer in answers(due, call, within_s=within_s):
                try:
                    return self._take(name, *answer(), known)
                except IcnError as error:
                    failures.append(error)
            if not self._waited(rounds, name, failures):
                break
        distrusted = [error for error in failures if isinstance(error, TrustError)]
        if distrusted:
            raise distrusted[0]
        if known is not None:
            for failure in failures:
                self._warn(f"using what is known of {name}: {failure}")
            self._trust.judge(known, accepted=True)
            return known
        if failures:
            raise _all_of(failures)
        raise NotFoundError(
            f"{name} is not on this machine and no source was asked",
            hint=NO_SOURCE,
        )

    def _will_do(self, known: Record) -> bool:
        """Whether a model can be used by what is known of it."""
        here = known.manifest is None or self._catalog.manifest(known.manifest) is not None
        return here and self._trusted(known)

    def _waited(self, rounds: _Rounds, name: Name, failures: Sequence[IcnError]) -> bool:
        """Wait until sources may be asked again; False if in vain."""
        wait = rounds.next_in(failures)
        if wait is None:
            return False
        if not rounds.waited:
            self._warn(f"{name}: {failures[0]}; asking again for up to {rounds.most_s:.0f} s")
        self._pause(wait)
        rounds.pass_over(wait)
        return True

    def _take(self, name: Name, raw: bytes, record: Record, known: Record | None) -> Record:
        if record.name != name:
            raise TrustError(f"asked for {name}, got a record of {record.name}")
        if record != known:  # the clock may have been set back since it was accepted
            check_time(record, self._now())
        self._trust.judge(record, accepted=record == known)
        if known is not None and not (
            trusted_via(record, fingerprint(known.key)) or self._trusted(known)
        ):
            self._warn(f"what was known of {name} is signed by a key that is trusted no more")
            if not self._catalog.read_only:
                self._catalog.remove_record(name)  # numbers of another key bind nobody
            known = None
        if known is not None and record.seq < known.seq:
            self._warn(
                f"the source has an older record of {name} (sequence {record.seq}, known"
                f" {known.seq}); using the newer one"
            )
            return known
        if known is not None:
            check_follows(known, record)
        if not self._catalog.read_only:
            try:
                rotted = self._rotted(name) if known is None else None
                key = fingerprint(record.key)
                self._catalog.put_record(name, raw, record.seq, key, self._now(), rotted)
            except TrustError:
                fresh = self._known(name)
                if fresh is None or fresh == known:
                    raise
                # Another process kept one while this one was asked for: judged beside that.
                return self._take(name, raw, record, fresh)
        return record

    def manifest(self, name: Name, digest: Digest) -> Resolved:
        """A manifest by its digest: from this machine, else from the sources.

        They are told the name, so that edges look for it where that leads only.

        Raises:
            NotFoundError: if nobody has it.
            FormatError: if it is not a valid manifest.
        """
        data = self._catalog.manifest(digest)
        if data is not None:
            return Resolved(name, digest, decode(data), 0, data)
        rounds = _Rounds(self._patience_s)
        headers = {NAME_HEADER: str(name)}
        if self._sources and self._expects():
            headers[EXPECT_HEADER] = EXPECT_BLOCKS
        call = partial(rounds.ask, lambda source: _manifest_of(source, digest, headers))
        while True:
            due, failures = rounds.begin(self._sources)
            for answer in answers(due, call, coming=lambda source: source.coming()):
                try:
                    data = answer()
                except IcnError as error:
                    failures.append(error)
                    continue
                manifest = decode(data)
                if not self._catalog.read_only:
                    self._catalog.put_manifest(digest, data)
                return Resolved(name, digest, manifest, len(data), data)
            if not self._waited(rounds, name, failures):
                break
        if failures:
            raise _all_of(failures)
        raise NotFoundError(f"the manifest {digest} of {name} is not on this machine")


def _all_of(failures: Sequence[IcnError]) -> IcnError:
    """What stands for all: a failure that may pass, where there is one, since who could not be
    asked may know; else one of who did not say that it knows nothing.
    """
    unsure = [error for error in failures if error.retry or isinstance(error, SourceError)]
    odd = [error for error in failures if not isinstance(error, NotFoundError)]
    first = (unsure or odd or failures)[0]
    others = [str(failure) for failure in failures if failure is not first]
    return type(first)("; ".join([str(first), *others]), hint=first.hint)


def record_of(source: Source, name: Name) -> tuple[bytes, Record]:
    """A source's record of a name, and what it says; it is not believed yet.

    Raises:
        NotFoundError: if the source does not know the name.
        SourceError: if it cannot be reached, or what it gives is no record.
        VersionError: if it is one of a newer version.
    """
    try:
        raw = source.record(name).raw
        return raw, open_record(raw)
    except VersionError:
        raise
    except FormatError as error:
        raise SourceError(
            f"{source.url} gave no valid record of {name}: {error}", hint=ForeignError.advice
        ) from error


def _manifest_of(source: Source, digest: Digest, headers: Mapping[str, str]) -> bytes:
    """A source's manifest of that digest, looked for under the name in the headers first."""
    try:
        return source.manifest(digest, headers=headers)
    except NotFoundError:  # the digest may be all that is known, and the name lead elsewhere
        return source.manifest(digest)

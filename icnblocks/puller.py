"""Pulling: a name becomes a runnable directory.

Resolve, fill, and remember where it lies: the pulled directory is the store of its blocks. An
adapter brings its base. Works inside a running event loop (it uses threads, no loop of its own).
This module must not talk to people.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from icnblocks.assembly import flushed, renaming
from icnblocks.assembly.assembler import Assembler
from icnblocks.assembly.blockmap import manifest_of
from icnblocks.assembly.directory import PARTIAL, ModelDirectory
from icnblocks.assembly.inspect import (
    Inspection,
    has_state,
    inspect,
    is_cut_off,
    is_for_models,
    is_left,
    is_unchanged,
    make_way,
    pulled_into,
    refuse_changed,
    remember,
    salvage,
)
from icnblocks.assembly.unused import forget_unused
from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.resolve import Resolved, Resolver
from icnblocks.client.settings import Settings, opening_store
from icnblocks.client.source import Source
from icnblocks.client.trust import KnownPublishers, Trust, check_fingerprint, read_trust_file
from icnblocks.errors import ConflictError, FormatError, IcnError, StorageError
from icnblocks.filling import Filling, Follower, Moved, Progress
from icnblocks.limits import MAX_BASES, MAX_LIFETIME_S
from icnblocks.manifest.codec import decode
from icnblocks.placement.plan import Plan
from icnblocks.store.catalog import Catalog
from icnblocks.store.database import storage_errors
from icnblocks.store.home import CATALOG, PLACES
from icnblocks.store.inplace import InPlaceStore
from icnblocks.store.late_log import log
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.manifest.model import BaseRef, Manifest
    from icnblocks.naming import Digest, Name
    from icnblocks.share import ShareOptions, Sharer

_NOT_TO_WRITE: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
"""What the system says to who may read only."""


class Listener(Progress, Protocol):
    """Hears how a pull goes; methods may be called from other threads."""

    def begun(self, name: Name, total: int, done: int) -> None:
        """A model's blocks are about to be gathered: `total` bytes, `done` are there."""
        ...


class _Logged:
    """Where nobody listens, what is odd goes to the log."""

    def begun(self, name: Name, total: int, done: int) -> None:
        pass

    def moved(self, count: int) -> None:
        pass

    def reused(self, count: int) -> None:
        pass

    def warned(self, text: str) -> None:
        log("icnblocks").warning("%s", text)


@dataclass(frozen=True, slots=True)
class Pulled:
    """One model of a pull.

    Attributes:
        name: its name.
        path: where it lies.
        manifest: its manifest's digest.
        bytes_model: bytes of its files.
        bytes_network: block payload that came over the network for it, each block once.
        bytes_wasted: block payload that came in vain: cut off, corrupt, or from a slow source
            whose blocks another one gave sooner.
        bytes_neighbours: what of `bytes_network` came from other devices.
        bytes_reused: bytes that were on this machine already.
        bytes_manifest: manifest bytes that came over the network.
        seconds: how long it took.
        base: the base of an adapter.
    """

    name: Name
    path: Path
    manifest: Digest
    bytes_model: int
    bytes_network: int
    bytes_wasted: int
    bytes_reused: int
    bytes_manifest: int
    seconds: float
    base: Pulled | None = None
    bytes_neighbours: int = 0


class Puller:
    """Pulls models on one machine; a context manager that holds its indexes open.

    Args:
        settings: where to ask, where to put things.
        trust: judges publishers' keys.
        listener: hears how it goes; when None, the logger `icnblocks` gets the warnings.
        overwrite: replace files that the user changed instead of refusing.
        share: serve neighbours what is pulled, from then on until the end of the context, and
            get blocks from them; None does neither.

    Raises:
        StorageError: if the machine's indexes cannot be opened.
        UsageError: if it cannot be shared where `share` says.
    """

    def __init__(
        self,
        settings: Settings,
        trust: Trust,
        listener: Listener | None = None,
        *,
        overwrite: bool = False,
        share: ShareOptions | None = None,
    ) -> None:
        self._settings = settings
        self._listener: Listener = listener or _Logged()
        self._overwrite = overwrite
        self._left = threading.Event()
        with ExitStack() as stack:
            with opening_store():
                self.catalog = Catalog(settings.store / CATALOG)
                stack.callback(self.catalog.close)
                self.places = InPlaceStore(settings.store / PLACES)
                stack.callback(self.places.close)
            # Not the other token: it allows writing, and nobody who is read from need be trusted.
            options = SourceOptions(
                ca_file=settings.ca_file, token=settings.read_token, stall_s=settings.stall_s
            )
            self.sources = [Source(url, options) for url in settings.sources]
            for source in self.sources:
                stack.callback(source.close)
            self.resolver = Resolver(
                self.sources, self.catalog, trust, time.time, self._listener.warned,
                patience_s=settings.retry_s, pause=self._left.wait,
                expects=lambda: not self.places.directories(),
            )  # fmt: skip
            self._follower: Follower | None = None
            self.sharer: Sharer | None = None
            if share is not None:
                from icnblocks.share import Sharer

                self.sharer = Sharer(share, self.catalog, self.places, self._listener.warned)
                stack.callback(self.sharer.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def pull(
        self,
        name: Name,
        to: Path | None = None,
        *,
        max_age_s: float = 0.0,
        follower: Follower | None = None,
    ) -> Pulled:
        """Pull a model, and its base if it is an adapter (and the base of that, if it has one).

        Args:
            name: what to pull.
            to: the directory to make; under `settings.models` when None.
            max_age_s: how old a remembered record may be to be used without asking.
            follower: uses the model (not its base) while it comes; hears nothing if it is there.

        Raises:
            IcnError: as its class says; what arrived is kept.
        """
        self._follower = follower
        if follower is not None:
            follower.asking(self._hang_up)
        resolved = self.resolver.resolve(name, max_age_s=max_age_s)
        path = self._default_path(resolved) if to is None else Path(os.path.abspath(to))
        base: Pulled | None = None
        for one, place in reversed(self._place_bases(resolved, path, beside=to is not None)):
            base = self._pull_one(one, place, base)
        # What was begun of another version is of no use any more; beside a base it may be.
        return self._pull_one(resolved, path, base, follower, tidy=True)

    def _hang_up(self) -> None:
        self._left.set()
        for source in self.sources:
            source.close()

    def _place_bases(
        self, resolved: Resolved, path: Path, *, beside: bool
    ) -> list[tuple[Resolved, Path]]:
        """The base of a model, the base of that, and so on, each with where it goes."""
        placed: list[tuple[Resolved, Path]] = []
        taken, ref = [path], resolved.manifest.base
        while ref is not None:
            if len(placed) == MAX_BASES or any(ref.manifest == one.digest for one, _ in placed):
                raise FormatError(
                    f"{resolved.name} stands on more than {MAX_BASES} bases, or they go in a circle"
                )
            base = self.resolver.manifest(ref.name, ref.manifest)
            place = self._place_base(base, ref, taken, beside=beside)
            placed.append((base, place))
            taken.append(place)
            ref = base.manifest.base
        return placed

    def _place_base(self, base: Resolved, ref: BaseRef, taken: list[Path], *, beside: bool) -> Path:
        """Where a base lies or goes; `taken` are the places of what stands on it, topmost first."""
        there = {os.path.realpath(place) for place in taken}
        for root in self.places.roots_of(ref.manifest):
            if os.path.realpath(root) not in there and is_unchanged(
                root, base.manifest, self.places
            ):
                return root
        path = taken[0].parent / ref.name.model if beside else self._default_path(base)
        with storage_errors(path):
            lies_there = self.places.manifest_at(path) if path.exists() else None
        free = os.path.realpath(path) not in there and lies_there in {None, ref.manifest}
        if not free or not (is_for_models(path) if beside else self._vouched(ref)):
            # An adapter says which bytes it needs. They must not replace another model, nor lie
            # under a name whose own publisher does not say that they are it, nor among files of
            # the user's in a directory that the publisher chose.
            path = path.with_name(f"{path.name}--{str(ref.manifest)[:16]}")
        return path

    def _vouched(self, ref: BaseRef) -> bool:
        """Whether a believed record of the base's publisher says that the name is these bytes."""
        try:
            return self.resolver.resolve(ref.name, max_age_s=MAX_LIFETIME_S).digest == ref.manifest
        except IcnError as error:
            self._listener.warned(f"nobody vouches for the name of the base {ref.name}: {error}")
            return False

    def _default_path(self, resolved: Resolved) -> Path:
        name = resolved.name
        folder = name.model if name.tag == "main" else f"{name.model}@{name.tag}"
        return Path(os.path.abspath(self._settings.models / name.publisher / folder))

    def _pull_one(
        self,
        resolved: Resolved,
        path: Path,
        base: Pulled | None,
        follower: Follower | None = None,
        *,
        thorough: bool = False,
        tidy: bool = False,
    ) -> Pulled:
        began = time.monotonic()
        moved = Moved()
        settled = not thorough and self._is_settled(resolved, path, tidy=tidy)
        if not settled:
            moved = self._assemble(resolved, path, follower, thorough=thorough, tidy=tidy)
        if self.sharer is not None:
            if settled or is_unchanged(path, resolved.manifest, self.places):
                self.sharer.whole(resolved, self.sources)
            else:  # it was found right, but cannot be noted
                self._listener.warned(f"{resolved.name} is not shared: {path} is not in the index")
        size = resolved.manifest.size
        return Pulled(
            resolved.name,
            path,
            resolved.digest,
            size,
            moved.received,
            moved.wasted,
            size - moved.received,
            resolved.network_bytes,
            time.monotonic() - began,
            base,
            moved.neighbours,
        )

    def _is_settled(self, resolved: Resolved, path: Path, *, tidy: bool) -> bool:
        """Whether a model lies there, and nothing is to be done; seen without writing anything."""
        return not (
            self.places.manifest_at(path) != resolved.digest
            or flushed.is_doubtful(path)
            or not has_state(path, resolved.digest)
            or (self._settings.durable and flushed.is_marked(path))
            or not is_unchanged(path, resolved.manifest, self.places)
            or (tidy and is_left(path, resolved.digest))
        )

    def _assemble(
        self,
        resolved: Resolved,
        path: Path,
        follower: Follower | None,
        *,
        thorough: bool,
        tidy: bool,
    ) -> Moved:
        """Make the directory what it shall be."""
        directory = ModelDirectory(path, self._go_on)
        moved = Moved()
        try:
            try:
                self._lock(directory)
            except StorageError as error:
                if not self._serves(resolved, path, error):
                    raise
                return moved
            doubtful, anew = flushed.is_doubtful(path), flushed.has_failed(path)
            found = inspect(
                directory,
                resolved.digest,
                resolved.manifest,
                self.places,
                self.catalog.manifest,
                thorough=thorough or doubtful,
                anew=anew,
            )
            self._refuse_conflicts(found, resolved, directory)
            left = tidy and is_cut_off(directory, resolved.digest)
            gathered = thorough or left or not found.indexed
            if gathered:
                moved = self._gather(resolved, directory, found, follower)
            if anew or (doubtful and gathered):  # the user may have brought files back just now
                flushed.written_anew(directory)
            elif doubtful and len(found.whole) == len(resolved.manifest.files):
                flushed.unmark(directory)
            if self._settings.durable:
                flushed.flush(directory, [file.path for file in resolved.manifest.files])
        finally:
            directory.close()
        return moved

    def _lock(self, directory: ModelDirectory) -> None:
        directory.lock(
            wait=True,
            waiting=lambda: self._listener.warned(
                f"waiting for another pull into {directory.root}"
            ),
        )

    def _go_on(self) -> None:
        """Raise if whoever follows has left."""
        if self._follower is not None:
            self._follower.placed()

    def _serves(self, resolved: Resolved, path: Path, error: StorageError) -> bool:
        """Whether what lies where we may not write is right, also if the index cannot know it.

        What was pulled while an image was built has other inodes and times in a container.
        """
        from icnblocks.assembly.recheck import recheck_directory  # hardly any pull needs it

        refused = isinstance(error.__cause__, OSError) and error.__cause__.errno in _NOT_TO_WRITE
        if not refused or (self._settings.durable and flushed.is_marked(path)):
            return False
        if not has_state(path, resolved.digest) or any(
            recheck_directory(path, resolved.manifest, self._go_on)
        ):
            return False
        self._listener.warned(f"{error}; {resolved.name} is whole there, but hashed each time")
        return True

    def _refuse_conflicts(
        self, found: Inspection, resolved: Resolved, directory: ModelDirectory
    ) -> None:
        if self._overwrite:
            return
        if found.owner and found.owner.repo != resolved.name.repo and (found.spoilt or found.stale):
            raise ConflictError(
                f"{directory.root} holds {found.owner}",
                hint="use another directory with --to (to=), or --overwrite (overwrite=True)"
                " to replace the model",
            )
        if found.foreign:
            listed = ", ".join(found.foreign[:3]) + (" …" if len(found.foreign) > 3 else "")
            raise ConflictError(
                f"{directory.root} holds files that are not those of {resolved.name}: {listed}"
            )

    def _gather(
        self,
        resolved: Resolved,
        directory: ModelDirectory,
        found: Inspection,
        follower: Follower | None,
    ) -> Moved:
        """Reuse, fetch, finish, remember."""
        make_way(directory, resolved.manifest, found)
        begun = manifest_of(directory)
        if begun is not None and begun != resolved.digest:
            self._remove_partials(directory, resolved.manifest, found, begun)
        plan = Plan(resolved.manifest)
        assembler = Assembler(directory, resolved.digest, resolved.manifest, plan, found.whole)
        try:
            salvage(assembler, found.spoilt)
            size = resolved.manifest.size
            self._listener.begun(resolved.name, size, size - assembler.missing_bytes())
            filling = Filling(
                resolved, assembler, self.places, self.sources, self._settings, self._listener,
                follower, None if self._follower is None else self._follower.fetching,
            )  # fmt: skip
            filling.reuse()
            with ExitStack() as stack:
                if self.sharer is not None:
                    pulling = self.sharer.pulling(resolved, assembler, plan, self.sources)
                    filling.share(self.sharer, stack.enter_context(pulling))
                moved = filling.run()
                if self._overwrite:
                    assembler.finish()
                else:
                    assembler.finish(lambda path: refuse_changed(directory, path, found))
                listed = self.places.manifest_at(directory.root)
                remember(directory, resolved, self.places, found)
            former = (listed, begun, *renaming.manifests(directory))
            assembler.forget_map()
            forget_unused(self._settings.store, self.catalog, self.places, former)
        finally:
            assembler.close()
        return moved

    def _remove_partials(
        self, directory: ModelDirectory, manifest: Manifest, found: Inspection, begun: Digest
    ) -> None:
        """Remove what an earlier pull left of files that are not to be assembled now.

        While the block map says whose they are: it is done again if this is cut off.
        """
        data = self.catalog.manifest(begun)
        if data is None:
            return
        files = enumerate(manifest.files)
        kept = {file.path for number, file in files if number not in found.whole}
        for file in decode(data).files:
            if file.path not in kept:
                directory.remove(file.path + PARTIAL)

    def repair(self, root: Path) -> Pulled:
        """Fetch again just what is wrong in a pulled directory, into new files.

        Raises:
            NotFoundError: if the directory was not made by a pull.
        """
        root = Path(os.path.abspath(root))
        return self._pull_one(pulled_into(root), root, None, thorough=True)


def make_trust(
    settings: Settings,
    expected: str | None = None,
    ask: Callable[[str, str], bool] | None = None,
) -> Trust:
    """Trust as the settings say.

    Args:
        settings: the trust file, the known publishers, and whether first use is allowed.
        expected: a fingerprint that the publisher's key must have.
        ask: asks a person about (publisher, fingerprint), where one is there.

    Raises:
        UsageError: if a fingerprint or the trust file is not valid.
    """
    return Trust(
        KnownPublishers(settings.known_publishers),
        read_trust_file(settings.trust_file),
        first_use=settings.trust_first_use,
        expected=None if expected is None else check_fingerprint(expected),
        ask=ask,
    )

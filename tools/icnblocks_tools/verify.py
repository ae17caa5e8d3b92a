"""`icn-verify`: recheck a directory or a store, and repair it."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from icnblocks.quantities import human_bytes
from icnblocks_tools.options import PathType
from icnblocks_tools.output import make_output, printable

if TYPE_CHECKING:
    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest
    from icnblocks.puller import Puller
    from icnblocks.store.disk import DiskStore
    from icnblocks.store.inplace import Directory
    from icnblocks_tools.output import Output

_RESULTS = (
    "wrong", "unreadable", "incomplete", "repaired", "checked", "gone", "forgotten", "done",
)  # fmt: skip


def _directory(root: Path, puller: Puller, output: Output) -> int:
    """Recheck one pulled directory; how many files are wrong. The index is told of them."""
    from icnblocks.assembly.inspect import pulled_into
    from icnblocks.assembly.recheck import recheck_directory
    from icnblocks.errors import BusyError, StorageError

    pulled = pulled_into(root)
    manifest, places = pulled.manifest, puller.places
    known = places.facts(root) if places.manifest_at(root) == pulled.digest else {}
    output.say(
        "checking",
        f"{root}: {pulled.name}, {human_bytes(manifest.size)}",
        path=str(root),
        manifest=str(pulled.digest),
    )
    found: set[str] = set()
    for wrong in recheck_directory(root, manifest):
        found.add(wrong.path)
        output.say(
            "wrong",
            f"wrong: {root / wrong.path}: {printable(wrong.what)}",
            path=str(root / wrong.path),
            what=wrong.what,
            blocks=wrong.blocks,
        )
    if refused := {path: facts for path, facts in known.items() if path in found}:
        with suppress(StorageError, BusyError):  # it may be one that nobody can write
            places.refuse(root, refused)
    return len(found)


def _repair(puller: Puller, root: Path, output: Output) -> None:
    pulled = puller.repair(root)
    output.say(
        "repaired",
        f"repaired {root}: {human_bytes(pulled.bytes_network)} fetched",
        path=str(root),
        bytes_network=pulled.bytes_network,
    )


def _blocks(store: DiskStore, output: Output, repair: bool) -> int:
    """Recheck a daemon's block store; how much is wrong or unread and not removed."""
    from icnblocks.assembly.recheck import recheck_store

    found = removed = 0
    for bad in list(recheck_store(store)):
        found += 1
        event = "wrong" if bad.was_read else "unreadable"
        output.say(event, f"{event}: {bad.what}", digest=str(bad.digest), what=bad.what)
        if repair and bad.was_read:  # what was not read now may be read yet
            store.erase(bad.digest)
            removed += 1
    if removed:
        output.say(
            "repaired",
            f"removed {removed} blocks; a cache fetches them again when they are wanted,"
            " at an origin their models must be published again",
        )
    return found - removed


def _store(path: Path, puller: Puller, output: Output, *, repair: bool, complete: bool) -> int:
    """Recheck everything that a store holds or knows the place of; how much is wrong."""
    from icnblocks.store.disk import DiskStore
    from icnblocks.store.home import BLOCKS

    count = 0
    store: DiskStore | None = None
    with ExitStack() as stack:
        if served := (path / BLOCKS).is_dir():
            store = stack.enter_context(DiskStore(path / BLOCKS, create=False))
            count += _blocks(store, output, repair)
            checked = len(store)
            output.say("checked", f"{path}: {checked} blocks", path=str(path), blocks=checked)
        count += _catalog(puller, output) + _directories(puller, output, repair, served)
        return count + (_incomplete(store, puller, output) if complete else 0)


def _directories(puller: Puller, output: Output, repair: bool, served: bool) -> int:
    """Recheck the directories that a store knows; how much is wrong and not repaired.

    Whoever pulled a model may remove it; what a daemon serves in place should be there.
    """
    count = 0
    for entry in puller.places.directories():
        if _is_gone(puller, entry):
            if repair:
                puller.places.remove_directory(entry.root)
                output.say("forgotten", f"{entry.root} is gone", path=str(entry.root))
            else:
                told = f"{entry.root} is gone (--repair forgets it)"
                output.say("gone", told, path=str(entry.root))
                count += served
            continue
        changed = _changed(puller, entry)
        for file in changed:
            path = entry.root / file
            what = _what_is_wrong(path)
            output.say("wrong", f"wrong: {path}: {what}", path=str(path), what=what)
        if changed and repair and _was_pulled(entry):
            _repair(puller, entry.root, output)
        else:
            count += len(changed)
    return count


def _catalog(puller: Puller, output: Output) -> int:
    """Recheck the manifests and records that a store has; how many are wrong."""
    from icnblocks.errors import IcnError
    from icnblocks.manifest.record import open_record

    count = 0
    for digest, _ in puller.catalog.manifests():
        if puller.catalog.manifest(digest) is None:
            count += 1
            output.say("wrong", f"wrong: manifest {digest}", digest=str(digest))
    for stored in puller.catalog.records():
        try:
            open_record(stored.raw)
        except IcnError as error:
            count += 1
            output.say(
                "wrong", f"wrong: the record of {stored.name}: {error}", name=str(stored.name)
            )
    return count


def _incomplete(store: DiskStore | None, puller: Puller, output: Output) -> int:
    """Look for all that records name, as at an origin; how many models are not whole."""
    from icnblocks.errors import IcnError
    from icnblocks.manifest.record import open_record

    in_place, own = puller.places.look(), store or ()
    count = 0
    for stored in puller.catalog.records():
        try:
            digest = open_record(stored.raw).manifest
        except IcnError:
            continue  # said already
        manifest = None if digest is None else _manifest(puller, digest)
        blocks = manifest.lengths() if manifest else {}
        missing = sum(not (block in own or in_place(block)) for block in blocks)
        if missing or (digest is not None and manifest is None):
            what = f"{missing} of its {len(blocks)} blocks" if manifest else "its manifest"
            count += 1
            output.say(
                "incomplete",
                f"incomplete: {stored.name}: {what} missing; publish it again",
                name=str(stored.name), missing=missing, blocks=len(blocks),
            )  # fmt: skip
    return count


def _manifest(puller: Puller, digest: Digest) -> Manifest | None:
    """A manifest, or None if nobody here has it."""
    from icnblocks.manifest.codec import decode

    data = puller.catalog.manifest(digest)
    return None if data is None else decode(data)


def _changed(puller: Puller, entry: Directory) -> list[str]:
    """Hash a listed directory; its files that are not right."""
    from icnblocks.assembly.recheck import recheck_in_place

    manifest = _manifest(puller, entry.manifest)
    if manifest is None:
        return puller.places.check(entry.root)
    return recheck_in_place(puller.places, entry.root, manifest)


def _is_gone(puller: Puller, entry: Directory) -> bool:
    """Whether nothing is left of what is listed of a directory."""
    if _is_absent(entry.root):
        return True
    manifest = _manifest(puller, entry.manifest)
    return manifest is not None and all(
        _is_absent(entry.root / file.path) for file in manifest.files
    )


def _is_absent(path: Path) -> bool:
    """Whether nothing is there, not merely nothing that may be looked at, or that a disk gives."""
    try:
        path.lstat()
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def _what_is_wrong(path: Path) -> str:
    """What to say of a file that is not right."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return "is missing" if _is_absent(path) else f"cannot be read: {error.strerror}"
    return "has changed"


def _was_pulled(entry: Directory) -> bool:
    """Whether what is listed of a directory is what a pull put there, not its user since."""
    from icnblocks.assembly.inspect import pulled_into
    from icnblocks.errors import NotFoundError

    try:
        return pulled_into(entry.root).digest == entry.manifest
    except (NotFoundError, OSError):  # the system's: it may not be looked at
        return False


@click.command()
@click.argument(
    "path", metavar="DIR|STORE", type=PathType(path_type=Path, exists=True, file_okay=False)
)
@click.option(
    "--repair", is_flag=True, help="Fetch again just what is wrong (or drop it from a cache)."
)
@click.option(
    "--complete", is_flag=True, help="Miss what a store lacks of published models: an origin's."
)
@click.option("--from", "sources", multiple=True, metavar="URL", help="Where to fetch from.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line, ending with the summary."
)
def verify(
    path: Path, repair: bool, complete: bool, sources: tuple[str, ...], as_json: bool
) -> None:
    """Recheck a pulled directory, or a store with all that it holds.

    Every block is read and hashed again. With --repair what is wrong is fetched again into new
    files, which replace the old ones when they are whole; nothing else is touched; and what a
    store knows of directories that are gone is forgotten. A cache need not hold all of a model, and
    a pulled directory may go; with --complete, a store that lacks something of a model is wrong.
    """
    from icnblocks.client.settings import load_settings
    from icnblocks.errors import CorruptError, UsageError
    from icnblocks.puller import Puller, make_trust
    from icnblocks.store.home import is_store

    settings = load_settings()
    if sources:
        settings = replace(settings, sources=sources)
    is_ours = is_store(path)
    if not is_ours and not (path / ".icnblocks").is_dir():
        raise UsageError(
            f"{path} is neither a pulled directory nor a store",
            hint="it checks what `icn-fetch` made, and stores of daemons",
        )
    if is_ours:
        settings = replace(settings, store=path)
    with (
        make_output(as_json=as_json, results=_RESULTS) as output,
        Puller(settings, make_trust(settings), overwrite=True) as puller,
    ):
        if is_ours:
            wrong = _store(path, puller, output, repair=repair, complete=complete)
        else:
            wrong = _directory(path, puller, output)
            if wrong and repair:
                _repair(puller, path, output)
                wrong = 0
        if wrong:
            raise CorruptError(
                f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong in {path}",
                hint="publish again what was published in place; what cannot be read is kept:"
                " see to the disk"
                if repair
                else "run it again with --repair",
            )
        output.say("done", f"{path} is right", path=str(path))

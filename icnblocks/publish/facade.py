"""The facade of publishing: a directory and a name in, a published model out.

Hashing begins at once and goes on while the rest is imported, opened and asked for, so little is
imported here. This module must not talk to people; the listener does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from icnblocks.errors import UsageError
from icnblocks.limits import MAX_LIFETIME_S
from icnblocks.manifest.model import Kind
from icnblocks.naming import Name
from icnblocks.publish.scan import Scanning, size_of

if TYPE_CHECKING:
    from icnblocks.client.settings import Settings
    from icnblocks.publish.deliver import Published


class Listener(Protocol):
    """Hears how a publish goes; `moved` is called on other threads too."""

    def begun(self, what: str, total: int) -> None:
        """`hashing` or `sending` of `total` bytes begins."""
        ...

    def moved(self, count: int) -> None:
        """`count` more bytes are done."""
        ...

    def made_key(self, publisher: str, path: Path, fingerprint: str) -> None:
        """A key was made, since there was none."""
        ...


class _Deaf:
    def begun(self, what: str, total: int) -> None:
        pass

    def moved(self, count: int) -> None:
        pass

    def made_key(self, publisher: str, path: Path, fingerprint: str) -> None:
        pass


def publish(
    directory: str | Path,
    name: str | Name,
    *,
    to: str | None = None,
    store: str | Path | None = None,
    base: str | Name | None = None,
    kind: Kind | None = None,
    lifetime: int | None = None,
    key: str | Path | None = None,
    settings: Settings | None = None,
    listener: Listener | None = None,
) -> Published:
    """Publish a model directory to an origin, or in place.

    Args:
        directory: the model.
        name: what it shall be called.
        to: URL of the origin; or
        store: a daemon's store directory, to publish in place without copying.
        base: the base that this adapter is a delta to; it must be published there already.
        kind: base or pack; by whether there is a safetensors file when None.
        lifetime: seconds that edges may serve the name unasked, 1 to 2,592,000; as it was before
            when None, and 60 at first.
        key: the publisher's key file; made on first use.
        settings: the client's settings; read from file and environment when None.
        listener: hears how it goes.

    Raises:
        IcnError: as its class says; running it again goes on where it was.
    """
    if (to is None) == (store is None):
        raise UsageError(
            "say where to publish: either to an origin's URL or in place to a store",
            hint="give one of --to URL (to=) and --store DIR (store=)",
        )
    if lifetime is not None and not 1 <= lifetime <= MAX_LIFETIME_S:
        raise UsageError(f"a name's lifetime is 1 s to {MAX_LIFETIME_S // 86_400} days")
    root = _path("directory", directory)
    place = None if store is None else _path("store", store)
    key_file = None if key is None else _path("key", key)
    wanted = name if isinstance(name, Name) else Name.parse(name)
    base_name = Name.parse(base) if isinstance(base, str) else base
    heard: Listener = listener or _Deaf()
    if base_name is not None:
        kind = Kind.ADAPTER
    heard.begun("hashing", size_of(root))
    with Scanning(root, progress=heard.moved) as scanning:
        from icnblocks.client.endpoint import Endpoint
        from icnblocks.client.settings import load_settings
        from icnblocks.publish.ways import Wish, in_place, publisher_key, to_origin

        if kind is None:
            kind = Kind.BASE if scanning.has_tensors else Kind.PACK
        settings = settings or load_settings()
        if to is not None:
            Endpoint.parse(to)  # before a key is made for nothing
        signer = publisher_key(settings, wanted.publisher, key_file, heard)
        wish = Wish(wanted, base_name, kind, lifetime)
        if to is not None:
            return to_origin(scanning, to, wish, signer, settings, heard)
        assert place is not None
        return in_place(scanning, place, wish, signer)


def _path(what: str, given: str | Path) -> Path:
    if given == "":  # an unset variable, not the current directory
        raise UsageError(f"`{what}` is empty and names nothing", hint="is a variable not set?")
    return Path(given)

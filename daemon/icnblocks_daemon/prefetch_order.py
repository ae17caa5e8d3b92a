"""What a prefetch was told, how far each model of it is, and the file that survives a kill.

Values and their JSON; an order as it comes over HTTP and one as it is kept differ only in what
became known meanwhile. This module must not fetch, pin or decide anything.
"""

from __future__ import annotations

import json
import sys
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, Literal

from icnblocks.errors import FormatError, IcnError, StorageError, UsageError
from icnblocks.naming import Digest, Name
from icnblocks.values import dataclass
from icnblocks_daemon.prefetch_pace import Window

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PREFETCH_PATH: Final = "/v1/prefetch"
MAX_MODELS: Final = 50_000
_MAX_LABEL_CHARS: Final = 255
_MAX_RATE: Final = sys.float_info.max
"""JSON has whole numbers beyond it."""
_VERSION: Final = 1

Progress = Literal["todo", "done", "failed"]


@dataclass(slots=True, eq=False)
class Entry:
    """One model of an order.

    Attributes:
        model: as the plan names it: `publisher/model@tag`, or a manifest's digest.
        pin: it must stay once it is here, until another plan comes.
        name: under which it is looked for upstream, if known.
        digest: of its manifest, once the name was followed; followed once for an order.
        base_of: set where it is here for an adapter, whose pull brings it along.
        progress: `failed` is not tried again for this order.
        error: why it is not here, one line; kept with `todo` while it is tried again.
        code: the error's word.
        due: bytes of it that are missing and stand in no earlier entry.
    """

    model: str
    pin: bool
    name: Name | None = None
    digest: Digest | None = None
    base_of: str | None = None
    progress: Progress = "todo"
    error: str = ""
    code: str = ""
    due: int = 0

    def fail(self, error: IcnError) -> None:
        """Note why it is not here; for good, unless the same may succeed later."""
        self.error, self.code = str(error), error.code
        if not error.retry:
            self.progress, self.due = "failed", 0


@dataclass(slots=True)
class Order:
    """A plan's part for this daemon, in order of importance.

    Attributes:
        ident: random hex digits, to tell orders apart.
        entries: what shall be here.
        edge: the edge's name in the plan, for people.
        rate: bytes a second, or None for no limit.
        window: when blocks may move, or None for always.
        bases: bring the bases of adapters too, as pulls of adapters do.
        cancelled: it is in force no more.
        fetched: bytes of blocks that it brought so far.
    """

    ident: str
    entries: list[Entry] = field(default_factory=list)
    edge: str = ""
    rate: float | None = None
    window: Window | None = None
    bases: bool = True
    cancelled: bool = False
    fetched: int = 0

    def finished(self) -> bool:
        """Whether nothing is left to be done."""
        return self.cancelled or all(entry.progress != "todo" for entry in self.entries)


def read_order(body: bytes, ident: str) -> Order:
    """An order as it comes over HTTP; docs/protocol.md has the form.

    Raises:
        FormatError: if it is not such a JSON object.
        UsageError: if a name, rate or window in it cannot be meant.
    """
    value = _object(body)
    models = value.get("models")
    if not isinstance(models, list):
        raise FormatError("a prefetch names its `models` in a list")
    if len(models) > MAX_MODELS:
        raise FormatError(f"a prefetch of {len(models)} models; at most {MAX_MODELS} are taken")
    entries = [_asked(item, number) for number, item in enumerate(models, 1)]
    order = Order(ident, _once(entries))
    _read_terms(order, value)
    return order


def write_order(order: Order) -> bytes:
    """What `read_order` reads: the order without what became known since."""
    models = [{"model": entry.model, "pin": entry.pin} for entry in order.entries]
    return json.dumps({"models": models, **_terms(order)}, separators=(",", ":")).encode()


def load_order(path: Path) -> Order | None:
    """The order that was in force when the daemon ended, or None.

    Raises:
        FormatError: if the file is not what `pack_order` makes.
        StorageError: if it cannot be read.
    """
    try:
        value = _object(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError.of(error, f"cannot read {path}") from None
    try:
        if value["version"] != _VERSION:
            raise FormatError(f"version {value['version']!r} of the file is not known here")
        order = Order(
            str(value["ident"]),
            [_kept(item) for item in value["entries"]],
            cancelled=value["cancelled"] is True,
            fetched=int(value["fetched"]),
        )
        _read_terms(order, value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IcnError) as error:
        raise FormatError(f"{path} is not a prefetch that was kept: {error}") from None
    return order


def pack_order(order: Order) -> bytes:
    """An order with everything that became known of it, as `load_order` reads it."""
    entries = [
        {
            "model": entry.model,
            "pin": entry.pin,
            "name": None if entry.name is None else str(entry.name),
            "digest": None if entry.digest is None else str(entry.digest),
            "base_of": entry.base_of,
            "progress": entry.progress,
            "error": entry.error,
            "code": entry.code,
        }
        for entry in order.entries
    ]
    known = {"version": _VERSION, "ident": order.ident, "fetched": order.fetched}
    value = {**known, "cancelled": order.cancelled, **_terms(order), "entries": entries}
    return json.dumps(value, separators=(",", ":")).encode()


def _terms(order: Order) -> dict[str, Any]:
    window = None if order.window is None else str(order.window)
    return {"edge": order.edge, "rate": order.rate, "window": window, "bases": order.bases}


def _read_terms(order: Order, value: dict[str, Any]) -> None:
    edge, rate, window = value.get("edge") or "", value.get("rate"), value.get("window")
    if not isinstance(edge, str) or len(edge) > _MAX_LABEL_CHARS or not edge.isprintable():
        raise FormatError("`edge` of a prefetch is a short printable text")
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (number and 0 < rate <= _MAX_RATE):
        raise FormatError("`rate` of a prefetch is a positive number of bytes a second")
    if window is not None and not isinstance(window, str):
        raise FormatError("`window` of a prefetch is a text such as 01:00-05:00")
    bases = value.get("bases", True)
    if not isinstance(bases, bool):
        raise FormatError("`bases` of a prefetch is true or false")
    order.edge, order.rate, order.bases = edge, rate, bases
    order.window = None if window is None else Window.parse(window)


def _asked(item: Any, number: int) -> Entry:
    match item:
        case {"model": str(model), "pin": bool(pin)}:
            pass
        case {"model": str(model)} if "pin" not in item:
            pin = False
        case _:
            raise FormatError(f"model {number} of a prefetch is not an object of `model` and `pin`")
    if "/" in model:
        name = Name.parse(model)
        return Entry(str(name), pin, name)
    try:
        digest = Digest.parse(model)
    except IcnError:
        raise UsageError(
            f"model {number} is {model[:100]!r}, neither a name nor the digest of a manifest",
            hint="names are publisher/model[@tag]; digests are 64 hex digits",
        ) from None
    return Entry(str(digest), pin, None, digest)


def _once(entries: Iterable[Entry]) -> list[Entry]:
    """Each model once, where it stands first; pinned if it is so anywhere."""
    found: dict[str, Entry] = {}
    for entry in entries:
        first = found.setdefault(entry.model, entry)
        first.pin |= entry.pin
    return list(found.values())


def _kept(item: dict[str, Any]) -> Entry:
    name, digest, progress = item["name"], item["digest"], item["progress"]
    if progress not in {"todo", "done", "failed"}:
        raise ValueError(f"progress {progress!r}")
    return Entry(
        str(item["model"]),
        item["pin"] is True,
        None if name is None else Name.parse(name),
        None if digest is None else Digest.parse(digest),
        None if item["base_of"] is None else str(item["base_of"]),
        progress,
        str(item["error"]),
        str(item["code"]),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise FormatError("not JSON") from None
    if not isinstance(value, dict):
        raise FormatError("not a JSON object")
    return value

"""The plan file: which models each edge should hold, as JSON.

    {"version": 1, "edges": {"NAME": {"models": [{"model": "acme/minilm@v2", "pin": true}, ...]}}}

Models stand in order of worth, the one to bring first at the head; each is a name
(`publisher/model[@tag]`) or the digest of a manifest (64 hex digits). `pin` (false if left out)
asks the edge to hold on to it whatever its policy thinks. Anything else in the file is refused,
so that a slip of the pen is noticed before an edge acts on it. This module must not do I/O.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from icnblocks.errors import FormatError, UsageError, VersionError
from icnblocks.naming import Digest, Name
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = 1
MAX_PLAN_BYTES: Final = 64 << 20
MAX_EDGES: Final = 4096
MAX_EDGE_CHARS: Final = 255

ModelRef: TypeAlias = Name | Digest


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model that an edge should hold.

    Attributes:
        model: its name, or the digest of its manifest.
        pin: whether the edge's policy may not evict it.
    """

    model: ModelRef
    pin: bool = False


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What each edge should hold.

    Attributes:
        edges: for each edge, by its name, the models in the order in which to bring them.
    """

    edges: Mapping[str, tuple[PlannedModel, ...]]

    def of(self, edge: str) -> tuple[PlannedModel, ...]:
        """What an edge should hold.

        Raises:
            UsageError: if the plan says nothing of it.
        """
        if edge not in self.edges:
            some = ", ".join(sorted(self.edges)[:5]) + (" …" if len(self.edges) > 5 else "")
            raise UsageError(f"the plan has no edge {edge!r}", hint=f"its edges: {some}")
        return self.edges[edge]


def parse_ref(text: str) -> ModelRef:
    """Read a manifest's digest (64 hex digits) or a name.

    Raises:
        UsageError: for anything else.
    """
    try:
        return Digest.parse(text)
    except FormatError:
        return Name.parse(text)


def serialise_plan(plan: PlanFile) -> str:
    """The plan as text, a model a line; `parse_plan` gives the same plan back.

    Raises:
        FormatError: if it comes to more than MAX_PLAN_BYTES.
    """
    edges = [f"{json.dumps(edge)}: {_edge_text(plan.edges[edge])}" for edge in plan.edges]
    inner = ",\n    ".join(edges)
    text = f'{{\n  "version": {VERSION},\n  "edges": {{\n    {inner}\n  }}\n}}\n'
    _check_size(text)
    return text


def _edge_text(models: tuple[PlannedModel, ...]) -> str:
    lines = []
    for planned in models:
        fields: dict[str, Any] = {"model": str(planned.model)}
        if planned.pin:
            fields["pin"] = True
        lines.append(json.dumps(fields))
    inner = ",\n      ".join(lines)
    return f'{{"models": [\n      {inner}\n    ]}}' if lines else '{"models": []}'


def parse_plan(data: bytes | str) -> PlanFile:
    """Read a plan.

    Raises:
        FormatError: if it is not one; the message is one line and says where.
        VersionError: if it is of a version that this program does not know.
    """
    fields = _object(_json(data), "the plan", {"version", "edges"})
    version = fields.get("version")
    if type(version) is not int or version < 1:
        raise FormatError('the plan has no "version" (this program writes 1)')
    if version > VERSION:
        raise VersionError(f"the plan is of version {version}; this program knows {VERSION}")
    edges = fields.get("edges")
    if not isinstance(edges, dict) or not edges:
        raise FormatError('"edges" of the plan must be an object with at least one edge')
    if len(edges) > MAX_EDGES:
        raise FormatError(f"the plan has {len(edges)} edges, more than {MAX_EDGES}")
    return PlanFile({edge: _edge(edge, value) for edge, value in edges.items()})


def _json(data: bytes | str) -> object:
    _check_size(data)
    try:
        return json.loads(data, object_pairs_hook=_distinct, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise FormatError("the plan is not UTF-8 text") from None
    except RecursionError:
        raise FormatError("the plan is nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"the plan is not JSON: {error}") from None


def _check_size(data: bytes | str) -> None:
    if len(data) > MAX_PLAN_BYTES:
        raise FormatError(f"the plan has {len(data)} bytes, more than {MAX_PLAN_BYTES}")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON itself would silently let the last of two equal names win."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"the plan has {twice[:80]!r} twice in one object")
    return fields


def _no_number(name: str) -> NoReturn:
    raise FormatError(f"the plan has {name}, which is not a JSON number")


def _object(value: object, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    if unknown := sorted(value.keys() - known):
        raise FormatError(f"{what} has an unknown field {unknown[0][:80]!r}")
    return value


def check_edge(edge: str) -> None:
    """See that a plan can name an edge so.

    Raises:
        FormatError: if it cannot.
    """
    if not 0 < len(edge) <= MAX_EDGE_CHARS or not edge.isprintable():
        text = f"the name of an edge has 1 to {MAX_EDGE_CHARS} printable characters"
        raise FormatError(f"{text}, not {edge[:80]!r}")


def _edge(edge: str, value: object) -> tuple[PlannedModel, ...]:
    check_edge(edge)
    what = f"edge {edge!r}"
    models = _object(value, what, {"models"}).get("models")
    if not isinstance(models, list):
        raise FormatError(f'"models" of {what} must be a list')
    planned = tuple(_planned(entry, f"model {n} of {what}") for n, entry in enumerate(models, 1))
    seen: set[ModelRef] = set()
    for one in planned:
        if one.model in seen:
            raise FormatError(f"{what} has the model {str(one.model)!r} twice")
        seen.add(one.model)
    return planned


def _planned(value: object, what: str) -> PlannedModel:
    fields = _object(value, what, {"model", "pin"})
    text, pin = fields.get("model"), fields.get("pin", False)
    if not isinstance(text, str):
        raise FormatError(f'{what} has no "model": a name or the digest of a manifest')
    if not isinstance(pin, bool):
        raise FormatError(f'"pin" of {what} must be true or false')
    try:
        return PlannedModel(parse_ref(text), pin)
    except UsageError as error:
        raise FormatError(f"{what}: {error}") from None

"""The protocol's document says what the program does: its tables are made from data, and the data
are held against the program. The rows of the state tables are in tests/house/states."""

import dataclasses
import importlib
import inspect
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from docs import generate
from icnblocks.client.access import open_access, sign_access
from icnblocks.manifest.record import public_bytes


def default_at(path):
    """What `module:attribute.attribute` is; of a dataclass's field or a parameter, its default."""
    module, _, attributes = path.partition(":")
    found = importlib.import_module(module)
    for name in attributes.split("."):
        if inspect.isclass(found) and dataclasses.is_dataclass(found):
            (field,) = (field for field in dataclasses.fields(found) if field.name == name)
            found = field.default
        elif inspect.isfunction(found):
            found = inspect.signature(found).parameters[name].default
        else:
            found = getattr(found, name)
    return found


def test_the_document_shows_the_tables_as_they_are():
    """Run `python -m docs.generate` after a change of docs/states."""
    text = generate.DOCUMENT.read_text()
    assert generate.filled(text) == text


@pytest.mark.parametrize("limit", generate.limits(), ids=lambda limit: limit.at)
def test_a_timer_or_bound_is_what_the_program_has(limit):
    assert default_at(limit.at) == limit.value


def test_a_key_that_sets_a_timer_has_the_name_of_the_document():
    """Else an operator would set something else than what the table explains."""
    keys = (limit for limit in generate.limits() if "=" not in limit.key)
    for limit in keys:
        attribute = limit.at.rpartition(".")[2].rpartition(":")[2]
        assert limit.key in {"", attribute} or attribute.isupper()


@pytest.mark.parametrize("name", generate.machines())
def test_every_state_can_be_reached(name):
    table = generate.machine(name)
    reached, found = set(), {next(iter(table.states))}
    while found:
        reached |= found
        found = {row.target for row in table.rows if row.state in reached} - reached
    assert reached == set(table.states)


@pytest.mark.parametrize("name", generate.machines())
def test_every_table_is_driven_through_the_program(name):
    """A table without a test of its rows would rot."""
    tests = generate.HERE.parent / "tests" / "house" / "states"
    text = (tests / f"test_{name}.py").read_text()
    assert f'@rows_of("{name}")' in text or f'machine("{name}")' in text


def test_a_table_that_leaves_something_open_is_refused():
    table = generate.machine("have")
    less = {state: never for state, never in table.impossible.items() if state != "due"}
    with pytest.raises(ValueError, match="not told"):
        dataclasses.replace(table, impossible=less)
    with pytest.raises(ValueError, match="not explained"):
        dataclasses.replace(table, events={**table.events, "odd": "what nothing uses"})


def test_golden_vector_of_a_signed_write():
    """Catches: an origin that other implementations can no longer sign a write for."""
    private, host, time = (
        Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
        "Origin.example:4260",
        1767225600,
    )
    text = (generate.HERE / "protocol.md").read_text()
    (told,) = re.findall("^Authorization: (ICN .*)$", text, re.MULTILINE)
    assert f"the `Host` `{host}` and the `time` {time}" in text
    assert sign_access("acme", private, host, time) == told
    assert open_access(told, host, time) == ("acme", public_bytes(private))

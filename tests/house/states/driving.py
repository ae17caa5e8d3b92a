"""How a state table is held against the program: each row is entered, fired and looked at.

A scene brings the program's own parts into a row's state, fires its event, and tells from those
parts in which state they are and what was done. It must not keep a state of its own.
"""

import pytest

from docs.generate import machine


def rows_of(name):
    """Marks a test with one case for each row of docs/states/NAME.toml."""
    rows = machine(name).rows
    return pytest.mark.parametrize("row", rows, ids=map(str, rows))


def enter_and_fire(scene, row):
    """Yields what a caller has to do: a scene may be asynchronous."""
    enter = getattr(scene, "in_" + row.state.replace("-", "_"))
    fire = getattr(scene, "on_" + row.event.replace("-", "_"))
    return enter, fire


def drive(scene, row):
    """Check one row with a scene whose methods are plain functions."""
    enter, fire = enter_and_fire(scene, row)
    enter()
    assert scene.state() == row.state, "the scene does not reach the row's state"
    scene.done.clear()
    fire()
    found = sorted(scene.done), scene.state()
    assert found == (sorted(row.actions), row.target), found


async def drive_async(scene, row):
    """Check one row with a scene whose methods are coroutines."""
    enter, fire = enter_and_fire(scene, row)
    await enter()
    assert await scene.state() == row.state, "the scene does not reach the row's state"
    scene.done.clear()
    await fire()
    found = sorted(scene.done), await scene.state()
    assert found == (sorted(row.actions), row.target), found

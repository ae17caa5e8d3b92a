"""What a disk store lists while blocks are put and erased."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from icnblocks.naming import Digest
from icnblocks.store import notes
from icnblocks.store.disk import DiskStore
from icnblocks.testing.store_contract import block, put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    with DiskStore(tmp_path / "store") as store:
        yield store


@contextmanager
def slow_put(store: DiskStore, data: bytes) -> Iterator[None]:
    """A put that has an address when the body begins, and ends after it."""
    begun, go, write = threading.Event(), threading.Event(), store._write_at

    def write_at(at: int, view: memoryview) -> None:
        if view == data:
            begun.set()
            go.wait(30)
        write(at, view)

    store._write_at = write_at  # type: ignore[method-assign]
    thread = threading.Thread(target=put, args=(store, data))
    thread.start()
    assert begun.wait(30)
    yield
    go.set()
    thread.join()


def overtaken(store: DiskStore) -> list[Digest]:
    """Three blocks, of which the second is not committed, and both others are."""
    first = put(store, block(0))
    with slow_put(store, block(1)):
        last = put(store, block(2))
        store._commit()
    return [first, Digest.of(block(1)), last]


def test_a_slow_put_that_was_overtaken(store: DiskStore) -> None:
    """A block that was noted after one above it was not listed: no new policy ever evicted it."""
    found = overtaken(store)
    assert [digest for digest, _ in store.blocks()] == found
    store.flush()
    assert [digest for digest, _ in store.blocks()] == found


@pytest.mark.parametrize("after", [0, 1, 2])
def test_it_is_committed_during_the_listing(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """A commit behind what was listed already would hide it, one before it would double it."""
    monkeypatch.setattr(notes, "_CHUNK", 1)
    found = overtaken(store)
    listing = store.blocks()
    listed = list(islice(listing, after))
    store.flush()
    listed += listing
    assert [digest for digest, _ in listed] == found


@pytest.mark.parametrize("commit", [False, True])
def test_what_was_erased_before_its_turn_is_not_listed(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, *, commit: bool
) -> None:
    """Guards the list of what was not noted when the listing began: it may be out of date."""
    monkeypatch.setattr(notes, "_CHUNK", 1)
    first, slow, last = overtaken(store)
    listing = store.blocks()
    assert next(listing)[0] == first
    if commit:
        store.flush()
    store.erase(slow)
    if commit:
        store.flush()
    put(store, block(1))  # again, at another place, above the end of the listing
    assert [digest for digest, _ in listing] == [last]


def test_nothing_comes_twice_while_all_is_put_and_committed(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "_CHUNK", 3)
    before = {put(store, block(number)) for number in range(20)}
    store._commit()
    before |= {put(store, block(number)) for number in range(20, 40)}
    listed = []  # nor does it go on for ever
    for number, (digest, length) in enumerate(islice(store.blocks(), 100), 40):
        assert length == 5000
        listed.append(digest)
        put(store, block(number))
        store._commit()
    assert before <= set(listed)
    assert len(listed) < 100
    assert set(Counter(listed).values()) == {1}

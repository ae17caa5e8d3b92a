"""The conformance suite of stores: subclass, say how to make one, and pytest runs it.

    class TestMyStore(StoreContract):
        def make(self, path): return MyStore(path)

`ReadableStoreContract` is for stores that cannot be put into; it asks for a filled one instead.
"""

from __future__ import annotations

import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icnblocks.errors import CorruptError, UsageError
from icnblocks.naming import Digest
from icnblocks.store.base import Lease, ReadableStore, Store, Verified, verify

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIZES = (1, 100, 4095, 4096, 4097, 70_000, 1 << 20)


def block(number: int, size: int = 5000) -> bytes:
    """Bytes that are the same for the same arguments, and differ otherwise (size >= 8)."""
    seed = number.to_bytes(8, "big")
    return (seed * (size // 8 + 1))[:size]


def put(store: Store, data: bytes) -> Digest:
    """Put bytes under their own digest, and return that."""
    digest = Digest.of(data)
    store.put(verify(digest, data))
    return digest


def fetch(store: ReadableStore, digest: Digest) -> bytes | None:
    """The bytes of a block by way of a lease, or None."""
    lease = store.open(digest)
    if lease is None:
        return None
    with lease:
        data = lease.read()
        lease.check()
        return data


class ReadableStoreContract:
    """What every store must do."""

    def filled(self, path: Path, blocks: Sequence[bytes]) -> ReadableStore:
        """A store below `path` that holds these blocks (distinct, in this order)."""
        raise NotImplementedError

    @pytest.fixture
    def blocks(self) -> list[bytes]:
        """Blocks of all sizes that matter to pages."""
        return [block(number, size) for number, size in enumerate(SIZES)]

    @pytest.fixture
    def full(self, tmp_path: Path, blocks: list[bytes]) -> Iterator[ReadableStore]:
        """A store that holds `blocks`."""
        store = self.filled(tmp_path, blocks)
        yield store
        store.close()

    def test_it_is_a_readable_store(self, full: ReadableStore) -> None:
        """A method that is missing would be found by its first caller only."""
        assert isinstance(full, ReadableStore)

    def test_every_block_is_there_whole(self, full: ReadableStore, blocks: list[bytes]) -> None:
        """A block must be the bytes that were put, at any size."""
        assert len(full) == len(blocks)
        for data in blocks:
            digest = Digest.of(data)
            assert digest in full
            assert full.length(digest) == len(data)
            assert fetch(full, digest) == data

    def test_it_lists_blocks_in_order(self, full: ReadableStore, blocks: list[bytes]) -> None:
        """A cache that starts again learns the age of its blocks from this order."""
        assert list(full.blocks()) == [(Digest.of(data), len(data)) for data in blocks]

    def test_what_is_not_there_is_none(self, full: ReadableStore) -> None:
        """An unknown digest is an answer, not an error."""
        unknown = Digest.of(b"nobody has put this")
        assert unknown not in full
        assert full.length(unknown) is None
        assert full.open(unknown) is None

    def test_a_lease_is_a_stretch_of_a_file(self, full: ReadableStore, blocks: list[bytes]) -> None:
        """The stretch must be what sendfile can send."""
        for data in blocks:
            lease = full.open(Digest.of(data))
            assert lease is not None
            assert lease.length == len(data)
            assert os.pread(lease.fd, lease.length, lease.offset) == data
            lease.close()
            lease.close()

    def test_many_leases_at_once(self, full: ReadableStore, blocks: list[bytes]) -> None:
        """Closing one lease must not take the file from the others."""
        leases = [full.open(Digest.of(data)) for data in blocks for _ in range(3)]
        for number, lease in enumerate(leases):
            assert lease is not None
            assert lease.read() == blocks[number // 3]
            lease.close()

    def test_a_lease_outlives_the_store(self, full: ReadableStore, blocks: list[bytes]) -> None:
        """A server that stops finishes what it is sending."""
        lease = full.open(Digest.of(blocks[3]))
        assert lease is not None
        full.close()
        assert lease.read() == blocks[3]
        lease.close()

    def test_closing_twice_is_closing(self, full: ReadableStore) -> None:
        """Clean-up paths meet."""
        full.close()
        full.close()


class StoreContract(ReadableStoreContract):
    """What a store that can be put into must do besides."""

    def make(self, path: Path) -> Store:
        """An empty store below `path`, an existing empty directory."""
        raise NotImplementedError

    def filled(self, path: Path, blocks: Sequence[bytes]) -> ReadableStore:
        """A store that the blocks were put into."""
        store = self.make(path)
        for data in blocks:
            put(store, data)
        return store

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """An empty store."""
        store = self.make(tmp_path)
        yield store
        store.close()

    def test_it_is_a_store(self, store: Store) -> None:
        """A method that is missing would be found by its first caller only."""
        assert isinstance(store, Store)
        assert len(store) == 0
        assert store.used_bytes == 0

    def test_putting_again_is_not_new(self, store: Store) -> None:
        """A block that came twice must be counted and kept once."""
        data = block(1)
        found = verify(Digest.of(data), data)
        assert store.put(found) is True
        used = store.used_bytes
        assert store.put(found) is False
        assert (len(store), store.used_bytes) == (1, used)

    def test_wrong_bytes_cannot_be_put(self) -> None:
        """What has not matched its digest is never made a Verified."""
        with pytest.raises(CorruptError):
            verify(Digest.of(b"a"), b"b")

    @pytest.mark.parametrize("data", [b"", bytes((16 << 20) + 1)], ids=["empty", "too long"])
    def test_no_block_is_empty_or_too_long(self, store: Store, data: bytes) -> None:
        """Both are outside the format."""
        with pytest.raises(UsageError):
            put(store, data)
        assert len(store) == 0

    def test_the_buffer_may_be_reused(self, store: Store) -> None:
        """A receiver reuses its buffer after `put`, so the store must have copied or written."""
        buffer = bytearray(block(1))
        digest = Digest.of(buffer)
        store.put(verify(digest, memoryview(buffer)))
        buffer[:] = bytes(len(buffer))
        assert fetch(store, digest) == block(1)

    def test_footprints_add_up(self, store: Store) -> None:
        """A budget is kept by footprints; they must be what used_bytes moves by."""
        for number, size in enumerate(SIZES):
            before = store.used_bytes
            put(store, block(number, size))
            assert store.used_bytes - before == store.footprint(size) >= size
        for number, size in enumerate(SIZES):
            assert store.erase(Digest.of(block(number, size))) == store.footprint(size)
        assert store.used_bytes == 0

    def test_erased_is_gone_and_may_come_back(self, store: Store) -> None:
        """An evicted block is asked for again sooner or later."""
        first, second = put(store, block(1)), put(store, block(2))
        assert store.erase(first) > 0
        assert store.erase(first) == 0
        assert first not in store
        assert store.open(first) is None
        assert list(store.blocks()) == [(second, 5000)]
        store.flush()
        put(store, block(1))
        assert fetch(store, first) == block(1)
        assert [digest for digest, _ in store.blocks()] == [second, first]

    def test_a_block_is_read_whole_or_not_at_all(self, store: Store) -> None:
        """A small block is sent from what this gives; a wrong length is for a lease to refuse."""
        for number, size in enumerate(SIZES):
            digest = put(store, block(number, size))
            assert store.read(digest, size) == block(number, size)
            assert store.read(digest, size + 1) is None
            store.erase(digest)
            assert store.read(digest, size) is None

    def test_an_erased_block_stays_readable_while_leased(self, store: Store) -> None:
        """Evicting what is being sent must not change the bytes under way."""
        digest = put(store, block(1))
        lease, other = store.open(digest), store.open(digest)
        assert lease is not None
        assert other is not None
        store.erase(digest)
        store.flush()
        put(store, block(2))
        assert lease.read() == block(1)
        lease.close()
        store.flush()
        assert other.read() == block(1)
        other.close()
        assert store.open(digest) is None

    def test_a_block_put_again_while_its_old_lease_is_open(self, store: Store) -> None:
        """The old lease's end must not free the new bytes."""
        digest = put(store, block(1))
        lease = store.open(digest)
        assert lease is not None
        store.erase(digest)
        put(store, block(1))
        lease.close()
        store.flush()
        assert fetch(store, digest) == block(1)

    def test_many_threads(self, store: Store) -> None:
        """Puts from worker threads, look-ups and erasing from another, at the same time."""
        done = threading.Event()
        wrong: list[str] = []

        def watch() -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                data = block(turn % 200, 6000)
                found = fetch(store, Digest.of(data))
                if found not in (None, data):
                    wrong.append(f"block {turn % 200} has wrong bytes")
                if turn % 7 == 0:
                    store.erase(Digest.of(data))

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: put(store, block(n % 200, 6000)), range(1200)))
        done.set()
        watcher.join()
        assert not wrong
        store.flush()
        assert len(list(store.blocks())) == len(store)
        assert store.used_bytes == len(store) * store.footprint(6000)

    def test_two_threads_with_the_same_block(self, store: Store) -> None:
        """Only one of those who bring a block may be told that it was new."""
        for turn in range(50):
            data = block(turn)
            found: Verified = verify(Digest.of(data), data)
            start = threading.Barrier(2)

            def bring(gate: threading.Barrier = start, what: Verified = found) -> bool:
                gate.wait()
                return store.put(what)

            with ThreadPoolExecutor(2) as pool:
                new = [pool.submit(bring) for _ in range(2)]
            assert sorted(n.result() for n in new) == [False, True]
        assert store.used_bytes == 50 * store.footprint(5000)

    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )
    @given(
        script=st.lists(
            st.tuples(
                st.sampled_from(["put", "put", "put", "erase", "open", "close", "flush"]),
                st.integers(0, 9),
            ),
            max_size=40,
        )
    )
    def test_it_agrees_with_a_dict(self, script: list[tuple[str, int]]) -> None:
        """Any sequence of operations leaves what a dict would hold, leases included."""
        with tempfile.TemporaryDirectory() as path:
            self._play(self.make(Path(path)), script)

    def _play(self, store: Store, script: list[tuple[str, int]]) -> None:
        model: dict[Digest, bytes] = {}
        leases: list[tuple[bytes, Lease]] = []
        for what, number in script:
            data = block(number, 1 + number * 1500)
            digest = Digest.of(data)
            if what == "put":
                assert store.put(verify(digest, data)) == (digest not in model)
                model.setdefault(digest, data)
            elif what == "erase":
                freed = store.footprint(len(data)) if model.pop(digest, None) else 0
                assert store.erase(digest) == freed
            elif what == "open":
                lease = store.open(digest)
                assert (lease is None) == (digest not in model)
                if lease is not None:
                    leases.append((data, lease))
            elif what == "close" and leases:
                expected, held = leases.pop(number % len(leases))
                assert held.read() == expected
                held.close()
            elif what == "flush":
                store.flush()
        assert dict(store.blocks()) == {d: len(data) for d, data in model.items()}
        assert list(dict(store.blocks())) == list(model)
        assert {d: fetch(store, d) for d in model} == model
        for expected, held in leases:
            assert held.read() == expected
            held.close()
        store.close()

"""Any sequence of calls keeps the promises of the content store, on the real stores."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import POLICIES, make_policy
from icnblocks.manifest.model import BaseRef, File, Kind, Manifest, Run
from icnblocks.naming import Digest, Name
from icnblocks.store.base import verify
from icnblocks.store.disk import DiskStore
from icnblocks.store.memory import MemoryStore

make_policy("lru")  # registers the built-in ones
NAMES = sorted(POLICIES)
PAGE = 4096
DATA = [bytes([number]) * (1 + number % 3 * 3000) for number in range(14)]
BLOCKS = [Digest.of(data) for data in DATA]
MODELS = [Digest(bytes([7, number]) + bytes(30)) for number in range(3)]

_number = st.integers(0, len(BLOCKS) - 1)
_model = st.integers(0, len(MODELS) - 1)


def manifest(numbers, base):
    files = [
        File(f"f{number:02}", len(DATA[number]), (Run(0, len(DATA[number]), at),))
        for at, number in enumerate(numbers)
    ]
    return Manifest(
        kind=Kind.ADAPTER if base else Kind.BASE,
        block_bytes=16384,
        files=tuple(files),
        digests=b"".join(BLOCKS[number] for number in numbers),
        base=BaseRef(Name("acme", "base"), base) if base else None,
    )


class ContentMachine(RuleBasedStateMachine):
    """A content store of 6 pages beside a model of it: what is here, pinned, leased, reserved."""

    policy = "lru"
    make_store = staticmethod(MemoryStore)
    capacity = 6 * PAGE

    def __init__(self):
        super().__init__()
        self.store = self.make_store()
        self.content = ContentStore(
            self.store, make_policy(self.policy, self.capacity), self.capacity
        )
        self.now = 0.0
        self.here = set()
        self.pins = []
        self.leases = []
        self.reservations = []
        self.put = set()

    def teardown(self):
        for _, _, lease in self.leases:
            lease.close()
        self.store.close()

    def footprint(self, numbers):
        return sum(self.store.footprint(len(DATA[number])) for number in numbers)

    def pinned(self):
        return {number for _, numbers in self.pins for number in numbers}

    def guarded(self):
        leased = {number for number, erased, _ in self.leases if not erased}
        coming = {number for number, _ in self.reservations}
        return self.pinned() | leased | coming

    def erased_open(self):
        return self.footprint({n for n, erased, _ in self.leases if erased})

    def notice_evictions(self):
        gone = {number for number in self.here if BLOCKS[number] not in self.store}
        assert not gone & self.guarded(), "evicted a pinned or leased block"
        self.here -= gone
        return gone

    @rule(number=_number)
    def insert(self, number):
        """All three steps, so that the store is full often."""
        count = len(self.reservations)
        self.reserve(number)
        if len(self.reservations) > count:
            _, reservation = self.reservations.pop()
            self.store.put(verify(BLOCKS[number], DATA[number]))
            self.content.commit(reservation, self.now)
            self.put.discard(number)
            self.here.add(number)

    @rule(number=_number)
    def reserve(self, number):
        self.now += 1
        evictable = self.footprint(self.here - self.guarded())
        free = self.capacity - self.footprint(self.here) - self.stats().reserved_bytes
        free -= self.stats().erased_open_bytes
        open_one = any(known == number for known, _ in self.reservations)
        fresh = number not in self.here and not open_one
        reservation = self.content.reserve(BLOCKS[number], len(DATA[number]), self.now)
        gone = self.notice_evictions()
        size = self.footprint([number])
        if reservation is None:
            assert fresh
            assert free + evictable < size, "there could have been room"
            assert not gone, "evicted for nothing"
            return
        self.reservations.append((number, reservation))
        assert not gone or fresh
        spare = free + self.footprint(gone) - size
        assert not gone or spare < 2 * PAGE * 2, "evicted more than one block too much"

    @rule(data=st.data())
    def bring(self, data):
        """Put on a worker: the block is in the store before the commit."""
        if self.reservations:
            number, _ = data.draw(st.sampled_from(self.reservations))
            if self.store.put(verify(BLOCKS[number], DATA[number])):
                self.put.add(number)

    @rule(data=st.data())
    def commit(self, data):
        arrived = [one for one in self.reservations if one[0] in self.put | self.here]
        if arrived:
            one = data.draw(st.sampled_from(arrived))
            self.reservations.remove(one)
            self.content.commit(one[1], self.now)
            self.put.discard(one[0])
            if BLOCKS[one[0]] in self.store:
                self.here.add(one[0])

    @rule(data=st.data())
    def release(self, data):
        pending = [one for one in self.reservations if one[0] not in self.put]
        if pending:
            one = data.draw(st.sampled_from(pending))
            self.reservations.remove(one)
            self.content.release(one[1])

    @rule(number=_number)
    def open(self, number):
        if number in self.put:
            return
        lease = self.content.open(BLOCKS[number], self.now)
        assert (lease is not None) == (number in self.here)
        if lease is not None:
            self.leases.append([number, False, lease])

    @rule(data=st.data())
    def close(self, data):
        if self.leases:
            position = data.draw(st.integers(0, len(self.leases) - 1))
            number, _, lease = self.leases.pop(position)
            assert lease.read() == DATA[number]
            lease.close()

    @rule(number=_number)
    def discard(self, number):
        reserved = any(known == number for known, _ in self.reservations)
        erased = self.content.discard(BLOCKS[number])
        assert erased == (number in self.here and not reserved)
        if erased:
            self.here.discard(number)
            for lease in self.leases:
                lease[1] |= lease[0] == number

    @rule(model=_model, numbers=st.sets(_number, max_size=4))
    def pin(self, model, numbers):
        known = next((kept for pinned, kept in self.pins if pinned == model), numbers)
        self.pins.append((model, known))
        self.content.pin(MODELS[model], [BLOCKS[number] for number in sorted(numbers)])

    @rule(model=_model)
    def unpin(self, model):
        mine = [pin for pin in self.pins if pin[0] == model]
        if mine:
            self.pins.remove(mine[0])
        self.content.unpin(MODELS[model])

    @rule(model=_model, numbers=st.sets(_number, min_size=1, max_size=6), base=st.none() | _model)
    def learn(self, model, numbers, base):
        base = None if base is None else MODELS[base]
        self.content.learn(MODELS[model], manifest(sorted(numbers), base))
        assert self.content.requested(MODELS[model], self.now)

    @rule(model=_model)
    def forget(self, model):
        self.content.forget(MODELS[model])

    @rule(policy=st.sampled_from(NAMES))
    def set_policy(self, policy):
        self.content.set_policy(make_policy(policy, self.capacity), self.now)
        assert self.content.policy.name == policy

    def stats(self):
        return self.content.stats()

    @invariant()
    def never_above_the_budget(self):
        stats = self.stats()
        assert self.store.used_bytes + stats.erased_open_bytes <= self.capacity
        assert stats.used_bytes + stats.reserved_bytes <= self.capacity

    @invariant()
    def the_books_are_right(self):
        stats = self.stats()
        assert stats.used_bytes - stats.erased_open_bytes == self.footprint(self.here)
        assert stats.pinned_bytes == self.footprint(self.here & self.pinned())
        if not any(erased for _, erased, _ in self.leases):
            assert stats.erased_open_bytes == 0
        if not self.reservations:
            assert stats.reserved_bytes == 0


def run(policy, make_store, examples):
    members = {"policy": policy, "make_store": staticmethod(make_store)}
    machine = type("Machine", (ContentMachine,), members)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("policy", NAMES)
def test_any_sequence_on_the_memory_store(policy):
    run(policy, MemoryStore, 40)


def test_any_sequence_on_the_disk_store():
    with tempfile.TemporaryDirectory() as folder:
        names = (Path(folder) / str(number) for number in range(1_000_000))
        run("sharing", lambda: DiskStore(next(names)), 12)

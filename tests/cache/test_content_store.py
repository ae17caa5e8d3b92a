"""The content store: exact budget, leases, pins, refusals, run-time change of policy."""

import logging

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policies import Gdsf, Lru
from icnblocks.errors import StorageError
from icnblocks.naming import Digest
from icnblocks.store.base import verify
from icnblocks.store.memory import MemoryStore

MODEL = Digest(bytes(31) + b"m")


def block(number, size=100):
    data = number.to_bytes(4, "big") * (size // 4)
    return Digest.of(data), data


def bring(content, number, now, size=100):
    digest, data = block(number, size)
    reservation = content.reserve(digest, size, now)
    if reservation is None:
        return None
    content.store.put(verify(digest, data))
    content.commit(reservation, now)
    return digest


class RefusingStore(MemoryStore):
    """A store whose disk refuses to erase some blocks."""

    def __init__(self):
        super().__init__()
        self.refuse = set()

    def erase(self, digest):
        if digest in self.refuse:
            raise StorageError("read-only file system")
        return super().erase(digest)


@pytest.fixture
def store():
    store = RefusingStore()
    yield store
    store.close()


@pytest.fixture
def unit(store):
    """Footprint of one block of 100 bytes: budgets below are multiples of it."""
    return store.footprint(100)


def room_for(store, unit, blocks, **options):
    return ContentStore(store, Lru(), blocks * unit, **options)


def test_evicts_only_when_the_budget_is_spent(store, unit):
    content = room_for(store, unit, 2)
    first, second = bring(content, 1, 1), bring(content, 2, 2)
    assert content.contains(first)
    assert content.contains(second)
    third = bring(content, 3, 3)
    assert not content.contains(first)
    assert content.contains(second)
    assert content.contains(third)
    assert store.used_bytes == 2 * unit
    stats = content.stats()
    assert (stats.blocks, stats.evicted, stats.evicted_bytes) == (2, 1, unit)


def test_room_for_blocks_in_flight_is_counted(store, unit):
    content = room_for(store, unit, 2)
    held = [content.reserve(block(n)[0], 100, 0) for n in (1, 2)]
    assert None not in held
    assert content.reserve(block(3)[0], 100, 0) is None, "a third would exceed the budget"
    content.release(held[0])
    assert content.reserve(block(3)[0], 100, 0) is not None


def test_a_released_reservation_gives_its_room_back_once(store, unit):
    content = room_for(store, unit, 1)
    reservation = content.reserve(block(1)[0], 100, 0)
    content.release(reservation)
    content.release(reservation)
    assert content.stats().reserved_bytes == 0


def test_two_who_bring_one_block_share_a_reservation(store, unit):
    content = room_for(store, unit, 1)
    digest, data = block(1)
    one, two = (content.reserve(digest, 100, 0) for _ in range(2))
    assert content.stats().reserved_bytes == unit
    content.release(one)
    assert content.stats().reserved_bytes == unit, "the other still brings it"
    store.put(verify(digest, data))
    content.commit(two, 0)
    stats = content.stats()
    assert (stats.reserved_bytes, stats.used_bytes, stats.blocks) == (0, unit, 1)


def test_who_is_wrong_about_a_length_moves_no_books(store, unit):
    """Else a client that asks for blocks of one byte lets a store grow beyond its budget."""
    content = room_for(store, unit, 3)
    data = bytes(250)
    digest, size = Digest.of(data), store.footprint(len(data))
    wrong = content.reserve(digest, 1, 0)
    right = content.reserve(digest, len(data), 0)
    assert content.stats().reserved_bytes == size
    assert content.reserve(digest, 100 * unit, 0) is None, "nor is room promised that is not there"
    store.put(verify(digest, data))
    content.commit(wrong, 0)
    content.release(right)
    stats = content.stats()
    assert (stats.reserved_bytes, stats.used_bytes) == (0, size)


def test_what_was_withdrawn_before_it_was_committed_is_not_here(store, unit):
    """One who put it could not note it, and took it back; the other had seen it there."""
    content = ContentStore(store, Gdsf(), 2 * unit)
    digest, data = block(1)
    one, two = (content.reserve(digest, 100, 0) for _ in range(2))
    store.put(verify(digest, data))
    store.erase(digest)
    content.release(one)
    content.commit(two, 0)
    stats = content.stats()
    assert (stats.reserved_bytes, stats.used_bytes, stats.blocks) == (0, 0, 0)
    assert bring(content, 1, 1) == digest


def test_a_wrong_length_of_what_is_here_moves_no_books(store, unit):
    content = room_for(store, unit, 9)
    digest = bring(content, 1, 0, 3 * unit)
    size = content.stats().used_bytes
    assert size > unit
    wrong = content.reserve(digest, 1, 1)
    lease = content.open(digest, 1)
    content.release(wrong)
    content.discard(digest)
    assert content.stats().erased_open_bytes == size
    lease.close()
    assert content.stats().erased_open_bytes == 0
    assert content._leased_bytes == 0


@pytest.mark.parametrize("first", ["pin", "unpin"])
def test_a_pin_before_the_commit_moves_no_books_of_a_lease(store, unit, first):
    content = room_for(store, unit, 3)
    digest, data = block(1)
    if first == "unpin":
        content.pin(MODEL, [digest])
    reservation = content.reserve(digest, 100, 0)
    store.put(verify(digest, data))
    lease = content.open(digest, 0)
    if first == "pin":
        content.pin(MODEL, [digest])
    else:
        content.unpin(MODEL)
    content.commit(reservation, 0)
    lease.close()
    assert content._leased_bytes == 0
    assert content.stats().used_bytes == unit


def test_committing_what_was_shared_twice_counts_once(store, unit):
    content = room_for(store, unit, 2)
    digest, data = block(1)
    one, two = (content.reserve(digest, 100, 0) for _ in range(2))
    store.put(verify(digest, data))
    content.commit(one, 0)
    content.commit(two, 0)
    assert content.stats().used_bytes == unit


def test_a_block_stays_until_all_who_bring_it_are_done(store, unit):
    """Evicted in between, it would come back without room when the slower one puts it."""
    content = room_for(store, unit, 1)
    digest, data = block(1)
    fast, slow = (content.reserve(digest, 100, 0) for _ in range(2))
    store.put(verify(digest, data))
    content.commit(fast, 0)
    assert content.reserve(block(2)[0], 100, 1) is None
    store.put(verify(digest, data))
    content.commit(slow, 1)
    assert bring(content, 2, 2) is not None
    late = content.reserve(block(2)[0], 100, 3)
    assert content.reserve(block(3)[0], 100, 3) is None, "it may be put again"
    content.release(late)
    assert bring(content, 3, 4) is not None


def test_reserving_a_block_that_is_here_takes_no_room(store, unit):
    content = room_for(store, unit, 1)
    digest = bring(content, 1, 0)
    reservation = content.reserve(digest, 100, 1)
    assert content.stats().reserved_bytes == 0
    content.commit(reservation, 1)
    assert content.stats().used_bytes == unit
    assert content.stats().evicted == 0


def test_a_block_larger_than_the_budget_is_refused_and_evicts_nothing(store, unit):
    content = room_for(store, unit, 2)
    bring(content, 1, 0)
    bring(content, 2, 0)
    assert content.reserve(block(3, 100_000)[0], 3 * unit * 10_000, 1) is None
    stats = content.stats()
    assert (stats.evicted, stats.refused, stats.blocks) == (0, 1, 2)


def test_a_leased_block_is_not_evicted(store, unit):
    content = room_for(store, unit, 2)
    first, second = bring(content, 1, 0), bring(content, 2, 1)
    with content.open(second, 2), content.open(first, 3):
        assert content.reserve(block(3)[0], 100, 4) is None
    lease = content.open(second, 5)
    again = content.open(second, 5)
    lease.close()
    lease.close()
    bring(content, 3, 6)
    assert content.contains(second), "closing one lease twice must not give up the other"
    assert not content.contains(first)
    again.close()


def test_a_leased_block_is_passed_over_when_it_is_the_next_victim(store, unit):
    content = room_for(store, unit, 2)
    first, second = bring(content, 1, 0), bring(content, 2, 1)
    with content.open(first, 2):
        content.open(second, 3).close()
        bring(content, 3, 4)
        assert content.contains(first)
        assert not content.contains(second)


@pytest.mark.parametrize("guard", ["pin", "lease"])
def test_room_that_cannot_be_made_evicts_nothing_on_the_way(store, unit, guard):
    content = room_for(store, unit, 2)
    first, second = bring(content, 1, 0), bring(content, 2, 1)
    if guard == "pin":
        content.pin(MODEL, [second])
    else:
        lease = content.open(second, 1)
    assert content.reserve(block(3)[0], 2 * unit, 2) is None
    assert content.contains(first)
    if guard == "lease":
        lease.close()


def test_pinned_blocks_stay_and_are_refcounted(store, unit):
    content = room_for(store, unit, 2)
    first, second = bring(content, 1, 0), bring(content, 2, 0)
    other = Digest(bytes(31) + b"n")
    content.pin(MODEL, [first, second])
    content.pin(MODEL, [first, second])
    content.pin(other, [second])
    assert content.stats().pinned_bytes == 2 * unit
    assert content.reserve(block(3)[0], 100, 1) is None
    content.unpin(MODEL)
    assert content.reserve(block(3)[0], 100, 1) is None, "pinned twice, unpinned once"
    content.unpin(MODEL)
    bring(content, 3, 2)
    assert content.contains(second)
    assert not content.contains(first)
    content.unpin(MODEL)
    assert content.pins() == {other: 1}


def test_a_pin_holds_blocks_that_come_later(store, unit):
    content = room_for(store, unit, 1)
    content.pin(MODEL, [block(1)[0]])
    assert content.stats().pinned_bytes == 0
    bring(content, 1, 0)
    assert content.stats().pinned_bytes == unit
    assert content.reserve(block(2)[0], 100, 1) is None


def test_pinning_between_put_and_commit_counts_once(store, unit):
    content = room_for(store, unit, 1)
    digest, data = block(1)
    reservation = content.reserve(digest, 100, 0)
    store.put(verify(digest, data))
    content.pin(MODEL, [digest])
    assert not content.discard(digest), "a block on its way in is left alone"
    content.commit(reservation, 0)
    assert content.stats().pinned_bytes == unit
    content.unpin(MODEL)
    assert content.stats().pinned_bytes == 0


def test_pin_unpin_and_lease_in_any_order_leave_the_books_at_zero(store, unit):
    content = room_for(store, unit, 2)
    digest = bring(content, 1, 0)
    lease = content.open(digest, 0)
    content.pin(MODEL, [digest])
    lease.close()
    lease = content.open(digest, 0)
    content.unpin(MODEL)
    bring(content, 2, 1)
    assert content.reserve(block(3)[0], 2 * unit, 2) is None, "one of two blocks is being sent"
    lease.close()
    assert content.reserve(block(4)[0], 100, 3) is not None


def test_erased_but_leased_bytes_count_against_the_budget(store, unit):
    content = room_for(store, unit, 2)
    first = bring(content, 1, 0)
    lease = content.open(first, 0)
    assert content.discard(first)
    assert not content.contains(first)
    assert content.stats().erased_open_bytes == unit
    bring(content, 2, 1)
    second = bring(content, 3, 2)
    assert content.stats().evicted == 1, "only one block fits beside the one being sent"
    assert content.contains(second)
    assert lease.read() == block(1)[1]
    lease.close()
    assert content.stats().erased_open_bytes == 0
    bring(content, 4, 3)
    assert content.contains(second)


def test_a_discarded_block_that_comes_again_has_books_of_its_own(store, unit):
    content = room_for(store, unit, 3)
    digest = bring(content, 1, 0)
    old = content.open(digest, 0)
    content.discard(digest)
    bring(content, 1, 1)
    new = content.open(digest, 1)
    old.close()
    stats = content.stats()
    assert (stats.used_bytes, stats.erased_open_bytes) == (unit, 0)
    bring(content, 2, 2)
    bring(content, 3, 2)
    assert content.reserve(block(9)[0], 3 * unit, 3) is None, "the new lease still holds it"
    new.close()


def test_no_capacity_never_evicts(store):
    content = ContentStore(store, Lru(), None)
    for number in range(50):
        assert bring(content, number, number) is not None
    assert content.stats().evicted == 0
    assert content.stats().blocks == 50


def test_refuses_when_full_if_it_must_not_evict(store, unit):
    content = room_for(store, unit, 2, evict=False)
    first, _ = bring(content, 1, 0), bring(content, 2, 0)
    assert bring(content, 3, 1) is None
    assert content.contains(first)
    content.discard(first)
    assert bring(content, 3, 2) is not None


def test_a_lowered_capacity_evicts_down_at_open_but_for_pins(store, unit, caplog):
    content = room_for(store, unit, 5)
    digests = [bring(content, n, n) for n in range(5)]
    with caplog.at_level(logging.WARNING):
        smaller = room_for(store, unit, 2, pins={MODEL: [digests[0]]})
    assert [smaller.contains(d) for d in digests] == [True, False, False, False, True]
    assert store.used_bytes == 2 * unit
    assert "evicted 3 blocks" in caplog.text


def test_pins_above_the_capacity_are_kept_and_said(store, unit, caplog):
    content = room_for(store, unit, 3)
    digests = [bring(content, n, n) for n in range(3)]
    with caplog.at_level(logging.WARNING):
        smaller = room_for(store, unit, 1, pins={MODEL: digests[:2]})
    assert store.used_bytes == 2 * unit
    assert f"{unit} bytes above capacity stay" in caplog.text
    assert smaller.reserve(block(9)[0], 100, 0) is None


def test_a_non_evicting_store_above_its_capacity_says_so(store, unit, caplog):
    content = room_for(store, unit, 3)
    for n in range(3):
        bring(content, n, n)
    with caplog.at_level(logging.WARNING):
        room_for(store, unit, 1, evict=False)
    assert store.used_bytes == 3 * unit
    assert "does not evict" in caplog.text


def test_what_the_store_held_at_open_is_counted_and_evictable_oldest_first(store, unit):
    content = room_for(store, unit, 3)
    digests = [bring(content, n, n) for n in range(3)]
    again = room_for(store, unit, 3)
    assert again.stats().used_bytes == 3 * unit
    bring(again, 7, 9)
    assert [again.contains(d) for d in digests] == [False, True, True]


def test_set_policy_keeps_content_pins_and_order(store, unit):
    content = room_for(store, unit, 3)
    digests = [bring(content, n, n) for n in range(3)]
    content.pin(MODEL, [digests[0]])
    content.set_policy(Lru(), 5)
    assert len(store) == 3
    bring(content, 8, 6)
    assert [content.contains(d) for d in digests] == [True, False, True]


def test_a_policy_whose_manifests_cannot_be_read_is_not_taken(store, unit):
    """The new one used to stay, told of no block: nothing could be evicted any more."""

    def manifests():
        raise StorageError("disk I/O error")
        yield

    content = room_for(store, unit, 3)
    digests = [bring(content, n, n) for n in range(3)]
    with pytest.raises(StorageError):
        content.set_policy(Lru(), 5, manifests())
    assert bring(content, 8, 6)
    assert [content.contains(d) for d in digests] == [False, True, True]


def test_set_policy_while_a_block_is_on_its_way_counts_it_once(store, unit):
    content = room_for(store, unit, 2)
    digest, data = block(1)
    reservation = content.reserve(digest, 100, 0)
    store.put(verify(digest, data))
    content.set_policy(Lru(), 1)
    content.commit(reservation, 1)
    assert content.stats().used_bytes == unit


def test_a_victim_the_disk_will_not_erase_is_passed_over(store, unit):
    content = room_for(store, unit, 2)
    first, second = bring(content, 1, 0), bring(content, 2, 0)
    store.refuse.add(first)
    bring(content, 3, 1)
    assert content.contains(first)
    assert not content.contains(second)
    assert content.stats().erase_errors == 1


def test_a_disk_that_erases_nothing_gives_no_reservation_and_ends(store, unit):
    content = room_for(store, unit, 20)
    store.refuse.update(bring(content, n, 0) for n in range(20))
    assert content.reserve(block(99)[0], 100, 1) is None
    assert content.stats().erase_errors == 8
    assert store.used_bytes == 20 * unit


def test_hits_misses_and_bytes_are_counted(store, unit):
    content = room_for(store, unit, 2)
    digest = bring(content, 1, 0)
    with content.open(digest, 1) as lease:
        assert lease.length == 100
        assert lease.fd >= 0
        assert lease.offset >= 0
        lease.check()
        assert lease.read() == block(1)[1]
    assert content.open(block(2)[0], 1) is None
    stats = content.stats()
    assert (stats.hits, stats.hit_bytes, stats.misses) == (1, 100, 1)


def test_a_clock_that_goes_back_does_not_reach_the_policy(store, unit):
    seen = []

    class Watching(Lru):
        def hit(self, digest, now):
            seen.append(now)
            super().hit(digest, now)

    content = ContentStore(store, Watching(), 2 * unit)
    digest = bring(content, 1, 10)
    for now in (11, 5, 12):
        content.open(digest, now).close()
    assert seen == [11, 11, 12]

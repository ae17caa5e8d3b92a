"""Blocks in memory that the disk would not take."""

from icnblocks.naming import Digest
from icnblocks.store.base import verify
from icnblocks_daemon.overflow import Overflow

PAGE = 4096


def block(number, pages=1):
    data = bytes([number]) * (pages * PAGE)
    return verify(Digest.of(data), data)


def test_it_keeps_to_its_bound_and_the_longest_unused_leave_first():
    """Catches: memory that grows while the disk is full."""
    overflow = Overflow(3 * PAGE)
    blocks = [block(number) for number in range(5)]
    for each in blocks[:3]:
        assert overflow.put(each)
    overflow.open(blocks[0].digest).close()
    for each in blocks[3:]:
        assert overflow.put(each)
        assert overflow.used_bytes <= 3 * PAGE
    assert [each.digest in overflow for each in blocks] == [True, False, False, True, True]


def test_what_is_being_sent_stays_and_takes_room_until_it_was_sent():
    """Catches: a block that is overwritten while it is sent; room promised twice."""
    overflow = Overflow(2 * PAGE)
    one, two, three = block(1), block(2), block(3)
    assert overflow.put(one)
    assert overflow.put(two)
    leases = [overflow.open(one.digest), overflow.open(two.digest), overflow.open(one.digest)]
    assert not overflow.has_room(1)
    assert not overflow.put(three)
    overflow.clear()
    assert [lease.read() for lease in leases] == [one.data, two.data, one.data]
    leases[0].close()
    assert not overflow.put(three), "another one still sends it"
    leases[2].close()
    leases[2].close()
    assert overflow.has_room(PAGE)
    assert overflow.put(three)
    assert one.digest not in overflow
    assert leases[1].read() == two.data


def test_what_can_never_fit_is_not_taken_and_nothing_leaves_for_it():
    overflow = Overflow(2 * PAGE)
    assert overflow.put(block(1))
    assert not overflow.can_ever_fit(2 * PAGE + 1)
    assert not overflow.put(block(2, pages=3))
    assert block(1).digest in overflow
    assert not Overflow(0).put(block(1))


def test_a_block_is_sent_to_its_end_though_the_daemon_stops():
    """Catches: a file descriptor that is closed, and perhaps another's, while it is sent."""
    overflow = Overflow(2 * PAGE)
    one = block(1)
    assert overflow.put(one)
    assert overflow.put(one), "it is here"
    lease = overflow.open(one.digest)
    overflow.close()
    overflow.close()
    assert lease.read() == one.data
    lease.close()
    assert overflow.open(one.digest) is None

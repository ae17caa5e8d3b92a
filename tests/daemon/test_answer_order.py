"""In which order a bundle is answered whose requester asks for the order that it lists."""

import pytest

from icnblocks.errors import StorageError
from icnblocks.store.base import verify
from icnblocks.testing.exchange import make_model
from icnblocks.wire.bundle import Order, Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.answer import Answer, Refuse, Send, SendBytes
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.overflow import Overflow
from icnblocks_daemon.storage import Storage
from tests.daemon.test_prefetch_driver import Bench

MODEL = make_model("acme/listed", size=6 * 65536, seed=66)


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path, [MODEL])
    bench.network.slow = True
    yield bench
    await bench.close()


def bring(bench, index):
    """Put a block into the content store."""
    content, want = bench.holdings.content, MODEL.wants[index]
    room = content.reserve(want.digest, want.length, 0.0)
    content.store.put(verify(want.digest, MODEL.blocks[want.digest]))
    content.commit(room, 0.0)


def answered(bench, order, here, landing):
    """The indexes in the order of their sending; each of `landing` lands before one is sent."""
    for index in here:
        bring(bench, index)
    answer = Answer(MODEL.wants, Hint(order=order), bench.holdings, bench.forwarder, 64)
    sent, landing = [], list(landing)
    answer._ask()
    while len(sent) < len(MODEL.wants):
        while landing:
            digest = MODEL.wants[landing.pop(0)].digest
            bench.network.deliver(next(f for f in bench.network.waiting if f.digest == digest))
        step = answer.next()
        assert isinstance(step, Send)
        step.lease.close()
        sent.append(step.index)
    answer.close()
    return sent


async def test_of_what_can_be_sent_the_first_that_is_listed_goes_first(bench):
    """Whatever landed used to go before what was here, in the order of landing."""
    assert answered(bench, Order.LISTED, [0, 2, 3], [5, 1, 4]) == [0, 1, 2, 3, 4, 5]


async def test_without_an_order_what_landed_goes_first_since_it_holds_room(bench):
    assert answered(bench, Order.ANY, [0, 2, 3], [5, 1, 4]) == [5, 1, 4, 0, 2, 3]


async def test_small_blocks_that_are_here_are_read_and_counted_as_hits(bench):
    """Catches: a lease for each of 20,000 small blocks, or reading past the policy."""
    for index in range(6):
        bring(bench, index)
    answer = Answer(MODEL.wants, Hint(), bench.holdings, bench.forwarder, 64, MODEL.wants[0].length)
    steps = [answer.next() for _ in MODEL.wants]
    assert steps == [SendBytes(n, MODEL.blocks[w.digest]) for n, w in enumerate(MODEL.wants)]
    stats = bench.holdings.content.stats()
    assert (stats.hits, stats.misses) == (6, 0)
    answer.close()


async def test_a_small_block_evicted_before_it_was_read_is_fetched_again(bench):
    """Catches: a block that was here when it was asked for, and then refused."""
    bring(bench, 0)
    answer = Answer(MODEL.wants[:1], Hint(), bench.holdings, bench.forwarder, 64, 1 << 20)
    bench.holdings.content.discard(MODEL.wants[0].digest)
    assert answer.next() is None
    bench.network.deliver(bench.network.waiting.pop())
    step = answer.next()
    assert isinstance(step, Send)
    assert step.waited
    step.lease.close()
    answer.close()


@pytest.mark.parametrize("wanted_before", [True, False])
async def test_what_came_for_others_and_went_while_it_was_wanted_is_counted(bench, wanted_before):
    """Beyond the window of a bundle nobody noticed, where the budget is smaller than the model."""
    first, second = MODEL.wants[:2]
    waits = Answer((first, second), Hint(), bench.holdings, bench.forwarder, 1)
    assert waits.next() is None
    other = Answer((second,), Hint(), bench.holdings, bench.forwarder, 1)
    assert other.next() is None
    bench.network.deliver(bench.network.waiting.pop())
    other.close()
    bench.holdings.content.discard(second.digest)
    if not wanted_before:
        waits.close()
        waits = Answer((second,), Hint(), bench.holdings, bench.forwarder, 1)
    else:
        bench.network.deliver(bench.network.waiting.pop())
        waits.next().lease.close()
    assert waits.next() is None
    counted = bench.metrics.refetched.labels("evicted")._value.get()
    assert counted == (second.length if wanted_before else 0)
    waits.close()


async def test_a_block_of_another_length_is_refused_whoever_reads_it(bench):
    """Catches: bytes that the requester has no room for."""
    bring(bench, 0)
    want = Want(MODEL.wants[0].digest, 1000)
    answer = Answer((want,), Hint(), bench.holdings, bench.forwarder, 64, 1 << 20)
    step = answer.next()
    assert isinstance(step, Refuse)
    assert step.reason is Reason.LENGTH
    answer.close()


async def test_all_who_wait_are_told_also_when_the_index_of_places_cannot_be_read(
    bench, monkeypatch
):
    """Catches: an error of the disk while the second is told, and the others wait for ever."""
    want = MODEL.wants[0]
    answers = [
        Answer((want,), Hint(), bench.holdings, bench.forwarder, 4, 1 << 20) for _ in range(3)
    ]
    assert [answer.next() for answer in answers] == [None] * 3
    bench.holdings.overflow = Overflow(1 << 20)
    bench.forwarder._storage = Storage(bench.holdings.overflow)
    bench.holdings.overflow.put(verify(want.digest, MODEL.blocks[want.digest]))

    def broken(*_):
        raise StorageError("disk I/O error")

    monkeypatch.setattr(bench.holdings.places, "length", broken)
    bench.forwarder.passed(bench.network.waiting.pop(), StorageError("the disk is full"))
    for answer in answers:
        assert isinstance(answer._ready[0], Send)
        answer.close()

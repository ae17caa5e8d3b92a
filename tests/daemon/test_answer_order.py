"""In which order a bundle is answered whose requester asks for the order that it lists."""

import pytest

from icnblocks.store.base import verify
from icnblocks.testing.exchange import make_model
from icnblocks.wire.bundle import Order
from icnblocks_daemon.answer import Answer, Send
from icnblocks_daemon.forwarder import Hint
from tests.daemon.test_prefetch_driver import Bench

MODEL = make_model("acme/listed", size=6 * 65536, seed=66)


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path, [MODEL])
    bench.network.slow = True
    yield bench
    await bench.close()


def answered(bench, order, here, landing):
    """The indexes in the order of their sending; each of `landing` lands before one is sent."""
    content = bench.holdings.content
    for index in here:
        want = MODEL.wants[index]
        room = content.reserve(want.digest, want.length, 0.0)
        content.store.put(verify(want.digest, MODEL.blocks[want.digest]))
        content.commit(room, 0.0)
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

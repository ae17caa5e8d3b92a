"""Turns at sending: who may be sent one more block, and who waits."""

import asyncio
from types import SimpleNamespace

import pytest

from icnblocks_daemon.answer import SendBytes
from icnblocks_daemon.http.bundles import Bundles, _Tally
from icnblocks_daemon.http.outlet import Outlet
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.sending import Sending
from icnblocks_daemon.shares import RECENT_S, SLOW_S, SLOWEST_S, Shares


def test_a_client_alone_has_as_many_as_it_likes():
    """Catches: a limit that holds back a fleet behind one address though nobody else is there."""
    shares = Shares(2)
    assert all(shares.begin("a", 0.0) for _ in range(50))


def test_while_others_compete_a_client_has_its_few_and_gets_one_for_each_that_ends():
    """Catches: a share that grows with the number of connections."""
    shares = Shares(2)
    assert shares.begin("b", 0.0)
    turns = [shares.begin("a", 0.0) for _ in range(4)]
    assert turns[2:] == [None, None]
    shares.end("a", turns[0], 0.1)
    assert shares.begin("a", 0.1)
    assert shares.begin("a", 0.1) is None
    assert shares.begin("b", 0.1)


def test_between_two_blocks_a_client_still_competes_and_later_not():
    """Catches: everybody let loose in the moment between two blocks; a client never forgotten."""
    shares = Shares(1)
    shares.end("b", shares.begin("b", 0.0), 0.1)
    assert shares.begin("a", 0.1)
    assert shares.begin("a", 0.1 + RECENT_S / 2) is None
    assert shares.begin("a", 0.1 + RECENT_S)
    assert shares.competing(0.1 + RECENT_S) == 1


@pytest.mark.parametrize("each", [0, 2])
def test_who_is_gone_is_forgotten_also_when_nobody_has_to_wait(each):
    """Catches: memory for each address that ever asked, since nothing had to be counted."""
    shares = Shares(each)
    for number in range(1000):
        client = f"fd00::{number:x}"
        shares.end(client, shares.begin(client, float(number)), number + 0.1)
    assert len(shares._ended) == 1


@pytest.mark.parametrize(("blocks", "slow_s"), [(2, SLOW_S), (4, 1.5 * SLOW_S), (32, SLOWEST_S)])
def test_a_slow_reader_takes_no_place_of_others_behind_its_address_for_long(blocks, slow_s):
    """Catches: two slow devices behind one address that stop all others behind it; and a greedy
    client's blocks, all "slow" since they were begun side by side, and two more let in beside them.
    """
    shares = Shares(2)
    for _ in range(blocks):
        shares.begin("a", 0.0)
    shares.begin("b", 0.0)
    assert shares.begin("a", slow_s - 0.1) is None
    assert shares.begin("a", slow_s)


def test_without_a_limit_nobody_waits():
    shares = Shares(0)
    assert shares.begin("b", 0.0)
    assert all(shares.begin("a", 0.0) for _ in range(50))
    assert not shares.has_many("a")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


async def nothing():
    """Nobody needs to hear that we live."""


async def test_who_waits_is_woken_in_order_and_who_is_cancelled_holds_up_nobody():
    """Catches: a turn that is lost with whoever was cancelled while it waited."""
    sending = Sending(1, Clock())
    other, first = sending.begin("b"), sending.begin("a")
    assert other
    order = []

    async def wait(name):
        turn = await sending.wait("a", nothing, 60.0)
        order.append(name)
        sending.end("a", turn)

    tasks = []
    for name in "xyz":
        tasks.append(asyncio.create_task(wait(name)))
        await asyncio.sleep(0)
    assert sending.begin("a") is None, "nobody goes before those who wait"
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    sending.end("a", first)
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks[1:])
    assert order == ["y", "z"]
    assert sending.begin("a")


async def test_who_waits_says_that_it_lives():
    """Catches: a reader who takes its turn's wait for a stall."""
    clock = Clock()
    sending = Sending(1, clock)
    sending.begin("b")
    first = sending.begin("a")
    heard = asyncio.Event()

    async def alive():
        heard.set()

    task = asyncio.create_task(sending.wait("a", alive, 0.01))
    await asyncio.sleep(0)
    clock.now += 1.0
    async with asyncio.timeout(10):
        await heard.wait()
    sending.end("a", first)
    async with asyncio.timeout(10):
        assert await task


class Reader:
    """A request, its transport and its writer, of a reader that takes everything at once."""

    def __init__(self):
        self.written = 0

    transport = property(lambda self: self)

    def get_extra_info(self, name):
        return SimpleNamespace(setsockopt=lambda *_: None) if name == "socket" else None

    def is_closing(self):
        return False

    def write(self, data):
        self.written += len(data)

    async def drain(self):
        pass


class Here:
    """An answer whose blocks are all here, and small."""

    def __init__(self, size):
        self._size = size
        self._index = -1

    def next(self):
        self._index += 1
        return SendBytes(self._index, bytes(self._size))


@pytest.mark.parametrize("size", [4096, 60_000])
async def test_small_blocks_wait_for_their_turn_too(size):
    """Catches: what was gathered is written on the way to the turn, or at the end without one."""
    sending = Sending(2, Clock())
    assert sending.begin("b")
    turn, _ = sending.begin("a"), sending.begin("a")
    config = SimpleNamespace(alive_interval=60.0)
    node = SimpleNamespace(sending=sending, metrics=Metrics(), config=config)
    reader, tally = Reader(), _Tally(node.metrics)
    outlet = Outlet(reader, reader, chunked=True, floor=1000, grace_s=60)
    bundle = asyncio.create_task(Bundles(node)._run(Here(size), outlet, [None] * 4, tally, "a"))
    async with asyncio.timeout(20):
        while not sending.waits:
            await asyncio.sleep(0)
        assert reader.written < 1000
        sending.end("a", turn)
        await bundle
    assert reader.written > 4 * size
    assert sending.begin("a"), "the turn was given back"

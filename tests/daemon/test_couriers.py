"""A courier: whatever happens on its engine's threads, whoever waits is told."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from icnblocks.client.answers import ThrottledError
from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.engine import Hint as EngineHint
from icnblocks.client.source import Source
from icnblocks.errors import RefusedError, SourceError
from icnblocks.naming import Digest
from icnblocks.store.memory import MemoryStore
from icnblocks.testing.exchange import make_model, publish
from icnblocks.wire.frames import Reason
from icnblocks_daemon.couriers import Courier
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.overflow import Overflow
from icnblocks_daemon.pit import Fetch
from icnblocks_daemon.reasons import reason_of

URL = "http://127.0.0.1:9"
HINT = EngineHint()


class Faulty:
    """An upstream. Its answers to each block are errors, or mistakes of the program.

    They are the same whenever it is asked: after a mistake another thread may ask again.
    """

    url = URL

    def __init__(self, answers):
        self.answers = answers

    def connect(self):
        return self

    def abort(self):
        pass

    drop = revive = abort

    def bundle(self, request, *_, **__):
        raise self.answers[request.wants[0].digest]


class Desk:
    def __init__(self):
        self.refusals = asyncio.Queue()

    def refused(self, fetch, error):
        self.refusals.put_nowait((fetch.digest, type(error)))

    def faltered(self, upstream, error, wait_s):
        pass


async def test_an_upstream_that_is_busy_for_too_long_is_told_to_be_busy_and_not_gone():
    """Catches: those who wait hear, and the strategy too, that it could not be asked."""
    told = asyncio.Queue()
    desk, block = Desk(), Digest.of(b"1")
    desk.refused = lambda _, error: told.put_nowait(reason_of(error))
    courier = Courier(
        Faulty({block: ThrottledError("later", after_s=60.0)}), None, Overflow(0), desk, Metrics(),
        hint=lambda fetch: fetch.hint, retry_s=60.0, busy_s=30.0, share=True,
    )  # fmt: skip
    async with asyncio.timeout(20):
        courier.begin(Fetch(block, block, 9, URL, HINT))
        assert await told.get() is Reason.BUSY
    await asyncio.to_thread(courier.close)


async def test_what_one_was_refused_who_had_left_is_not_told_to_the_next(origin):
    """Catches: a wrong length, or another name, whose refusal is on its way when somebody else asks
    for the block: it was told to both, and remembered of what was never asked."""
    model = make_model("acme/courier", size=5000)
    publish(origin, model)
    want, told, source = model.wants[0], asyncio.Queue(), Source(origin.url, SourceOptions())
    desk = Desk()
    desk.refused = lambda fetch, error: told.put_nowait((fetch, reason_of(error)))
    desk.landed = lambda fetch: told.put_nowait((fetch, None))
    courier = Courier(
        source, MemoryStore(), Overflow(0), desk, Metrics(),
        hint=lambda fetch: fetch.hint, retry_s=60.0, busy_s=60.0, share=True,
    )  # fmt: skip
    wrong, right = (Fetch(want.digest, want.digest, n, URL, HINT) for n in (5, want.length))
    async with asyncio.timeout(20):
        courier.begin(wrong)
        await asyncio.sleep(0)  # it is ordered
        assert courier._engine.wait(20), "it is refused, and the loop does not know yet"
        assert not courier.abandon(wrong)
        courier.begin(right)
        assert await told.get() == (wrong, Reason.LENGTH)
        assert await told.get() == (right, None)
    source.close()
    await asyncio.to_thread(courier.close)


@pytest.mark.parametrize("share", [True, False])
async def test_a_mistake_on_a_thread_leaves_nobody_waiting_and_the_next_are_fetched(share):
    """The threads ended and nobody was told: all that was asked of that upstream hung for ever."""
    desk = Desk()
    one, two = Digest.of(b"1"), Digest.of(b"2")
    source = Faulty({one: ValueError("a mistake"), two: RefusedError("no")})
    courier = Courier(
        source, None, Overflow(0), desk, Metrics(),
        hint=lambda fetch: fetch.hint, retry_s=60.0, busy_s=60.0, share=share,
    )  # fmt: skip
    async with asyncio.timeout(20):
        courier.begin(Fetch(one, one, 9, URL, HINT))
        assert await desk.refusals.get() == (one, SourceError)
        courier.begin(Fetch(two, two, 9, URL, HINT))
        assert (await desk.refusals.get())[0] == two
    await asyncio.to_thread(courier.close)


@pytest.mark.parametrize("pooled", [True, False])
async def test_who_waits_is_told_also_when_the_system_has_no_threads_left(monkeypatch, pooled):
    """Catches: the mending itself needs a thread, and with it ends all that was asked for."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    desk, one = Desk(), Digest.of(b"1")
    courier = Courier(
        Faulty({one: RefusedError("no")}), None, Overflow(0), desk, Metrics(),
        hint=lambda fetch: fetch.hint, retry_s=60.0, busy_s=60.0, share=True,
    )  # fmt: skip
    if pooled:  # the thread for the mending is there
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await asyncio.to_thread(len, "")
    async with asyncio.timeout(20):
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse)
            courier.begin(Fetch(one, one, 9, URL, HINT))
            assert await desk.refusals.get() == (one, SourceError)
        courier.begin(Fetch(one, one, 9, URL, HINT))
        await desk.refusals.get()
    await asyncio.to_thread(courier.close)


async def test_what_broke_many_times_is_mended_once(monkeypatch):
    """Catches: a second mending throws the new engine away, with what it was just asked for."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    desk, wanted = Desk(), [Digest.of(bytes([number])) for number in range(3)]
    courier = Courier(
        Faulty(dict.fromkeys(wanted, RefusedError("no"))), None, Overflow(0), desk, Metrics(),
        hint=lambda fetch: EngineHint(pull=bytes(fetch.digest[:16])),
        retry_s=60.0, busy_s=60.0, share=True,
    )  # fmt: skip
    made, make = [], courier._make
    courier._make = lambda **options: made.append(make(**options)) or made[-1]
    async with asyncio.timeout(20):
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse)
            for digest in wanted:
                courier.begin(Fetch(digest, digest, 9, URL, HINT))
            told = {await desk.refusals.get() for _ in wanted}
    assert told == {(digest, SourceError) for digest in wanted}
    assert len(made) == 1
    await asyncio.to_thread(courier.close)

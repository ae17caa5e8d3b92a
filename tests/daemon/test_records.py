"""Records at an edge with clocks of one's own: ages, jumps of the wall clock, one question each."""

import asyncio
import sqlite3
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from icnblocks.client.source import RecordAnswer
from icnblocks.errors import (
    ConflictError,
    LoopError,
    NotFoundError,
    SourceError,
    StorageError,
    TrustError,
)
from icnblocks.manifest.record import fingerprint, public_bytes
from icnblocks.naming import Name
from icnblocks.store.catalog import Catalog
from icnblocks.testing.exchange import make_model
from icnblocks_daemon.coalesce import Coalesced
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.floods import EVERY_S
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.records import RETRY_S, Records

MODEL = make_model()


class Origin:
    """An upstream in this process; None for what it says means `error`: that it is gone."""

    def __init__(self, raw):
        self.raw, self.asked, self.age_s, self.stale = raw, 0, 0.0, False
        self.gate = None
        self.error = SourceError("gone")

    def refuse_loop(self, via, what):
        assert not via

    async def record(self, route, name, via, keep):
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.raw is None:
            raise self.error
        return await keep(RecordAnswer(self.raw, self.age_s, self.stale))


class World:
    def __init__(self, path):
        self.now, self.wall = 100.0, 1_800_000_000.0
        self.origin = Origin(MODEL.record(time=1_800_000_000))
        self.catalog = Catalog(path / "catalog.sqlite")
        self.begin()

    def begin(self, negative_s=5.0):
        """As after a start of the process."""
        self.metrics = Metrics()
        self.records = Records(
            self.catalog, Fib([("", "http://o")]), self.origin, self.metrics,
            lifetime_cap_s=60.0, stale_max_s=1000.0,
            clock=lambda: self.now, wall=lambda: self.wall, negative_s=negative_s,
        )  # fmt: skip

    async def get(self):
        return await self.records.get(MODEL.name)

    async def fail(self, error, times=1):
        for _ in range(times):
            with pytest.raises(error):
                await self.get()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.catalog.close()


async def test_within_its_lifetime_it_is_served_from_here_with_its_age(world):
    await world.get()
    world.now += 59
    served = await world.get()
    assert (served.age_s, served.stale, world.origin.asked) == (59, False, 1)
    world.now += 2
    await world.get()
    assert world.origin.asked == 2


@pytest.mark.parametrize("jump", [-1e8, 1e8])
async def test_a_jump_of_the_wall_clock_changes_nothing_in_a_running_process(world, jump):
    await world.get()
    world.wall += jump
    world.now += 30
    served = await world.get()
    assert (served.stale, world.origin.asked) == (False, 1)
    world.now += 31
    world.origin.raw = None
    assert (await world.get()).stale


async def test_a_clock_that_was_set_back_before_a_restart_asks_anew_and_serves_stale(world):
    await world.get()
    world.begin()
    world.wall -= 1e8
    world.origin.raw = None
    served = await world.get()
    assert (served.stale, world.origin.asked) == (True, 2)


async def test_after_a_restart_the_age_goes_on(world):
    await world.get()
    world.begin()
    world.now, world.wall = 5.0, world.wall + 20
    served = await world.get()
    assert (served.age_s, world.origin.asked) == (20, 1)


async def test_what_upstream_had_stale_is_as_old_here(world):
    world.origin.age_s, world.origin.stale = 500.0, True
    assert (await world.get()).stale
    world.now += 1
    served = await world.get()
    assert (served.stale, world.origin.asked) == (True, 2)


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_upstream_had_stale_is_asked_for_again_though_it_lives_longer_here(
    world, restarted
):
    """Catches: behind an edge with a shorter `record_cap` it was served as fresh, from the second
    time on, and what the origin says when it is back was not asked for."""
    world.origin.age_s, world.origin.stale = 11.0, True
    served = await world.get()
    assert (served.age_s, served.stale) == (11, True)
    if restarted:
        world.begin()
    world.origin.age_s, world.origin.stale = 0.0, False
    world.now, world.wall = world.now + 1, world.wall + 1
    assert not (await world.get()).stale
    assert world.origin.asked == 2


async def test_after_a_restart_it_is_as_old_as_upstream_said(world):
    """Catches: a restart made it as young as the question for it, so that it outlived its time."""
    world.origin.age_s = 50.0
    await world.get()
    world.begin()
    assert (await world.get()).age_s == 50
    world.now += 11
    await world.get()
    assert world.origin.asked == 2


async def test_stale_ends_at_its_bound(world):
    await world.get()
    world.origin.raw = None
    world.now += 999
    assert (await world.get()).stale
    world.now += 2
    with pytest.raises(SourceError):
        await world.get()


async def test_while_upstream_fails_it_is_not_asked_by_everyone(world):
    await world.get()
    world.origin.raw = None
    world.now += 61
    for _ in range(5):
        await world.get()
    assert world.origin.asked == 2
    world.now += 3
    await world.get()
    assert world.origin.asked == 3


async def test_one_question_for_all_and_it_survives_those_who_leave(world, monkeypatch):
    world.origin.gate = asyncio.Event()
    do, waiting = Coalesced.do, []

    def counted(*args, **options):
        waiting.append(args)
        return do(*args, **options)

    monkeypatch.setattr(Coalesced, "do", counted)
    first, second = (asyncio.create_task(world.get()) for _ in range(2))
    while not world.origin.asked or len(waiting) < 2:  # each looked on a thread of its own before
        await asyncio.sleep(0)
    first.cancel()
    world.origin.gate.set()
    assert (await second).raw == world.origin.raw
    assert world.origin.asked == 1
    await world.records.close()


class Ways:
    """An upstream of which `a` hears that it is a circle; the first answer waits for `gate`."""

    def __init__(self, raw):
        self.raw, self.asked = raw, []
        self.reached, self.gate = asyncio.Event(), asyncio.Event()

    def refuse_loop(self, via, what):
        pass

    async def record(self, route, name, via, keep):
        self.asked.append(via)
        if len(self.asked) == 1:
            self.reached.set()
            await self.gate.wait()
        if "a" in via:
            raise LoopError("in a circle")
        return await keep(RecordAnswer(self.raw, 0.0, False))


@pytest.mark.parametrize("known", [False, True])
async def test_a_circle_is_one_for_whom_it_is(world, monkeypatch, known):
    """Whoever asked meanwhile was told of another's circle, and it stood for all of them."""
    ways, joined, do = Ways(world.origin.raw), asyncio.Queue(), Coalesced.do

    def counted(*args, **options):
        joined.put_nowait(1)
        return do(*args, **options)

    if known:
        await world.get()
        world.now += 61
    monkeypatch.setattr(Coalesced, "do", counted)
    world.records._upstreams = ways
    a, b = frozenset("a"), frozenset("b")
    async with asyncio.timeout(20):
        circle = asyncio.create_task(world.records.get(MODEL.name, a))
        await ways.reached.wait()
        other = asyncio.create_task(world.records.get(MODEL.name, b))
        for _ in range(2):
            await joined.get()
        ways.gate.set()
        assert not (await other).stale
        if known:
            assert (await circle).stale
        else:
            with pytest.raises(LoopError):
                await circle
    assert ways.asked == [a, b]


async def test_a_circle_is_not_remembered_of_a_known_name(world):
    await world.get()
    world.now += 61
    raw, world.origin.raw, world.origin.error = world.origin.raw, None, LoopError("in a circle")
    assert (await world.get()).stale
    world.origin.raw = raw
    assert not (await world.get()).stale


async def test_what_nobody_knows_is_asked_for_once_by_all_who_waited_for_it(world, monkeypatch):
    """Catches: a hundred edges below, and each is one question more, since its way is another."""
    joined, do, origin = asyncio.Queue(), Coalesced.do, world.origin

    def counted(*args, **options):
        joined.put_nowait(1)
        return do(*args, **options)

    monkeypatch.setattr(Coalesced, "do", counted)
    monkeypatch.setattr(origin, "refuse_loop", lambda via, what: None)
    origin.raw, origin.error, origin.gate = None, NotFoundError("no such name"), asyncio.Event()
    async with asyncio.timeout(20):
        tasks = [asyncio.create_task(world.records.get(MODEL.name, frozenset(i))) for i in "abc"]
        for _ in tasks:
            await joined.get()
        origin.gate.set()
        for task in tasks:
            with pytest.raises(NotFoundError):
                await task
    assert origin.asked == 1


async def test_ones_own_question_does_not_wait_for_that_of_another_daemon(world):
    """Two daemons with each other as upstream waited for one another."""
    ways = world.records._upstreams = Ways(world.origin.raw)
    async with asyncio.timeout(20):
        circle = asyncio.create_task(world.records.get(MODEL.name, frozenset("a")))
        await ways.reached.wait()
        assert (await world.get()).raw == world.origin.raw
    circle.cancel()
    await world.records.close()


async def test_a_slow_upstream_does_not_hold_back_who_can_be_served_stale(world, monkeypatch):
    monkeypatch.setattr("icnblocks_daemon.records.PATIENCE_S", 0.01)
    await world.get()
    world.now += 61
    world.origin.gate = asyncio.Event()
    assert (await world.get()).stale
    await world.records.close()


async def test_an_operator_gets_out_of_a_lost_key_by_the_trust_file(world):
    await world.get()
    lost, fresh = world.origin.raw, Ed25519PrivateKey.from_private_bytes(b"f" * 32)
    world.origin.raw = MODEL.record(key=fresh, time=1_800_000_000)
    world.now += 61
    assert (await world.get()).raw == lost, "a stranger's key is not followed"
    world.records.trusted = {MODEL.name.publisher: (fingerprint(public_bytes(fresh)),)}
    world.now += 61
    served = await world.get()
    assert (served.raw, served.stale) == (world.origin.raw, False)


async def test_a_rotation_does_not_spoil_the_publishers_other_records(world):
    await world.get()
    world.catalog.set_publisher_key(MODEL.name.publisher, "0" * 64)  # another model was rotated
    world.now += 61
    served = await world.get()
    assert (served.stale, world.origin.asked) == (False, 2)
    assert world.catalog.publisher_key(MODEL.name.publisher) == "0" * 64


async def test_one_that_the_disk_does_not_take_makes_the_old_one_no_fresher(world, monkeypatch):
    """The old one was served as confirmed just now: whoever came next got what was replaced."""
    old = world.origin.raw
    await world.get()
    world.now += 61
    world.origin.raw = MODEL.record(seq=2, time=1_800_000_000)

    def refuse(*_):
        raise StorageError("disk full")

    monkeypatch.setattr(world.catalog, "put_record", refuse)
    for _ in range(2):
        served = await world.get()
        assert (served.raw, served.stale) == (world.origin.raw, False)
    world.origin.raw = None
    served = await world.get()
    assert (served.raw, served.age_s, served.stale) == (old, 61, True)


async def test_names_that_nobody_knows_are_not_remembered(world):
    """Catches: memory, and a line of the log, for each name that somebody makes up."""
    world.origin.raw = None
    for number in range(20):
        with pytest.raises(SourceError):
            await world.records.get(Name("acme", f"m{number}"))
    assert not world.records._failed
    assert not world.records._missing


async def test_a_name_that_no_upstream_knows_is_asked_for_once_in_a_while(world):
    """Each who asked was one question more at the origin."""
    raw, world.origin.raw = world.origin.raw, None
    world.origin.error = NotFoundError("no such name")
    await world.fail(NotFoundError, 5)
    assert world.origin.asked == 1
    world.origin.raw = raw
    world.now += 4.9
    await world.fail(NotFoundError)
    world.now += 0.2
    assert (await world.get()).raw == raw
    assert (world.origin.asked, len(world.records._missing)) == (2, 0)


async def test_with_a_negative_ttl_of_0_each_is_asked_for(world):
    world.begin(negative_s=0.0)
    world.origin.raw, world.origin.error = None, NotFoundError("no such name")
    await world.fail(NotFoundError, 5)
    assert world.origin.asked == 5


@pytest.mark.parametrize("error", [SourceError, LoopError])
async def test_failures_and_circles_are_not_remembered_as_unknown_names(world, error):
    world.origin.raw, world.origin.error = None, error("not now")
    await world.fail(error, 5)
    assert (world.origin.asked, len(world.records._missing)) == (5, 0)


async def test_what_is_published_here_is_not_hidden(world):
    raw, world.origin.raw = world.origin.raw, None
    world.origin.error = NotFoundError("no such name")
    await world.fail(NotFoundError)
    await world.records.put(MODEL.name, raw)
    assert (await world.get()).raw == raw
    assert not world.records._missing


async def test_a_refused_record_is_asked_for_seldom_and_logged_more_seldom(world, caplog):
    """Whoever asked made a question at the origin and an ERROR in the log."""
    world.records.trusted = {MODEL.name.publisher: ("0" * 64,)}
    await world.fail(TrustError, 5)
    assert world.origin.asked == 1
    world.now += RETRY_S
    await world.fail(TrustError)
    assert world.origin.asked == 2
    world.now += EVERY_S
    await world.fail(TrustError)
    lines = [line for line in caplog.records if "was refused" in line.message]
    assert [line.times for line in lines] == [1, 2]


async def test_records_that_a_full_disk_does_not_take_are_one_line(world, caplog, monkeypatch):
    def refuse(*_):
        raise StorageError("disk full")

    monkeypatch.setattr(world.catalog, "put_record", refuse)
    for _ in range(5):
        assert (await world.get()).raw == world.origin.raw
    assert [line.times for line in caplog.records] == [1]


async def test_records_that_are_not_renewed_are_one_line_a_minute(world, caplog):
    await world.get()
    world.now, world.origin.raw = world.now + 61, None
    for _ in range(5):
        world.now += RETRY_S
        assert (await world.get()).stale
    assert (world.origin.asked, [line.times for line in caplog.records]) == (6, [1])


@pytest.mark.parametrize("published", [True, False])
async def test_whoever_leaves_while_a_record_is_written_lets_no_other_write(
    world, monkeypatch, published
):
    """The lock was given back while the thread still wrote: it guarded nothing any more."""
    reached, opened, put = threading.Event(), threading.Event(), world.catalog.put_record

    def held(*args):
        reached.set()
        assert opened.wait(20)
        put(*args)

    monkeypatch.setattr(world.catalog, "put_record", held)
    records, raw = world.records, world.origin.raw
    work = records.put(MODEL.name, raw) if published else records.get(MODEL.name)
    leaving = asyncio.create_task(work)
    await asyncio.to_thread(reached.wait, 20)
    leaving.cancel()
    await asyncio.wait([leaving])
    closing = asyncio.create_task(records.close())  # ends the question that goes on for others
    for _ in range(10):
        await asyncio.sleep(0)
    assert records._writing.locked()
    opened.set()
    await closing
    assert world.catalog.record(MODEL.name).raw == raw, "the catalog would be closed now"


ROT = "UPDATE records SET raw = CAST(substr(raw, 1, 40) || x'00' || substr(raw, 42) AS BLOB)"


def rot(path):
    with sqlite3.connect(path / "catalog.sqlite") as db:
        db.execute(ROT)
    db.close()


@pytest.mark.parametrize("seq", [3, 4])
async def test_a_record_that_has_rotted_is_asked_for_anew(world, tmp_path, seq):
    """Catches: a name that is refused as tampered with until the catalog is thrown away."""
    world.origin.raw = MODEL.record(seq=3, time=1_800_000_000)
    await world.get()
    rot(tmp_path)
    world.origin.raw = MODEL.record(seq=2, time=1_800_000_000)
    await world.fail(TrustError)  # its number still binds
    world.now += RETRY_S
    world.origin.raw = MODEL.record(seq=seq, time=1_800_000_000)
    assert (await world.get()).raw == world.origin.raw
    world.origin.raw = None
    assert not (await world.get()).stale


async def test_who_publishes_second_at_the_same_moment_is_told_what_to_do(world):
    """Catches: advice to give a number, which no command takes."""
    await world.records.put(MODEL.name, MODEL.record(seq=1))
    with pytest.raises(ConflictError) as caught:
        await world.records.put(MODEL.name, MODEL.record(seq=1, lifetime=61))
    assert "somebody else published it meanwhile" in caught.value.hint
    assert "run it again" in caught.value.hint

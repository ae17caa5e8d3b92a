"""Asking siblings what they hold, while one of them is slow, dead, or asked for very much."""

import asyncio
import gc
import socket
import threading

import pytest

from icnblocks.errors import SourceError
from icnblocks.naming import Digest
from icnblocks_daemon import sibling_maps as module
from icnblocks_daemon.config import Config
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.sibling_maps import SiblingMaps
from icnblocks_daemon.siblings import Siblings
from icnblocks_daemon.strategies import Failure, make_strategy
from icnblocks_daemon.upstreams import Upstreams

DEAD, WELL = "http://dead", "http://well"
SOON_S = 20.0
BLOCK = Digest.of(b"block")
MODELS = [Digest.of(b"model %d" % number) for number in range(9)]


class World:
    """Two siblings, of which one says nothing until it is let go; also holdings and manifests."""

    urls, policy, content = (), None, property(lambda self: self)

    def __init__(self):
        self.strategy = make_strategy("best")
        self.siblings = Siblings([DEAD, WELL])
        self.let_go, self.fails = threading.Event(), True
        self.asked = {DEAD: 0, WELL: 0}
        self.maps = SiblingMaps(
            self.siblings, self, self, lambda _: self, wait_s=SOON_S, clock=lambda: 5.0
        )

    def lengths(self):
        return {BLOCK: 10}

    def held_by(self, url, manifest, count):
        self.asked[url] += 1
        if url == DEAD:
            assert self.let_go.wait(60)
            if self.fails:
                raise SourceError("no route to host")
        return b"\1"

    def look(self):
        return [asyncio.create_task(self.maps.look(model)) for model in MODELS]

    async def until(self, condition):
        async with asyncio.timeout(SOON_S):
            while not condition():
                await asyncio.sleep(0)

    def holders(self):
        return [self.siblings.holders(model, BLOCK) for model in MODELS]


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(module, "_MAP_S", 60.0)
    world = World()
    yield world
    world.let_go.set()
    await world.maps.close()


async def test_a_dead_sibling_takes_no_turns_from_the_others(world):
    """Catches: questions to the dead one take all threads, and those in good health are blamed
    for what they were not asked."""
    looks = world.look()
    await world.until(lambda: world.asked[WELL] == len(MODELS))
    assert world.asked[DEAD] < len(MODELS)
    world.let_go.set()
    await asyncio.gather(*looks)
    assert world.holders() == [(WELL,)] * len(MODELS)
    assert world.strategy.standing(DEAD).why is Failure.BROKEN
    assert world.strategy.standing(WELL).why is None
    assert world.asked[DEAD] < len(MODELS), "it rests, so those who stood in line do not ask it"


async def test_who_has_had_no_turn_blames_nobody(world, monkeypatch):
    """Catches: a sibling rests since it was asked for too many models at once."""
    world.fails = False
    looks = world.look()
    await world.until(world.maps._lines[DEAD].locked)
    monkeypatch.setattr(module, "_MAP_S", 0.0)
    another = Digest.of(b"another")
    await world.maps.look(another)
    assert not world.siblings.is_due(another, 5.0), "that it is not known is known"
    assert world.strategy.standing(DEAD).why is None
    world.let_go.set()
    await asyncio.gather(*looks)


async def test_what_fails_after_all_have_left_is_read(world, monkeypatch):
    """Catches: a traceback in the log of a daemon that stops, or whose sibling is late to fail."""
    unread = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unread.append(told))
    monkeypatch.setattr(module._LOG, "disabled", True)  # what is logged keeps the question alive
    monkeypatch.setattr(module, "_MAP_S", 0.05)
    await world.maps.look(MODELS[0])
    assert world.asked[DEAD], "and has not answered"
    world.let_go.set()
    await world.until(lambda: world.maps._lines[DEAD]._value == module._AT_ONCE)
    gc.collect()
    assert not unread


async def test_a_question_to_a_silent_sibling_ends_when_the_daemon_does(tmp_path):
    """Catches: the daemon's exit waits until the sibling has had its time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        upstream = (("", "http://127.0.0.1:9"),)
        upstreams = Upstreams(
            Config(store=tmp_path, upstream=upstream, sibling=(url,)), Fib(upstream),
            make_strategy("best"), Metrics(), node_id="0" * 16, clock=lambda: 5.0,
        )  # fmt: skip
        question = asyncio.create_task(asyncio.to_thread(upstreams.held_by, url, MODELS[0], 1))
        (taken, _) = await asyncio.to_thread(silent.accept)
        with taken:
            assert await asyncio.to_thread(taken.recv, 3) == b"GET"
            await upstreams.close()
            with pytest.raises(SourceError, match="cancelled"):
                await question

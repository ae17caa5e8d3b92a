"""An upstream that takes questions for records and manifests, and answers none: frozen, or slow."""

import asyncio
import gc
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from icnblocks.errors import NotFoundError, SourceError
from icnblocks.testing.exchange import call, make_model, publish, record_path
from icnblocks.testing.lying import LyingServer
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks_daemon import upstreams as module
from icnblocks_daemon.config import Config
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.questions import NoTurnError, Questions, Race
from icnblocks_daemon.strategies import Failure, make_strategy
from icnblocks_daemon.upstreams import Upstreams

MODEL = make_model("p1/model")
FIRST, SECOND = "http://127.0.0.1:9", "http://127.0.0.1:10"
ROUTE = (FIRST, SECOND)
SOON_S = 20.0
"""Far less than the minute for which an upstream may be silent by default."""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    with start_edge(tmp_path_factory.mktemp("frozen") / "origin") as origin:
        origin.process.send_signal(signal.SIGSTOP)
        try:
            yield origin
        finally:
            origin.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    with start_edge(tmp_path_factory.mktemp("healthy") / "origin") as origin:
        publish(origin, MODEL)
        yield origin


@pytest.mark.parametrize("strategy", ["fail-over", "best", "spread", "hedge"])
def test_a_frozen_first_upstream_costs_a_new_name_a_second(frozen, healthy, strategy, tmp_path):
    """The second one was asked after a minute, when the device had given up."""
    with (
        start_edge(tmp_path / "edge", "--upstream", frozen.url, "--upstream", healthy.url,
                   "--strategy", strategy) as edge,
    ):  # fmt: skip
        began = time.monotonic()
        assert call(edge, "GET", record_path(MODEL.name)).status == 200
        manifest = call(edge, "GET", f"/v1/manifests/{MODEL.digest}", ICN_Name=str(MODEL.name))
        assert manifest.body == MODEL.raw
        assert time.monotonic() - began < SOON_S
        shown = {each["url"]: each for each in edge.status()["upstreams"]}
        assert shown[frozen.url]["why"] == "slow"
        assert shown[healthy.url]["why"] is None
        assert edge.stop(timeout_s=SOON_S) == 0, "what is asked of the frozen one holds it up"
        assert "Traceback" not in edge.logged()


def test_a_frozen_upstream_holds_up_no_names_of_others(healthy, tmp_path):
    """Eight questions for names of one publisher held the threads that were for all upstreams."""
    thaw = threading.Event()
    with (
        LyingServer({}, respond=lambda _: thaw.wait(60) and None) as silent,
        start_edge(tmp_path / "edge", "--upstream", f"p0={silent.url}",
                   "--upstream", f"p1={healthy.url}") as edge,
        ThreadPoolExecutor(12) as pool,
    ):  # fmt: skip
        try:
            paths = [f"/v1/records/p0/x{number}/main" for number in range(12)]
            asked = [pool.submit(call, edge, "GET", path) for path in paths]
            poll_until(lambda: len(silent.requests) == 8, what="it holds all that it can")
            began = time.monotonic()
            assert call(edge, "GET", record_path(MODEL.name)).status == 200
            assert time.monotonic() - began < SOON_S
            assert len(silent.requests) == 8, "no more of them are asked at once"
        finally:
            thaw.set()
        assert {each.result(20).status for each in asked} == {404}


def test_who_leaves_has_nothing_asked_that_was_not_asked_yet(tmp_path):
    """Catches: questions of clients that are gone stand before those of clients that wait."""
    thaw = threading.Event()
    with (
        LyingServer({}, respond=lambda _: thaw.wait(60) and None) as silent,
        start_edge(tmp_path / "edge", "--upstream", silent.url) as edge,
    ):
        try:
            with ExitStack() as leaving:
                for number in range(12):
                    client = socket.create_connection(("127.0.0.1", edge.port))
                    leaving.enter_context(client)
                    path = f"/v1/records/p0/x{number}/main"
                    client.sendall(f"GET {path} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())
                poll_until(lambda: edge.metric("icn_requests_in_flight") == 12)
                poll_until(lambda: len(silent.requests) == 8)
            poll_until(lambda: edge.metric("icn_requests_in_flight") == 0)
        finally:
            thaw.set()
        assert call(edge, "GET", record_path(MODEL.name)).status == 404
        assert len(silent.requests) == 9


async def test_what_waits_behind_a_frozen_upstream_is_refused_in_time():
    """It waited for its turn as long as that took: a minute for each eight before it."""
    thaw, began = threading.Event(), []

    def question(source):
        began.append(source)
        return thaw.wait(60)

    questions = Questions({FIRST: None}, at_once=8, turn_s=0.05)
    asked = [asyncio.create_task(questions.ask(FIRST, question)) for _ in range(9)]
    async with asyncio.timeout(SOON_S):
        refused, held = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(SourceError, match="is slow"):
            await refused.pop()
        thaw.set()
        assert await asyncio.gather(*held) == [True] * 8, "who had a turn is not cut off"
        assert await questions.ask(FIRST, lambda _: "free again") == "free again"
    assert len(began) == 8, "nobody waits for the answer to the ninth"
    questions.close()


class Ahead:
    """Two questions that one upstream is asked, one at a time, until each is let go."""

    def __init__(self, questions):
        self.begun = [threading.Event() for _ in range(2)]
        self.let_go = [threading.Event() for _ in range(2)]
        self.asked = [
            asyncio.create_task(questions.ask(FIRST, lambda _, n=n: self.hold(n))) for n in range(2)
        ]

    def hold(self, number):
        self.begun[number].set()
        assert self.let_go[number].wait(60)

    async def until_begun(self, number):
        assert await asyncio.to_thread(self.begun[number].wait, SOON_S)

    async def end(self):
        for event in self.let_go:
            event.set()
        await asyncio.gather(*self.asked)


async def test_a_question_behind_others_that_are_answered_says_so_and_not_that_it_is_slow():
    """Catches: a healthy upstream is blamed for the number of the questions that it is asked."""
    questions = Questions({FIRST: None}, at_once=1, turn_s=60.0)
    ahead = Ahead(questions)
    await ahead.until_begun(0)
    turn = questions.turn(FIRST)
    assert not turn.held_up, "nothing was answered since"
    ahead.let_go[0].set()
    await ahead.until_begun(1)
    questions._turn_s = 0.01
    with pytest.raises(NoTurnError, match="too many questions"):
        await questions.ask(FIRST, lambda _: None, turn)
    await ahead.end()
    questions.close()


class Asking:
    """An edge's upstream side whose upstreams answer when they are told to."""

    def __init__(self, path):
        self.strategy = make_strategy("fail-over")
        self.upstreams = Upstreams(
            Config(store=path, upstream=tuple(("", url) for url in ROUTE)),
            Fib([("", url) for url in ROUTE]), self.strategy, Metrics(),
            node_id="0" * 16, clock=lambda: 5.0,
        )  # fmt: skip
        self.begun = {url: threading.Event() for url in ROUTE}
        self.answers = {url: threading.Event() for url in ROUTE}
        self.says = {url: url for url in ROUTE}

    def question(self, source):
        self.begun[source.url].set()
        assert self.answers[source.url].wait(60)
        if isinstance(self.says[source.url], Exception):
            raise self.says[source.url]
        return self.says[source.url]

    async def keep(self, answer):
        return answer

    async def ask(self):
        before = asyncio.all_tasks()
        try:
            async with asyncio.timeout(SOON_S):
                return await self.upstreams._ask(ROUTE, "record", self.question, self.keep)
        finally:
            assert asyncio.all_tasks() <= before, "a question is left behind"

    def resting(self):
        return [url for url in ROUTE if self.strategy.resting(url, 5.0)]


@pytest.fixture
async def asking(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "SLOW_S", 0.05)
    asking = Asking(tmp_path)
    yield asking
    for event in asking.answers.values():
        event.set()
    await asking.upstreams.close()
    assert "never retrieved" not in caplog.text


async def test_who_was_slow_and_overtaken_is_asked_last_the_next_time(asking):
    asking.answers[SECOND].set()
    assert await asking.ask() == SECOND
    assert asking.strategy.standing(FIRST).why is Failure.SLOW
    assert asking.strategy.choose(ROUTE, (), 5.0) == SECOND
    assert asking.resting() == [FIRST]


async def test_who_is_slow_is_waited_for_when_the_others_have_it_not(asking):
    """Catches: a name that is "not found" since the one that has it took longer to say so."""
    asking.says[SECOND] = NotFoundError("no such name")
    asking.answers[SECOND].set()
    ask = asyncio.create_task(asking.ask())
    assert await asyncio.to_thread(asking.begun[SECOND].wait, SOON_S)
    asking.answers[FIRST].set()
    assert await ask == FIRST
    assert asking.resting() == []


async def test_who_was_asked_after_another_was_slow_is_not_slow_itself():
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    async with Race() as race:
        race.begin(FIRST, asyncio.wait_for(first, SOON_S))
        assert await race.next(0.0) is None
        race.begin(SECOND, asyncio.wait_for(second, SOON_S))
        assert (race.waiting, race.slow) == ({FIRST, SECOND}, {FIRST})
        first.set_result("late")
        url, answer = await race.next(None)
        assert (url, answer.result()) == (FIRST, "late")
        assert (race.waiting, race.slow) == ({SECOND}, set())
    assert second.cancelled()


async def test_who_is_overtaken_in_a_line_that_moves_is_not_slow(tmp_path, monkeypatch):
    """Catches: a flood of questions for made-up names has every upstream passed over in turn."""
    monkeypatch.setattr(module, "SLOW_S", 0.05)
    monkeypatch.setattr(module, "_CONTROL_THREADS", 1)
    asking = Asking(tmp_path)
    ahead = Ahead(asking.upstreams._questions)
    await ahead.until_begun(0)
    ask = asyncio.create_task(asking.ask())
    assert await asyncio.to_thread(asking.begun[SECOND].wait, SOON_S)
    ahead.let_go[0].set()
    await ahead.until_begun(1)
    asking.answers[SECOND].set()
    assert await ask == SECOND
    assert asking.resting() == []
    await ahead.end()
    await asking.upstreams.close()


async def test_an_asker_that_is_cancelled_leaves_no_question_behind(asking):
    ask = asyncio.create_task(asking.ask())
    assert await asyncio.to_thread(asking.begun[SECOND].wait, SOON_S)
    ask.cancel()
    asking.says[SECOND] = SourceError("gone")
    asking.answers[SECOND].set()  # an error that nobody waits for any more
    with pytest.raises(asyncio.CancelledError):
        await ask


async def test_an_error_that_comes_while_the_asker_leaves_is_no_matter(caplog):
    answers = threading.Event()

    def question(source):
        answers.wait(60)
        raise SourceError("gone")

    questions = Questions({FIRST: None}, at_once=8, turn_s=60.0)
    ask = asyncio.create_task(questions.ask(FIRST, question))
    await asyncio.sleep(0)
    answers.set()
    questions._lines[
        FIRST
    ].threads.shutdown()  # the answer is there, and the loop does not know it yet
    await asyncio.sleep(0)
    ask.cancel()
    await asyncio.wait([ask])
    assert ask.cancelled()
    del ask
    gc.collect()
    assert "never retrieved" not in caplog.text

"""One piece of work for several, some of whom leave, while it stands in a line or is at work."""

import asyncio
import threading

import pytest

from icnblocks.errors import SourceError
from icnblocks_daemon.coalesce import Coalesced
from icnblocks_daemon.questions import Questions, Race

UP, OTHER = "http://127.0.0.1:9", "http://127.0.0.1:10"
SOON_S = 20.0


class Line:
    """An upstream that is asked one question at a time, by coalesced work, and its askers."""

    def __init__(self):
        self.questions = Questions({UP: None}, at_once=1, turn_s=60.0)
        self.coalesced = Coalesced()
        self.waiting, self.asked = [], []
        self.begun, self.let_go = threading.Event(), threading.Event()

    def question(self, key):
        self.asked.append(key)
        self.begun.set()
        assert self.let_go.wait(60)
        return key

    def ask(self, key, **terms):
        async def work():
            self.waiting.append(key)
            return await self.questions.ask(UP, lambda _: self.question(key))

        return asyncio.create_task(self.coalesced.do(key, work, **terms))

    async def until(self, condition):
        async with asyncio.timeout(SOON_S):
            while not condition():
                await asyncio.sleep(0)

    async def until_waiting(self, key):
        """Until its question stands in the line, behind the one that is held."""
        await self.until(lambda: key in self.waiting)

    async def turns(self):
        """Whoever was cancelled, or is to begin, has done so when this returns."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def end(self):
        """All questions that are still to be asked were asked when this returns."""
        await self.turns()
        self.let_go.set()
        await self.questions.ask(UP, lambda _: None)


async def leave(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.fixture
async def line():
    line = Line()
    line.first = line.ask("first")
    assert await asyncio.to_thread(line.begun.wait, SOON_S)
    yield line
    line.let_go.set()
    await line.coalesced.close()
    line.questions.close()


async def test_what_stands_in_line_is_given_up_when_the_last_who_wants_it_leaves(line):
    """Catches: whoever asks for made-up names and leaves at once, again and again, fills the line
    of an upstream, and honest questions have no turn in time."""
    one, another = line.ask("second"), line.ask("second")
    await line.until_waiting("second")
    await leave(one)
    assert len(line.coalesced) == 2, "somebody still wants it"
    await leave(another)
    assert len(line.coalesced) == 1
    await line.end()
    assert await line.first == "first"
    assert line.asked == ["first"]


async def test_who_wants_what_was_given_up_has_it_begun_anew(line):
    """Catches: it is told that it was cancelled, or the new one is forgotten with the old one."""
    early = line.ask("second")
    await line.until_waiting("second")
    early.cancel()
    late = line.ask("second")
    await asyncio.wait([early])
    await line.turns()
    later = line.ask("second")
    await line.end()
    assert await late == await later == "second"
    assert line.asked == ["first", "second"]


async def test_who_leaves_before_it_stands_in_line_keeps_nobody_from_a_turn(line):
    """Catches: nobody looks again when it comes there."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def work():
        reached.set()
        await go.wait()
        return await line.questions.ask(UP, lambda _: line.question("second"))

    leaving = asyncio.create_task(line.coalesced.do("second", work))
    await reached.wait()
    await leave(leaving)
    assert len(line.coalesced) == 2, "so far it is in nobody's way"
    go.set()
    await line.until(lambda: len(line.coalesced) == 1)
    await line.end()
    assert line.asked == ["first"]


async def test_what_had_its_turn_goes_on_when_all_have_left(line):
    """Catches: what an upstream was asked for is thrown away, and asked for again by the next."""
    await leave(line.first)
    assert len(line.coalesced) == 1
    joined = line.ask("first")
    await line.end()
    assert await joined == "first"
    assert line.asked == ["first"]


class Two(Line):
    """Work that waits for its turn at one upstream, and is asked of another one meanwhile."""

    def __init__(self):
        super().__init__()
        self.questions = Questions({UP: None, OTHER: None}, at_once=1, turn_s=60.0)
        self.other_begun, self.other_ends = threading.Event(), threading.Event()
        self.says, self.ended = SourceError("gone"), asyncio.Event()

    def other(self):
        self.other_begun.set()
        assert self.other_ends.wait(60)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def work(self):
        async with Race() as race:
            race.begin(UP, self.questions.ask(UP, lambda _: self.question("second")))
            race.begin(OTHER, self.questions.ask(OTHER, lambda _: self.other()))
            while True:
                _, answer = await race.next(None)
                if answer.exception() is None:
                    return answer.result()
                self.ended.set()

    async def begin(self):
        """Until the other is being asked, and the first one by somebody else."""
        first = asyncio.create_task(self.questions.ask(UP, lambda _: self.question("first")))
        assert await asyncio.to_thread(self.begun.wait, SOON_S)
        wanted = asyncio.create_task(self.coalesced.do("second", self.work))
        assert await asyncio.to_thread(self.other_begun.wait, SOON_S)
        return first, wanted


@pytest.fixture
async def two():
    two = Two()
    yield two
    two.other_ends.set()
    two.let_go.set()
    two.questions.close()


async def test_what_failed_at_one_upstream_and_stands_in_line_at_another_is_given_up(two):
    """Catches: one turn anywhere, as at an upstream that refuses connections, and what all have
    left keeps its place before honest questions at all others."""
    first, wanted = await two.begin()
    two.other_ends.set()
    await two.ended.wait()
    assert "second" in two.coalesced._tasks, "somebody wants it"
    await leave(wanted)
    assert "second" not in two.coalesced._tasks
    await two.end()
    assert await first == "first"
    assert "second" not in two.asked


@pytest.mark.parametrize("gave", [True, False])
async def test_what_all_have_left_goes_on_where_it_has_its_turn_unless_that_is_in_vain(two, gave):
    """Catches: nobody looks again when that turn has failed; or its outcome is thrown away."""
    first, wanted = await two.begin()
    task = two.coalesced._tasks["second"].task
    await leave(wanted)
    assert "second" in two.coalesced._tasks
    if gave:
        two.says = "answer"
    two.other_ends.set()
    await two.until(task.done)
    assert task.cancelled() is not gave
    assert not gave or task.result() == "answer"
    await two.end()
    await first


async def test_who_has_lost_patience_has_it_asked_all_the_same(line):
    """Catches: where upstream is slower than that, a record is never renewed."""
    impatient = line.ask("second", patience_s=0.01)
    with pytest.raises(TimeoutError):
        await impatient
    await line.end()
    assert line.asked == ["first", "second"]


async def test_closing_in_the_middle_is_no_error(line):
    """Catches: who is told that it was cancelled gives up what is gone already."""
    waiting = line.ask("second")
    await line.until_waiting("second")
    await line.coalesced.close()
    await asyncio.wait([line.first, waiting])
    assert line.first.cancelled()
    assert waiting.cancelled()

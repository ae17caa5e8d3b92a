"""Uploads: several at once, each once, fewer when the origin is busy, and no hanging at the end."""

import os
import signal
import threading
from itertools import count
from pathlib import Path

import pytest

from icnblocks.client.patience import Waiter
from icnblocks.client.source import ThrottledError
from icnblocks.errors import RefusedError
from icnblocks.publish.uploads import UPLOADS_AT_ONCE, Width, upload
from icnblocks.testing.device import Device
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.testing.processes import poll_until, start_edge


class _Sink:
    """Takes bodies as an origin does, from several threads, and refuses one of them."""

    waiter = Waiter(0.0)

    def __init__(self, refused=None):
        self.taken = []
        self._refused = refused

    def upload(self, bodies):
        for body in bodies:
            if body == self._refused:
                raise RefusedError("not this one")
            self.taken.append(body)


def test_bodies_are_sent_by_several_threads_each_once():
    sink = _Sink()
    sent = [b"%d" % number for number in range(1000)]
    counted = []
    upload(sink, ((body, len(body)) for body in sent), counted.append)
    assert sum(counted) == sum(map(len, sent))
    assert sorted(sink.taken) == sorted(sent)


def test_a_refused_body_ends_the_upload_with_its_reason_and_no_more_are_drawn():
    drawn = []

    def bodies():
        for number in range(100_000):
            drawn.append(number)
            yield b"%d" % number, 1

    with pytest.raises(RefusedError, match="not this one"):
        upload(_Sink(refused=b"5"), bodies(), lambda _: None)
    assert len(drawn) < 100_000


def test_no_more_bodies_are_in_memory_than_are_under_way():
    """Each waits until as many as may be at once have come: so at least that many, and no more."""
    together = threading.Barrier(UPLOADS_AT_ONCE, timeout=30)
    drawn = []

    class Slow:
        waiter = Waiter(0.0)

        def upload(self, bodies):
            together.wait()
            assert len(drawn) - len(done) <= UPLOADS_AT_ONCE + 1
            done.extend(bodies)

    done = []

    def bodies():
        for number in range(3 * UPLOADS_AT_ONCE):
            drawn.append(number)
            yield b"%d" % number, 1

    upload(Slow(), bodies(), lambda _: None)
    assert len(done) == 3 * UPLOADS_AT_ONCE


class _Busy:
    """An origin that refuses all bodies of the first rounds; a round ends with a wait.

    `after_s` is given the number of the body in its round, from 1, and says for how long.

    Attributes:
        came: how many bodies came in each round.
        waits: for how long it was left alone.
        most: so many were under way at once after the rounds of refusals.
    """

    def __init__(self, rounds, after_s, budget_s=60.0):
        self.came, self.waits, self.taken, self.most = [0], [], [], 0
        self.waiter = Waiter(
            budget_s, clock=lambda: sum(self.waits), pause=self._pause, chance=lambda: 0.0
        )
        self._rounds, self._after_s = rounds, after_s
        self._lock = threading.Lock()
        self._running = 0

    def _pause(self, seconds):
        assert not self._running, "it asked to be left alone"
        assert len(self.waits) < 100, "it is waited for for ever"
        self.waits.append(seconds)
        self.came.append(0)

    def upload(self, bodies):
        with self._lock:
            self._running += 1
            self.came[-1] += 1
            number = self.came[-1]
        try:
            self._answer(*bodies, number)
        finally:
            with self._lock:
                self._running -= 1

    def _answer(self, body, number):
        if len(self.waits) < self._rounds:
            raise ThrottledError("busy", after_s=self._after_s(number))
        self.most = max(self.most, self._running)
        self.taken.append(body)


def numbered(many):
    return ((b"%d" % number, 1) for number in range(many))


def test_a_busy_origin_is_left_alone_then_sent_less_and_gets_each_body_once():
    origin, told = _Busy(3, float), []
    upload(origin, numbered(50), told.append)
    assert origin.came[:3] == [8, 4, 2]
    assert origin.most == 1
    assert origin.waits == [8.0, 4.0, 2.0], "the longest that one of the round was told"
    assert len(told) == 50
    assert sorted(map(int, origin.taken)) == list(range(50))


def test_an_origin_that_stays_busy_is_given_up_and_the_waits_were_bounded():
    """Catches: a publish that waits for ever, or so long as an origin likes."""
    origin = _Busy(1000, lambda _: 4.0, budget_s=10.0)
    with pytest.raises(ThrottledError):
        upload(origin, numbered(50), lambda _: None)
    assert origin.waits == [4.0, 4.0]


def test_an_origin_that_takes_something_between_its_refusals_is_not_given_up():
    """Catches: refusals that count together, however much was taken between them."""

    class EverySecond(_Busy):
        def _answer(self, body, number):
            if next(asked) % 2:
                raise ThrottledError("busy", after_s=4.0)
            self.taken.append(body)

    asked = count()
    origin = EverySecond(0, float, budget_s=10.0)
    upload(origin, numbered(30), lambda _: None)
    assert sum(origin.waits) > 10.0
    assert sorted(map(int, origin.taken)) == list(range(30))


def test_the_width_is_halved_to_one_at_least_and_grows_by_one_in_quiet_whiles():
    width = Width(8)
    assert width.at(1000.0) == 8
    width.refused(8, 1000.0)
    assert width.at(1029.0) == 4
    assert [width.at(1030.0), width.at(1059.0), width.at(1060.0)] == [5, 5, 6]
    for _ in range(5):
        width.refused(8, 2000.0)
    assert width.at(2001.0) == 1
    assert [width.at(3000.0 + 30.0 * number) for number in range(9)] == [2, 3, 4, 5, 6, 7, 8, 8, 8]


def test_what_was_few_under_way_is_halved_too():
    """Catches: the last three bodies, sent three at once again and again."""
    width = Width(8)
    width.refused(3, 0.0)
    assert width.at(1.0) == 1


def test_an_interrupt_does_not_wait_for_what_is_under_way():
    go = threading.Event()

    class Hanging:
        waiter = Waiter(0.0)

        def upload(self, bodies):
            assert bodies == [b"0"] or go.wait(60)

    def interrupt(_):
        raise KeyboardInterrupt

    hung = threading.Timer(20, go.set)
    hung.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            upload(Hanging(), numbered(8), interrupt)
        assert not go.is_set()
    finally:
        go.set()
        hung.cancel()
        hung.join()


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(os.urandom(20_000_000))
    return tmp_path / "model"


def test_a_publish_to_a_daemon_that_takes_two_requests_of_a_client_ends_well(model, tmp_path):
    """Catches: eight uploads at once that trip the limit, and end with its refusal."""
    publisher = Device(tmp_path / "publisher")
    with start_edge(tmp_path / "origin", "--max-client-requests", "2") as origin:
        done = publisher.publish(model, "acme/model", origin.url)
        assert done["bytes_sent"] == 20_000_000
        refused = origin.metric("icn_requests_limited_total", limit="client")
        assert 0 < refused <= 8 + 4, "what is refused is sent again, but fewer at a time"
        pulled = Path(Device(tmp_path / "device").fetch("acme/model", origin.url)["path"])
    assert (pulled / "file").read_bytes() == (model / "file").read_bytes()


def test_ctrl_c_ends_the_wait_for_a_busy_origin_at_once(model, tmp_path):
    """The second question shows that it waits; it is told to wait for longer then."""
    publisher, asked = Device(tmp_path / "publisher"), []

    def respond(request):
        asked.append(request.path)
        return Reply(429, b"", {"Retry-After": "50" if asked[1:] else "0"})

    with LyingServer({}, respond=respond) as server:
        process = publisher.start("publish", model, "acme/model", "--to", server.url)
        poll_until(lambda: asked[1:] or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in err

"""The access trace as a file: whole lines only, whatever happened to it and to whoever wrote it."""

import json
import os
import resource
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icnblocks.cache.replay.lines import read_trace
from icnblocks.errors import BusyError, UsageError
from icnblocks.naming import Digest
from icnblocks.testing.exchange import make_model
from icnblocks_daemon import trace_log
from icnblocks_daemon.trace_log import TraceLog

ONE, TWO = make_model(seed=1, size=9000, block_bytes=4096), make_model(seed=2, size=100)
KNOWN = {model.digest: model.manifest for model in (ONE, TWO)}


class Clocks:
    def __init__(self, wall=1000.0):
        self.mono, self.start = 5.0, wall

    def clock(self):
        return self.mono

    def wall(self):
        return self.start


def open_log(path, clocks=None):
    clocks = clocks or Clocks()
    return TraceLog(path, KNOWN.get, clocks.clock, clocks.wall)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def wrote(path, *digests, wall=1000.0):
    log = open_log(path, Clocks(wall))
    for digest in digests:
        log.requested(digest)
    log.close()


def test_a_model_is_told_once_before_it_is_first_asked_for(tmp_path):
    log = open_log(tmp_path / "t")
    log.requested(ONE.digest)
    log.requested(ONE.digest)
    log.learnt(TWO.digest)
    log.learnt(ONE.digest)
    log.requested(Digest.of(b"nobody knows this"))
    log.close()
    first, *gets, second = lines(tmp_path / "t")
    assert first["model"] == str(ONE.digest)
    assert first["blocks"] == [[str(want.digest), want.length] for want in ONE.wants]
    assert gets == [{"t": 1000.0, "get": str(ONE.digest)}] * 2
    assert second["model"] == str(TWO.digest)


def test_time_never_runs_backward_over_a_restart_with_a_clock_that_was_set_back(tmp_path):
    wrote(tmp_path / "t", ONE.digest, wall=2000.0)
    wrote(tmp_path / "t", ONE.digest, TWO.digest, wall=1500.0)
    wrote(tmp_path / "t", TWO.digest, wall=2500.0)
    trace = read_trace(str(tmp_path / "t"))
    assert list(trace.times) == [2000.0, 2000.0, 2000.0, 2500.0]


@given(data=st.data())
def test_a_trace_cut_anywhere_is_continued_as_if_the_torn_line_never_was(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "t"
    wrote(path, ONE.digest, TWO.digest)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    lost = data.draw(st.binary(max_size=3)) if 9 <= at < len(whole) else b""
    path.write_bytes(whole[:at] + lost.replace(b"\n", b"\0"))
    wrote(path, TWO.digest)
    kept = whole[: whole.rfind(b"\n", 0, at) + 1]
    assert path.read_bytes().startswith(kept)
    assert len(read_trace(str(path))) == kept.count(b'"get"') + 1


def test_what_is_no_trace_is_not_touched(tmp_path):
    for text in ("127.0.0.1 localhost", '{\n "a": 1}', '{"t'):
        (tmp_path / "t").write_text(text)
        if text == '{"t':  # ours, torn in its first bytes
            open_log(tmp_path / "t").close()
            continue
        with pytest.raises(UsageError, match="not a trace"):
            open_log(tmp_path / "t")
        assert (tmp_path / "t").read_text() == text
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a plain file"):
        open_log(tmp_path / "pipe")


def test_what_only_begins_with_zeros_is_not_cut_off_as_torn(tmp_path):
    """Disk images, fonts and films begin with zeros: they were emptied."""
    path = tmp_path / "film.mp4"
    film = b"\0\0\0\x18ftypmp42" + bytes(5000)
    path.write_bytes(film)
    with pytest.raises(UsageError, match="not a trace"):
        open_log(path)
    assert path.read_bytes() == film
    path.write_bytes(bytes(5000))  # what a power cut leaves of a new trace
    wrote(path, ONE.digest)
    assert len(read_trace(str(path))) == 1


@pytest.mark.parametrize("lost", [b'\0\0\0,"get":"x"}\n', b'{"t":"x","get":"x"}\n', b'["get"]\n'])
def test_a_line_that_was_damaged_in_the_middle_hinders_no_start(tmp_path, lost):
    """It was taken for the last request, and the daemon ended with a traceback."""
    path = tmp_path / "t"
    wrote(path, ONE.digest, wall=2000.0)
    told = open_log(tmp_path / "told")
    told.learnt(TWO.digest)
    told.close()
    path.write_bytes(path.read_bytes() + lost + (tmp_path / "told").read_bytes())
    wrote(path, ONE.digest, wall=1000.0)
    assert path.read_bytes().endswith(b'{"t":2000.0,"get":"%s"}\n' % str(ONE.digest).encode())


def test_a_write_that_comes_after_the_end_does_not_open_the_file_again(tmp_path):
    """It stayed open and locked, and a reload that named it again was refused."""
    log = open_log(tmp_path / "t")
    log.close()
    log.write_now()
    open_log(tmp_path / "t").close()


def test_two_daemons_do_not_write_to_one_file(tmp_path):
    log = open_log(tmp_path / "t")
    with pytest.raises(BusyError):
        open_log(tmp_path / "t")
    log.close()


def test_after_a_rotation_the_new_file_stands_for_itself(tmp_path):
    """What was noted before it went to the old file, which may be packed by then."""
    log = open_log(tmp_path / "t")
    log.requested(ONE.digest)
    log.reopen()  # nobody renamed it: nothing happens
    log.write_now()
    log.requested(TWO.digest)
    (tmp_path / "t").rename(tmp_path / "t.1")
    log.reopen()
    log.write_now()
    log.requested(ONE.digest)
    log.close()
    assert len(read_trace(str(tmp_path / "t.1"))) == 1
    assert [next(iter(line)) for line in lines(tmp_path / "t")] == ["model", "t"] * 2


def test_a_rotation_that_copies_and_truncates_is_noticed(tmp_path):
    log = open_log(tmp_path / "t")
    log.requested(ONE.digest)
    log.write_now()
    os.truncate(tmp_path / "t", 0)
    log.requested(ONE.digest)
    log.close()
    assert len(read_trace(str(tmp_path / "t"))) == 1


@contextmanager
def room_for(size):
    """No file may grow beyond this: writes are cut short, then refused, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_lines_and_never_leaves_half_of_one(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trace_log, "MAX_WAITING", 3)
    wrote(tmp_path / "t", TWO.digest)
    log = open_log(tmp_path / "t")
    caplog.clear()
    with room_for(os.path.getsize(tmp_path / "t") + 50):
        for _ in range(4):
            log.requested(ONE.digest)
            log.write_now()
        assert (log.failing, log.dropped) == (True, 1)
    warned = [one.message for one in caplog.records if "cannot be written" in one.message]
    assert len(warned) == 1
    log.requested(TWO.digest)  # there is still no room in memory
    log.write_now()
    assert not log.failing
    log.requested(TWO.digest)
    log.close()
    trace = read_trace(str(tmp_path / "t"))
    asked = [trace.models[wanted].digest for wanted in trace.wanted]
    assert asked == [TWO.digest, *[ONE.digest] * 3, TWO.digest]


def test_a_request_for_a_model_that_nobody_knows_any_more_is_counted(tmp_path):
    """Catches: a manifest left the catalog before the line was written, and the trace lacked the
    request without a word; or the count rose with each try while the disk refused.
    """
    log = open_log(tmp_path / "t")
    log.learnt(Digest.of(b"gone"))
    with room_for(0):
        for digest in (Digest.of(b"gone"), ONE.digest):
            log.requested(digest)
            log.write_now()
        assert (log.failing, log.dropped) == (True, 1)
    log.close()
    assert log.dropped == 1
    assert len(read_trace(str(tmp_path / "t"))) == 1


def test_lines_that_got_onto_a_disk_that_filled_up_are_not_there_twice(tmp_path):
    """Those before the torn one stayed, and were written again with it."""
    path = tmp_path / "t"
    wrote(path, ONE.digest)
    room = os.path.getsize(path) - 10
    log = open_log(tmp_path / "u")
    with room_for(room):
        log.requested(TWO.digest)
        log.write_now()
        assert not log.failing
        for _ in range(9):
            log.requested(TWO.digest)
        log.write_now()
        assert log.failing
    log.close()
    assert len(read_trace(str(tmp_path / "u"))) == 10

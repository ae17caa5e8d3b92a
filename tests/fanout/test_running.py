"""Processes side by side: nobody starts early, a failure is told, and nobody is left behind."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.fanout.context import Row, interval, spread
from benchmarks.fanout.running import HELD, Command, RunFailedError, run_together

HOLD = (
    "import os, sys\nready, gate = map(int, sys.argv[1:3])\nos.write(ready, b'.')\n"
    "os.close(ready)\nos.read(gate, 1)\nprint(os.path.exists(sys.argv[3]))"
)


def python(tmp_path, name, code, *args, **options):
    return Command([sys.executable, "-c", code, *map(str, args)], tmp_path / name, **options)


def test_those_that_are_held_go_on_when_all_of_them_are_there(tmp_path):
    """One that went on at once would be measured alone."""
    mark = tmp_path / "third"
    slow = f"import time; time.sleep(0.3); open({str(mark)!r}, 'w')\n" + HOLD
    commands = [python(tmp_path, f"{n}", HOLD, *HELD, mark, held=True) for n in range(2)]
    began = time.perf_counter()
    times = run_together([*commands, python(tmp_path, "2", slow, *HELD, mark, held=True)])
    took = time.perf_counter() - began
    assert [(tmp_path / str(n)).read_text() for n in range(3)] == ["True\n"] * 3
    assert times.seconds <= took - 0.3, "what the third one took to be ready is not counted"


def test_each_is_started_when_it_is_to_be(tmp_path):
    later = [python(tmp_path, f"{n}", "pass", at=n * 0.2) for n in range(3)]
    times = run_together(later)
    assert [began >= n * 0.2 for n, began in enumerate(times.began)] == [True] * 3
    assert times.seconds == max(times.ended)
    assert times.user_s > 0


def test_a_failure_is_told_with_what_it_said_and_ends_the_others(tmp_path):
    mark = tmp_path / "pid"
    code = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    fails = f"import os, time\nwhile not os.path.exists({str(mark)!r}): time.sleep(0.01)\n"
    fails += "raise SystemExit('no such luck')"
    with pytest.raises(RunFailedError, match="no such luck"):
        run_together([python(tmp_path, "a", code), python(tmp_path, "b", fails)])
    pid = mark.read_text()
    assert not pid or not Path(f"/proc/{pid}").exists()


def test_a_held_one_that_fails_before_it_is_ready_holds_up_nobody(tmp_path):
    began = time.monotonic()
    fails = python(tmp_path, "a", "raise SystemExit('broken')", *HELD, held=True)
    with pytest.raises(RunFailedError, match="broken"):
        run_together([fails, python(tmp_path, "b", HOLD, *HELD, tmp_path, held=True)])
    assert time.monotonic() - began < 30


def test_one_that_serves_on_counts_as_ended_when_it_says_so(tmp_path):
    code = "import time; print('done', flush=True); time.sleep(600)"
    times = run_together([python(tmp_path, "a", code, until="done")], deadline_s=60)
    assert times.seconds < 60


def test_a_deadline_ends_those_that_hang(tmp_path):
    with pytest.raises(RunFailedError, match="not done in"):
        run_together([python(tmp_path, "a", "import time; time.sleep(600)")], deadline_s=0.2)


def test_the_interval_is_students():
    """Ten pairs: t of nine degrees of freedom, not the normal distribution's 1.96."""
    low, mean, high = interval([0.01, 0.03] * 5)
    assert mean == pytest.approx(0.02)
    assert high - mean == pytest.approx(2.262 * 0.0105409 / 10**0.5, rel=1e-3)
    assert mean - low == pytest.approx(high - mean)


@pytest.mark.parametrize(
    ("value", "least", "word"),
    [
        (1.0, False, "yes, and what was hoped for"),
        (1.1, False, "yes"),
        (1.2, False, "**no**"),
        (None, False, "not measured"),
        (1.2, True, "yes, and what was hoped for"),
        (1.0, True, "**no**"),
    ],
)
def test_a_bound_is_kept_on_its_own_side(value, least, word):
    reach, stretch = (1.05, 1.15) if least else (1.15, 1.05)
    assert Row("what", "", value, "", reach, stretch, least=least).word == word


def test_a_single_run_has_no_range():
    assert spread([1.0]) == "1.00"
    assert spread([1.0, 3.0, 2.0]) == "2.00 (1.00-3.00)"

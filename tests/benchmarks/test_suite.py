"""What people must be able to believe of a benchmark: its arithmetic, its turns, its table."""

import sys
from itertools import count

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main, measure
from benchmarks.scenarios import SCENARIOS
from benchmarks.suite.document import renew
from benchmarks.suite.figures import Aim, Cost, Spread, pairs
from benchmarks.suite.marks import fill
from benchmarks.suite.peers import PEERS, Peer, lacking
from benchmarks.suite.processes import Command, peak_mb, run
from benchmarks.suite.report import Result, aim_rows, number, ratios, rows, shown, table
from benchmarks.suite.results import read_json, write_json
from benchmarks.suite.runner import Side, Stage, must_equal, order, play

HALF = Aim("ours / theirs", "wall_s", "ours", "theirs", 0.5, 0.25)


def costs(*walls):
    return [Cost(wall) for wall in walls]


def result(name="pull", **changes):
    fields = {
        "name": name,
        "title": "A title",
        "about": "What is done.",
        "columns": [("wall_s", "wall s"), ("rss_mb", "RSS MB"), ("moved", "moved")],
        "charts": [("wall_s", "seconds"), ("moved", "bytes")],
        "ours": ["ours"],
        "costs": {"ours": costs(1.0, 2.0, 9.0), "theirs": costs(4.0, 4.0, 4.0)},
        "notes": {"ours": "verified", "theirs": "not verified"},
        "missing": {"absent": "not installed"},
        "facts": {},
        "aims": [HALF],
        "machine": {
            "command": "python -m benchmarks pull",
            "date": "2026-01-01 00:00",
            "runs": 3,
            "seconds": 7,
            "load": 0.1,
            "cpu": "a processor",
            "cores": 2,
            "memory_gib": 24,
            "kernel": "6",
            "python": "3.11",
            "versions": {"curl": "8"},
        },
    }
    return Result(**{**fields, **changes})


# The arithmetic.


def test_the_ratio_is_the_median_of_pairs_not_the_ratio_of_medians():
    """A slow hour that both sides met must cancel out."""
    one = result(costs={"ours": costs(1, 10, 2), "theirs": costs(2, 20, 40)})
    assert one.ratio("ours", "theirs") == Spread(0.5, 0.05, 0.5)  # of medians it were 0.1


def test_a_ratio_of_a_part_divides_by_that_part():
    assert pairs([3.0], [4.0], 0.5) == [1.5]


def test_what_used_no_cpu_that_counts_makes_an_infinite_ratio():
    assert pairs([1.0], [0.0]) == [float("inf")]


def test_fewer_rounds_of_a_slow_side_are_compared_with_the_same_rounds():
    assert pairs([1.0, 2.0, 3.0], [2.0, 4.0]) == [0.5, 0.5]


def test_a_spread_of_nothing_is_a_mistake():
    with pytest.raises(ValueError, match="no figures"):
        Spread.of([])


@pytest.mark.parametrize(("at_least", "value", "met"), [
    (False, 0.5, True), (False, 0.51, False), (True, 0.5, True), (True, 0.49, False),
])  # fmt: skip
def test_a_floor_is_kept_from_above_and_a_ceiling_from_below(at_least, value, met):
    aim = Aim("x", "wall_s", "a", None, 0.5, 1.0, at_least=at_least)
    assert aim.met(value) is met


def test_an_aim_may_take_another_measure_of_the_other_side():
    aim = Aim("x", "wall_s", "a", "b", 1, 1, their_measure="cpu_s")
    assert aim.figures({"a": [Cost(6.0)], "b": [Cost(1.0, 2.0)]}) == [3.0]


def test_an_aim_whose_other_side_did_not_run_is_not_met_but_not_measured():
    one = result(costs={"ours": costs(1.0)})
    assert one.reached() == [(HALF, None)]
    assert aim_rows(one)[0][-1] == "not measured"


def test_cpu_of_both_ends_is_their_sum():
    assert Cost(1.0, 2.0, 3.0).measure("total_cpu_s") == 5.0


# The turns.


def recorder(calls, name, **more):
    def work():
        calls.append(name)
        return Cost(1.0)

    return Side(name, work=work, **more)


def test_every_side_runs_once_a_round_and_each_round_begins_with_another():
    calls = []
    stage = Stage([recorder(calls, name) for name in "abc"])
    found = play(stage, 3)
    assert calls == [*"abc", *"bca", *"cab"]
    assert {name: len(runs) for name, runs in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert order(3, 4) == [1, 2, 0]


def test_a_slow_side_runs_in_the_first_rounds_only():
    calls = []
    play(Stage([recorder(calls, "fast"), recorder(calls, "slow", rounds=1)]), 3)
    assert calls.count("slow") == 1
    assert calls.count("fast") == 3


def failing(after, name="peer", **more):
    left = [after]

    def work():
        if not left[0]:
            raise RuntimeError("curl: exit code 7\nno route")
        left[0] -= 1
        return Cost(1.0)

    return Side(name, work=work, **more)


def test_a_peer_that_cannot_run_is_named_with_its_reason_and_the_others_go_on():
    calls = []
    stage = Stage([failing(0), recorder(calls, "ours")])
    assert list(play(stage, 2)) == ["ours"]
    assert stage.missing == {"peer": "failed: no route"}
    assert calls == ["ours", "ours"]


@pytest.mark.parametrize("side", [failing(0, ours=True), failing(1)])
def test_a_failure_of_ours_or_of_a_peer_that_had_run_is_not_passed_over(side):
    with pytest.raises(RuntimeError, match="no route"):
        play(Stage([side]), 2)


def test_the_result_of_each_side_is_checked_after_its_first_run():
    checks = []
    play(Stage([recorder([], "a", check=lambda: checks.append(1))]), 3)
    assert checks == [1]


def test_a_peer_whose_result_is_wrong_takes_no_part(tmp_path):
    """A download that quietly fetched nothing must not look fast."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"right")
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "weights").write_bytes(b"wrong")
    check = lambda: must_equal(tmp_path / "model", tmp_path / "got")  # noqa: E731
    stage = Stage([recorder([], "peer", check=check), recorder([], "ours")])
    assert list(play(stage, 1)) == ["ours"]
    assert "another weights" in stage.missing["peer"]


def test_what_is_left_over_is_removed_and_memory_touched_before_each_run():
    calls = []
    side = recorder(calls, "run", before=lambda: calls.append("before"))
    play(Stage([side], touch_bytes=2 << 20), 2)
    assert calls == ["before", "run", "before", "run"]


@pytest.mark.parametrize(("apart_s", "times"), [(10.0, 2), (9.0, 1)])
def test_a_command_that_is_not_hot_runs_once_unmeasured_before_it_counts(tmp_path, apart_s, times):
    """Else who ran a while ago pays for reading its own program, which a kernel has paged out."""
    log = tmp_path / "log"
    note = lambda word: Command(["sh", "-c", f"echo {word} >> {log}"])  # noqa: E731
    side = Side("a", steps=lambda: [[note("run")]], before=lambda: run(note("before")))
    clock = count(0.0, apart_s).__next__  # asked before a run and after it
    found = play(Stage([side]), 2, clock=clock)
    assert log.read_text().split() == ["before", "run"] * (2 + times)
    assert len(found["a"]) == 2


# The processes.

BURN = "import time\nwhile time.process_time() < 0.15: pass"


def test_cpu_and_memory_of_children_are_counted(tmp_path, monkeypatch):
    """The child waits until its memory was read: whoever is held up misses one that ends soon."""
    sign = tmp_path / "sign"

    def seen(pid):
        peak = peak_mb(pid)
        if peak >= 60:
            sign.touch()
        return peak

    monkeypatch.setattr("benchmarks.suite.processes.peak_mb", seen)
    stay = f"while not os.path.exists({str(sign)!r}) and time.process_time() < 20: pass"
    grow = f"import os\nx = bytearray(60 << 20)\n{BURN}\n{stay}"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grow!r}])"
    (done,) = run(Command([sys.executable, "-c", parent]))
    assert done.cpu_s >= 0.15
    assert done.rss_mb >= 60


def test_commands_of_one_step_run_at_the_same_time(tmp_path):
    """One waits for what the other makes: one after the other, they would never end."""
    sign = tmp_path / "sign"
    wait = f"import os\nwhile not os.path.exists({str(sign)!r}): pass"
    make = f"open({str(sign)!r}, 'w')"
    first, second = run(*(Command([sys.executable, "-c", text]) for text in (wait, make)))
    assert first.began < second.ended


def test_a_command_that_fails_says_what_it_said():
    text = "import sys; sys.exit('the reason')"
    with pytest.raises(RuntimeError, match=r"exit code 1\nthe reason"):
        run(Command([sys.executable, "-c", text]))


def test_servers_count_with_what_they_used_meanwhile():
    import os

    spent = lambda: (run(Command([sys.executable, "-c", BURN])), Cost(1.0))[1]  # noqa: E731
    found = play(Stage([Side("a", work=spent, servers=[os.getpid()])]), 1)
    assert found["a"][0].server_cpu_s >= 0.1  # this process waited for it: it is its child
    assert found["a"][0].server_rss_mb > 0


# The table and the document.


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0.00"), (0.994, "0.99"), (9.999, "10.00"), (12.34, "12.3"), (1234.5, "1,234"),
])  # fmt: skip
def test_numbers_have_three_digits_or_so(value, text):
    assert number(value) == text


def test_a_range_that_rounds_to_nothing_is_left_out():
    assert shown(Spread(40.01, 40.0, 40.02)) == "40.0"
    assert shown(Spread(2.0, 1.0, 9.0)) == "2.00 (1.00-9.00)"


def test_the_table_says_who_took_no_part_and_what_was_reached():
    text = table(result())
    assert "absent: took no part, not installed" in text
    assert "0.50 (0.25-2.25)" in text
    assert "yes" in text


def test_measures_that_nobody_has_make_no_column():
    assert rows(result())[0] == ["", "wall s", "wall, ours / this"]


def test_sides_that_ran_less_often_say_how_often():
    one = result(costs={"ours": costs(1, 2, 3), "slow": costs(4)})
    assert [row[0] for row in rows(one)] == ["", "ours", "slow (1 runs)"]


def test_ratios_alone_leave_absolute_times_out():
    assert "4.00" not in ratios([result()])
    assert "0.50 (0.25-2.25)" in ratios([result()])


def test_results_survive_their_json(tmp_path):
    path = tmp_path / "results.json"
    one = result(costs={"ours": [Cost(1.0, 2.0, 3.0, 4.0, 5.0, {"moved": 6.0})]})
    write_json(path, [one])
    assert read_json(path) == [one]


def test_one_scenario_measured_again_leaves_the_others_as_they_were(tmp_path):
    pytest.importorskip("matplotlib")
    document, figures = tmp_path / "page.md", tmp_path / "figures"
    marks = ("reached", "machine", "pull", "serve")
    document.write_text("".join(f"<!-- table {x} -->\n<!-- end -->\nmine\n" for x in marks))
    renew([result("pull"), result("serve", about="Eight at once.")], marks, document, figures)
    chart = (figures / "pull.svg").read_bytes()
    renew([result("pull", about="Measured again.")], marks, document, figures)
    text = document.read_text()
    assert "Measured again." in text
    assert "Eight at once." in text
    assert "What is done." not in text
    assert text.count("mine\n") == 4
    assert text.count("ours / theirs | <= 0.5") == 2
    assert "absent: **took no part**" in text
    assert (figures / "pull.svg").read_bytes() == chart  # the same figures, the same picture


def test_tables_without_marks_are_left_out():
    assert fill("nothing", {"pull": "text"}) == "nothing"


def test_every_scenario_has_its_place_in_the_document():
    from benchmarks.suite.document import DOCUMENT

    text = DOCUMENT.read_text()
    for name in (*SCENARIOS, "reached", "machine"):
        assert f"<!-- table {name} -->" in text, name


# The command.


def test_a_peer_that_is_not_installed_is_named_with_where_to_get_it(monkeypatch):
    monkeypatch.setitem(PEERS, "nobody", Peer("nobody", "nobody-tools"))
    monkeypatch.setitem(PEERS, "no-such-distribution", Peer("no-such-distribution"))
    reason = lacking(["nobody", "no-such-distribution"])
    assert reason == (
        "not installed: nobody (Debian package nobody-tools), no-such-distribution (`make peers`)"
    )


@pytest.mark.parametrize(("words", "said"), [
    (["pulll"], "no scenario pulll; there are: pull,"),
    ([], "which scenario?"),
    (["publish", "--peers", "b3sun"], "no peer b3sun; there are: b3sum, cp"),
    (["pull", "--quick"], "stands alone"),
])  # fmt: skip
def test_words_that_cannot_be_meant(words, said):
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert said in done.output


def test_a_tiny_pull_from_beginning_to_end(tmp_path):
    peers = frozenset({"cp", "curl"})
    found = measure(
        SCENARIOS["pull"], runs=3, size_mb=25, peers=peers, directory=tmp_path, quiet=True
    )
    assert {"icn-fetch", "cp"} <= set(found.costs)
    assert set(found.costs) | set(found.missing) == {"icn-fetch", "cp", "curl"}
    # Whoever is held up for as long as a pull takes misses its memory, but not three times.
    ours = max(found.costs["icn-fetch"], key=lambda cost: cost.rss_mb)
    assert ours.wall_s > 0
    assert ours.cpu_s > 0
    assert ours.rss_mb > 10
    assert ours.server_rss_mb > 10
    assert found.facts["bytes"] > 20e6
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@pytest.mark.slow
def test_a_tiny_download_by_huggingface_hub_is_right(tmp_path):
    """The small Hub must be enough of one: else that peer would be timed failing."""
    reason = lacking(["nginx", "huggingface_hub"])
    if reason:
        pytest.skip(reason)
    peers = frozenset({"huggingface_hub"})
    found = measure(
        SCENARIOS["pull"], runs=1, size_mb=25, peers=peers, directory=tmp_path, quiet=True
    )
    assert found.missing == {}
    assert "huggingface_hub" in found.costs

"""`icn-sim replay` and `icn-sim advise` as programs."""

import contextlib
import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icnblocks.cache.replay.lines import get_line, model_line
from icnblocks_tools.sim import COMMANDS

DOCUMENT = Path(__file__).parents[2] / "docs" / "traces.md"
TRACE = (
    model_line("ab", [("a", 1000), ("b", 1000)])
    + model_line("bc", [("b", 1000), ("c", 1000)])
    + "".join(get_line(t, name) for t, name in enumerate(["ab", "bc", "ab", "bc", "ab"] * 4))
)
FIELDS = {
    "policy", "capacity", "model_hit_ratio", "byte_hit_ratio", "backhaul_bytes", "mean_pull_time",
    "p95_pull_time", "evictions", "requests", "plans", "plan_seconds",
}  # fmt: skip


def sim(*args, cwd=None, **options):
    return subprocess.run(
        [sys.executable, "-m", "icnblocks_tools", "sim", *map(str, args)],
        capture_output=True,
        cwd=cwd,
        check=False,
        timeout=120,
        **options,
    )


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(TRACE)
    return path


def test_one_object_for_each_policy_and_capacity_in_order(trace):
    done = sim(
        "replay", trace, "--policy", "lru", "--policy", "sharing:objective=hits",
        "--capacity", "2kB", "--capacity", "100%", "--jobs", "2", "--warmup", "0.5", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["policy"], one["capacity"]) for one in found] == [
        ("lru", 2000), ("lru", 3000), ("sharing:objective=hits", 2000),
        ("sharing:objective=hits", 3000),
    ]  # fmt: skip
    assert all(one.keys() >= FIELDS for one in found)
    assert [one["requests"] for one in found] == [10] * 4
    assert found[1]["model_hit_ratio"] == found[3]["model_hit_ratio"] == 1
    assert done.stderr == b"", "a bar is for terminals"


def test_standard_input_and_gzip(trace):
    args = ("--policy", "lru", "--capacity", "50%", "--json")
    plain = json.loads(sim("replay", trace, *args).stdout)
    piped = json.loads(sim("replay", "-", *args, input=gzip.compress(TRACE.encode())).stdout)
    assert plain["backhaul_bytes"] == piped["backhaul_bytes"] > 0


def test_what_a_trace_calls_its_edges_does_nothing_to_a_terminal(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [get_line(t, "ab", edge) for t, edge in enumerate(["caf\u00e9", "\x1b[31mred\n\x9b"])]
    path.write_text(TRACE.partition('{"t"')[0] + "".join(lines))
    words = ("replay", path, "--policy", "lru", "--capacity", "1kB")
    said = sim(*words).stdout.decode()
    assert "  at caf\u00e9 " in said
    assert r"  at \x1b[31mred\n\x9b " in said
    assert "\x1b[31mred\n\x9b" in json.loads(sim(*words, "--json").stdout)["edges"]


def test_rates_change_the_pull_times(trace):
    args = ("--policy", "lru", "--capacity", "3kB", "--warmup", "0.5", "--json")
    done = sim("replay", trace, *args, "--edge", "8kbit", "--rtt", "9")
    assert json.loads(done.stdout)["mean_pull_time"] == pytest.approx(2.0)


def test_a_table_and_a_chart_for_people(trace, tmp_path):
    pytest.importorskip("matplotlib")
    chart = tmp_path / "c.svg"
    done = sim("replay", trace, "--policy", "lru", "--capacity", "2kB", "--plot", chart)
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.decode().splitlines()
    assert head.split()[:2] == ["policy", "capacity"]
    assert row.startswith("lru ")
    assert "2.0 kB" in row
    assert b"</svg>" in chart.read_bytes()


@pytest.mark.parametrize("command", ["replay", "advise"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_chart_that_cannot_be_written_leaves_the_figures(trace, tmp_path, command, as_json):
    """Minutes of replays were lost, and the one line there was did not name the file."""
    pytest.importorskip("matplotlib")
    chart = tmp_path / "c.svg"
    chart.symlink_to("/dev/full")
    words = {
        "replay": ("--policy", "lru", "--capacity", "2kB"),
        "advise": ("--policies", "lru", "--sizes", "2kB"),
    }[command]
    done = sim(command, trace, *words, "--plot", chart, *["--json"] * as_json)
    assert done.returncode == 11
    text = done.stdout.decode()
    assert f"cannot write {chart}: " in (text.splitlines()[-1] if as_json else done.stderr.decode())
    assert ('"policy": "lru"' if as_json else "\nlru ") in text
    assert ("Take lru" in text) == (command == "advise")


def test_advice_does_not_recommend_more_disk_than_there_are_models(trace):
    words = ("--policies", "lru", "--sizes")
    assert b"; all models fit, and more" in sim("advise", trace, *words, "1kB,100%").stdout
    assert b"; more disk than was tried" in sim("advise", trace, *words, "1kB,99%").stdout


def test_advice_names_a_policy_and_a_size(trace):
    done = sim("advise", trace, "--policies", "lru,sharing:objective=hits;plan_requests=5",
               "--sizes", "1kB,3kB,100kB")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 1 + 6 + 2
    assert re.match(r"Take (lru|sharing\S*) with 3\.0 kB: ", lines[-1])
    done = sim("advise", trace, "--policies", "lru", "--sizes", "50%", "--json")
    result, advice = map(json.loads, done.stdout.splitlines())
    assert result.keys() >= FIELDS
    assert advice["advice"]["capacity"] == 1500
    assert "more disk" in advice["advice"]["text"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (get_line(99, "nobody"), "line 23: model 'nobody' is not known"),
        (get_line(1, "ab"), "line 23: time runs backward"),
        (model_line("x", [("y", -5)]), "line 23: a block of model 'x'"),
        ('{"t": 99, "ge', "line 23: the line is cut off"),
    ],
)
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_bad_trace_is_one_line_and_exit_code_7(trace, line, words, source):
    trace.write_text(TRACE + line)
    args = ("--policy", "lru", "--capacity", "1kB")
    if source == "file":
        done = sim("replay", trace, *args)
        assert str(trace) in done.stderr.decode()
    else:
        done = sim("replay", "-", *args, input=trace.read_bytes())
        assert "standard input, " in done.stderr.decode()
    assert done.returncode == 7
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


@pytest.mark.parametrize(
    "args",
    [
        ("--policy", "nonsense", "--capacity", "1kB"),
        ("--policy", "lru:x=1", "--capacity", "1kB"),
        ("--policy", "lru", "--capacity", "0"),
        ("--policy", "lru", "--capacity", "nan%"),
        ("--policy", "lru", "--capacity", "lots"),
        ("--policy", "lru", "--capacity", "1kB", "--warmup", "1"),
        ("--policy", "lru", "--capacity", "1kB", "--warmup", "nan"),
        ("--policy", "lru", "--capacity", "1kB", "--rtt", "nan"),
        ("--policy", "lru", "--capacity", "1kB", "--backhaul", "200"),
        ("--policy", "lru", "--capacity", "1kB", "--plot", "c.doc"),
        ("--policy", "lru", "--capacity", "1kB", "--plot", "no/where/c.svg"),
        ("--capacity", "1kB"),
        ("--policy", "lru"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(trace, args):
    done = sim("replay", trace, *args)
    assert done.returncode == 2, done
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("share", ["%", "1001%", "0%", "x%"])
def test_a_share_that_cannot_be_meant_is_told_with_its_range(trace, share):
    done = sim("replay", trace, "--policy", "lru", "--capacity", share)
    text = f"'{share}' is not a percentage above 0%, and up to 1000%"
    assert text in " ".join(done.stderr.decode().split())


def test_a_trace_that_is_not_there_is_said():
    done = sim("replay", "/nowhere/t", "--policy", "lru", "--capacity", "1kB")
    assert done.returncode == 2
    assert done.stderr == b"error: cannot read /nowhere/t: No such file or directory\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_promises_nothing(as_json):
    """It said that what arrived is kept, as a pull does."""
    words = ["sim", "replay", "-", "--policy", "lru", "--capacity", "1kB", *["--json"] * as_json]
    process = subprocess.Popen(
        [sys.executable, "-m", "icnblocks_tools", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(TRACE.encode() + b"\n" * (1 << 17))  # more than a pipe holds: it reads
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    if as_json:
        assert json.loads(out)["error"] == "interrupted"
    else:
        assert err == b"error: interrupted (nothing is kept for another run)\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_replay_outlives_the_command(trace, number):
    """They went on, held the caller's output open, and in the end waited for each other."""
    code = (
        "import os, sys\n"
        "from icnblocks.cache.replay.replay import Replay\n"
        "from icnblocks_tools.entry import sim\n"
        "def endless(self, tell):\n"
        "    os.write(1, b'x')\n"
        "    while True: tell(1)\n"
        "Replay.run = endless\n"
        "sim()\n"
    )
    words = ["replay", trace, "--policy", "lru", "--capacity", "1kB", "--capacity", "2kB"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout.read(2) == b"xx", "both have begun"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)  # until nobody has them open any more
        assert (process.returncode, out, err) == (-number, b"", b"")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_too_little_memory_is_one_sentence():
    code = (
        "import click\n"
        "from icnblocks_tools.main import run\n"
        "def command(): raise MemoryError\n"
        "run(click.command()(command), 'icn-sim')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: there is not enough memory")
    assert done.stderr.count(b"\n") == 1


def test_standard_input_that_is_closed_is_said():
    """A program without standard input has no sys.stdin at all: this was a traceback."""
    command = shlex.join([sys.executable, "-m", "icnblocks_tools", "sim", "replay", "-"])
    done = subprocess.run(
        ["/bin/sh", "-c", command + " --policy lru --capacity 1kB <&-"],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == b"error: cannot read -: standard input is closed\n"


def test_help_of_every_command_is_fast_to_import():
    code = (
        "import os, sys; os._exit = sys.exit\n"
        "from icnblocks_tools.entry import sim\n"
        "heavy = {'asyncio', 'rich', 'numpy', 'scipy', 'matplotlib', 'multiprocessing', 'blake3'}\n"
        "try: sim()\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    for words in ((), *((name,) for name in COMMANDS)):
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--help"], capture_output=True, check=True
        )
        assert done.stdout.endswith(b"HEAVY []\n"), (words, done.stdout)


@pytest.mark.slow
def test_the_examples_of_the_document_run(tmp_path):
    text = DOCUMENT.read_text()
    commands = re.findall(r"^    icn-sim (.*)$", text.split("## Examples")[1], re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        words, _, into = command.partition(" > ")
        done = sim(*shlex.split(words.replace("20000", "200")), cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        if into:
            (tmp_path / into).write_bytes(done.stdout)


def test_the_document_knows_every_figure():
    """A figure that is printed but not explained helps nobody."""
    from icnblocks.cache.replay.advise import Advice
    from icnblocks.cache.replay.replay import Result

    text, names = DOCUMENT.read_text(), (*Result.__slots__, *Advice.__slots__)
    assert [name for name in names if f"`{name}`" not in text] == []

"""`icn-sim make` and `place` as people call them."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from icnblocks.errors import FormatError, IcnError, StorageError, UsageError
from icnblocks.siting.planfile import parse_plan
from icnblocks.testing.processes import poll_until
from icnblocks_tools.sim import sim, writing


def _run(*words, stdin=None):
    result = CliRunner().invoke(sim, [str(word) for word in words], input=stdin)
    if isinstance(result.exception, IcnError):
        raise result.exception
    return result


@pytest.mark.parametrize("library", ["resnet", "lora", "llm"])
def test_what_make_writes_replay_reads(library, tmp_path):
    trace = tmp_path / "trace.jsonl"
    made = _run("make", library, "--requests", 200, "--variants", 9, "-o", trace)
    assert made.exit_code == 0, made.output
    replayed = _run("replay", trace, "--policy", "lru", "--capacity", "50%", "--json")
    figures = json.loads(replayed.output.splitlines()[-1])
    assert figures["requests"] == 200


def test_the_same_options_give_the_same_bytes_also_compressed(tmp_path):
    words = ["make", "llm", "--requests", 300, "--drift", 30, "--releases", 0.3, "--seed", 7]
    plain = _run(*words).output
    assert plain == _run(*words).output
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        _run(*words, "-o", tmp_path / name)
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert packed == (tmp_path / "b.jsonl.gz").read_bytes()
    assert packed[4:8] == bytes(4), "the time of writing"
    assert gzip.decompress(packed).decode() == plain


@pytest.mark.parametrize(
    "words",
    [
        ("make", "vgg"),
        ("make", "lora", "--unit", "0"),
        ("make", "lora", "--daily", "2"),
        ("make", "lora", "--bases", "1GB,huge"),
        ("place", "resnet"),
        ("place", "resnet", "--capacity", "0"),
        ("place", "resnet", "--capacity", "1GB", "--budget", "2,1"),
        ("place", "resnet", "--capacity", "1GB", "--epsilon", "0"),
        ("place", "resnet", "--capacity", "1GB", "--budget", "1,inf"),
        ("place", "resnet", "--capacity", "99999999999TB"),
        ("place", "resnet", "--capacity", "1GB", "--cell", "99999999999TB"),
        ("make", "lora", "--bases", "99999999999TB"),
        ("make", "lora", "--adapter-share", "nan"),
        ("place", "resnet", "--capacity", "1GB", "--radius", "nan"),
        ("place", "resnet", "--capacity", "1GB", "--zipf", "nan"),
        ("place", "resnet", "--capacity", "1GB", "--time-limit", "nan"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_a_usage_error(words):
    assert _run(*words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rate", "1e-6", "--requests", 200_000), "too long"),
        (("--unit", "9999TB"), "a block has"),
    ],
)
def test_a_trace_that_nobody_reads_is_not_begun(tmp_path, words, says):
    with pytest.raises(UsageError, match=says):
        _run("make", "lora", *words, "-o", tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_an_interrupt_leaves_the_trace_that_was_there(tmp_path, name):
    """What was written so far is a trace, too: a shorter one took the place of a good one."""
    file = tmp_path / name
    file.write_bytes(b"before")
    file.chmod(0o600)
    words = ["sim", "make", "lora", "--requests", "1000000", "-o", str(file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "icnblocks_tools", *words], stderr=subprocess.PIPE
    )
    poll_until((tmp_path / f"{name}.partial").exists)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert (process.returncode, err.count(b"\n")) == (130, 1)
    assert file.read_bytes() == b"before"
    assert os.listdir(tmp_path) == [name]
    _run("make", "lora", "--requests", 2, "-o", file)
    assert file.read_bytes() != b"before"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [name]


def test_an_interrupt_right_after_the_file_was_made_leaves_none(tmp_path, monkeypatch):
    """Catches: half a trace that nobody removes."""

    class Interrupted(io.FileIO):
        def __enter__(self):
            self.close()
            raise KeyboardInterrupt

    monkeypatch.setattr(writing, "open", Interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt), writing.opened(str(tmp_path / "t")):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("bound", ["lp", "milp"])
def test_an_interrupt_ends_a_solver(bound):
    """It was noticed when the solver was done, after minutes."""
    code = (
        "import scipy.optimize, threading\n"
        "from icnblocks_tools.entry import sim\n"
        "def endless(*_, **__):\n"
        "    print('solving', file=__import__('sys').stderr, flush=True)\n"
        "    from hashlib import pbkdf2_hmac\n"
        "    pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)  # from C, for long\n"
        "scipy.optimize.milp = endless\n"
        "sim()\n"
    )
    words = ["place", "resnet", "--variants", "2", "--capacity", "1GB", "--bound", bound]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE)
    try:
        assert process.stderr.readline() == b"solving\n"
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=20)[1]
        assert (process.returncode, err.count(b"\n")) == (130, 1)
        assert err.startswith(b"error: interrupted")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("path", ["/dev/full", ""])
def test_a_trace_that_cannot_be_written_is_told_by_its_name(path):
    with pytest.raises(StorageError, match=f"^cannot write {path or repr(path)}: "):
        _run("make", "lora", "--requests", 2, "-o", path)


@pytest.mark.parametrize(
    "words", ["make lora --requests 2", "place lora --variants 1 --capacity 1GB -o -"]
)
def test_standard_output_that_is_closed_is_one_line(words):
    """Catches: a traceback, since a program without standard output has no sys.stdout at all."""
    command = f"{sys.executable} -m icnblocks_tools sim {words} >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 11
    assert done.stderr.startswith(b"error: standard output: Bad file descriptor")
    assert done.stderr.count(b"\n") == 1


def test_what_is_no_file_is_written_to_as_it_is(tmp_path):
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(real)
    _run("make", "lora", "--requests", 2, "-o", link)
    assert link.is_symlink()
    os.mkfifo(pipe)
    with (tmp_path / "copy").open("wb") as copy:
        reader = subprocess.Popen(["cat", str(pipe)], stdout=copy)
    _run("make", "lora", "--requests", 2, "-o", pipe)
    assert reader.wait(timeout=20) == 0
    assert (tmp_path / "copy").read_bytes() == real.read_bytes()
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    "words",
    [
        ("place", "resnet", "--capacity", "1GB", "--edges", 1000, "--users", 10_000),
        ("make", "lora", "--variants", 10_000, "--taste", 0.5, "--users", 1_000_000),
    ],
    ids=["place", "make"],
)
def test_sizes_that_no_memory_holds_are_refused_at_once(words):
    with pytest.raises(UsageError, match="too many"):
        _run(*words)


def test_a_grid_that_no_memory_holds_is_refused():
    with pytest.raises(UsageError, match="too many for a grid of 1000000000 cells"):
        _run("place", "resnet", "--capacity", "1GB", "--cell", "1")


def test_place_tells_what_is_served_and_writes_a_plan(tmp_path):
    plan = tmp_path / "plan.json"
    words = ["place", "resnet", "--variants", 5, "--edges", 3, "--users", 6, "--radius", 400]
    words += ["--capacity", "200MB", "--bound", "lp", "--json", "-o", plan, "--pin"]
    figures = json.loads(_run(*words, "--names", "cellar,roof,yard").output)
    assert 0 < figures["served"] <= figures["bound"] + 1e-9 <= figures["ceiling"] + 2e-9
    assert max(figures["edge_bytes"]) <= 200_000_000
    text = (Path(__file__).parents[2] / "docs" / "siting.md").read_text()
    assert [name for name in figures if f"`{name}`" not in text] == []
    edges = parse_plan(plan.read_bytes()).edges
    assert list(edges) == ["cellar", "roof", "yard"]
    assert [len(models) for models in edges.values()] == figures["edge_models"]
    assert all(one.pin for models in edges.values() for one in models)


@pytest.mark.parametrize("algorithm", ["auto", "spec", "spec-epsilon", "gen", "independent"])
def test_place_takes_a_trace_whose_edges_serve_their_own(algorithm, tmp_path):
    trace = tmp_path / "trace.jsonl"
    demand = ["--requests", 500, "--variants", 9, "--edges", 2, "--taste", 1]
    _run("make", "lora", *demand, "-o", trace)
    words = ["place", trace, "--capacity", "600MB", "--algorithm", algorithm, "--json"]
    own = json.loads(_run(*words).output)
    together = json.loads(_run(*words, "--together").output)
    assert own["edges"] == 2
    assert own["ceiling"] == pytest.approx(1)
    assert own["served"] < together["served"]
    with pytest.raises(UsageError, match="names its edges"):
        _run(*words, "--edges", 2)


def test_place_takes_the_popularity_of_a_trace_without_edges(tmp_path):
    trace = tmp_path / "trace.jsonl"
    _run("make", "resnet", "--requests", 200, "--variants", 9, "-o", trace)
    said = _run("place", trace, "--capacity", "300MB", "--edges", 4, "--bound", "milp").output
    assert said.startswith(("spec: 0.", "per-byte: 0."))
    assert "no siting serves more than 0." in said
    assert said.count("models,") == 4


def test_a_trace_whose_names_no_plan_can_hold_writes_nothing(tmp_path):
    lines = '{"model":"x","blocks":[["a",1]]}\n{"t":0,"get":"x"}\n'
    with pytest.raises(UsageError, match="not a model name"):
        _run("place", "-", "--capacity", "1", "-o", tmp_path / "plan.json", stdin=lines)
    assert not (tmp_path / "plan.json").exists()


def test_a_plan_on_standard_output_is_alone_there():
    words = ("place", "lora", "--variants", 2, "--edges", 2, "--users", 3, "--capacity", "1GB")
    result = _run(*words, "-o", "-", "--names", "cellar, roof")
    assert list(parse_plan(result.stdout).edges) == ["cellar", "roof"]
    assert "  cellar  " in result.stderr


def test_requests_with_and_without_an_edge_need_names(tmp_path):
    lines = '{"model":"a/x","blocks":[["a",1]]}\n{"t":0,"get":"a/x"}\n'
    lines += '{"t":0,"get":"a/x","edge":"e"}\n'
    words = ("place", "-", "--capacity", "1", "-o", tmp_path / "plan.json")
    with pytest.raises(FormatError) as caught:
        _run(*words, stdin=lines)
    assert "--names" in caught.value.hint
    assert _run(*words, "--names", "d,e", stdin=lines).exit_code == 0


def test_auto_takes_what_serves_more(tmp_path):
    """Spec's exact choice for one edge can leave less for the next than greedy does."""
    words = ["place", "resnet", "--variants", 8, "--edges", 4, "--users", 8, "--radius", 350]
    served = {}
    for algorithm in ("auto", "spec", "per-byte"):
        given = ["--capacity", "250MB", "--seed", 1, "--algorithm", algorithm, "--json"]
        served[algorithm] = json.loads(_run(*words, *given).output)["served"]
    assert served["auto"] == served["per-byte"] > served["spec"]


def test_auto_takes_any_sharing(tmp_path):
    models = {"a/x": "pq", "a/y": "qr", "a/z": "pr"}
    lines = [
        json.dumps({"model": name, "blocks": [[block, 10] for block in blocks]})
        for name, blocks in models.items()
    ]
    lines += [json.dumps({"t": 0, "get": name, "edge": "e"}) for name in models]
    said = json.loads(_run("place", "-", "--capacity", 20, "--json", stdin="\n".join(lines)).output)
    assert said["algorithm"] == "per-byte"
    assert said["edge_models"] == [1]


def test_what_the_solver_prints_stays_out_of_the_output():
    """It writes from C, now and then, where a script expects one JSON object."""
    code = (
        "import ctypes\n"
        "from icnblocks_tools.sim.place import _solver_quiet\n"
        "with _solver_quiet(): ctypes.CDLL(None).puts(b'noise')\n"
        "print('figures')\n"
    )
    # Where output is buffered, what C printed comes out only at the end.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environ)
    assert done.stdout == "figures\n"

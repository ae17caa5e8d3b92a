"""The commands as programs: fast help, errors of one line, output for people and scripts."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from icnblocks.testing.device import Device
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.testing.processes import start_edge
from icnblocks_tools.main import COMMANDS


def icn(*args, **environ):
    return subprocess.run(
        [sys.executable, "-m", "icnblocks_tools", *args],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["fetch", "publish", "show", "verify"])
def test_help_imports_nothing_heavy(command):
    """Start-up is what a small pull feels: no asyncio, aiohttp, rich, numpy, cryptography."""
    code = (
        f"import os, sys; sys.argv = ['icn', '{command}', '--help']; os._exit = sys.exit\n"
        "from icnblocks_tools.entry import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'asyncio', 'aiohttp', 'rich', 'numpy', 'cryptography', 'torch', 'sqlite3'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("HEAVY []\n")
    assert "Examples:" in done.stdout or command == "verify"


@pytest.mark.parametrize("words", [[], ["fetch"], ["sim", "make"], ["edge", "prefetch"]])
def test_the_short_word_for_help_is_known_everywhere(words):
    """Catches: `-h` that one command takes and the next calls no option."""
    short, long = icn(*words, "-h"), icn(*words, "--help")
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert "-h, --help" in long.stdout


@pytest.mark.parametrize("words", [[], ["edge"]])
def test_every_program_tells_its_version_alike(words):
    told = icn(*words, "--version").stdout
    assert re.fullmatch(r"icn(-edge)? \d+\.\d+\.\d+\n", told)


def interrupted_at(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What `icn-fetch` does if Ctrl-C is pressed when it begins to import a module."""
    code = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == '{module}': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"sys.argv = {['icn-fetch', *words]}\n"
        "from icnblocks_tools.entry import fetch\n"
        "fetch()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("early", ["typing", "click", "icnblocks_tools.fetch"])
def test_an_interrupt_while_a_command_is_imported_ends_it_without_a_word(early):
    """Catches: a traceback for who presses Ctrl-C in the first tenth of a second."""
    done = interrupted_at(early, "--help")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_scripts_are_told_of_an_interrupt_before_there_is_anything_else_to_tell():
    """Catches: code 130 and not a line, while what a pull needs was imported."""
    done = interrupted_at("icnblocks.puller", "a/b", "--json")
    assert (done.returncode, done.stderr.strip()) == (130, "")
    assert json.loads(done.stdout)["error"] == "interrupted"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("args", "code"), [(["--help"], 11), (["a/b", "--json"], 4)])
def test_output_that_cannot_be_written_is_one_line_and_a_code(tmp_path, args, code, unbuffered):
    """Catches: a traceback from telling, where nothing can be told, that nothing can be told."""
    device = Device(tmp_path / "d", PYTHONUNBUFFERED=unbuffered)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "icnblocks_tools", "fetch", *args],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            env=device.environ,  # its user may have named sources, and models
        )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    if code == 11:
        assert done.stderr.startswith("error: standard output: No space left on device (free space")


def test_the_list_of_commands_is_complete():
    listed = icn("--help").stdout
    assert all(name in listed for name in COMMANDS)
    for name in COMMANDS:
        assert icn(name, "--help").returncode == 0


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("fetch", "no-slash"), 2),
        (("fetch", "a/../b"), 2),
        (("fetch", "a/b", "--from", "ftp://x"), 2),
        (("fetch", "a/b", "--trust", "zz"), 2),
        (("fetch", "a/b", "--to", ""), 2),
        (("fetch", "a/b"), 4),
        (("fetch",), 2),
        (("publish", "/nowhere", "a/b", "--store", "s"), 2),
        (("publish", "/nowhere", "a/b"), 2),
        (("publish", ".", "a/b", "--store", "s", "--lifetime", "soon"), 2),
        (("publish", ".", "a/b", "--store", "s", "--lifetime", "31d"), 2),
        (("show", "a/b"), 4),
        (("show", "0" * 64), 4),
        (("show", "/nowhere"), 4),
        (("show", "a/b", "--store", "nowhere"), 4),
        (("nonsense",), 2),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_a_stable_code(tmp_path, args, code):
    device = Device(tmp_path / "d")
    done = subprocess.run(
        [sys.executable, "-m", "icnblocks_tools", *args],
        capture_output=True,
        text=True,
        env=device.environ,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if args and args[0] in {"fetch", "publish", "show"} and len(args) > 1:
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("publish", "", "a/b", "--store", "s"), "DIR"),
        (("publish", ".", "a/b", "--store", ""), "--store"),
        (("publish", ".", "a/b", "--store", "s", "--key", ""), "--key"),
        (("fetch", "a/b", "--to", ""), "--to"),
        (("show", "a/b", "--store", ""), "--store"),
        (("verify", ""), "DIR|STORE"),
        (("rotate-key", "a", "--key", ""), "--key"),
    ],
)
def test_a_variable_that_is_not_set_is_not_the_current_directory(tmp_path, words, named):
    """Catches: `icn-publish "$MODEL" a/b`, which gave everybody what lay in the home directory."""
    device, here = Device(tmp_path / "d"), tmp_path / "here"
    here.mkdir()
    (here / "secret").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "icnblocks_tools", *words], env=device.environ, cwd=here,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {named} is empty")
    assert os.listdir(here) == ["secret"]


def test_a_directory_that_cannot_be_written_is_an_error_and_no_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    done = icn("fetch", "a/b", ICN_STORE=str(tmp_path / "file" / "store"), ICN_CONFIG="/dev/null")
    assert done.returncode == 11
    assert "Traceback" not in done.stderr
    assert "choose another place for the store with ICN_STORE" in done.stderr


def test_a_closed_pipe_ends_quietly(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "icnblocks_tools", "--help"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert b"Traceback" not in err


@pytest.mark.parametrize("closed", ["<&-", "2>&-", ">&-"])
def test_a_closed_stream_is_no_matter(tmp_path, closed):
    words = f"{sys.executable} -m icnblocks_tools fetch acme/x --offline {closed}"
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    ran = subprocess.run(
        words, shell=True, env=environ, capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 4, ran.stderr
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(b"bytes")
    words = f"{sys.executable} -m icnblocks_tools publish model a/b --store store {closed}"
    ran = subprocess.run(
        words, shell=True, env=environ, cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_what_is_asked_about_a_store_that_is_none_makes_none(tmp_path):
    """Catches: a typo that is answered from elsewhere, and leaves a store behind."""
    device = Device(tmp_path / "d")
    ran = device.run("show", "a/b", "--store", tmp_path / "typo")
    assert (ran.code, ran.last["error"]) == (4, "not-found")
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("withdraw", "acme/m", "--to", "http://127.0.0.1:9"), "--key"),
        (("rotate-key", "acme"), "--key"),
        (("verify", "here"), "icn-fetch"),
    ],
)
def test_who_names_what_is_not_there_is_told_what_to_name(tmp_path, words, advice):
    """Catches: an error that says what is wrong, and not what would be right."""
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "icnblocks_tools", *words, "--json"], cwd=tmp_path,
        env=Device(tmp_path / "d").environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert (said["exit_code"], advice in said["hint"]) == (2, True)


def test_a_model_is_not_taken_for_a_store(tmp_path):
    """Catches: an index that lies in a model directory, and is published as a part of it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "file").write_bytes(b"bytes")
    ran = Device(tmp_path / "d").run("publish", model, "a/b", "--store", model)
    assert (ran.code, ran.last["error"]) == (2, "usage")
    assert [path.name for path in model.iterdir()] == ["file"]


@pytest.mark.parametrize("words", [("fetch",), ("fetch", "a/b", "--bogus"), ("verify", "/nowhere")])
def test_scripts_are_told_of_mistakes_in_the_command_line_too(tmp_path, words):
    """Catches: an empty output where docs/client.md promises an error as the last line."""
    ran = Device(tmp_path / "d").run(*words)
    assert (ran.code, ran.last["event"], ran.last["error"]) == (2, "error", "usage")


@pytest.mark.parametrize("length", [1, 10_000])
def test_a_server_that_is_none_of_ours_is_named(tmp_path, length):
    """Catches: \"14 bytes follow the value\", without a word of whose they are.

    A page that is longer than any record was the publisher's mistake.
    """
    model = tmp_path / "model"
    model.mkdir()
    (model / "file").write_bytes(b"bytes")
    page = Reply(200, b"<html>%b</html>" % (length * b"hello"))
    with LyingServer({}, respond=lambda _: page) as server:
        ran = Device(tmp_path / "d").run("publish", model, "a/b", "--to", server.url)
    assert ran.last["error"] == "source"
    assert server.url in ran.last["message"]


@pytest.mark.parametrize("leave", [True, False])
def test_what_is_gone_is_forgotten_by_a_repair(tmp_path, leave):
    """Catches: a repair that says to run it again, again and again; what was removed is wrong."""
    device, model, store = Device(tmp_path / "d"), tmp_path / "model", tmp_path / "store"
    model.mkdir()
    (model / "file").write_bytes(b"bytes")
    device.run("publish", model, "a/b", "--store", store).done()
    (model / "file").unlink()
    if not leave:
        model.rmdir()
    found = device.run("verify", store)
    assert (found.code, [event["event"] for event in found.events]) == (0, ["gone", "done"])
    assert found.events[0]["message"] == f"{model} is gone (--repair forgets it)"
    assert device.run("verify", store, "--complete").code == 6, "an origin's are missed"
    repaired = device.run("verify", store, "--repair")
    assert "forgotten" in [event["event"] for event in repaired.events]
    assert device.run("verify", store).code == 0


def test_a_model_that_was_removed_is_not_shown_as_one_with_changed_files(tmp_path):
    """Catches: every file's name, as changed, for a model that its user removed."""
    device, model, store = Device(tmp_path / "d"), tmp_path / "model", tmp_path / "store"
    model.mkdir()
    (model / "file").write_bytes(b"bytes")
    device.run("publish", model, "a/b", "--store", store).done()
    show = ("show", "a/b", "--store", store, "--trust-first-use")
    (model / "file").unlink()
    assert "changed since it was indexed" in device.run(*show).last["message"]
    model.rmdir()
    gone = device.run(*show).last
    assert (gone["event"], gone["files"]) == ("changed", ["file"])
    assert gone["message"] == f"  lay in {model}, which is gone or out of reach now"


def test_what_a_daemon_serves_in_place_and_is_gone_counts_as_wrong(tmp_path):
    """Nobody removes it as a model that was pulled, and those who ask for it are refused."""
    device, model, store = Device(tmp_path / "d"), tmp_path / "model", tmp_path / "store"
    model.mkdir()
    (model / "file").write_bytes(b"bytes")
    device.run("publish", model, "a/b", "--store", store).done()
    with start_edge(store):
        pass
    (model / "file").unlink()
    found = device.run("verify", store)
    assert (found.code, "gone" in [event["event"] for event in found.events]) == (6, True)


def test_what_is_wrong_in_a_store_is_told_with_its_reason(tmp_path):
    device, model, store = Device(tmp_path / "d"), tmp_path / "model", tmp_path / "store"
    model.mkdir()
    for name in ("one", "two", "three"):
        (model / name).write_bytes(name.encode())
    device.run("publish", model, "a/b", "--store", store).done()
    (model / "one").write_bytes(b"another")
    (model / "two").unlink()
    found = device.run("verify", store)
    wrong = {event["path"]: event["what"] for event in found.events if event["event"] == "wrong"}
    assert wrong == {str(model / "one"): "has changed", str(model / "two"): "is missing"}
    assert (found.code, found.last["error"]) == (6, "corrupt")


@pytest.mark.parametrize(
    "words", [("acme/.x", "--store", "store"), ("acme/x", "--store", "store", "--base", "acme/.x")]
)
def test_a_publish_under_a_name_that_is_none_is_refused_at_once(tmp_path, words):
    """Catches: a new key and warnings of the model, for a name that is none."""
    device, model = Device(tmp_path / "d"), tmp_path / "model"
    model.mkdir()
    (model / "adapter_config.json").write_text("{}")
    ran = device.run("publish", model, *words)
    assert (ran.code, [event["event"] for event in ran.events]) == (2, ["error"])
    assert "no part may begin with '.'" in ran.last["hint"]
    assert not (device.root / "keys").exists()


def test_a_publish_to_nowhere_names_the_options(tmp_path):
    ran = Device(tmp_path / "d").run("publish", tmp_path, "acme/x")
    assert (ran.code, ran.last["error"]) == (2, "usage")
    assert ran.last["hint"] == "give one of --to URL (to=) and --store DIR (store=)"


def test_no_new_key_is_made_where_the_publisher_is_known_by_another(tmp_path):
    """Catches: a typo in --key, or a key that was lost, and another one lies there from then on."""
    device, model = Device(tmp_path / "d"), tmp_path / "model"
    model.mkdir()
    (model / "file").write_bytes(b"bytes")
    (device.root / "known_publishers").write_text(f"a {'0' * 64}\n")
    words = ("publish", model, "a/b", "--store", tmp_path / "store")
    for more in ((), ("--key", tmp_path / "typo.pem")):
        ran = device.run(*words, *more)
        assert (ran.code, ran.last["error"]) == (5, "trust")
    assert not (tmp_path / "typo.pem").exists()
    assert not (device.root / "keys").exists()


@pytest.mark.parametrize(
    "words", [("fetch", "acme/x", "--from"), ("publish", ".", "acme/x", "--to")]
)
def test_scripts_are_told_of_an_interrupt_too(tmp_path, words):
    """Catches: a pull that ends with 130 and no last line, so that a script finds half a story."""
    asked, stop = threading.Event(), threading.Event()

    def respond(_):
        asked.set()
        stop.wait(30)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(b"weights")
    with LyingServer({}, respond=respond) as silent:
        words = [str(tmp_path / "model") if word == "." else word for word in words]
        process = Device(tmp_path / "device").start(*words, silent.url)
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        stop.set()
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1]) == {
        "event": "error",
        "error": "interrupted",
        "message": "interrupted; what arrived is kept",
        "hint": "run it again to go on",
        "fault": "user",
        "retry": True,
        "exit_code": 130,
    }
    assert b"Traceback" not in err

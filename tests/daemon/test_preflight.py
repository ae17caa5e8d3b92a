"""What is wrong is said before the start, in one line, by --check-config as by the start itself."""

import os
import re
import subprocess
import sys

import pytest

from icnblocks.store.catalog import Catalog
from icnblocks_daemon.cli import main

TRUST = f'acme = "{"0" * 64}"\n'


def run(monkeypatch, capfd, *args):
    """`icn-edge` in this process: exit code and what it said on stderr."""
    monkeypatch.setattr(sys, "argv", ["icn-edge", *map(str, args)])
    saved = [os.dup(stream) for stream in (1, 2)]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    for stream, copy in zip((1, 2), saved, strict=True):  # a failure leaves them closed
        os.dup2(copy, stream)
        os.close(copy)
    return code, capfd.readouterr().err


@pytest.fixture
def check(monkeypatch, capfd, tmp_path):
    def check(*args, store=None):
        code, said = run(
            monkeypatch, capfd, "--store", store or tmp_path / "store", "--check-config", *args
        )
        assert said.count("\n") <= 1
        assert not (tmp_path / "store").exists()
        return code, said

    return check


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--trust-file", "not toml", "not toml|cannot read"),
        ("--trust-file", 'acme = "12"', "trust_file: .*64 hex digits"),
        ("--trust-file", TRUST.replace("acme", '"acme/llm"'), "is not a publisher"),
        ("--token-file", "short\n", "token_file: .*line 1: .*16 printable"),
        ("--token-file", b"\xff" * 20, "token_file: .* is not UTF-8"),
        ("--ca-file", "no pem", "ca_file: .* holds no PEM certificate"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(check, tmp_path, option, content, said):
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, err = check(option, path)
    assert code == 2
    assert err.count(str(path)) == 1, err
    assert re.search(said, err), err


@pytest.mark.parametrize("option", ["--trust-file", "--token-file", "--ca-file"])
@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_a_file_that_is_none(check, tmp_path, option, kind):
    path = tmp_path if kind == "directory" else tmp_path / "none"
    code, err = check(option, path)
    assert (code, "Errno" in err) == (2, False)
    assert err.count(f"{path}\n") == 1


@pytest.mark.parametrize("token", ["abc", "a token of four words", "tokén-tokén-tokén"])
def test_a_token_for_upstreams_that_is_none(check, token):
    """The daemon started, and whoever asked it for a record was told of a forbidden header."""
    code, err = check("--upstream", "http://127.0.0.1:1", "--upstream-token", token)
    assert (code, "16 printable" in err) == (2, True), err


def test_a_limit_that_servers_would_cut_off(check):
    """Pulls through it hung: icn-fetch refused such a limit, and the daemon did not."""
    code, err = check("--upstream", "http://127.0.0.1:1", "--upstream-limit", "1kbit")
    assert (code, "160kbit" in err) == (2, True), err


def test_a_certificate_that_is_none(check, tmp_path):
    path = tmp_path / "cert"
    path.write_text("no pem")
    code, err = check("--tls-cert", path, "--tls-key", path)
    assert (code, "PEM" in err, "_ssl.c" in err) == (2, True, False)


def test_a_port_file_without_a_directory(check, tmp_path):
    assert check("--port-file", tmp_path / "none" / "port")[0] == 2


def test_a_port_file_that_would_replace_a_device(check):
    """`--port-file /dev/null`, as root, left a file of six bytes in its place."""
    code, err = check("--port-file", "/dev/null")
    assert (code, "not a plain file" in err) == (2, True)


@pytest.mark.parametrize("option", ["--port-file", "--trace", "--store"])
def test_a_name_that_no_file_can_have(check, tmp_path, option):
    """The start ended with 11: there is nothing of such a name, but there cannot be, either."""
    path = tmp_path / ("a" * 300)
    code, err = check(option, path) if option != "--store" else check(store=path)
    assert (code, "File name too long" in err) == (2, True), err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_authorities_that_may_not_be_read(check, tmp_path):
    path = tmp_path / "ca.pem"
    path.touch(0o000)
    code, err = check("--ca-file", path)
    assert (code, "cannot read" in err) == (2, True), err


@pytest.mark.parametrize("capacity", ["0", "1MiB", "16777215"])
def test_a_budget_that_no_block_fits(check, capacity):
    code, err = check("--capacity", capacity)
    assert (code, "at least 16MiB" in err) == (2, True)
    assert check("--capacity", "16MiB")[0] == 0


def test_a_store_that_is_a_file_or_below_one(check, tmp_path):
    path = tmp_path / "file"
    path.touch()
    for store in (path, path / "below"):
        code, err = check(store=store)
        assert (code, "is not a directory" in err) == (2, True)


def test_a_directory_of_other_things_is_no_store(check, tmp_path):
    """`--store models/x` must not mix blocks with somebody's model."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").touch()
    code, err = check(store=model)
    assert (code, "is not empty and not a store" in err) == (2, True)


@pytest.mark.parametrize("kind", ["empty", "fresh disk", "killed at the start", "ours"])
def test_what_may_become_a_store(check, tmp_path, kind):
    store = tmp_path / "mine"
    store.mkdir()
    if kind == "fresh disk":
        (store / "lost+found").mkdir()
    if kind == "killed at the start":
        (store / "blocks").mkdir()
    if kind == "ours":
        Catalog(store / "catalog.sqlite").close()
        (store / "somebody's note").touch()
    before = sorted(os.listdir(store))
    assert check(store=store)[0] == 0
    assert sorted(os.listdir(store)) == before


@pytest.mark.parametrize("store", ["/etc/passwd", "/proc/x", "/dev/null/x", "x" * 300])
def test_a_store_that_cannot_be_made_is_one_line(tmp_path, store):
    command = [sys.executable, "-m", "icnblocks_daemon", "--listen", "127.0.0.1:0"]
    command += ["--store", str(tmp_path / store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in {2, 11}
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("icn-edge: ")


@pytest.mark.parametrize("host", ["..", "a" * 300, "no-such-host.invalid"])
def test_a_host_that_is_none_is_said_in_plain_words(tmp_path, host):
    command = [sys.executable, "-m", "icnblocks_daemon", "--store", str(tmp_path / "s")]
    done = subprocess.run(
        [*command, "--listen", f"{host}:1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert not re.search("Errno|codec|Traceback", done.stderr)


def test_an_address_that_is_not_this_machines_is_not_taken_for_a_port_in_use(tmp_path):
    """Catches: the advice to take another port, at which the same address fails as well."""
    command = [sys.executable, "-m", "icnblocks_daemon", "--store", str(tmp_path / "s")]
    done = subprocess.run(
        [*command, "--listen", "192.0.2.1:4260"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "name another address or port with --listen" in done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_output_that_is_full_is_no_traceback(tmp_path, stream):
    command = [sys.executable, "-m", "icnblocks_daemon"]
    command += ["--help"] if stream == "stdout" else ["--nope"]
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run(command, **streams, text=True, check=False)
    assert done.returncode == (11 if stream == "stdout" else 2)
    if stream == "stdout":
        assert done.stderr.startswith("icn-edge: cannot write or read the output: No space left")
        assert done.stderr.count("\n") == 1

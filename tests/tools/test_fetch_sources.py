"""`icn-fetch` with limits, several sources, and bases that have bases."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from icnblocks.limits import DEFAULT_PRIORITY, KIB, MAX_BASES
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import make_model, record_path
from icnblocks.testing.lying import Lie, LyingServer, Reply
from icnblocks.testing.models import lora, write_llama
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.testing.relay import Relay


@pytest.fixture
def origin(tmp_path):
    with start_edge(tmp_path / "origin") as daemon:
        yield daemon


@pytest.fixture
def publisher(tmp_path):
    return Device(tmp_path / "publisher")


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device")


def serving(name: str, lie: Lie = Lie.NONE, times: int | None = None) -> LyingServer:
    """A server of this one model, that keeps what it is asked; of blocks it may lie."""
    model = make_model(name)
    told = {record_path(model.name): model.record(), f"/v1/manifests/{model.digest}": model.raw}

    def respond(request):
        path = request.path.partition("?")[0]
        return Reply(200, told[path]) if path in told else None

    return LyingServer(model.blocks, lie, times=times, respond=respond)


def chain(tmp_path, publisher, origin, length: int) -> list[str]:
    """A base and adapters that stand on one another; their names, the base first."""
    names = ["acme/m0"]
    publisher.publish(write_llama(tmp_path / "m0", layers=2, hidden=64), names[0], origin.url)
    for number in range(1, length):
        adapter = lora(tmp_path / f"m{number}", layers=2, hidden=64, seed=number)
        publisher.publish(adapter, f"acme/m{number}", origin.url, "--base", names[-1])
        names.append(f"acme/m{number}")
    return names


def test_an_adapter_of_an_adapter_brings_the_whole_chain(tmp_path, origin, publisher, device):
    """A pull that brings one level only gives a directory that cannot be run."""
    names = chain(tmp_path, publisher, origin, 4)
    ran = device.run("fetch", names[-1], "--from", origin.url, "--trust-first-use")
    done = ran.done()
    models = [event["name"] for event in ran.events if event["event"] == "model"]
    assert models == names, "the base of all comes first"
    for name in names:
        assert list((device.root / "models" / name).glob("*.safetensors")), name
    assert done["base_path"] == str(device.root / "models" / names[-2])
    assert done["bytes_network"] == sum(
        event["bytes_network"] for event in ran.events if event["event"] == "model"
    )
    again = device.run("fetch", names[-1], "--from", origin.url).done()
    assert again["bytes_network"] == 0


def test_a_chain_beside_a_directory_lies_beside_it(tmp_path, origin, publisher, device):
    names = chain(tmp_path, publisher, origin, 3)
    to = tmp_path / "out" / "mine"
    device.fetch(names[-1], origin.url, "--to", to)
    assert sorted(path.name for path in to.parent.iterdir()) == ["m0", "m1", "mine"]


@pytest.mark.slow
def test_a_chain_without_end_is_refused_before_anything_is_fetched(
    tmp_path, origin, publisher, device
):
    names = chain(tmp_path, publisher, origin, MAX_BASES + 2)
    ran = device.run("fetch", names[-1], "--from", origin.url, "--trust-first-use")
    assert (ran.code, ran.last["error"]) == (7, "format")
    assert str(MAX_BASES) in ran.last["message"]
    assert not (device.root / "models").exists()
    device.fetch(names[-2], origin.url)


def test_what_came_in_vain_is_told_apart(tmp_path, origin, publisher, device):
    """bytes_network is each block once; a link's bill has the rest too."""
    publisher.publish(write_llama(tmp_path / "m", layers=2, hidden=64), "acme/m", origin.url)
    done = device.fetch("acme/m", origin.url)
    assert (done["bytes_network"], done["bytes_wasted"]) == (done["bytes_model"], 0)


def test_a_limit_is_kept_and_one_that_cannot_be_meant_is_refused(
    tmp_path, origin, publisher, device
):
    publisher.publish(write_llama(tmp_path / "m", layers=2, hidden=64), "acme/m", origin.url)
    size = sum(path.stat().st_size for path in (tmp_path / "m").iterdir())
    rate = max(size, 400_000)  # a second, more or less
    done = device.fetch("acme/m", origin.url, "--limit-rate", f"{rate}B/s")
    assert done["seconds"] >= size / rate - 0.05
    for wrong in ("fast", "20", "1kbit", "0Mbit"):
        failed = device.run("fetch", "acme/m", "--limit-rate", wrong)
        assert (failed.code, failed.last["error"]) == (2, "usage"), wrong
        assert "--limit-rate" in failed.last["message"]
    other = Device(tmp_path / "other", ICN_LIMIT_RATE="nonsense")
    assert other.run("fetch", "acme/m", "--from", origin.url).code == 2


@pytest.mark.parametrize(("words", "environ", "priority"), [
    (("--priority", "7"), {}, 7), ((), {"ICN_PRIORITY": "0"}, 0), ((), {}, DEFAULT_PRIORITY),
])  # fmt: skip
def test_a_pull_says_how_urgent_it_is(tmp_path, words, environ, priority):
    with serving("acme/urgent") as server:
        Device(tmp_path / "device", **environ).fetch("acme/urgent", server.url, *words)
    assert {asked.priority for asked in server.bundles} == {priority}


def test_the_token_to_publish_with_is_shown_to_nobody_who_is_read_from(tmp_path):
    """Catches: ICN_TOKEN in every request of a pull, to whatever edge, in clear text over http.

    Whoever had it could write every name at the origin. With two sources have-maps are asked for.
    """
    device = Device(tmp_path / "device", ICN_TOKEN="a-token-to-publish-with")
    with serving("acme/open") as one, serving("acme/open") as two:
        device.fetch("acme/open", one.url, "--from", two.url)
        shown = device.run("show", "acme/open", "--from", one.url)
    assert shown.code == 0
    asked = [*one.requests, *two.requests]
    for path in ("/v1/records/", "/v1/manifests/", "/have", "/v1/bundles"):
        assert any(path in request.path for request in asked), path
    assert not any("a-token" in str(request) for request in asked)


def test_whoever_is_read_from_is_shown_the_token_to_read_with(tmp_path):
    """Catches: a request of a pull without it, which a proxy that asks for it would refuse."""
    device = Device(tmp_path / "device", ICN_READ_TOKEN="a-token-to-read-with")
    with serving("acme/shut") as one, serving("acme/shut") as two:
        device.fetch("acme/shut", one.url, "--from", two.url)
    asked = [*one.requests, *two.requests]
    assert asked
    assert {each.headers.get("authorization") for each in asked} == {"Bearer a-token-to-read-with"}


def test_several_sources_make_one_model(tmp_path, origin, publisher, device):
    """One is an origin, one an edge of it that has nothing, one is no server of ours at all.

    The origin holds its blocks back until the edge was asked: it might else have served them all.
    """
    model = write_llama(tmp_path / "m", layers=4, hidden=128)
    publisher.publish(model, "acme/m", origin.url)
    args = ("--upstream", origin.url)
    with (
        start_edge(tmp_path / "edge", *args) as edge,
        LyingServer({}) as stranger,
        Relay(origin.port, hold_after=64 * KIB) as way,
    ):
        sources = [word for each in (way, edge, stranger) for word in ("--from", each.url)]
        process = device.start("fetch", "acme/m", *sources, "--trust-first-use")

        def asked():
            return edge.metric("icn_requests_total", endpoint="GET /v1/manifests/{digest}/have")

        poll_until(lambda: asked() or process.poll() is not None, what="the edge was asked")
        way.let_go()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)
        assert asked() == 1
    done = json.loads(out.splitlines()[-1])
    assert done["bytes_network"] == done["bytes_model"]
    for path in model.iterdir():
        assert (Path(done["path"]) / path.name).read_bytes() == path.read_bytes()


def test_a_first_source_that_never_answers_is_not_waited_for(tmp_path, publisher, origin):
    """Catches: a name asked of one source after the other, each for its whole time-out."""
    model = write_llama(tmp_path / "model", layers=2, hidden=64)
    publisher.publish(model, "acme/model", origin.url)
    device = Device(tmp_path / "device", ICN_STALL_S="1000")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stalled = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = device.fetch("acme/model", stalled, "--from", origin.url)
    assert list(Path(done["path"]).glob("*.safetensors"))


def test_https_to_a_daemon_that_speaks_http_is_told_so(origin, device):
    """Catches: WRONG_VERSION_NUMBER, and nothing that says what is meant."""
    ran = device.run("fetch", "acme/m", "--from", origin.url.replace("http:", "https:"))
    assert (ran.code, ran.last["hint"]) == (9, "does it speak http://?")


def test_a_file_that_the_locale_cannot_name_is_one_line_that_says_so(tmp_path, publisher, origin):
    """Catches: a traceback by UnicodeEncodeError."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "modèle").write_bytes(b"bytes")
    publisher.publish(tmp_path / "m", "acme/m", origin.url)
    poor = Device(tmp_path / "poor", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    ran = poor.run("fetch", "acme/m", "--from", origin.url, "--trust-first-use")
    assert (ran.code, ran.last["error"]) == (2, "usage"), ran.err
    assert ran.last["hint"] == "set PYTHONUTF8=1 or LC_ALL=C.UTF-8"
    assert "mod\\xe8le" in ran.last["message"]
    assert "Traceback" not in ran.err
    rich = Device(poor.root, LC_ALL="C", PYTHONUTF8="1")
    assert (Path(rich.fetch("acme/m", origin.url)["path"]) / "modèle").read_bytes() == b"bytes"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_directory_whose_name_is_no_text_is_told_as_it_is(tmp_path, as_json):
    """Catches: all is there, and then a traceback by UnicodeEncodeError in place of its name."""
    to = bytes(tmp_path) + b"/m\xff"
    environ = Device(tmp_path / "device", PYTHONIOENCODING="utf-8:strict").environ  # as en_US.UTF-8
    with serving("acme/m") as server:
        words = ["fetch", "acme/m", "--from", server.url, "--trust-first-use", "--to", to]
        ran = subprocess.run(
            [sys.executable, "-m", "icnblocks_tools", *words, *["--json"] * as_json],
            env=environ, capture_output=True, check=False,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    last = ran.stdout.splitlines()[-1]
    assert (os.fsencode(json.loads(last)["path"]) if as_json else last) == to
    assert os.path.isdir(to)

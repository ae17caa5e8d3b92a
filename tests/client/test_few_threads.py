"""Where the system gives few threads, or none: what can be done with those is done."""

from __future__ import annotations

import subprocess
import sys
import threading
from random import Random
from typing import TYPE_CHECKING

import pytest

from icnblocks.client.engine import Engine
from icnblocks.client.hedged import answers
from icnblocks.client.source import Source
from icnblocks.naming import Digest
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import make_model, record_path
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.wire.bundle import Want

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.errors import IcnError
    from icnblocks.store.base import Verified

START = threading.Thread.start
BLOCKS = {Digest.of(block): block for block in (Random(n).randbytes(1000) for n in range(50))}
WANTS = [Want(digest, len(block)) for digest, block in BLOCKS.items()]


class Keep:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.accepted: set[Digest] = set()

    def accept(self, blocks: Sequence[Verified]) -> None:
        self.accepted.update(block.digest for block in blocks)

    def refuse(self, want: Want, error: IcnError) -> None:
        raise AssertionError(error)


def give(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the threads for lanes and questions, so many can be had."""
    left = [count]

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("icn-lane") or "(run)" in thread.name:
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        START(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_a_pull_goes_on_with_the_threads_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a traceback, though a lane of the source was at work."""
    give(1, monkeypatch)
    sink = Keep()
    with LyingServer(BLOCKS) as server, Source(server.url) as source:
        with Engine([source], sink) as engine:
            engine.add(WANTS)
            assert engine.wait(20)
    assert sink.accepted == set(BLOCKS)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_source_that_nobody_could_ask_is_not_waited_for(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what only that source has nothing would ever be heard."""
    give(count, monkeypatch)
    with LyingServer({}) as empty, LyingServer(BLOCKS) as full:
        with (
            Source(empty.url) as one,
            Source(full.url) as two,
            Engine([one, two], Keep()) as engine,
        ):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                engine.add(WANTS)


def test_without_threads_sources_are_asked_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches: a model that is whole on the machine, and a traceback when its record is asked."""
    give(0, monkeypatch)
    came = list(answers(["one", "two"], str.upper, within_s=60.0))  # type: ignore[type-var, arg-type]
    assert [answer() for answer in came] == ["ONE", "TWO"]


def test_a_command_without_threads_says_so_in_one_sentence(tmp_path) -> None:
    """Catches: a traceback at the end of `icn-fetch` in a container with a low pids limit."""
    model = make_model("acme/m")
    told = {record_path(model.name): model.record(), f"/v1/manifests/{model.digest}": model.raw}

    def respond(request):
        return Reply(200, told[request.path]) if request.path in told else None

    code = (
        "import sys, threading\n"
        "from icnblocks_tools.main import command, run\n"
        'def start(thread): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = start\n"
        "run(command('icn-fetch'), 'icn-fetch')\n"
    )
    with LyingServer(model.blocks, respond=respond) as server:
        ran = subprocess.run(
            [sys.executable, "-c", code, "acme/m", "--from", server.url, "--trust-first-use"],
            env=Device(tmp_path / "device").environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: the system gives this no more threads (")

"""The daemon's life, in this process: what its chores and its reloads do when they fail."""

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from icnblocks.errors import UsageError
from icnblocks_daemon import node, serve, trace_log
from icnblocks_daemon.addresses import Address
from icnblocks_daemon.config import Config


class Manager:
    """A notifier that remembers what it was told."""

    def __init__(self):
        self.told = []

    def reloading(self):
        self.told.append("reloading")

    def ready(self, status):
        self.told.append(status)

    def stopping(self):
        self.told.append("stopping")

    async def feed_watchdog(self):
        pass


def fails(error):
    def work(*_):
        raise error

    return work


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "Notifier", Manager)
    config = Config(tmp_path / "store", listen=Address("127.0.0.1", 0))
    return serve._Daemon(config, lambda: config)


async def test_a_chore_that_fails_is_said_at_once_and_begun_anew(daemon, monkeypatch, caplog):
    """It was read at the stop only: a daemon went on without upkeep, and nobody knew."""
    begun = []

    async def scrub(*_):
        begun.append(caplog.text)
        if len(begun) == 1:
            raise RuntimeError("the chore's fault")
        daemon._stop.set()

    monkeypatch.setattr(serve, "scrub", scrub)
    monkeypatch.setattr(serve, "CHORE_AGAIN_S", 0.0)
    async with asyncio.timeout(20):
        assert await daemon.run() == 0
    assert "the chore scrub failed" in begun[1]
    assert "the chore's fault" in begun[1]


async def reload(daemon, answer=()):
    """Reload once, by a node that answers so."""

    async def taken(_):
        return answer

    await daemon._reload(SimpleNamespace(reload=taken, stopping=False))


async def test_a_daemon_that_is_stopping_does_not_say_that_it_is_ready(daemon):
    """systemd was told READY=1 after STOPPING=1. Catches also: a reload that was under way then."""
    node = SimpleNamespace(stopping=True)
    daemon._hung_up.set()
    keeping = asyncio.create_task(daemon._keep_reloading(node))
    while daemon._hung_up.is_set():
        await asyncio.sleep(0)
    assert daemon._notifier.told == []

    async def stopped(_):
        node.stopping = True
        return ()

    node.stopping, node.reload = False, stopped
    daemon._hung_up.set()
    async with asyncio.timeout(20):
        while not node.stopping:
            await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert daemon._notifier.told == ["reloading"]


async def test_settings_that_are_in_effect_are_not_said_to_be_refused(daemon, monkeypatch, caplog):
    monkeypatch.setattr(serve, "set_up_logs", fails(OSError("no more files")))
    with pytest.raises(OSError):  # who keeps up the chores logs it
        await reload(daemon)
    assert "nothing was reloaded" not in caplog.text
    assert daemon._notifier.told[0] == "reloading"
    assert len(daemon._notifier.told) == 2


@pytest.mark.parametrize("error", [UsageError("wrong"), RuntimeError("a bug")])
async def test_a_reload_that_fails_leaves_nobody_waiting_for_its_end(daemon, monkeypatch, error):
    """`systemctl reload` hung until its time was up."""
    monkeypatch.setattr(daemon, "_reread", fails(error))
    try:
        await reload(daemon)
    except RuntimeError:
        assert not isinstance(error, UsageError)
    assert daemon._notifier.told == ["reloading", "the last reload failed: the log says why"]


@pytest.mark.parametrize("hangs", ["settings", "tokens", "trace"])
async def test_a_reload_whose_disk_hangs_holds_up_nothing_else(
    daemon, tmp_path, monkeypatch, hangs
):
    """Catches: the files that the settings name were read, and a new trace opened, on the event
    loop: nobody was answered until the watchdog came."""
    reached, opened = threading.Event(), threading.Event()

    def held(work):
        def wait(*asked):
            reached.set()
            assert opened.wait(20)
            return work(*asked)

        return wait

    again = replace(daemon._config, trace=tmp_path / "trace.jsonl")
    monkeypatch.setattr(daemon, "_reread", lambda: again)
    if hangs == "settings":
        monkeypatch.setattr(daemon, "_reread", held(lambda: again))
    async with asyncio.timeout(60):
        running = asyncio.create_task(daemon.run())
        while not any("origin on" in told for told in daemon._notifier.told):
            await asyncio.sleep(0)
        if hangs == "tokens":
            monkeypatch.setattr(node, "read_rules", held(node.read_rules))
        elif hangs == "trace":
            monkeypatch.setattr(trace_log, "_File", held(trace_log._File))
        for _ in range(3):
            daemon._hung_up.set()
            await asyncio.to_thread(reached.wait, 20)
        assert daemon._notifier.told[1:] == ["reloading"], "one at a time"
        opened.set()
        while daemon._notifier.told.count("reloaded") < 2:
            await asyncio.sleep(0)
        daemon._stop.set()
        assert await running == 0
    assert daemon._notifier.told[1:] == [*["reloading", "reloaded"] * 2, "stopping"]
    assert (tmp_path / "trace.jsonl").exists()

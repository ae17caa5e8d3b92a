"""The daemon's life, in this process: what its chores and its reloads do when they fail."""

import asyncio
from types import SimpleNamespace

import pytest

from icnblocks.errors import UsageError
from icnblocks_daemon import serve
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


def reload(daemon, node_reload=None, *, stopping=False):
    daemon._node = SimpleNamespace(reload=node_reload, stopping=stopping)
    daemon._reload()


def test_a_daemon_that_is_stopping_or_not_there_yet_does_not_say_that_it_is_ready(daemon):
    """systemd was told READY=1 after STOPPING=1."""
    daemon._reload()
    reload(daemon, stopping=True)
    assert daemon._notifier.told == []


def test_settings_that_are_in_effect_are_not_said_to_be_refused(daemon, monkeypatch, caplog):
    monkeypatch.setattr(serve, "set_up_logs", fails(OSError("no more files")))
    with pytest.raises(OSError):  # the loop logs it
        reload(daemon, lambda _: ())
    assert "nothing was reloaded" not in caplog.text
    assert daemon._notifier.told[0] == "reloading"
    assert len(daemon._notifier.told) == 2


@pytest.mark.parametrize("error", [UsageError("wrong"), RuntimeError("a bug")])
def test_a_reload_that_fails_leaves_nobody_waiting_for_its_end(daemon, monkeypatch, error):
    """`systemctl reload` hung until its time was up."""
    monkeypatch.setattr(daemon, "_reread", fails(error))
    try:
        reload(daemon)
    except RuntimeError:
        assert not isinstance(error, UsageError)
    assert daemon._notifier.told == ["reloading", "the last reload failed: the log says why"]

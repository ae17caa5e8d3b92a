"""Filling from this machine and from a source, with a real daemon as the source."""

import os
from contextlib import suppress
from dataclasses import replace

import pytest

import icnblocks.filling as filling_module
from icnblocks.client.settings import load_settings
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.errors import IncompleteError
from icnblocks.filling import Filling
from icnblocks.naming import Name
from icnblocks.puller import Puller
from icnblocks.testing.device import Device
from icnblocks.testing.lying import Lie
from icnblocks.testing.processes import start_edge
from tests.tools.test_fetch_sources import serving

HALF = 3 << 20


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Serves acme/one, and acme/two of which one of two files is the same."""
    root = tmp_path_factory.mktemp("filling")
    publisher, same = Device(root / "publisher"), os.urandom(HALF)
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "same").write_bytes(same)
        (root / name / "own").write_bytes(os.urandom(HALF))
        store = ("--kind", "pack", "--store", root / "store")
        publisher.run("publish", root / name, f"acme/{name}", *store).done()
    with start_edge(root / "store") as daemon:
        yield root, daemon


@pytest.fixture
def device(origin, tmp_path):
    """A puller on a machine that has acme/one; the path of that."""
    keys = ("models", "store", "keys", "known_publishers")
    environ = {f"ICN_{key.upper()}": str(tmp_path / key) for key in keys}
    settings = load_settings({**environ, "ICN_FROM": origin[1].url})

    def pull(name):
        trust = Trust(KnownPublishers(settings.known_publishers), first_use=True)
        with Puller(settings, trust) as puller:
            return puller.pull(Name.parse(name))

    return pull, pull("acme/one").path


def right(root, pulled):
    return all(
        (pulled.path / name).read_bytes() == (root / name).read_bytes() for name in os.listdir(root)
    )


def test_what_is_here_is_not_fetched(origin, device):
    pulled = device[0]("acme/two")
    assert right(origin[0] / "two", pulled)
    assert (pulled.bytes_network, pulled.bytes_reused) == (HALF, HALF)


def test_what_is_not_here_after_all_is_fetched_too(origin, device):
    """Catches: a block that was left to a local model which has rotted, and is then missing."""
    pull, one = device
    facts = (one / "same").stat()
    data = bytearray((one / "same").read_bytes())
    data[HALF // 2] ^= 1
    (one / "same").write_bytes(data)
    os.utime(one / "same", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    pulled = pull("acme/two")
    assert right(origin[0] / "two", pulled)
    assert HALF < pulled.bytes_network <= 2 * HALF


class Hearer:
    """Keeps what it was warned of."""

    def __init__(self):
        self.told = []

    def begun(self, *_):
        pass

    def moved(self, count):
        pass

    def reused(self, count):
        pass

    def warned(self, text):
        self.told.append(text)


@pytest.fixture
def pull_from(tmp_path):
    """Pulls acme/m from a server, into a machine of its own."""
    keys = ("models", "store", "keys", "known_publishers")
    settings = load_settings({f"ICN_{key.upper()}": str(tmp_path / key) for key in keys})

    def pull(server, hearer=None):
        asked = replace(settings, sources=(server.url,), retry_s=0.2)
        trust = Trust(KnownPublishers(settings.known_publishers), first_use=True)
        with Puller(asked, trust, hearer) as puller:
            puller.pull(Name.parse("acme/m"))

    return pull


def test_while_all_sources_are_busy_the_user_hears_once_what_is_waited_for(pull_from, monkeypatch):
    """Catches: up to ten minutes without a word."""
    monkeypatch.setattr(filling_module, "_QUIET_S", 0.1)
    hearer = Hearer()
    with serving("acme/m", Lie.STATUS_429, times=2) as server:
        pull_from(server, hearer)
    (told,) = hearer.told
    assert told.startswith("acme/m: no block has come for 0 s: ")
    assert f"blocks from {server.url}: " in told


@pytest.mark.parametrize(("lie", "passes"), [(Lie.NOT_FOUND, False), (Lie.STATUS_500, True)])
def test_what_no_source_has_is_not_worth_another_try(pull_from, lie, passes):
    """Catches: scripts that try again and again what the only source lacks for good."""
    with serving("acme/m", lie) as server, pytest.raises(IncompleteError) as caught:
        pull_from(server)
    assert caught.value.retry is passes
    assert ("run it again" in caught.value.hint) is passes


def test_files_that_blocks_were_taken_from_do_not_stay_open(origin, device, monkeypatch):
    """Catches: a stream of 500 files that runs out of descriptors, where loading them does not."""
    pull, one = device
    opened = []

    def run(self, _run=Filling.run):
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                opened.append(os.readlink(f"/proc/self/fd/{fd}"))
        return _run(self)

    monkeypatch.setattr(Filling, "run", run)
    assert pull("acme/two").bytes_reused == HALF
    assert opened
    assert not [path for path in opened if path.startswith(f"{one}/")]

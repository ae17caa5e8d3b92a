"""An origin that means harm, met by the real command: an error, and nothing else happens."""

import time
from pathlib import Path

import pytest

from icnblocks.manifest.record import Record, public_bytes, sign_record
from icnblocks.naming import Digest
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import KEY, OTHER_KEY, make_model, record_path
from icnblocks.testing.lying import LyingServer, Reply

DAY = 24 * 3600


class Hostile:
    """What an origin says: signed by the right key unless a test wants otherwise."""

    def __init__(self, model):
        self.model, self.manifest, self.served = model, model.raw, model.record()

    def tell(self, manifest):
        """Serve these bytes as the model's manifest, by a record with a true signature."""
        self.manifest = manifest
        self.sign(manifest=Digest.of(manifest))

    def renamed(self, path):
        """The manifest with another path, which the encoder would not write."""
        return self.manifest.replace(b"\xabweights.bin", bytes([0xA0 + len(path)]) + path)

    def sign(self, *, key=KEY, **fields):
        said = {"manifest": self.model.digest, "seq": 1, "time": int(time.time()), "lifetime": 60}
        record = Record(self.model.name, key=public_bytes(key), **(said | fields))
        self.served = sign_record(record, key)

    def respond(self, request):
        if request.path == record_path(self.model.name):
            return Reply(200, self.served)
        if request.path.startswith("/v1/manifests/"):
            return Reply(200, self.manifest)
        return None


@pytest.fixture
def hostile():
    return Hostile(make_model())


@pytest.fixture
def server(hostile):
    with LyingServer(hostile.model.blocks, respond=hostile.respond) as server:
        yield server


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device", ICN_RETRY_S="1")


def pull(device, server, *args):
    return device.run("fetch", "acme/tiny", "--trust-first-use", "--from", server.url, *args)


def files_of(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "path",
    [
        b"../evil.bin",
        b"/tmp/evil-by-manifest",
        b"a/../../evil",
        b".icnblocks/map",
        b"x.partial",
        b"nul\0.bin",
    ],
)
def test_a_manifest_that_names_a_place_outside_is_refused(path, hostile, server, device, tmp_path):
    hostile.tell(hostile.renamed(path))
    target = tmp_path / "to" / "model"
    failed = pull(device, server, "--to", target)
    assert (failed.code, failed.last["error"]) == (7, "format")
    assert "Traceback" not in failed.err
    assert not server.bundles, "no block was asked for"
    assert not target.parent.exists()
    assert not Path("/tmp/evil-by-manifest").exists()


@pytest.mark.parametrize("link", ["directory", "file", "partial"])
def test_a_link_in_the_way_is_not_followed_out_of_the_directory(
    link, hostile, server, device, tmp_path
):
    """The path is innocent, and somebody has put a link where it leads."""
    outside, target = tmp_path / "outside", tmp_path / "model"
    outside.mkdir()
    target.mkdir()
    (outside / "precious").write_bytes(b"mine")
    if link == "directory":
        hostile.tell(hostile.renamed(b"d/weigh.bin"))
        (target / "d").symlink_to(outside)
    else:
        name = "weights.bin" + (".partial" if link == "partial" else "")
        (target / name).symlink_to(outside / "precious")
    failed = pull(device, server, "--to", target, "--overwrite")
    assert (failed.code, failed.last["error"]) == (15, "conflict")
    assert files_of(outside) == {"precious"}
    assert (outside / "precious").read_bytes() == b"mine"


def test_a_manifest_that_promises_millions_takes_no_memory(hostile, server, device):
    """Canonical msgpack of an array that says it has four thousand million elements."""
    hostile.tell(hostile.model.raw[:1] + b"\xdd\xff\xff\xff\xff" * 200_000)
    failed = device.start("fetch", "acme/tiny", "--trust-first-use", "--from", server.url)
    _, err = failed.communicate(timeout=60)
    assert failed.returncode == 7, err


@pytest.mark.parametrize(
    "other", [lambda raw: raw[:-1] + b"?", lambda raw: raw + b"?"], ids=["other", "longer"]
)
def test_a_manifest_that_is_not_the_named_one_is_refused(other, hostile, server, device):
    hostile.manifest = other(hostile.model.raw)
    failed = pull(device, server)
    assert (failed.code, failed.last["error"]) == (6, "corrupt")
    assert not server.bundles


def test_a_file_of_a_size_that_no_disk_has_is_refused_before_the_work(hostile, server, device):
    """A length that its blocks do not add up to."""
    size = hostile.model.size.to_bytes(4, "big")
    hostile.tell(hostile.model.raw.replace(b"\xce" + size, b"\xce\x7f\xff\xff\xff"))
    failed = pull(device, server)
    assert (failed.code, failed.last["error"]) == (7, "format")
    assert not server.bundles


def _flipped(data):
    return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]  # within the signature


NOT_BELIEVED = {
    "older": (lambda hostile: hostile.sign(seq=4), 0),
    "another of the same number": (lambda hostile: hostile.sign(seq=5, lifetime=61), 5),
    "future": (lambda hostile: hostile.sign(seq=9, time=int(time.time()) + DAY), 5),
    "another key": (lambda hostile: hostile.sign(seq=9, key=OTHER_KEY), 5),
    "bad signature": (lambda h: setattr(h, "served", _flipped(h.model.record(seq=9))), 5),
    "of another name": (
        lambda h: setattr(h, "served", make_model("acme/other").record(seq=9)), 5),
    "a web page": (lambda h: setattr(h, "served", b"<html>please log in</html>"), 0),
    "cut": (lambda h: setattr(h, "served", h.model.record(seq=9)[:-9]), 0),
    "endless": (lambda h: setattr(h, "served", h.model.record(seq=9) + bytes(1 << 20)), 0),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_BELIEVED)
def test_a_record_not_to_be_believed_changes_nothing(what, hostile, server, device):
    """What was pulled stays as it was; where nothing is said against it, it is used on."""
    hostile.sign(seq=5)
    first = pull(device, server).done()
    change, code = NOT_BELIEVED[what]
    evil = make_model(seed=66)
    server.blocks = {**hostile.model.blocks, **evil.blocks}
    hostile.model = evil
    hostile.manifest = evil.raw
    change(hostile)
    again = pull(device, server)
    assert again.code == code, again
    assert "Traceback" not in again.err
    offline = device.run("fetch", "acme/tiny", "--offline").done()
    assert (offline["manifest"], offline["bytes_network"]) == (first["manifest"], 0)
    lines = (device.root / "known_publishers").read_text().splitlines()
    assert len(lines) == 1, "nothing was learnt of another key"


@pytest.mark.parametrize("what", ["future", "bad signature", "of another name", "a web page"])
def test_the_same_at_the_first_meeting_leaves_nothing(what, hostile, server, device):
    NOT_BELIEVED[what][0](hostile)
    failed = pull(device, server)
    assert failed.code in {5, 9}, failed
    assert not server.bundles
    assert not (device.root / "models").exists()
    assert not (device.root / "known_publishers").exists(), "no key was remembered"

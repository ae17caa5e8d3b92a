"""An origin and a model published in place: what it acknowledges it has, whatever became of it."""

import os
import shutil
from contextlib import nullcontext

import pytest

from icnblocks.naming import Name
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import call, record_path
from icnblocks.testing.processes import poll_until, start_edge

DATA = os.urandom(3_000_000)


def make(root, **files):
    root.mkdir(parents=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def origin(tmp_path):
    with start_edge(tmp_path / "origin") as origin:
        yield origin


@pytest.fixture
def base(tmp_path, origin):
    base = make(tmp_path / "models" / "base", file=DATA)
    Device(tmp_path / "pub").run("publish", base, "acme/base", "--store", origin.store).done()
    return base


def pulled(device, origin, name):
    ran = device.run("fetch", name, "--from", origin.url, "--trust-first-use")
    assert ran.code == 0, ran.last
    return ran.last["bytes_network"]


def edit(base):
    (base / "file").write_bytes(b"trained on")


def move(base):
    base.rename(base.with_name("moved"))


@pytest.mark.parametrize("lose", [edit, move, shutil.rmtree], ids=["edited", "moved", "removed"])
def test_what_an_origin_acknowledges_it_has_though_it_was_in_place(tmp_path, origin, base, lose):
    """Catches: blocks that the index names are not sent, though their file is away or another; the
    publish is acknowledged, all pulls fail, and publishing again sends nothing."""
    pulled(Device(tmp_path / "before"), origin, "acme/base")  # its files are open from now on
    lose(base)
    tuned = make(tmp_path / "tuned", file=DATA, extra=b"tuned")
    done = Device(tmp_path / "pub").publish(tuned, "acme/tuned", origin.url)
    assert done["bytes_sent"] == len(DATA) + 5
    assert pulled(Device(tmp_path / "dev"), origin, "acme/tuned") == len(DATA) + 5


def test_a_model_that_lies_in_place_unchanged_is_not_sent_again(tmp_path, origin, base):
    tuned = make(tmp_path / "tuned", file=DATA, extra=b"tuned")
    assert Device(tmp_path / "pub").publish(tuned, "acme/tuned", origin.url)["bytes_sent"] == 5


def test_publishing_again_mends_what_was_published_in_place_and_moved(tmp_path, origin, base):
    """Catches: `was published already, 0 B sent`, at each run, of a model that nobody can pull."""
    publisher, device = Device(tmp_path / "pub"), Device(tmp_path / "dev")
    move(base)
    sent = [
        publisher.publish(base.with_name("moved"), "acme/base", origin.url)["bytes_sent"]
        for _ in range(2)
    ]
    assert sent == [len(DATA), 0]
    assert pulled(device, origin, "acme/base") == len(DATA)


def test_a_record_is_refused_whose_blocks_lay_in_a_directory_that_is_away(origin, base):
    """Catches: an origin that takes a record whose blocks went away since it was asked for them."""
    path = record_path(Name.parse("acme/base"))
    raw = call(origin, "GET", path).body
    move(base)
    answer = call(origin, "PUT", path, raw)
    assert (answer.status, answer.json["error"]) == (409, "conflict")


@pytest.mark.parametrize("command", ["show", "verify"])
def test_looking_while_the_disk_is_away_takes_nothing_out_of_service(
    tmp_path, origin, base, command
):
    """Catches: files marked as changed for good, as a look could not see them for a moment."""
    what = ("acme/base", "--trust-first-use", "--store", origin.store)
    if command == "verify":
        origin.stop()
        what = (origin.store,)
    base.parent.rename(tmp_path / "away")
    Device(tmp_path / "pub").run(command, *what)
    (tmp_path / "away").rename(base.parent)
    with start_edge(tmp_path / "origin") if command == "verify" else nullcontext(origin) as again:
        assert again.status()["changed_files"] == []
        assert pulled(Device(tmp_path / "dev"), again, "acme/base") == len(DATA)


def test_a_disk_that_is_mounted_again_is_served_without_anybody_looking(tmp_path):
    """Catches: asked while the directory on which the disk is mounted was empty, a daemon takes the
    files for removed, and refuses them until somebody publishes again."""
    base = make(tmp_path / "models" / "base", file=DATA)
    with start_edge(tmp_path / "origin", "--upload-ttl", "1s") as origin:
        Device(tmp_path / "pub").run("publish", base, "acme/base", "--store", origin.store).done()
        base.rename(tmp_path / "away")
        base.mkdir()
        device = Device(tmp_path / "dev")
        refused = device.run("fetch", "acme/base", "--from", origin.url, "--trust-first-use")
        assert refused.code == 10
        assert origin.status()["changed_files"] == [str(base / "file")]
        base.rmdir()
        (tmp_path / "away").rename(base)
        poll_until(lambda: not origin.status()["changed_files"], what="the file to be believed")
        assert pulled(device, origin, "acme/base") == len(DATA)

"""Disks that refuse, under daemon, publisher and device's index, and what comes after."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from icnblocks.testing.device import Device
from icnblocks.testing.exchange import bundle, call, make_model, missing, publish, record_path
from icnblocks.testing.faults import (
    MountImpossibleError,
    fill_disk,
    make_read_only,
    make_writable,
    small_disk,
)
from icnblocks.testing.models import write_llama
from icnblocks.testing.processes import launch_edge, poll_until, start_edge
from icnblocks.testing.relay import Relay
from icnblocks.wire.upload import pack_parts

MB = 1_000_000


@pytest.fixture
def disk(tmp_path):
    try:
        with small_disk(tmp_path / "disk", 64 * MB) as path:
            yield path
    except MountImpossibleError as error:
        pytest.skip(str(error))


@pytest.fixture
def model(tmp_path):
    return write_llama(tmp_path / "model", seed=21)


@pytest.mark.slow
def test_publishing_in_place_into_a_full_store_is_an_error_and_goes_on_later(
    model, disk, publisher, device, same
):
    """Nothing half-entered: the name is not there, then it is, and it is right."""
    launch_edge(disk / "store").stop()
    fill_disk(disk)
    failed = publisher.run("publish", model, "acme/m", "--store", disk / "store")
    assert (failed.code, failed.last["error"]) == (11, "storage")
    (disk / "filler").unlink()
    with start_edge(disk / "store") as origin:
        assert device.run("fetch", "acme/m", "--from", origin.url).code == 4
        publisher.run("publish", model, "acme/m", "--store", disk / "store").done()
        assert same(model, device.fetch("acme/m", origin.url)["path"])


def test_keys_that_cannot_be_kept_are_an_error_before_anything_is_sent(
    model, disk, tmp_path, origin
):
    """A record by a key that is lost afterwards could never be followed by another."""
    fill_disk(disk)
    me = Device(tmp_path / "me", ICN_KEYS=str(disk / "keys"))
    failed = me.run("publish", model, "acme/m", "--to", origin.url)
    assert (failed.code, failed.last["error"]) == (11, "storage")
    assert origin.metric("icn_uploaded_bytes_total") == 0
    (disk / "filler").unlink()
    me.publish(model, "acme/m", origin.url)


@pytest.mark.slow
def test_an_origin_acknowledges_nothing_that_its_full_disk_refused(disk):
    big, small = make_model("acme/big", size=80 * MB, block_bytes=1 << 20), make_model()
    origin = launch_edge(disk / "store")
    publish(origin, small)
    said = [call(origin, "POST", "/v1/uploads", body) for body in pack_parts(big.blocks.items())]
    assert {reply.status for reply in said} == {200, 507}
    acknowledged = sum(reply.json["stored"] for reply in said if reply.status == 200)
    origin.kill()
    with start_edge(disk / "store") as origin:
        absent = set(missing(origin, big.wants))
        assert len(big.wants) - len(absent) >= acknowledged
        there = tuple(want for at, want in enumerate(big.wants) if at not in absent)[:40]
        assert bundle(origin, there)[0] == {w.digest: big.blocks[w.digest] for w in there}
        assert bundle(origin, small.wants)[0] == small.blocks
        assert call(origin, "GET", record_path(small.name)).status == 200


def test_a_daemon_on_a_read_only_disk_says_so_in_one_line(disk):
    model = make_model()
    with start_edge(disk) as origin:
        publish(origin, model)
    make_read_only(disk)
    try:
        with pytest.raises(RuntimeError, match="ended with 11") as told:
            launch_edge(disk)
        assert "Traceback" not in str(told.value)
    finally:
        make_writable(disk)
    with start_edge(disk) as origin:
        assert bundle(origin, model.wants)[0] == model.blocks


def test_an_index_that_cannot_be_written_is_an_error_and_the_pull_is_not_lost(
    model, disk, tmp_path, origin, publisher, same
):
    """The device's index lies on a full disk, the model on another."""
    publisher.publish(model, "acme/m", origin.url)
    fill_disk(disk)
    device = Device(tmp_path / "device", ICN_STORE=str(disk / "index"))
    failed = device.run("fetch", "acme/m", "--trust-first-use", "--from", origin.url)
    assert (failed.code, failed.last["error"]) == (11, "storage")
    assert "Traceback" not in failed.err
    (disk / "filler").unlink()
    device.fetch("acme/m", origin.url)
    before = origin.metric("icn_sent_bytes_total")
    (disk / "index" / "places.sqlite").unlink()
    done = device.fetch("acme/m", origin.url)
    assert same(model, done["path"])
    assert origin.metric("icn_sent_bytes_total") == before, "what lies there was hashed instead"


@pytest.mark.slow
def test_a_publish_that_is_killed_goes_on_and_shows_nothing_before_it_is_whole(
    tmp_path, origin, publisher, device, same
):
    """It hears of some uploads that they are there, then of none: it cannot end before."""
    model = write_llama(tmp_path / "big", layers=8, hidden=1024, vocabulary=8000, seed=5)
    size = sum(path.stat().st_size for path in model.iterdir())
    there = 0
    for _ in range(2):
        with Relay(origin.port, hold_after=4000) as way:
            process = publisher.start("publish", model, "acme/big", "--to", way.url)
            poll_until(way.holding.is_set, what="some answers came")
            process.kill()
            process.communicate()
        assert process.returncode == -9
        assert origin.metric("icn_uploaded_bytes_total") > there
        there = origin.metric("icn_uploaded_bytes_total")
        failed = device.run("fetch", "acme/big", "--from", origin.url, "--trust-first-use")
        assert failed.code == 4
    done = publisher.publish(model, "acme/big", origin.url)
    assert 0 < done["bytes_sent"] <= size - there, "only what the origin lacked"
    assert same(model, device.fetch("acme/big", origin.url)["path"])


def test_a_read_only_disk_is_enough_to_use_what_was_pulled(
    model, disk, tmp_path, edge, origin, publisher
):
    """Catches: models that lie there whole, and a container that may not write cannot load them."""
    publisher.publish(model, "acme/model", origin.url)
    device = Device(disk / "device")
    done = device.fetch("acme/model", edge.url)
    make_read_only(disk)
    for sources in (("--offline",), ("--from", edge.url)):
        again = device.run("fetch", "acme/model", *sources).done()
        assert (again["path"], again["bytes_network"]) == (done["path"], 0)
    for command in ("show", "acme/model"), ("verify", done["path"]):
        ran = device.run(*command)
        assert ran.code == 0, ran
    code = "import icnblocks; icnblocks.open_model('acme/model').keys()"
    words = [sys.executable, "-c", code]
    ran = subprocess.run(words, env=device.environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    ran = device.run("fetch", "acme/model", "--from", edge.url, "--to", tmp_path / "elsewhere")
    assert (ran.code, ran.last["error"]) == (11, "storage")
    make_writable(disk)


@pytest.mark.parametrize("rotten", [False, True])
def test_a_model_in_an_image_is_used_in_its_container(model, disk, origin, publisher, rotten):
    """Catches: a model that an image brings along, refused as its files have other times there."""
    publisher.publish(model, "acme/model", origin.url)
    device = Device(disk / "device")
    path = Path(device.fetch("acme/model", origin.url)["path"])
    shutil.copytree(path, path.with_name("unpacked"))  # other inodes, and other times
    shutil.rmtree(path)
    path.with_name("unpacked").rename(path)
    if rotten:
        with max(path.glob("*.safetensors")).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read()
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
    make_read_only(disk)
    code = "import icnblocks; icnblocks.open_model('acme/model').keys()"
    words = [sys.executable, "-c", code]
    opened = subprocess.run(words, env=device.environ, capture_output=True, text=True, check=False)
    for sources in (("--offline",), ("--from", origin.url)):
        ran = device.run("fetch", "acme/model", *sources)
        if rotten:
            assert (ran.code, ran.last["error"]) == (11, "storage")
            assert opened.returncode != 0
        else:
            assert (ran.done()["path"], ran.last["bytes_network"]) == (str(path), 0)
            assert opened.returncode == 0, opened.stderr
    make_writable(disk)

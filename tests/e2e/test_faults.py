"""What goes wrong in the world: bad bytes, full and read-only disks, edits, two at once."""

import os
import signal
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from icnblocks.store.facts import FileFacts
from icnblocks.testing.device import Device
from icnblocks.testing.faults import flip_bit, segment_files
from icnblocks.testing.models import write_llama
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.testing.relay import Relay

PART = 4_000_000
"""So much of the model, and no more, comes by a relay that holds the rest back."""


@pytest.fixture
def model(tmp_path):
    return write_llama(tmp_path / "model", layers=8, hidden=512, vocabulary=4000, seed=11)


@pytest.fixture
def published(model, origin, publisher):
    publisher.publish(model, "acme/model", origin.url)
    return model


@contextmanager
def tmpfs(point: Path, size: str, *options: str):
    """A small file system of its own, which can really be full."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    point.mkdir(parents=True, exist_ok=True)
    asked = ",".join([f"size={size}", *options])
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", asked, "tmpfs", point], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def spoil_one_block(store: Path) -> None:
    """Flip one bit in the largest segment of a daemon's store, where a block certainly lies."""
    segment = max(segment_files(store / "blocks"), key=lambda path: path.stat().st_size)
    with segment.open("r+b") as file:
        file.seek(1_000_003)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))


def test_a_flipped_bit_at_one_source_is_had_from_another(
    published, tmp_path, origin, edge, device, same
):
    Device(tmp_path / "first").fetch("acme/model", edge.url)
    spoil_one_block(edge.store)
    done = device.run(
        "fetch", "acme/model", "--trust-first-use", "--from", edge.url, "--from", origin.url
    ).done()
    assert same(published, done["path"])


def test_a_full_disk_is_said_before_the_work_and_nothing_is_lost(published, tmp_path, origin, same):
    device = Device(tmp_path / "device")
    with tmpfs(tmp_path / "small", "10m") as point:
        failed = device.run(
            "fetch", "acme/model", "--trust-first-use", "--from", origin.url, "--to", point / "m"
        )
        assert (failed.code, failed.last["error"]) == (11, "storage")
        subprocess.run(["mount", "-o", "remount,size=64m", point], check=True)
        done = device.run("fetch", "acme/model", "--from", origin.url, "--to", point / "m").done()
        assert same(published, done["path"])


def test_a_disk_that_fills_up_during_a_pull_is_a_clear_error(
    published, tmp_path, origin, device, same
):
    with (
        tmpfs(tmp_path / "small", "40m") as point,
        Relay(origin.port, hold_after=PART) as way,
    ):
        process = device.start(
            "fetch", "acme/model", "--trust-first-use", "--from", way.url, "--to", point / "m"
        )
        poll_until(way.holding.is_set, what="in the middle")
        with (point / "ballast").open("wb", buffering=0) as ballast:
            try:
                for _ in range(64):
                    ballast.write(bytes(1 << 20))
            except OSError:
                pass
        way.let_go()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 11, err
        assert b'"storage"' in out
        (point / "ballast").unlink()
        done = device.run(
            "fetch", "acme/model", "--trust-first-use", "--from", origin.url, "--to", point / "m"
        ).done()
        assert same(published, done["path"])


def test_a_read_only_disk_is_a_clear_error(published, tmp_path, origin):
    device = Device(tmp_path / "device")
    with tmpfs(tmp_path / "ro", "10m", "ro") as point:
        failed = device.run(
            "fetch", "acme/model", "--trust-first-use", "--from", origin.url, "--to", point / "m"
        )
        assert (failed.code, failed.last["error"]) == (11, "storage")
        assert "Read-only" in failed.last["message"]


def test_an_origin_with_a_full_disk_refuses_and_goes_on_when_there_is_room(
    model, tmp_path, publisher, device, same
):
    with tmpfs(tmp_path / "store", "10m") as point, start_edge(point / "origin") as origin:
        failed = publisher.run("publish", model, "acme/model", "--to", origin.url)
        assert failed.code in {9, 11}, failed
        subprocess.run(["mount", "-o", "remount,size=80m", point], check=True)
        publisher.publish(model, "acme/model", origin.url)
        assert same(model, device.fetch("acme/model", origin.url)["path"])
        origin.stop()


@pytest.mark.slow
def test_an_edge_with_a_full_disk_and_no_overflow_says_so_and_lives(published, tmp_path, origin):
    device = Device(tmp_path / "device", ICN_RETRY_S="2")
    with (
        tmpfs(tmp_path / "store", "10m") as point,
        start_edge(point / "edge", "--upstream", origin.url, "--overflow", "0") as edge,
    ):
        failed = device.run("fetch", "acme/model", "--trust-first-use", "--from", edge.url)
        assert failed.code == 10
        subprocess.run(["mount", "-o", "remount,size=80m", point], check=True)
        device.fetch("acme/model", edge.url)
        edge.stop()


def test_two_pulls_into_one_directory_do_the_work_once(published, origin, device, same):
    args = ("acme/model", "--trust-first-use", "--from", origin.url)
    both = [device.start("fetch", *args) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)
    assert same(published, device.root / "models" / "acme" / "model")
    assert origin.metric("icn_sent_bytes_total") <= 1.05 * sum(
        path.stat().st_size for path in published.iterdir()
    )


def test_a_file_that_the_user_changed_is_not_overwritten_unasked(published, origin, device, same):
    path = Path(device.fetch("acme/model", origin.url)["path"])
    (path / "config.json").write_text('{"mine": true}')
    (path / "notes.txt").write_text("mine")
    failed = device.run("fetch", "acme/model", "--from", origin.url)
    assert (failed.code, failed.last["error"]) == (15, "conflict")
    assert (path / "config.json").read_text() == '{"mine": true}'
    done = device.run("fetch", "acme/model", "--from", origin.url, "--overwrite").done()
    assert done["bytes_network"] < 64 * 1024
    assert (path / "notes.txt").read_text() == "mine"
    (path / "notes.txt").unlink()
    assert same(published, path)


def test_verify_finds_a_flipped_bit_and_repair_fetches_one_block(published, origin, device, same):
    path = Path(device.fetch("acme/model", origin.url)["path"])
    assert device.run("verify", path).code == 0
    shard = min(path.glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.seek(1_234_567)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    found = device.run("verify", path)
    assert (found.code, found.last["error"]) == (6, "corrupt")
    wrong = [event for event in found.events if event["event"] == "wrong"]
    assert [(w["path"], w["blocks"]) for w in wrong] == [(str(shard), 1)]
    repaired = device.run("verify", path, "--repair", "--from", origin.url)
    assert repaired.code == 0
    assert 0 < repaired.events[-2]["bytes_network"] <= 1024 * 1024
    assert same(published, path)


def test_what_verify_found_rotten_is_no_longer_said_to_be_there(published, origin, device, same):
    """Catches: rot changes no fact of a file, so that the next pull says that all is there."""
    path = Path(device.fetch("acme/model", origin.url)["path"])
    shard = min(path.glob("*.safetensors"))
    flip_bit(shard, 1_234_567)
    with closing(sqlite3.connect(device.root / "store" / "places.sqlite")) as index:
        index.execute(
            "UPDATE files SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ? WHERE path = ?",
            (*FileFacts.of(shard.stat()), os.fsencode(shard.name)),
        )
        index.commit()
    assert device.fetch("acme/model", origin.url)["bytes_network"] < 64 * 1024
    assert device.run("verify", path).code == 6
    assert device.run("fetch", "acme/model", "--from", origin.url).code == 15
    assert device.run("verify", path, "--repair", "--from", origin.url).code == 0
    assert same(published, path)
    assert device.run("fetch", "acme/model", "--from", origin.url).code == 0


@pytest.mark.parametrize("lost", ["blocks", "manifest", "record"])
@pytest.mark.slow
def test_verify_misses_what_an_origin_lost(published, tmp_path, publisher, device, lost):
    """Catches: an origin without a block, of which every check says that it is right."""
    store = tmp_path / "lossy"
    with start_edge(store) as origin:
        publisher.publish(published, "acme/model", origin.url)
    assert device.run("verify", store, "--complete").code == 0
    if lost == "blocks":
        for segment in segment_files(store / "blocks"):
            os.truncate(segment, 1_000_000)
    else:
        with sqlite3.connect(store / "catalog.sqlite") as db:
            change = {
                "manifest": "DELETE FROM manifests",
                "record": "UPDATE records SET raw = x'00'",
            }
            db.execute(change[lost])
        db.close()
    if lost == "blocks":  # as at a cache
        assert device.run("verify", store).code == 0
    found = device.run("verify", store, "--complete")
    assert (found.code, found.last["error"]) == (6, "corrupt")
    told = next(event for event in found.events if event["event"] in {"incomplete", "wrong"})
    assert told["name"] == "acme/model"


def test_ctrl_c_ends_in_one_line_and_the_pull_goes_on_later(published, origin, device, same):
    with Relay(origin.port, hold_after=PART) as way:
        process = device.start("fetch", "acme/model", "--trust-first-use", "--from", way.url)
        poll_until(way.holding.is_set, what="in the middle")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert same(published, device.fetch("acme/model", origin.url)["path"])


def test_a_new_version_of_a_tag_replaces_the_old_and_moves_only_the_change(
    published, tmp_path, origin, publisher, device, same
):
    device.fetch("acme/model", origin.url)
    (published / "config.json").write_text('{"version": 2}')
    (published / "generation_config.json").write_text("{}")
    publisher.publish(published, "acme/model", origin.url)
    done = device.fetch("acme/model", origin.url)
    assert same(published, done["path"])
    assert done["bytes_network"] < 1024
    (published / "generation_config.json").unlink()
    publisher.publish(published, "acme/model", origin.url)
    assert same(published, device.fetch("acme/model", origin.url)["path"])


def test_a_withdrawn_tag_is_no_longer_pulled(published, tmp_path, origin, publisher, device):
    publisher.run("withdraw", "acme/model", "--to", origin.url).done()
    failed = device.run("fetch", "acme/model", "--trust-first-use", "--from", origin.url)
    assert (failed.code, failed.last["error"]) == (4, "withdrawn")


@pytest.mark.slow
def test_a_rotated_key_is_followed_and_a_stranger_is_not(
    published, tmp_path, origin, publisher, device
):
    device.fetch("acme/model", origin.url)
    publisher.run("rotate-key", "acme").done()
    (published / "config.json").write_text('{"version": 2}')
    publisher.publish(published, "acme/model", origin.url)
    assert device.run("fetch", "acme/model", "--from", origin.url).code == 0
    stranger = Device(tmp_path / "stranger")
    refused = stranger.run("publish", published, "acme/model", "--to", origin.url)
    assert (refused.code, refused.last["error"]) == (5, "trust")
    with start_edge(tmp_path / "other-origin") as other:
        stranger.publish(published, "acme/model", other.url)
        loud = device.run("fetch", "acme/model", "--from", other.url)
        assert (loud.code, loud.last["error"]) == (5, "trust")
        assert "HAS CHANGED" in loud.last["message"]


@pytest.mark.slow
def test_after_a_rotation_the_publishers_other_models_stay_usable(
    published, tmp_path, origin, publisher, device
):
    """Only what is signed anew follows the new key; what was pulled before needs no network."""
    publisher.publish(published, "acme/other", origin.url)
    device.fetch("acme/model", origin.url)
    device.fetch("acme/other", origin.url)
    publisher.run("rotate-key", "acme").done()
    (published / "config.json").write_text('{"version": 2}')
    publisher.publish(published, "acme/model", origin.url)
    device.run("fetch", "acme/model", "--from", origin.url).done()
    device.run("fetch", "acme/other", "--offline").done()
    device.run("fetch", "acme/other", "--from", origin.url).done()
    fresh = Device(tmp_path / "fresh")
    fresh.fetch("acme/model", origin.url)
    refused = fresh.run("fetch", "acme/other", "--from", origin.url)
    assert (refused.code, refused.last["error"]) == (5, "trust")
    publisher.publish(published, "acme/other", origin.url)
    fresh.run("fetch", "acme/other", "--from", origin.url).done()

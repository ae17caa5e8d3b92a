"""Blocks that rotted on a daemon's disk are found when who got them says so."""

import asyncio
import os
import sqlite3
import threading

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.limits import MIB
from icnblocks.naming import Digest
from icnblocks.store.base import verify
from icnblocks.store.memory import MemoryStore
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import call
from icnblocks.testing.faults import flip_bit, segment_files
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.wire.bundle import Want
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.rechecks import DOUBTS, Rechecks

QUIET = ("--scrub-rate", "0")


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "weights.bin").write_bytes(os.urandom(3 * MIB))
    return directory


def rot(store):
    """Flip a bit of a block that lies there."""
    segments = segment_files(store / "blocks")
    flip_bit(max(segments, key=lambda path: path.stat().st_size), 1_500_000)


def test_a_block_that_rotted_at_an_edge_costs_one_fetch_and_nobody_a_pull(tmp_path, model):
    """It was sent to each who asked, and refused by each, until the scrubber came by."""
    with start_edge(tmp_path / "origin", *QUIET) as origin:
        Device(tmp_path / "publisher").publish(model, "acme/model", origin.url)
        with start_edge(tmp_path / "edge", "--upstream", origin.url, *QUIET) as edge:
            Device(tmp_path / "first").fetch("acme/model", edge.url)
        rot(tmp_path / "edge")
        with start_edge(tmp_path / "edge", "--upstream", origin.url, *QUIET) as edge:
            told = Device(tmp_path / "second").fetch("acme/model", edge.url)
            assert told["bytes_network"] == 3 * MIB
            assert told["bytes_wasted"] == MIB
            assert edge.metric("icn_corrupt_blocks_total") == 1
            poll_until(lambda: edge.metric("icn_upstream_received_bytes_total") == MIB)
            third = Device(tmp_path / "third").fetch("acme/model", edge.url)
            assert third["bytes_wasted"] == 0


@pytest.mark.slow
def test_a_doubt_reaches_the_daemon_on_whose_disk_the_block_rotted(tmp_path, model):
    with start_edge(tmp_path / "origin", *QUIET) as origin:
        Device(tmp_path / "publisher").publish(model, "acme/model", origin.url)
        with start_edge(tmp_path / "regional", "--upstream", origin.url, *QUIET) as regional:
            Device(tmp_path / "first").fetch("acme/model", regional.url)
        rot(tmp_path / "regional")
        with (
            start_edge(tmp_path / "regional", "--upstream", origin.url, *QUIET) as regional,
            start_edge(tmp_path / "edge", "--upstream", regional.url, *QUIET) as edge,
        ):
            told = Device(tmp_path / "second").fetch("acme/model", edge.url)
            assert told["bytes_network"] == 3 * MIB
            assert regional.metric("icn_corrupt_blocks_total") == 1
            assert edge.metric("icn_corrupt_blocks_total") == 0


@pytest.mark.slow
def test_what_rotted_at_an_origin_is_missing_there_and_publishing_brings_it(tmp_path, model):
    """Publishing again found everything there, and nobody could pull it."""
    publisher = Device(tmp_path / "publisher")
    with start_edge(tmp_path / "origin", *QUIET) as origin:
        publisher.publish(model, "acme/model", origin.url)
    rot(tmp_path / "origin")
    device = Device(tmp_path / "device")
    with start_edge(tmp_path / "origin", *QUIET) as origin:
        failed = device.run("fetch", "acme/model", "--from", origin.url, "--trust-first-use")
        assert failed.code
        assert publisher.publish(model, "acme/model", origin.url)["bytes_sent"] == MIB
        assert device.fetch("acme/model", origin.url)["bytes_network"] == MIB


def rot_records(store):
    with sqlite3.connect(store / "catalog.sqlite") as db:
        db.execute(
            "UPDATE records SET raw = CAST(substr(raw, 1, 40) || x'00' || substr(raw, 42) AS BLOB)"
        )
    db.close()


@pytest.mark.slow
def test_a_record_that_rotted_at_an_origin_is_replaced_by_publishing_again(tmp_path, model):
    """The log said so, and it was refused: nobody could open what the new one had to follow."""
    publisher, device = Device(tmp_path / "publisher"), Device(tmp_path / "device")
    with start_edge(tmp_path / "origin") as origin:
        publisher.publish(model, "acme/model", origin.url)
        device.fetch("acme/model", origin.url)
        (model / "weights.bin").write_bytes(os.urandom(MIB))
        publisher.publish(model, "acme/model", origin.url)
    rot_records(tmp_path / "origin")
    with start_edge(tmp_path / "origin") as origin:
        assert call(origin, "GET", "/v1/records/acme/model/main").status == 404
        assert publisher.publish(model, "acme/model", origin.url)["seq"] > 2
        assert device.fetch("acme/model", origin.url)["bytes_network"] == MIB
    assert "publish its model again" in origin.logged()


@pytest.mark.slow
def test_a_record_that_rotted_in_a_store_is_replaced_by_publishing_again_in_place(tmp_path, model):
    publisher = Device(tmp_path / "publisher")
    publish = ("publish", model, "acme/model", "--store", tmp_path / "origin")
    assert publisher.run(*publish).done()["seq"] == 1
    rot_records(tmp_path / "origin")
    assert publisher.run(*publish).done()["seq"] == 2
    with start_edge(tmp_path / "origin") as origin:
        assert Device(tmp_path / "device").fetch("acme/model", origin.url)["bytes_network"]


@pytest.fixture
def blocks():
    return [bytes([number]) * 1000 for number in range(8)]


@pytest.fixture
def rechecks(blocks, monkeypatch):
    """Of a store in which every block has rotted."""
    content = ContentStore(MemoryStore(), make_policy("lru", MIB), MIB)
    for data in blocks:
        room = content.reserve(Digest.of(data), len(data), 0.0)
        content.store.put(verify(Digest.of(data), data))
        content.commit(room, 0.0)
    monkeypatch.setattr(content.store, "read", lambda _, length: b"?" * length)
    return Rechecks(content, Metrics(), replaceable=True)


def left(rechecks):
    return len(list(rechecks._content.store.blocks()))


async def test_of_many_doubts_a_few_are_looked_into(rechecks, blocks):
    """Anybody may doubt: each would take a core for as long as it takes to hash."""
    wants = [Want(Digest.of(data), len(data)) for data in blocks]
    await asyncio.gather(*(rechecks.doubted([want]) for want in wants))
    assert left(rechecks) == len(wants) - DOUBTS
    await rechecks.doubted(wants)
    assert left(rechecks) == 0


async def test_of_doubts_whose_askers_leave_no_more_are_looked_into(rechecks, blocks, monkeypatch):
    """Catches: the place was free when the asker left, though a thread still hashed: whoever
    doubts and leaves, again and again, has all threads of the daemon hash."""
    reading, opened = threading.Semaphore(0), threading.Event()

    def held(_, length):
        reading.release()
        assert opened.wait(20)
        return b"?" * length

    monkeypatch.setattr(rechecks._content.store, "read", held)
    wants = [Want(Digest.of(data), len(data)) for data in blocks]
    for want in wants[:DOUBTS]:
        leaving = asyncio.create_task(rechecks.doubted([want]))
        assert await asyncio.to_thread(reading.acquire, timeout=20)
        leaving.cancel()
        await asyncio.wait([leaving])
    another = asyncio.create_task(rechecks.doubted(wants[DOUBTS:]))
    for _ in range(10):
        await asyncio.sleep(0)
    turned_away = another.done()
    opened.set()
    assert turned_away
    await rechecks.close()
    assert left(rechecks) == len(blocks) - DOUBTS
    await rechecks.doubted(wants)
    assert left(rechecks) == 0


async def test_of_one_doubting_bundle_so_many_bytes_are_looked_into(rechecks, blocks, monkeypatch):
    """Of those that are here, whatever length it says that they have."""
    monkeypatch.setattr("icnblocks_daemon.rechecks.DOUBTED_BYTES", 3000)
    await rechecks.doubted([Want(Digest.of(b"another"), MIB)])
    await rechecks.doubted([Want(Digest.of(data), 1) for data in blocks])
    assert left(rechecks) == len(blocks) - 3


async def test_closing_waits_for_what_is_looked_into(rechecks, blocks):
    rechecks.suspect(Digest.of(blocks[0]))
    await rechecks.close()
    assert left(rechecks) == len(blocks) - 1

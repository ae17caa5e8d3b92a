"""Scrubbing finds what rotted on disk before anybody asks for it."""

import asyncio
import errno
import os
from itertools import count
from types import SimpleNamespace

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.errors import StorageError
from icnblocks.limits import MIB
from icnblocks.naming import Digest
from icnblocks.store.base import verify
from icnblocks.store.disk import DiskStore
from icnblocks.testing.device import Device
from icnblocks.testing.faults import flip_bit, segment_files
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks_daemon import node as node_module
from icnblocks_daemon import scrub as scrub_module
from icnblocks_daemon.metrics import Metrics


def test_a_rotten_block_is_erased_and_fetched_again(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(3 << 20))
    device = Device(tmp_path / "device")
    with start_edge(tmp_path / "origin") as origin:
        Device(tmp_path / "publisher").publish(model, "acme/model", origin.url)
        with start_edge(tmp_path / "edge", "--upstream", origin.url) as edge:
            Device(tmp_path / "first").fetch("acme/model", edge.url)
        segments = segment_files(tmp_path / "edge" / "blocks")
        flip_bit(max(segments, key=lambda path: path.stat().st_size), 1_500_000)
        rate = ("--scrub-rate", "1GB")
        with start_edge(tmp_path / "edge", "--upstream", origin.url, *rate) as edge:
            poll_until(lambda: edge.metric("icn_corrupt_blocks_total") == 1, what="scrubbing")
            assert "had rotted" in edge.logged()
            assert device.fetch("acme/model", edge.url)["bytes_network"] == 3 << 20
            # (a block is passed on before it is counted)
            poll_until(lambda: edge.metric("icn_upstream_received_bytes_total") >= 1 << 20)
            assert edge.metric("icn_upstream_received_bytes_total") == 1 << 20


@pytest.mark.parametrize("replaceable", [True, False])
@pytest.mark.parametrize(
    ("number", "tells"),
    [
        (errno.EIO, True),
        (errno.EMFILE, False),
        (errno.ENFILE, False),
        (errno.ENOMEM, False),
        (errno.EAGAIN, False),
    ],
)
async def test_only_what_the_disk_cannot_read_is_erased(
    tmp_path, monkeypatch, number, tells, replaceable
):
    """A good block was erased as rotten when the process had no descriptor left to open it with."""
    data = os.urandom(5000)
    digest, metrics = Digest.of(data), Metrics()
    with DiskStore(tmp_path) as store:
        store.put(verify(digest, data))
        content = ContentStore(store, make_policy("lru", MIB), MIB)

        def refuse(segment):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as short:
            short.setattr(store._segments, "borrow", refuse)
            erased = await scrub_module.erased_if_rotten(
                content, digest, metrics, replaceable=replaceable
            )
        assert erased == (tells and replaceable)
        assert (digest in store) != erased


async def test_an_error_of_the_disk_does_not_end_scrubbing(monkeypatch):
    """Catches: one error while blocks are listed, and nothing is scrubbed until the next start."""
    monkeypatch.setattr(scrub_module, "REST_S", 0.0)
    content, rounds = SimpleNamespace(), asyncio.Queue()

    class Failing:
        def blocks(self):
            rounds.put_nowait(1)
            raise StorageError("disk I/O error")

    content.store = Failing()
    task = asyncio.create_task(scrub_module.scrub(content, Metrics(), 1 << 30))
    async with asyncio.timeout(20):
        await rounds.get()
        await rounds.get()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_what_fails_of_an_origins_upkeep_holds_up_nothing_else(monkeypatch):
    """Catches: one rotted manifest, and an origin reads its whole catalog every five seconds, never
    looks again at changed files, expires nothing and saves nothing; or parts of manifests, up to
    4 GiB of them, lie on its disk until somebody sends another."""
    monkeypatch.setattr(node_module, "FLUSH_S", 0.0)
    done, swept = [], asyncio.Event()

    def does(what, *, fails=False):
        async def work():
            done.append(what)
            if fails and done.count(what) < 3:
                raise StorageError("manifest 0123 cannot be read, so nothing is erased")

        return work

    def look_again():
        done.append("look")
        if done.count("look") == 5:
            loop.call_soon_threadsafe(swept.set)

    loop, clock = asyncio.get_running_loop(), count(0, 0.5)
    node = SimpleNamespace(
        fib=SimpleNamespace(has_default=False),
        holdings=SimpleNamespace(evicts=False, flush=does("flush", fails=True)),
        uploads=SimpleNamespace(
            find_unnamed=does("survey", fails=True), expire=does("expire", fails=True)
        ),
        manifest_parts=SimpleNamespace(expire=does("parts")),
        memory=SimpleNamespace(save=does("save")),
        places=SimpleNamespace(look_again=look_again),
        config=SimpleNamespace(upload_ttl=3.0),
        clock=lambda: next(clock),
        _tell_missing=lambda: done.append("missing"),
    )
    task = asyncio.create_task(node_module.Node.keep_house(node))
    async with asyncio.timeout(20):
        await swept.wait()
    task.cancel()
    await asyncio.wait([task])
    first = ["flush", "survey", "missing", "parts", "expire", "look"]
    assert done[: len(first)] == first
    sweeps = [each for each in done if each != "flush"]
    later = ["parts", "expire", "look"]
    assert sweeps == [*first[1:], *["survey", *later] * 2, *later * 2]
    assert done.count("flush") > 5, "the rest is done less often"

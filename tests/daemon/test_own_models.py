"""What was published at a daemon stays there, whatever else it fetches, forgets or cannot read."""

import asyncio
import http.client
import os
import sqlite3
import threading
from dataclasses import replace

import pytest

from icnblocks.limits import MIB
from icnblocks.manifest.model import BaseRef, Kind
from icnblocks.testing.exchange import bundle, call, make_model, missing, publish, record_path
from icnblocks.testing.faults import segment_files
from icnblocks.testing.processes import launch_edge, poll_until, start_edge
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.config import Config
from icnblocks_daemon.node import Node


async def test_a_manifest_that_is_published_while_it_leaves_as_a_fetched_one_stays(
    tmp_path, monkeypatch
):
    """Catches: what was just stored was removed, and the record that named it was refused."""
    model, other = make_model("mine/m", seed=5), make_model("mine/other", seed=6)
    upstream = (("acme", "http://127.0.0.1:9"),)
    node = Node(Config(tmp_path / "s", upstream=upstream, manifest_capacity=1))
    reached, goes_on = threading.Event(), threading.Event()
    remove, store, begun = node.catalog.remove_manifest, node.manifests._store, []

    def held(digest):
        reached.set()
        assert goes_on.wait(20)
        return remove(digest)

    def told(*what, **more):
        begun.append(what)
        return store(*what, **more)

    monkeypatch.setattr(node.catalog, "remove_manifest", held)
    try:
        await store(model.digest, model.raw)  # as one that is fetched
        leaving = asyncio.create_task(node.manifests._shrink(other.digest))
        assert await asyncio.to_thread(reached.wait, 20)
        monkeypatch.setattr(node.manifests, "_store", told)
        coming = asyncio.create_task(node.manifests.put(model.digest, model.raw))
        for _ in range(9):
            await asyncio.sleep(0)
        if begun:  # else it waits until the other is done
            await coming
        goes_on.set()
        await asyncio.gather(leaving, coming)
        assert model.digest in node.manifests
        assert node.catalog.manifest(model.digest) == model.raw
    finally:
        goes_on.set()
        await node.close()


@pytest.fixture
def origin(tmp_path):
    with start_edge(tmp_path / "origin") as origin:
        yield origin


def test_an_own_manifest_stays_after_a_restart_whatever_was_fetched(origin, tmp_path):
    """Catches: who is no cache with a capacity forgot which manifests are its own, and then lost
    them, and then their blocks, which nothing named any more."""
    mine = make_model("mine/m", size=400_000, seed=5, block_bytes=4096)
    theirs = [
        make_model(f"acme/m{i}", size=400_000, seed=50 + i, block_bytes=4096) for i in (1, 2, 3)
    ]
    for model in theirs:
        publish(origin, model)
    options = ("--upstream", f"acme={origin.url}", "--manifest-capacity", "8000")
    with start_edge(tmp_path / "mixed", *options) as mixed:
        publish(mixed, mine)
    with start_edge(tmp_path / "mixed", *options) as mixed:
        for model in theirs:
            name = str(model.name)
            answer = call(mixed, "GET", f"/v1/manifests/{model.digest}", ICN_Name=name)
            assert answer.status == 200
        assert call(mixed, "GET", f"/v1/manifests/{mine.digest}").status == 200
        assert not missing(mixed, mine.wants)


def test_what_a_record_names_stays_though_its_manifest_came_before_a_restart(origin, tmp_path):
    """Catches: only a manifest that is sent pins its model, so that one which is published in two
    lives of the daemon is evicted by what others pull, and is nowhere any more."""
    base = make_model("mine/base", size=4 * MIB, seed=5)
    mine = make_model("mine/m", size=4 * MIB, seed=6)
    ref = BaseRef(base.name, base.digest)
    mine.manifest = replace(mine.manifest, kind=Kind.ADAPTER, base=ref)
    theirs = [make_model(f"acme/m{i}", size=6 * MIB, seed=50 + i) for i in range(3)]
    for model in theirs:
        publish(origin, model)
    options = ("--upstream", f"acme={origin.url}", "--capacity", "16MiB", "--policy", "lru")
    with start_edge(tmp_path / "mixed", *options) as mixed:
        for model in (base, mine):
            publish(mixed, model, record=False)
    with start_edge(tmp_path / "mixed", *options) as mixed:
        record = mine.record()  # made a second later it is another one of the same number
        for _ in range(2):
            assert call(mixed, "PUT", record_path(mine.name), record).status == 201
        assert mixed.status()["budget"]["pinned_bytes"] == 8 * MIB
        for model in theirs:
            got, _ = bundle(mixed, model.wants, name=model.name, manifest=model.digest)
            assert got == model.blocks
        assert mixed.status()["budget"]["evicted_bytes"]
        assert not missing(mixed, base.wants + mine.wants)


def test_blocks_of_a_manifest_that_rotted_are_not_taken_for_unnamed(tmp_path):
    """Catches: one flipped bit in the catalog, and all blocks of a model are erased."""
    model = make_model("mine/m", size=400_000)
    with start_edge(tmp_path / "store") as origin:
        publish(origin, model)
    with sqlite3.connect(tmp_path / "store" / "catalog.sqlite") as db:
        db.execute("UPDATE manifests SET data = zeroblob(size)")
    db.close()
    with start_edge(tmp_path / "store", "--upload-ttl", "1s") as origin:
        poll_until(lambda: origin.logged().count("nothing is erased") > 1, what="keeping house")
        assert not missing(origin, model.wants)
        publish(origin, model, record=False)
        assert call(origin, "GET", f"/v1/manifests/{model.digest}").status == 200


def test_a_wrong_length_is_told_as_such_once_and_blamed_on_who_asked(origin, tmp_path):
    """Catches: any client could make an edge believe that its upstream is broken."""
    model = make_model("acme/m")
    publish(origin, model)
    with start_edge(tmp_path / "edge", "--upstream", origin.url) as edge:
        first = model.wants[0]
        wrong = Want(first.digest, first.length - 1)
        for _ in range(2):
            _, refused = bundle(edge, (wrong,), name=model.name, manifest=model.digest)
            assert refused[first.digest][0] is Reason.LENGTH
        assert origin.metric("icn_nacks_total", reason="length") == 1
        assert edge.status()["upstreams"][0]["demotions"] == 0
        got, _ = bundle(edge, model.wants, name=model.name, manifest=model.digest)
        assert got == model.blocks


@pytest.mark.parametrize("block_kib", [4, 256])
def test_a_segment_cut_short_under_an_edge_is_fetched_again(origin, tmp_path, block_kib):
    """Catches: every reader of such a block refused or cut off, until the daemon is restarted."""
    model = make_model("acme/m", size=1_000_000, block_bytes=block_kib * 1024)
    publish(origin, model)
    with start_edge(tmp_path / "edge", "--upstream", origin.url) as edge:
        ask = dict(name=model.name, manifest=model.digest)
        assert bundle(edge, model.wants, **ask)[0] == model.blocks
        (segment,) = segment_files(tmp_path / "edge" / "blocks")
        os.truncate(segment, 300_000)

        def whole():
            try:
                return bundle(edge, model.wants, **ask)[0] == model.blocks
            except http.client.IncompleteRead:  # cut off: each time one block is found out
                return False

        poll_until(whole, what="the blocks to come again")
        assert edge.metric("icn_corrupt_blocks_total") > 0


def test_an_origin_without_its_catalog_does_not_begin_a_new_one(tmp_path):
    """Catches: what the lost catalog named is unnamed now, and erased after a while."""
    model = make_model("mine/m")
    with start_edge(tmp_path / "store") as origin:
        publish(origin, model)
    for file in (tmp_path / "store").glob("catalog.sqlite*"):
        file.rename(tmp_path / file.name)
    with pytest.raises(RuntimeError, match="missing beside the blocks"):
        launch_edge(tmp_path / "store")
    (tmp_path / "catalog.sqlite").rename(tmp_path / "store" / "catalog.sqlite")
    with start_edge(tmp_path / "store") as origin:
        assert not missing(origin, model.wants)


def test_an_origin_says_which_models_lost_blocks(tmp_path):
    model = make_model("mine/m")
    with start_edge(tmp_path / "store") as origin:
        publish(origin, model)
    (segment,) = segment_files(tmp_path / "store" / "blocks")
    os.truncate(segment, 100_000)
    with start_edge(tmp_path / "store") as origin:
        poll_until(lambda: f"{model.digest}, 4 of 5 blocks are missing" in origin.logged())


def test_a_record_that_rotted_does_not_keep_an_edge_from_starting(origin, tmp_path):
    mine, other = make_model("mine/m", seed=3), make_model("mine/other", seed=4)
    options = ("--upstream", f"acme={origin.url}", "--capacity", "100MB")
    with start_edge(tmp_path / "mixed", *options) as mixed:
        publish(mixed, mine)
        publish(mixed, other)
    with sqlite3.connect(tmp_path / "mixed" / "catalog.sqlite") as db:
        db.execute("UPDATE records SET raw = x'00' WHERE model = 'other'")
    db.close()
    with start_edge(tmp_path / "mixed", *options) as mixed:
        assert "has rotted, publish its model again" in mixed.logged()
        assert call(mixed, "GET", f"/v1/manifests/{mine.digest}").status == 200

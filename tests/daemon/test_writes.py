"""What publishers send, when they leave in the middle of it or mix up its parts."""

import asyncio
import threading

import pytest

from icnblocks.errors import ConflictError
from icnblocks.naming import Digest
from icnblocks.store.catalog import Catalog
from icnblocks.testing.exchange import call, missing, publish
from icnblocks.wire.upload import pack_parts
from icnblocks_daemon.config import Config
from icnblocks_daemon.manifest_parts import EXPIRE_S, OPEN_MANIFESTS, ManifestParts
from icnblocks_daemon.node import Node

DATA = b"abcdefgh"
DIGEST = Digest.of(DATA)


class Gate:
    """A clock whose first reader is held, on its thread, until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.opened.wait(20)
        return 0.0


class Kept:
    """Takes what became whole."""

    def __init__(self):
        self.data, self.came = {}, asyncio.Event()

    async def put(self, digest, data):
        self.data[digest] = data
        self.came.set()


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


@pytest.mark.parametrize("first", [0, 4])
async def test_whoever_leaves_while_a_part_is_written_lets_nobody_into_the_file(
    tmp_path, catalog, first
):
    """The lock was given back while the thread still wrote: two of them in one file. Catches also:
    whoever leaves at the last part takes all of them with him."""
    gate, kept = Gate(), Kept()
    parts = ManifestParts(str(tmp_path), kept, catalog, gate)
    if first:
        gate.opened.set()
        assert not await parts.take(DIGEST, 0, 8, DATA[:4])
        gate.reached.clear()
        gate.opened.clear()
    leaving = asyncio.create_task(parts.take(DIGEST, first, 8, DATA[first : first + 4]))
    await asyncio.to_thread(gate.reached.wait, 20)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert parts._turn.locked()
    gate.opened.set()
    if not first:
        assert await parts.take(DIGEST, 4, 8, DATA[4:])
    async with asyncio.timeout(20):
        await kept.came.wait()
    assert kept.data == {DIGEST: DATA}


async def test_parts_of_which_no_more_come_are_forgotten_in_time(tmp_path, catalog):
    """Catches: they lay on the disk, up to 256 MiB each, until somebody sent another."""
    now = [0.0]
    parts = ManifestParts(str(tmp_path), Kept(), catalog, lambda: now[0])
    for number in range(OPEN_MANIFESTS):
        await parts.take(Digest.of(b"%d" % number), 0, 8, DATA[:4])
    now[0] = EXPIRE_S
    await parts.expire()
    assert len(parts) == OPEN_MANIFESTS
    await parts.take(Digest.of(b"0"), 4, 8, DATA[4:6])
    now[0] += 1
    await parts.expire()
    assert len(parts) == 1, "the one of which more came"
    parts.close()
    assert not len(parts)


async def test_a_first_part_of_another_length_begins_anew(tmp_path, catalog):
    """Else whoever sends a wrong length once is in everybody's way."""
    kept = Kept()
    parts = ManifestParts(str(tmp_path), kept, catalog, lambda: 0.0)
    await parts.take(DIGEST, 0, 9, b"zzzzz")
    await parts.take(DIGEST, 0, 8, DATA[:4])
    with pytest.raises(ConflictError):
        await parts.take(DIGEST, 5, 9, b"zzzz")
    assert await parts.take(DIGEST, 4, 8, DATA[4:])
    assert kept.data == {DIGEST: DATA}


def sender(origin, model):
    """Puts bytes of the model's manifest; the status."""
    raw = model.raw

    def put(first, last):
        said = f"bytes {first}-{last - 1}/{len(raw)}"
        path = f"/v1/manifests/{model.digest}"
        return call(origin, "PUT", path, raw[first:last], Content_Range=said).status

    return put, len(raw)


def test_two_publishers_of_one_model_send_its_parts_at_the_same_time(origin, model):
    """Catches: one was told that parts are missing, though the manifest was there by then, or had
    to begin again as the other sent the first part."""
    put, total = sender(origin, model)
    assert [put(0, 100), put(100, 150)] == [202, 202]
    assert put(0, 100) == 202, "the other begins"
    assert put(150, total) == 201, "the first ends, and lost nothing"
    assert [put(100, 150), put(150, total)] == [201, 201]
    assert put(150, total) == 201, "once more after a lost answer"
    publish(origin, model)
    assert not missing(origin, model.wants)


def test_a_part_that_differs_from_what_is_stored_is_refused(origin, model):
    """It is no repeat of anything."""
    put, total = sender(origin, model)
    assert [put(0, 100), put(100, total)] == [202, 201]
    said = {"Content_Range": f"bytes 100-{total - 1}/{total}"}
    other = bytes(total - 100)
    assert call(origin, "PUT", f"/v1/manifests/{model.digest}", other, **said).status == 409


def test_parts_of_a_manifest_out_of_order_are_told_what_to_send(origin, model):
    """They were told to use another directory, or --overwrite."""
    path, raw = f"/v1/manifests/{model.digest}", model.raw
    last = {"Content_Range": f"bytes 200-{len(raw) - 1}/{len(raw)}"}
    first = {"Content_Range": f"bytes 0-99/{len(raw)}"}
    for before in ({}, first):
        if before:
            assert call(origin, "PUT", path, raw[:100], **before).status == 202
        reply = call(origin, "PUT", path, raw[200:], **last)
        assert (reply.status, reply.json["error"]) == (409, "conflict")
        assert "from the first one on" in reply.json["hint"]


async def test_a_manifest_whose_publisher_leaves_while_it_is_stored_is_known(
    tmp_path, model, monkeypatch
):
    """Catches: it was on the disk, and until a restart nobody knew: it counted against no budget,
    siblings were told that it is not here, and its blocks were those that nobody names."""
    reached, opened = threading.Event(), threading.Event()
    node = Node(Config(tmp_path / "s"))
    put = node.catalog.put_manifest

    def held(*asked):
        reached.set()
        assert opened.wait(20)
        put(*asked)

    monkeypatch.setattr(node.catalog, "put_manifest", held)
    try:
        for body in pack_parts(model.blocks.items()):
            await node.uploads.take(body)
        leaving = asyncio.create_task(node.manifests.put(model.digest, model.raw))
        await asyncio.to_thread(reached.wait, 20)
        leaving.cancel()
        await asyncio.wait([leaving])
        others = asyncio.all_tasks() - {asyncio.current_task()}
        opened.set()
        if others:
            await asyncio.wait(others, timeout=20)
        assert model.digest in node.manifests
        assert node.catalog.manifest(model.digest) == model.raw
        assert not node.uploads.unnamed
    finally:
        opened.set()
        await node.close()

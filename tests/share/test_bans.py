"""Neighbours that promise what they do not give are not tried again; others are."""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager

import pytest

from icnblocks.client.engine import EngineOptions
from icnblocks.client.events import Received
from icnblocks.client.holders import Catalogued
from icnblocks.client.neighbourly import NeighbourlyEngine
from icnblocks.client.source import Source
from icnblocks.client.terms import Hint
from icnblocks.errors import ChangedError
from icnblocks.naming import Name
from icnblocks.share.neighbourhood import _IDLE_S, Neighbourhood
from icnblocks.share.offers import Offer
from icnblocks.share.options import ShareOptions
from icnblocks.share.server import ShareServer
from icnblocks.testing.lying import Lie, LyingServer, Reply
from icnblocks.testing.processes import poll_until
from icnblocks.wire.bundle import Want
from icnblocks.wire.havemap import HaveMap, encode_have
from tests.share.blocks import MANIFEST, blocks_of
from tests.share.test_neighbours import Keep, holds_all
from tests.share.test_server import Shelf

BLOCKS = blocks_of(200)
LENGTHS = {digest: len(block) for digest, block in BLOCKS.items()}


class Moved:
    """A shelf whose directory was moved after it was offered."""

    def open(self, digest):
        raise ChangedError(f"the file of {digest} is gone")


@contextmanager
def moved():
    """A device that goes on sharing what was moved; its port."""
    server = ShareServer(ShareOptions(host="127.0.0.1"))
    server.offer(Offer(MANIFEST, LENGTHS, lambda: None, Moved()))
    yield server.port
    server.close()


@contextmanager
def replaced():
    """A device that ended, and whose port another program has now."""
    with LyingServer(BLOCKS, Lie.OTHER_PROTOCOL, respond=holds_all(len(BLOCKS))) as server:
        yield server.port


@pytest.mark.parametrize("kind", [moved, replaced])
def test_who_gives_nothing_of_what_it_promised_is_not_tried_again(kind) -> None:
    """Catches: a neighbour asked anew every 15 s, in the place of one that has something."""
    about, hint = Catalogued(MANIFEST, None, list(BLOCKS)), Hint(manifest=MANIFEST)
    noticed = threading.Event()
    with kind() as port:
        named = json.dumps({"neighbours": [f"127.0.0.1:{port}"], "ttl": 60}).encode()
        url = f"http://127.0.0.1:{port}"

        def respond(request):
            return Reply(200, named) if request.path.endswith("/neighbours") else None

        made = Neighbourhood(4261, 8, pytest.fail)
        with (
            LyingServer(BLOCKS, respond=respond, waits_for=noticed) as edge,
            Source(edge.url) as source,
        ):
            made.add(MANIFEST, Name.parse("acme/x"), [source])
            options, sink = EngineOptions(connections=1), Keep()
            with NeighbourlyEngine([source], sink, about, hint, 4261, options) as engine:
                made.join(MANIFEST, engine)
                model = made._models[MANIFEST]
                poll_until(lambda: url in model.met, what="it is met")
                engine.add([Want(*each) for each in LENGTHS.items()], hint)
                poll_until(lambda: url not in model.met, what="it is let go")
                noticed.set()
                assert engine.wait(60)
            made.part(MANIFEST)
            made.close()
    assert sink.accepted == BLOCKS
    assert url in made._banned


def test_a_device_that_does_not_know_the_model_yet_is_tried_again(tmp_path) -> None:
    """Catches: one that was killed and began anew at its port was banned while it still looked for
    what it had of the model."""
    server = ShareServer(ShareOptions(host="127.0.0.1"))
    url = f"http://127.0.0.1:{server.port}"
    about, hint = Catalogued(MANIFEST, None, list(BLOCKS)), Hint(manifest=MANIFEST)
    made = Neighbourhood(4261, 8, pytest.fail)
    shelf, sink, hears = Shelf(tmp_path / "shelf", BLOCKS), Keep(), threading.Event()
    with LyingServer(BLOCKS, waits_for=hears) as edge, Source(edge.url) as source:
        made.add(MANIFEST, Name.parse("acme/x"), [])
        options = EngineOptions(connections=1)
        with NeighbourlyEngine([source], sink, about, hint, 4261, options) as engine:
            made.join(MANIFEST, engine)
            model = made._models[MANIFEST]
            engine.add([Want(*each) for each in LENGTHS.items()], hint)
            made._bring(model, [url], 8)
            assert url in model.met
            poll_until(engine.dropped, what="it is let go")
            made._bring(model, [url], 8)
            assert not model.met
            server.offer(Offer(MANIFEST, LENGTHS, lambda: None, shelf))
            model.away.clear()
            made._bring(model, [url], 8)
            assert url in model.met
            poll_until(lambda: server.sent_bytes, what="it is asked for blocks")
            hears.set()
            assert engine.wait(60)
        made.part(MANIFEST)
    made.close()
    server.close()
    os.close(shelf.fd)
    assert sink.accepted == BLOCKS


def holds_nothing(request):
    if request.path.partition("?")[0].endswith("/have"):
        return Reply(200, encode_have(HaveMap(bytes(len(BLOCKS)), fetches=False)))
    return None


def test_who_gives_nothing_for_long_makes_room_for_another() -> None:
    """Catches: a few devices that answer and hold nothing had all places until the pull ended."""
    about, hint, gave = Catalogued(MANIFEST, None, list(BLOCKS)), Hint(manifest=MANIFEST), set()
    heard = threading.Event()

    def listener(event):
        if isinstance(event, Received) and event.source != edge.url:
            gave.add(event.source)
            heard.set()

    made, sink, options = Neighbourhood(4261, 1, pytest.fail), Keep(), EngineOptions(connections=1)
    with (
        LyingServer(BLOCKS, waits_for=heard) as edge,
        LyingServer(BLOCKS, respond=holds_nothing) as idle,
        LyingServer(BLOCKS, respond=holds_all(len(BLOCKS))) as other,
        Source(edge.url) as source,
        NeighbourlyEngine([source], sink, about, hint, 4261, options, listener) as engine,
    ):
        made.add(MANIFEST, Name.parse("acme/x"), [])
        made.join(MANIFEST, engine)
        model = made._models[MANIFEST]
        engine.add([Want(*each) for each in LENGTHS.items()], hint)
        made._bring(model, [idle.url], 1)
        made._bring(model, [other.url], 1)
        assert list(model.met) == [idle.url], "it may have something soon"
        model.gave[idle.url] = 0, model.gave[idle.url][1] - _IDLE_S
        made._bring(model, [other.url], 1)
        assert list(model.met) == [other.url]
        assert engine.wait(60)
        model.gave[other.url] = 0, model.gave[other.url][1] - _IDLE_S
        made._bring(model, ["http://127.0.0.1:9"], 1)
        assert list(model.met) == [other.url], "it has given something since it was looked at"
        assert list(engine.dropped()) == [idle.url]
    made.part(MANIFEST)
    made.close()
    assert gave == {other.url}
    assert sink.accepted == BLOCKS

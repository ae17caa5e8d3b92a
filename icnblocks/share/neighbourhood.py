"""Telling edges what is shared here, and bringing their other devices into a pull under way.

One thread for each edge, and all models. What an edge says of neighbours is only an address to
try: who fails there is left alone for a while, who sends something wrong for good. This module must
not fetch blocks; the engine does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import field
from random import Random
from typing import TYPE_CHECKING, Final

from icnblocks.client.answers import NackError, ThrottledError
from icnblocks.client.endpoint import is_loopback
from icnblocks.client.neighbours import (
    NoNeighboursError,
    announce,
    neighbour_source,
    withdraw,
)
from icnblocks.errors import CorruptError, ForeignError, FormatError, IcnError, NotFoundError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from icnblocks.client.http import Connection
    from icnblocks.client.neighbourly import NeighbourlyEngine
    from icnblocks.client.source import Source
    from icnblocks.naming import Digest, Name

_LEAVE_S: Final = 2.0
"""For so long edges are told that this device ends, however many they are: somebody waits."""
_FIRST_S: Final = 0.3
"""After so long a pull looks whether it has too few neighbours, then after twice that: those whom
an edge names may be out of reach."""
_LONGEST_S: Final = 5.0
_RETRY_S: Final = 10.0
_AGAIN_S: Final = 15.0
"""A neighbour that failed is tried again after so long, then after twice that: those behind a NAT
are named again and again, and would be all that a long pull tries."""
_IDLE_S: Final = 30.0
"""Who gave nothing for so long loses its place to another that is named, if all are taken."""
_VISITORS: Final = 4
"""Neighbours beyond those we looked for, from among those who found us."""
_OF_ONE_ADDRESS: Final = 2
"""Neighbours of one address at a time: one machine may not take the places of all others."""
_MOST_MET: Final = 500
"""Neighbours that one pull tries, in all."""
_MOST_MET_THERE: Final = 50
"""The same of one address: one machine may not use up the tries for all others."""
_WRONG: Final = (CorruptError, FormatError, ForeignError, NotFoundError, NackError)
"""Who was let go for one of these is not tried again."""


@dataclass(slots=True, eq=False)
class _Edge:
    """An edge to which a model is announced."""

    source: Source
    connection: Connection
    due: float = 0.0
    renew_at: float = 0.0
    step_s: float = _FIRST_S
    told: bool = False
    refused: bool = False


@dataclass(slots=True, eq=False)
class _Model:
    manifest: Digest
    name: Name
    edges: list[_Edge]
    engine: NeighbourlyEngine | None = None
    met: dict[str, Source] = field(default_factory=dict)  # neighbours of the pull under way
    away: dict[str, float] = field(default_factory=dict)  # when they may be tried again
    rests: dict[str, float] = field(default_factory=dict)  # for how long they were away last
    joined: Counter[str] = field(default_factory=Counter)  # by host, in the pull under way
    gave: dict[str, tuple[int, float]] = field(default_factory=dict)  # bytes; since when no more
    given: bool = True


class _Leave:
    """Takes leave of one edge, in a thread: others are not to wait for one that is gone."""

    def __init__(self, source: Source, manifests: Sequence[Digest], port: int) -> None:
        self._connection = source.connect()
        self._manifests = manifests
        self._port = port
        self._thread = threading.Thread(target=self._run, name="icn-leave", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for manifest in self._manifests:
                withdraw(self._connection, manifest, self._port)
        except IcnError:
            pass  # it will forget this device by itself
        self._connection.drop()

    def end(self, until: float) -> None:
        """Wait for it until then, and leave it to itself if it only looks up a host name."""
        self._thread.join(max(0.0, until - time.monotonic()))
        self._connection.abort()


class Neighbourhood:
    """Announces models until it is closed.

    Args:
        port: where this device serves.
        most: neighbours that a pull has at a time.
        warned: told when an edge does not do this.
    """

    def __init__(self, port: int, most: int, warned: Callable[[str], None]) -> None:
        self._port = port
        self._most = most
        self._warned = warned
        self._random = Random()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._models: dict[Digest, _Model] = {}
        self._banned: set[str] = set()
        self._closed = False
        self._threads: dict[Source, threading.Thread] = {}

    def add(self, manifest: Digest, name: Name, sources: Sequence[Source]) -> None:
        """Announce a model to these from now on; it may be announced already."""
        with self._lock:
            model = self._models.get(manifest)
            if model is not None:
                model.given = True
                self._changed.notify_all()
            elif not self._closed:
                edges = [_Edge(source, source.connect()) for source in sources]
                self._models[manifest] = _Model(manifest, name, edges)
                self._start(sources)

    def silence(self, manifest: Digest) -> None:
        """Nothing of a model is given any more: edges forget it, unless it is added again."""
        with self._lock:
            if manifest in self._models:
                self._models[manifest].given = False

    def join(self, manifest: Digest, engine: NeighbourlyEngine) -> None:
        """Bring neighbours into this pull, until `part`."""
        with self._lock:
            model = self._models[manifest]
            model.engine, model.joined, model.gave = engine, Counter(), {}
            for edge in model.edges:
                edge.due, edge.step_s = 0.0, _FIRST_S
            self._start([edge.source for edge in model.edges])

    def visited(self, manifest: Digest, url: str) -> None:
        """A device asks here for a model and serves it too: what it gets is new to us as well.

        Else one that came late would give its blocks to nobody.
        """
        with self._lock:
            model = self._models.get(manifest)
            if model is not None and url not in model.met and not self._closed:
                self._bring(model, [url], self._most + _VISITORS)

    def part(self, manifest: Digest) -> None:
        """The pull is over; its engine was closed."""
        with self._lock:
            model = self._models[manifest]
            met, model.met, model.engine = model.met, {}, None
        for source in met.values():
            source.close()

    def close(self) -> None:
        """Take leave of all edges at once; `_LEAVE_S` later at most it is over."""
        until = time.monotonic() + _LEAVE_S
        with self._lock:
            if self._closed:
                return
            self._closed = True
            edges = [(model, edge) for model in self._models.values() for edge in model.edges]
            for _, edge in edges:
                edge.connection.abort()
            self._changed.notify_all()
        told: dict[Source, list[Digest]] = {}
        for model, edge in edges:
            if edge.told:
                told.setdefault(edge.source, []).append(model.manifest)
        leaves = [_Leave(source, manifests, self._port) for source, manifests in told.items()]
        for thread in self._threads.values():
            thread.join(max(0.0, until - time.monotonic()))
        for leave in leaves:
            leave.end(until)
        for _, edge in edges:
            edge.connection.drop()

    def _start(self, sources: Sequence[Source]) -> None:
        """Visit each of them from a thread of its own: a silent one holds up no other."""
        for source in sources:
            if source not in self._threads and not self._closed:
                thread = threading.Thread(
                    target=self._run, args=(source,), name="icn-neighbours", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # out of threads: it is tried again with the next pull
                    continue
                self._threads[source] = thread
        self._changed.notify_all()

    def _run(self, source: Source) -> None:
        rest_until = 0.0
        while True:
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                due = [
                    (edge.due, model, edge)
                    for model in self._models.values()
                    for edge in model.edges
                    if edge.source is source and model.given and not edge.refused
                ]
                at, model, edge = min(due, key=lambda each: each[0], default=(now + 60, None, None))
                at = max(at, rest_until)
                if at > now or model is None or edge is None:
                    self._changed.wait(at - now)
                    continue
            rest_s = self._visit(model, edge)
            rest_until = time.monotonic() + rest_s

    def _visit(self, model: _Model, edge: _Edge) -> float:
        """Announce, if it is time to or neighbours are too few, and bring in whom the edge names.

        Returns:
            For how many seconds the edge asks to be left alone.
        """
        with self._lock:
            self._let_go(model)
            few = model.engine is not None and len(model.met) < self._most
            if not few and time.monotonic() < edge.renew_at:
                self._look_later(model, edge)
                return 0.0
        urls: list[str] = []
        rest_s = 0.0
        try:
            urls, ttl_s = announce(edge.connection, model.manifest, model.name, self._port)
            edge.told = True
        except NoNeighboursError as error:
            edge.refused = True
            self._warned(f"this device is not made known: {error}")
            return 0.0
        except IcnError as error:
            ttl_s = 3 * _RETRY_S
            rest_s = error.after_s if isinstance(error, ThrottledError) else 0.0
        with self._lock:
            self._bring(model, urls, self._most)
            edge.renew_at = time.monotonic() + ttl_s / 3 * self._random.uniform(0.7, 1.0)
            self._look_later(model, edge)
        return rest_s

    def _look_later(self, model: _Model, edge: _Edge) -> None:
        edge.due = edge.renew_at
        if model.engine is not None:
            step_s = edge.step_s * self._random.uniform(0.7, 1.0)
            edge.due = min(time.monotonic() + step_s, edge.renew_at)
            edge.step_s = min(2 * edge.step_s, _LONGEST_S)

    def _let_go(self, model: _Model) -> None:
        """Make room in the place of neighbours that the engine has dropped."""
        if model.engine is None:
            return
        now = time.monotonic()
        for each in model.engine.status():
            if model.gave.get(each.url, (-1,))[0] != each.received_bytes:
                model.gave[each.url] = each.received_bytes, now
        for url, error in model.engine.dropped().items():
            if model.met.pop(url, None) is None:
                continue
            if isinstance(error, _WRONG):
                self._banned.add(url)
            model.rests[url] = 2 * model.rests.get(url, _AGAIN_S / 2)
            model.away[url] = now + model.rests[url]

    def _bring(self, model: _Model, urls: Sequence[str], most: int) -> None:
        engine = model.engine
        if engine is None:
            return
        self._let_go(model)
        now = time.monotonic()
        for url in urls:
            known = url in model.met or url in self._banned or model.away.get(url, 0.0) > now
            if known or model.joined.total() >= _MOST_MET:
                continue
            source = neighbour_source(url)
            host = source.endpoint.host
            same = sum(other.endpoint.host == host for other in model.met.values())
            many = same >= _OF_ONE_ADDRESS or model.joined[host] >= _MOST_MET_THERE
            if many and not is_loopback(host):
                continue
            if len(model.met) >= most and not self._has_replaced(model, engine, now):
                return
            model.met[url] = source
            model.gave[url] = 0, now
            model.joined[host] += 1
            try:
                engine.join(source)
            except RuntimeError:
                continue  # out of threads: the engine starts it with the next one

    def _has_replaced(self, model: _Model, engine: NeighbourlyEngine, now: float) -> bool:
        """Let one go that gives nothing, so that some who hold nothing do not keep all places."""
        for url in model.met:
            if now - model.gave[url][1] >= _IDLE_S:
                engine.let_go(url)
                self._let_go(model)
                return url not in model.met
        return False

"""What must always be true, and what must be true when all is quiet.

docs/architecture.md and docs/protocol.md promise these things; here they are checked after every
step of a scenario. This module must not change anything that it looks at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from icnblocks.client.engine import Engine
    from icnblocks.client.scheduler import Scheduler
    from icnblocks.naming import Digest
    from tests.simulation.nodes import Node
    from tests.simulation.world import World


MOST_STEPS: Final = 100_000
"""More than any world takes that comes to rest: 1,400 as a rule, 20,000 at times."""


class Checks:
    """Looks at a world.

    Args:
        world: which.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.engines: list[Engine] = []
        self.steps = 0

    def step(self) -> None:
        """After everything that was due at one moment.

        Raises:
            AssertionError: if anything is not as it must be.
        """
        self.steps += 1
        assert self.steps < MOST_STEPS, "they are busy for ever"
        if self._world.failures:
            raise self._world.failures[0]
        for node in self._world.nodes.values():
            if node.up:
                self._budget(node)
                self._interests(node)

    def _budget(self, node: Node) -> None:
        """The store never takes more than the budget, what is under way and being sent included."""
        if node.capacity is not None:
            content = node.content
            apart = content._erased_open + content._reserved
            took = max(content._held + apart, node.blocks.used_bytes + content._erased_open)
            assert took <= node.capacity, f"{node.url} takes {took} of {node.capacity} bytes"

    def _interests(self, node: Node) -> None:
        """Something is pending exactly if somebody waits; nobody holds more than a window."""
        waiting: set[Digest] = set()
        waiters, window = 0, node.config.bundle_window
        for answer in node.answers:
            waiting.update(answer.waiting)
            waiters += len(answer.waiting)
            held = len(answer.waiting) + len(answer._ready)
            assert held <= window, f"{node.url}: more than a window"
        told = node.forwarder.waiters
        assert told == waiters, f"{node.url}: {told} Interests, and {waiters} are waited for"
        assert node.forwarder.pending == len(waiting), f"{node.url}: pending blocks nobody wants"
        asked: dict[Digest, int] = {}
        for scheduler in node.schedulers:
            for digest in scheduler._open:
                assert digest in waiting, f"{node.url} fetches {digest!r}, which nobody waits for"
                asked[digest] = asked.get(digest, 0) + 1
                assert asked[digest] <= node.most_fetches, f"{node.url} fetches {digest!r} twice"

    def quiet(self) -> None:
        """When nobody wants anything any more."""
        world = self._world
        for engine in self.engines:
            self._accounts(engine)
            if world.plan.calm:
                self._once(engine)
            if not engine._closed:
                left = len(engine._scheduler)
                assert not left, f"{left} wants never ended"
            if not len(engine._scheduler):
                self._forgotten(engine._scheduler)
        for (host, url), link in world.net.all_links():
            assert not link.calls, f"{host} still has a request at {url}"
        for node in world.nodes.values():
            if node.up:
                self._at_rest(node)

    def _accounts(self, engine: Engine) -> None:
        """Every byte that crossed a link was accepted, or is counted as wasted by its cause."""
        counters = engine.counters()
        tallies = {id(lane.source): lane.source.tally for lane in engine._lanes}.values()
        crossed = sum(tally.crossed for tally in tallies)
        told = counters.received + sum(counters.wasted.values())
        host = engine._lanes[0].source.host
        assert crossed == told, f"{crossed} bytes came to {host}, and it counts {told}: {counters}"

    def _once(self, engine: Engine) -> None:
        """Where nothing goes wrong, no block crosses a link twice."""
        sources = {id(lane.source): lane.source for lane in engine._lanes}.values()
        host = next(iter(sources)).host
        node = self._world.nodes.get(host)
        if len(sources) > 1 or (node is not None and self._may_be_let_go(node)):
            return  # a block that is late may be asked of a second one, and given up at the first
        wasted = sum(engine.counters().wasted.values())
        assert not wasted, f"{wasted} bytes came to {host} in vain: {engine.counters()}"
        if node is None or node.capacity is None:
            for digest, count in next(iter(sources)).tally.blocks.items():
                assert count == 1, f"{digest!r} came to {host} {count} times"

    def _may_be_let_go(self, node: Node) -> bool:
        """Whether it chooses, or one that chooses asks it, or one that such a one asks."""
        seen, asking = {node.url}, [node]
        while asking:
            here = asking.pop()
            if here.plan.chooses:
                return True
            for each in self._world.nodes.values():
                if here.url in each.fib.upstreams and each.url not in seen:
                    seen.add(each.url)
                    asking.append(each)
        return False

    @staticmethod
    def _forgotten(scheduler: Scheduler) -> None:
        """A scheduler without wants keeps nothing of those that it had."""
        for table in ("_flying", "_bundles", "_setbacks"):
            assert not getattr(scheduler, table), f"{table} of a scheduler is not empty"
        assert not scheduler._lines.pressed, "a scheduler presses for what it does not want"

    @staticmethod
    def _at_rest(node: Node) -> None:
        """A node that nobody asks anything holds nothing for anybody."""
        assert not node.answers, f"{node.url} still answers"
        assert not node.forwarder.pending, f"{node.url} has pending blocks"
        assert not node.forwarder.waiting_for_turn, f"{node.url}: blocks wait for their turn"
        assert not node.forwarder._pending, f"{node.url} remembers fetches that are over"
        stats = node.content.stats()
        assert not stats.reserved_bytes, f"{node.url} keeps room for nothing"
        assert not stats.erased_open_bytes, f"{node.url} waits for leases that are closed"
        assert not node.content._sending, f"{node.url} has leases"
        assert stats.used_bytes == node.blocks.used_bytes, f"{node.url} counts other bytes"
        for courier in node.upstreams._couriers.values():
            assert not courier._wanted, f"{node.url}: a courier wants what nobody wants"
            assert not courier._batch

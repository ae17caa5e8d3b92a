"""What a seed means: models, nodes, devices, links, and the faults that will happen. Pure.

Everything is drawn from one generator, so that a seed is a world; `str()` of a scenario tells it
in a few lines. This module must not run anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Final

from icnblocks.cache.policy import POLICIES, make_policy
from icnblocks.limits import KIB, MIB
from icnblocks_daemon.strategies import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Sequence

make_policy("lru")  # registers the built-in ones

LENGTHS: Final = (1, 100, 4 * KIB, 60 * KIB, 128 * KIB, 200 * KIB, 256 * KIB, 256 * KIB, MIB)
HEALED_S: Final = 40.0
"""All faults are over by then."""
KINDS: Final = (
    "kill", "kill", "die", "part", "reset", "resets", "corrupt", "corrupt", "nack", "throttle",
    "lie", "full", "shrink", "publish", "policy", "strategy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model: its name, and its blocks by number."""

    name: str
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NodePlan:
    """An origin (it has no upstreams) or an edge.

    Attributes:
        number: which.
        url: where.
        upstreams: as in its configuration.
        holds: blocks that it has at the beginning, by number.
        siblings: edges nearby that it asks for what they hold.
        disk_s: what it takes at most to store a block.
        overflow: bytes of memory for blocks that its disk will not take.
    """

    number: int
    url: str
    upstreams: tuple[tuple[str, str], ...] = ()
    holds: frozenset[int] = frozenset()
    capacity: int | None = None
    policy: str = "lru"
    strategy: str = "fail-over"
    overflow: int = 0
    siblings: tuple[str, ...] = ()
    window: int = 64
    negative_ttl: float = 5.0
    timeout: float = 5.0
    retry: float = 5.0
    wait: float = 20.0
    disk_s: float = 0.0

    @property
    def chooses(self) -> bool:
        """There are several to ask, so that a second is asked for what is late."""
        return len({url for _, url in self.upstreams} | set(self.siblings)) > 1


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A device that pulls a model.

    Attributes:
        host: which.
        sources: URLs that it asks.
        model: which model, by number.
        begins: when.
        leaves: it gives up then; None: it stays.
        cancels: share of its blocks that it does not want any more after a while.
        pause_s: what it takes to store a block.
        limit_rate: see EngineOptions.
        connections: see EngineOptions.
        maps: it asks for have-maps.
        ordered: it wants its blocks in order.
        mistakes: it believes of so many blocks that they have another length.
        shares: it serves other devices what it pulls, and asks those that do.
        boasts: it says there that it holds everything.
        corrupts: how likely the bytes of a block that it serves are wrong.
    """

    host: str
    sources: tuple[str, ...]
    model: int
    begins: float = 0.0
    leaves: float | None = None
    cancels: float = 0.0
    pause_s: float = 0.0
    limit_rate: float | None = None
    connections: int = 4
    maps: bool = True
    ordered: bool = False
    mistakes: int = 0
    shares: bool = False
    boasts: bool = False
    corrupts: float = 0.0


PLAIN: Final = {
    "leaves": None, "cancels": 0.0, "pause_s": 0.0, "limit_rate": None, "mistakes": 0,
    "shares": False,
}  # fmt: skip
"""A device that neither gives anything up nor is slow, nor gets anything twice."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Something goes wrong at `at`, and is well again `lasts` seconds later."""

    kind: str
    at: float
    lasts: float
    where: str
    amount: float = 0.0
    how: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world and its story."""

    seed: int
    lengths: tuple[int, ...]
    models: tuple[ModelPlan, ...]
    nodes: tuple[NodePlan, ...]
    devices: tuple[DevicePlan, ...]
    faults: tuple[FaultPlan, ...] = ()
    rate: float = 20e6
    latency: float = 0.002
    yields: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def calm(self) -> bool:
        """Nothing goes wrong, nobody leaves what was begun, no configuration is a circle."""
        steady = all(
            len(each.sources) == 1 and replace(each, **PLAIN) == each for each in self.devices
        )
        number = {each.url: each.number for each in self.nodes}
        forward = all(number[url] < each.number for each in self.nodes for _, url in each.upstreams)
        return steady and forward and not self.faults

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.lengths)} blocks, yields {self.yields:.2f}"]
        lines += [f"  {each.name}: {len(each.blocks)} blocks" for each in self.models]
        lines += [
            f"  {each.url}: upstreams {each.upstreams}, holds {len(each.holds)},"
            f" capacity {each.capacity}, {each.policy}, {each.strategy}, window {each.window},"
            f" negative {each.negative_ttl:g} s, siblings {each.siblings}"
            for each in self.nodes
        ]
        lines += [f"  {each}" for each in self.devices]
        lines += [f"  {each}" for each in self.faults]
        return "\n".join(lines)


def scenario(seed: int) -> Scenario:
    """The world of a seed."""
    random = Random(seed)
    count = random.choice((3, 12, 30, 60))
    lengths = tuple(random.choice(LENGTHS) for _ in range(count))
    models = _models(random, count)
    nodes = _nodes(random, lengths, models)
    devices = tuple(_devices(random, nodes, models))
    plan = Scenario(
        seed, lengths, models, nodes, devices,
        rate=random.choice((1e6, 5e6, 20e6)),
        latency=random.choice((0.0002, 0.005, 0.05)),
        yields=random.choice((0.0, 0.1, 0.5)),
        rates={
            name: random.choice((1e6, 5e6, 50e6))
            for name in (*(node.url for node in nodes), *(each.host for each in devices))
            if random.random() < 0.3
        },
    )  # fmt: skip
    if random.random() < 0.25:
        if random.random() < 0.3:
            return plan  # nothing goes wrong that is not in the configuration
        plain = [replace(each, sources=each.sources[:1], **PLAIN) for each in devices]
        return replace(plan, devices=tuple(plain))
    return replace(plan, faults=tuple(_faults(random, plan)))


def _models(random: Random, count: int) -> tuple[ModelPlan, ...]:
    """Models of a base, and of some of it and something else, under two publishers."""
    models = []
    everything = range(count)
    for number in range(random.randint(1, 4)):
        publisher = random.choice(("acme", "zoo"))
        if number and random.random() < 0.7:
            shared = models[0].blocks
            kept = random.sample(shared, max(1, int(len(shared) * random.random())))
            own = random.sample(everything, random.randint(1, max(1, count // 3)))
            blocks = tuple(dict.fromkeys((*kept, *own)))
        else:
            blocks = tuple(random.sample(everything, random.randint(max(1, count // 2), count)))
        models.append(ModelPlan(f"{publisher}/m{number}", blocks))
    return tuple(models)


def _nodes(
    random: Random, lengths: Sequence[int], models: Sequence[ModelPlan]
) -> tuple[NodePlan, ...]:
    count = len(lengths)
    origins = []
    for number in range(random.choice((1, 1, 2))):
        holds = frozenset(range(count))
        if random.random() < 0.3:
            holds = frozenset(random.sample(range(count), max(1, int(count * random.random()))))
        origins.append(NodePlan(number, f"http://origin{number}", holds=holds))
    nodes, above = list(origins), [each.url for each in origins]
    for level in range(random.choice((0, 1, 1, 2, 2, 3))):
        tier = []
        for at in range(random.randint(1, 3) if level == 0 else random.randint(1, 2)):
            some = random.sample(above, random.randint(1, len(above)))
            upstreams = [("", url) for url in some]
            if random.random() < 0.2:
                upstreams.append((random.choice(("zoo", "acme")), random.choice(above)))
            tier.append(
                NodePlan(
                    len(nodes) + at,
                    f"http://edge{level}-{at}",
                    tuple(upstreams),
                    capacity=_capacity(random, lengths),
                    policy=random.choice(sorted(POLICIES)),
                    strategy=random.choice(sorted(STRATEGIES)),
                    window=random.choice((1, 2, 8, 64)),
                    overflow=random.choice((0, 4 * MIB)),
                    disk_s=random.choice((0.0, 0.002, 0.2)),
                    negative_ttl=random.choice((0.0, 1.0, 5.0)),
                    timeout=random.choice((2.0, 5.0)),
                    retry=random.choice((1.0, 5.0)),
                )
            )
        if len(tier) > 1 and random.random() < 0.4:
            tier = [_with_siblings(each, tier) for each in tier]
        nodes += tier
        above = [each.url for each in tier]
        if random.random() < 0.2:
            above.append(origins[0].url)
    if random.random() < 0.15:
        nodes = _with_loop(random, nodes)
    return tuple(nodes)


def _with_siblings(node: NodePlan, tier: Sequence[NodePlan]) -> NodePlan:
    return replace(node, siblings=tuple(each.url for each in tier if each is not node))


def _capacity(random: Random, lengths: Sequence[int]) -> int | None:
    if random.random() < 0.4:
        return None
    share = random.choice((0.05, 0.3, 0.8))
    return max(*lengths, int(sum(lengths) * share))


def _with_loop(random: Random, nodes: list[NodePlan]) -> list[NodePlan]:
    """Somebody configured an edge to ask one that asks it."""
    edges = [each for each in nodes if each.upstreams]
    if not edges:
        return nodes
    first, second = random.choice(edges), random.choice(edges)
    more = (("", second.url), *first.upstreams)
    if random.random() < 0.5:
        more = (*first.upstreams, ("", second.url))
    at = nodes.index(first)
    others = tuple(each for each in first.siblings if each != second.url)
    nodes[at] = replace(first, upstreams=tuple(dict.fromkeys(more)), siblings=others)
    return nodes


def _devices(random: Random, nodes: Sequence[NodePlan], models: Sequence[ModelPlan]) -> list:
    edges = [each.url for each in nodes if each.upstreams] or [each.url for each in nodes]
    burst = random.random() < 0.3
    sharing = random.random() < 0.3
    devices = []
    for number in range(random.randint(1, 6)):
        among = edges if random.random() < 0.8 else [each.url for each in nodes]
        sources = random.sample(among, min(len(among), random.choice((1, 1, 1, 2, 3))))
        devices.append(
            DevicePlan(
                f"device{number}",
                tuple(sources),
                0 if sharing else random.randrange(len(models)),
                begins=0.0 if burst else random.uniform(0, 6),
                leaves=random.uniform(0, 12) if random.random() < 0.2 else None,
                cancels=random.random() if random.random() < 0.15 else 0.0,
                pause_s=random.choice((0.05, 1.0, 6.0)) if random.random() < 0.15 else 0.0,
                limit_rate=random.choice((2e5, 2e6)) if random.random() < 0.1 else None,
                connections=random.choice((1, 2, 4, 8)),
                maps=random.random() < 0.7,
                ordered=random.random() < 0.2,
                mistakes=3 if random.random() < 0.1 else 0,
                shares=sharing and random.random() < 0.8,
                boasts=random.random() < 0.1,
                corrupts=random.choice((0.0, 0.0, 0.0, 0.3)),
            )
        )
    return devices


def _faults(random: Random, plan: Scenario) -> list[FaultPlan]:
    faults = []
    urls = [each.url for each in plan.nodes]
    hosts = [each.host for each in plan.devices]
    if random.random() < 0.5:  # what was looked for in vain is there later
        origin = random.choice([each.url for each in plan.nodes if not each.upstreams])
        faults.append(FaultPlan("publish", random.uniform(5, 20), 0.0, origin, how=-1))
    for _ in range(random.randint(1, 8)):
        kind = random.choice(KINDS)
        where = random.choice(urls if kind not in {"part", "reset"} else urls + hosts)
        at = random.uniform(0, 12) * random.random()
        lasts = min(random.choice((0.05, 0.5, 3.0, 10.0, 25.0)), HEALED_S - at)
        amount = random.choice((0.05, 0.3, 1.0))
        faults.append(FaultPlan(kind, at, lasts, where, amount, random.randrange(1 << 16)))
    return faults

"""`sharing`: keeps what a plan over whole models says, since a pull waits for all of its blocks.

Requests for models are counted, and now and then a plan is made (`icnblocks.cache.planning`):
which groups of blocks to keep within the capacity, so that what the operator's objective counts is
as much as possible. Between plans the policy only carries the last one out. What leaves is, in
this order:

1. what passes through: blocks that the plan does not keep, in the order in which they came;
2. what an older plan kept and this one does not, the least worth first. It stays until what
   replaces it comes, since nothing is fetched ahead;
3. what the plan keeps, the least worth first.

Where what was asked for just now is asked for again, plans are made more often, and between them a
model takes room as soon as it is asked for, if it is worth more than what has to leave.

Plans are made by whoever drives the policy (see `Planner`), or, if nobody does, by the policy
itself when room has to be made.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.cache.options import Option, number
from icnblocks.cache.planning.rates import History, Rates
from icnblocks.cache.planning.solver import CELLS, solve
from icnblocks.cache.policies import sharing_state
from icnblocks.cache.policies.partition import Partition
from icnblocks.cache.policies.sharing_admission import Admission
from icnblocks.cache.policies.sharing_objective import Objective, parse_objective
from icnblocks.cache.policies.sharing_problem import Outline
from icnblocks.cache.policy import Policy, register
from icnblocks.quantities import parse_duration, parse_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from icnblocks.cache.planning.problem import Plan, Problem
    from icnblocks.cache.policies.groups import Group, Model
    from icnblocks.naming import Digest

_KIN_PART: Final = 0.1
"""A new model is kin to those with which it shares at least this part of its bytes."""
_KIN: Final = 64
"""At most so many of them are asked."""
_CALM: Final = 1e-6
"""A lower turnover is none."""
_SLACK_BLOCKS: Final = 64
_SLACK_PART: Final = 256
"""The plan leaves room for so many blocks to pass through, but at most this part of the capacity:
with many pulls under way, what passes through would else take room from what is kept."""


@register
class Sharing(Policy):
    """Keeps whole models by a plan.

    Args:
        capacity: the budget in bytes; None: unbounded, then it never plans.
        objective: `time` (mean pull time), `bytes` (from upstream), `hits` (pulls that find
            everything here), or a number from 0 (`bytes`) to 1 (`hits`).
        rtt_s, backhaul: for `time`: seconds that going upstream at all takes, and bytes a second
            from there.
        plan_requests: requests after which a plan is due; at first it is sooner.
        plan_s: seconds after which one is due anyway, if anything happened.

    Operations on blocks are O(1), or O(log n) for victims that the plan kept; `requested` is O(1),
    `learn` and `forget` are linear in the model's blocks.
    """

    name: ClassVar[str] = "sharing"
    options: ClassVar[Mapping[str, Option]] = {
        "objective": Option(
            "objective",
            parse_objective,
            "time (default), hits, bytes, or from 0 (bytes) to 1 (hits)",
        ),
        "rtt": Option("rtt_s", parse_duration, "of going upstream at all, for time (50ms)"),
        "backhaul": Option("backhaul", parse_rate, "from upstream, for time (200Mbit)"),
        "plan_requests": Option("plan_requests", number, "requests from plan to plan (50)"),
        "plan_s": Option("plan_s", parse_duration, "seconds after which one is due anyway (1h)"),
    }

    def __init__(
        self,
        capacity: int | None = None,
        *,
        objective: str | float = "time",
        rtt_s: float = 0.05,
        backhaul: float = 25e6,
        plan_requests: float = 50,
        plan_s: float = 3600.0,
    ) -> None:
        self._capacity = capacity
        self._objective = Objective(objective, rtt_s * backhaul)
        self._plan_requests = plan_requests
        self._plan_s = plan_s
        self._rates = Rates()
        self._blocks = Partition()
        self._outline = Outline(self._blocks)
        self._heap: list[tuple[bool, float, int, int, Group]] = []
        self._remembered: dict[Digest, History] = {}
        self._driven = False
        self._admission = Admission()
        self._planned_at = (0, 0.0)
        self._changed = False

    # --- blocks ---------------------------------------------------------------------------

    def inserted(self, digest: Digest, size: int, now: float) -> None:
        """Held if the plan keeps it; else it passes through."""
        if not self._blocks.insert(digest, size):
            self.hit(digest, now)

    def inserted_all(self, blocks: Iterable[tuple[Digest, int]], now: float) -> None:
        """As one by one, in less time."""
        told = list(blocks)
        sizes = dict(told)
        if len(sizes) == len(told):
            self._blocks.insert_all(sizes)
        else:  # one comes twice
            super().inserted_all(told, now)

    def hit(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Counts for blocks of no known model only: for others, the requests for models do."""
        slot = self._blocks.slots.find(digest)
        if slot is not None:
            self._blocks.touch(slot)

    def hits(self, digests: Iterable[Digest], now: float) -> None:
        """Nothing to do, mostly."""
        if self._blocks.loose.known:
            for digest in digests:
                self.hit(digest, now)

    def removed(self, digest: Digest) -> None:
        """Gone, but known while a model lists it."""
        slot = self._blocks.slots.find(digest)
        if slot is not None and self._blocks.is_here(slot):
            self._blocks.remove(slot)

    def pinned(self, digest: Digest) -> None:
        """Not offered; its bytes cost the plan nothing."""
        slot = self._blocks.slots.find(digest)
        if slot is not None:
            self._blocks.pin(slot)

    def unpinned(self, digest: Digest, now: float) -> None:
        """May leave again."""
        slot = self._blocks.slots.find(digest)
        if slot is not None:
            self._blocks.unpin(slot)
            self.hit(digest, now)

    # --- models ---------------------------------------------------------------------------

    def learn(self, manifest: Digest, blocks: Mapping[Digest, int], base: Digest | None) -> None:
        """Its rate begins with that of its kin, if it has any."""
        if manifest in self._blocks.models:
            return
        if self._capacity is not None and max(blocks.values(), default=0) > self._capacity:
            # No room is planned for what can never be here.
            blocks = {block: size for block, size in blocks.items() if size <= self._capacity}
        model = self._blocks.learn(manifest, blocks, base)
        prior = 0.0
        if self._rates.requests:
            kin = self._blocks.kin(model, _KIN_PART)[-_KIN:]
            if kin:
                prior = sum(self._rates.rate(one.row) for one in kin) / len(kin)
        model.row = self._rates.add(prior)
        remembered = self._remembered.pop(manifest, None)
        if remembered is not None:
            self._rates.take_up(model.row, remembered)
        self._changed = True

    def forget(self, manifest: Digest) -> None:
        """Its blocks, if nobody else's, pass through."""
        model = self._blocks.models.get(manifest)
        if model is not None:
            self._blocks.forget(model)
            self._rates.drop(model.row)
            self._changed = True

    def requested(self, manifest: Digest, now: float) -> None:
        """Raises the model's rate. If nobody drives the plans, one may be made here."""
        model = self._blocks.models.get(manifest)
        if model is not None:
            self._rates.asked(model.row)
            self._changed = True
            if self._capacity is not None and self._rates.turnover():
                self._admit(model)
            if not self._driven and self._due(now):
                self.adopt(solve(self._problem()), now)

    def priced(self, manifest: Digest, factor: float, now: float) -> None:  # noqa: ARG002
        """What a miss of this model costs, of what it costs if it comes from the origin."""
        model = self._blocks.models.get(manifest)
        if model is not None and model.price != factor:
            model.price = factor
            self._changed = True

    def state(self, now: float) -> bytes:  # noqa: ARG002
        """The rates; the plan follows from them and from what is here."""
        known = {
            digest: self._rates.history(model.row) for digest, model in self._blocks.models.items()
        }
        return sharing_state.encode(self._rates.requests, *self._rates.trust(), known)

    def restore(self, state: bytes, now: float, elapsed_s: float) -> None:  # noqa: ARG002
        """A plan is due at once."""
        requests, seen, trust, known = sharing_state.decode(state, elapsed_s)
        self._rates.begin(requests, seen, trust)
        for digest, history in known.items():
            model = self._blocks.models.get(digest)
            if model is not None:
                self._rates.take_up(model.row, history)
            else:
                self._remembered[digest] = history
        self._changed = True

    # --- what leaves ----------------------------------------------------------------------

    def victims(self, now: float) -> Iterator[Digest]:  # noqa: ARG002
        """What passes through; then what is not planned any more; then the plan, from its end."""
        blocks, digest_of = self._blocks, self._blocks.slots.digest
        for slot in blocks.passing():
            yield digest_of(slot)
        self._queue_dirty()
        while self._heap:
            _, _, _, version, group = heappop(self._heap)
            if version == group.version:
                blocks.dirty[group] = None  # back into the heap when somebody looks again
                for slot in blocks.held(group):
                    yield digest_of(slot)

    def _queue_dirty(self) -> None:
        dirty = self._blocks.dirty
        if len(self._heap) > 4 * len(self._blocks.groups) + 1024:
            self._heap = [entry for entry in self._heap if entry[3] == entry[4].version]
            heapify(self._heap)
        for group in dirty:
            group.version += 1
            if group.held.count:
                kept = group.held_bytes <= group.quota
                heappush(self._heap, (kept, group.rank, group.number, group.version, group))
        dirty.clear()

    # --- planning -------------------------------------------------------------------------

    def plan_due(self, now: float) -> bool:
        """Is it time for a plan? Whoever asks drives the plans: the policy makes none itself."""
        self._driven = True
        return self._due(now)

    def _due(self, now: float) -> bool:
        """Often at first, then every `plan_requests` or `plan_s`, or when demand is another."""
        requests, at = self._planned_at
        if self._capacity is None or not self._changed:
            return False
        fresh, turnover = self._rates.requests - requests, self._rates.turnover()
        most = min(self._plan_requests, 1 + requests // 4)
        return fresh >= most or fresh >= 1 + 1 / max(turnover, _CALM) or now - at >= self._plan_s

    def problem(self, now: float) -> Problem:  # noqa: ARG002
        """A snapshot."""
        return self._problem()

    def adopt(self, plan: Plan, now: float) -> None:
        """Carry this plan out from now on. Groups that are new since keep what they had."""
        self._planned_at = (self._rates.requests, now)
        self._changed = False
        self._admission = Admission(plan, self._room())
        groups = self._blocks.groups
        for name, kept, rank in zip(
            plan.numbers.tolist(), plan.kept.tolist(), plan.rank.tolist(), strict=True
        ):
            group = groups.get(name)
            if group is not None:
                self._blocks.grant(group, kept, rank)

    def _admit(self, model: Model) -> None:
        """Give a model room until the next plan, if it is worth what it costs."""
        assert self._capacity is not None
        rate = self._rates.now(model.row) * model.price
        upstream, byte = self._outline.costs
        groups = model.groups.values()
        need = sum(max(0, group.known_bytes - group.quota) for group in groups)
        if need and not self._admission.admits(need, rate * (upstream + byte * need)):
            return
        for group in groups:
            little = min(group.known_bytes, self._capacity / CELLS)
            block = group.block if self._objective.by_block else 1.0
            worth = rate * (upstream + byte * max(little, block)) / block
            self._blocks.grant(group, group.known_bytes, max(worth, group.rank))

    def _problem(self) -> Problem:
        return self._outline.problem(self._rates, self._objective, self._room())

    def _room(self) -> int:
        """Bytes for the plan: the capacity, less pins and a little for what passes through."""
        assert self._capacity is not None
        block = self._blocks.largest
        slack = min(_SLACK_BLOCKS, self._capacity // _SLACK_PART // block) * block
        return self._capacity - self._blocks.pinned_bytes - slack

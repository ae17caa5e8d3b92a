"""Every built-in policy against the conformance suite, and the decisions of the simple ones."""

import re
from itertools import islice
from pathlib import Path

import pytest

from icnblocks.cache.policies import (
    Gdsf,
    Lfu,
    Lru,
    S3Fifo,
    Score,
    Sharing,
    Sieve,
    WTinyLfu,
)
from icnblocks.cache.policy import POLICIES, make_policy, policy_options
from icnblocks.errors import UsageError
from icnblocks.naming import Digest
from icnblocks.testing.policy_contract import PolicyContract

A, B, C, D = (Digest(bytes(31) + bytes([n])) for n in range(4))


class TestLru(PolicyContract):
    @pytest.fixture
    def make(self):
        return Lru


class TestLfu(PolicyContract):
    @pytest.fixture
    def make(self):
        return Lfu


class TestGdsf(PolicyContract):
    @pytest.fixture
    def make(self):
        return Gdsf


class TestSieve(PolicyContract):
    @pytest.fixture
    def make(self):
        return Sieve


class TestS3Fifo(PolicyContract):
    @pytest.fixture
    def make(self):
        return S3Fifo


class TestS3FifoWithACapacity(PolicyContract):
    @pytest.fixture
    def make(self):
        return lambda: S3Fifo(100 * 4096)


class TestWTinyLfu(PolicyContract):
    @pytest.fixture
    def make(self):
        return WTinyLfu


class TestWTinyLfuWithACapacity(PolicyContract):
    @pytest.fixture
    def make(self):
        return lambda: WTinyLfu(60 * 4096, window=0.2)


class TestScore(PolicyContract):
    @pytest.fixture
    def make(self):
        return Score


class TestSharing(PolicyContract):
    @pytest.fixture
    def make(self):
        return Sharing


def test_policies_are_made_by_name():
    assert make_policy("lru").name == "lru"
    assert {"gdsf", "lfu", "lru", "sharing"} <= POLICIES.keys()
    for name in POLICIES:
        assert make_policy(name) is not make_policy(name)
    with pytest.raises(UsageError, match="no eviction policy 'belady'"):
        make_policy("belady")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lru:", "'' is not KEY=VALUE"),
        ("lru:alpha=1", "has no option 'alpha'"),
        ("sharing:rtt", "'rtt' is not KEY=VALUE"),
        ("sharing:rtt=", "'rtt=' is not KEY=VALUE"),
        ("sharing:rtt=1s,rtt=2s", "rtt is given twice"),
        ("sharing:plan_requests=much", "plan_requests: a number of 0 or more"),
        ("sharing:plan_requests=nan", "plan_requests: a number of 0 or more"),
        ("sharing:plan_requests=-1", "plan_requests: a number of 0 or more"),
        ("sharing:rtt=soon", "rtt: 'soon' is not a duration"),
        ("sharing:objective=best", "objective: time, hits, bytes or a number"),
    ],
)
def test_a_wrong_option_is_one_clear_line(spec, message):
    with pytest.raises(UsageError, match=message) as caught:
        make_policy(spec)
    assert "\n" not in str(caught.value)


def test_every_policy_and_option_is_in_the_operators_table():
    """An option that nobody can find, or one that is gone and still promised."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    rows = {}
    for line in text.partition("## Policies")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and cells[1].startswith("`"):
            rows[cells[1].strip("`")] = set(re.findall(r"`(\w+)`", cells[3]))
    make_policy("lru")
    assert rows == {name: set(policy_options(name)) for name in POLICIES}


def told(policy, *events):
    """Events are ("+A", "A", "-A") for inserted, hit, removed; sizes as "+A:8192"."""
    names = {"A": A, "B": B, "C": C, "D": D}
    for now, event in enumerate(" ".join(events).split()):
        digest = names[event.lstrip("+-")[0]]
        if event.startswith("+"):
            policy.inserted(digest, int(event.partition(":")[2] or 4096), float(now))
        elif event.startswith("-"):
            policy.removed(digest)
        else:
            policy.hit(digest, float(now))
    back = {digest: name for name, digest in names.items()}
    return "".join(back[digest] for digest in policy.victims(1000.0))


@pytest.mark.parametrize(
    ("events", "order"),
    [
        ("+A +B +C", "ABC"),
        ("+A +B +C A", "BCA"),
        ("+A +B +C B A B", "CAB"),
        ("+A +B +C -B +B", "ACB"),
        ("+A +B +A", "BA"),
    ],
)
def test_lru_table(events, order):
    assert told(Lru(), events) == order


@pytest.mark.parametrize(
    ("events", "order"),
    [
        ("+A +B +C", "ABC"),
        ("+A +B +C A", "BCA"),
        ("+A +B +C A A B", "CBA"),
        ("+A +B B A", "BA"),  # equals: used longest ago first
        ("+A A A A -A +A +B B", "AB"),  # uses end with the stay
    ],
)
def test_lfu_table(events, order):
    assert told(Lfu(), events) == order


def test_lfu_ages_what_was_popular_long_ago():
    """Without ageing, a block that had 50 hits once would outlive everything."""
    policy = Lfu()
    policy.inserted(A, 4096, 0.0)
    for _ in range(50):
        policy.hit(A, 0.0)
    for step in range(60):
        newer = Digest(bytes([9]) + bytes(30) + bytes([step]))
        policy.inserted(newer, 4096, float(step))
        policy.hit(newer, float(step))
        victim = next(iter(policy.victims(float(step))))
        policy.removed(victim)
        if victim == A:
            break
    assert victim == A
    assert 10 < step < 50


@pytest.mark.parametrize(
    ("events", "order"),
    [
        ("+A:4096 +B:8192 +C:4096", "BAC"),
        ("+A:4096 +B:8192 B B", "AB"),  # 3 uses in 8 KiB beat 1 use in 4
        ("+A:4096 +B:1048576 B B B B", "BA"),
        ("+A:16777216 +B:16777216 A", "BA"),
    ],
)
def test_gdsf_table(events, order):
    assert told(Gdsf(), events) == order


def test_a_slot_that_is_used_again_does_not_inherit_an_old_entry():
    """A block removed out of turn leaves an entry in the heap, with its high rank."""
    policy = Lfu()
    assert told(policy, "+A A A A A +B B B") == "BA"
    policy.removed(A)
    policy.inserted(C, 4096, 9.0)
    policy.inserted(D, 4096, 9.0)
    assert list(policy.victims(10.0)) == [C, D, B]


def test_entries_of_lines_that_are_gone_do_not_pile_up():
    """Blocks that leave otherwise than as victims must not leak heap entries or slots."""
    policy = Gdsf()
    for step in range(1, 20_001):
        digest = Digest(step.to_bytes(32, "big"))
        policy.inserted(digest, step, 0.0)
        policy.hit(digest, 0.0)
        policy.removed(digest)
    assert len(policy._heap) < 3000
    assert len(policy._ticks) < 3000


def test_looks_without_removal_do_not_pile_up():
    """A content store looks at leased blocks again and again."""
    policy = Gdsf()
    for step in range(1, 11):
        policy.inserted(Digest(step.to_bytes(32, "big")), step, 0.0)
    for count in range(10_000):
        assert len(list(islice(policy.victims(0.0), count % 11))) == count % 11
    assert len(policy._heap) <= 11

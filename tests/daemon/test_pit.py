"""The pending Interest table: one fetch a block or a hedged one, no waiter lost, refusals where
they belong."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from icnblocks.naming import Digest
from icnblocks.wire.frames import Reason
from icnblocks_daemon.pit import Pit
from icnblocks_daemon.strategies import FailOver

D = Digest.of(b"d")
A, B = ("http://a",), ("http://b",)
AB = ("http://a", "http://b")


def make(**more):
    return Pit(FailOver(), **{"negative_s": 5.0, **more})


def test_many_waiters_make_one_fetch_and_all_are_told():
    pit = make()
    fetch = pit.want("w0", D, 9, A, 0.0).fetch
    assert [pit.want(f"w{n}", D, 9, A, 0.0).fetch for n in range(1, 8)] == [None] * 7
    assert pit.arrived(fetch).ready == [f"w{n}" for n in range(8)]
    assert len(pit) == 0


def test_a_crowd_is_not_gone_through_for_each_who_joins_it():
    """256 devices that wanted one block cost 33,000 choices of an upstream, 42 ms a block."""

    class Counting(FailOver):
        choices = 0

        def choose(self, *args):
            self.choices += 1
            return super().choose(*args)

    strategy = Counting()
    pit = Pit(strategy, negative_s=5.0)
    for number in range(256):
        pit.want(number, D, 9, A, 0.0)
    assert pit.waiting() == 256
    assert strategy.choices == 1


def test_a_crowd_is_not_gone_through_for_each_look_at_what_is_late():
    """64 blocks with 256 who wait for each took 11 ms, 20 times a second."""

    class Watched(tuple):
        __slots__ = ()
        looks = 0

        def __iter__(self):
            Watched.looks += 1
            return super().__iter__()

    pit, route = make(), Watched(AB)
    fetch = pit.want(0, D, 9, route, 0.0).fetch
    for number in range(1, 256):
        pit.want(number, D, 9, route, 0.0)
    Watched.looks = 0
    assert pit.others(fetch) == B
    assert pit.candidates(fetch, AB) == AB
    assert Watched.looks <= 2
    for number in range(255):
        pit.leave(number, D)
    assert pit.others(fetch) == B, "one still waits"
    assert pit.leave(255, D).cancel == [fetch]


def test_without_sharing_each_waiter_makes_its_own_fetch():
    pit = make(share=False)
    fetches = [pit.want(f"w{n}", D, 9, A, 0.0).fetch for n in range(3)]
    assert len({fetch.key for fetch in fetches}) == 3
    assert pit.arrived(fetches[1]).ready == ["w1"]


def test_a_refusal_under_one_route_does_not_fail_a_waiter_under_another():
    pit = make()
    fetch = pit.want("x", D, 9, A, 0.0).fetch
    pit.want("y", D, 9, B, 0.0)
    step = pit.refused(fetch, Reason.NOT_FOUND, "no", 0.0)
    assert [refusal.waiter for refusal in step.refused] == ["x"]
    assert step.fetch.upstream == "http://b"
    assert pit.arrived(step.fetch).ready == ["y"]


def test_the_next_upstream_of_a_route_is_tried_before_anyone_is_refused():
    pit = make()
    first = pit.want("x", D, 9, AB, 0.0).fetch
    second = pit.refused(first, Reason.NOT_FOUND, "no", 0.0)
    assert (first.upstream, second.fetch.upstream, second.refused) == ("http://a", "http://b", [])
    last = pit.refused(second.fetch, Reason.UPSTREAM, "gone", 0.0)
    # One upstream is only unreachable: "not found" would be a lie.
    assert [(refusal.waiter, refusal.reason) for refusal in last.refused] == [
        ("x", Reason.UPSTREAM)
    ]


def test_a_lie_about_the_length_harms_the_liar_only():
    pit = make()
    lie = pit.want("liar", D, 5, A, 0.0).fetch
    pit.want("honest", D, 9, A, 0.0)
    step = pit.refused(lie, Reason.LENGTH, "it has 9", 0.0)
    assert [refusal.waiter for refusal in step.refused] == ["liar"]
    assert step.fetch.length == 9
    pit.want("late liar", D, 5, B, 0.0)
    done = pit.arrived(step.fetch)
    assert done.ready == ["honest"]
    assert [(refusal.waiter, refusal.reason) for refusal in done.refused] == [
        ("late liar", Reason.LENGTH)
    ]


def test_a_refusal_is_remembered_for_a_while_and_then_not():
    pit = make()
    pit.refused(pit.want("x", D, 9, A, 0.0).fetch, Reason.NOT_FOUND, "no", 0.0)
    again = pit.want("y", D, 9, A, 4.9)
    assert again.fetch is None
    assert again.refused[0].reason is Reason.NOT_FOUND
    assert pit.want("z", D, 9, A, 5.1).fetch is not None


def test_what_may_pass_is_not_remembered():
    pit = make()
    pit.refused(pit.want("x", D, 9, A, 0.0).fetch, Reason.UPSTREAM, "gone", 0.0)
    assert pit.want("y", D, 9, A, 0.1).fetch is not None


def test_a_circle_is_remembered_of_what_comes_that_way_only():
    """One Interest with a made-up path kept a block from everybody for `negative_ttl`."""
    pit = make()
    fetch = pit.want("liar", D, 9, AB[:1], 0, path="long").fetch
    assert pit.refused(fetch, Reason.LOOP, "", 0).refused
    assert pit.want("another", D, 9, AB[:1], 1, path="long").refused
    assert pit.want("honest", D, 9, AB[:1], 1).fetch is not None


def test_a_circle_refuses_only_those_who_came_that_way():
    """Catches: whoever waits at the same time is refused for another's made-up path."""
    pit = make()
    fetch = pit.want("liar", D, 9, A, 0.0, hint="lie", path="long").fetch
    assert pit.want("honest", D, 9, A, 0.0, hint="truth").joined == fetch
    pit.want("another", D, 9, A, 0.0, path="long")
    step = pit.refused(fetch, Reason.LOOP, "a circle", 0.0)
    assert [(each.waiter, each.reason) for each in step.refused] == [
        ("liar", Reason.LOOP), ("another", Reason.LOOP),
    ]  # fmt: skip
    assert (step.fetch.upstream, step.fetch.hint, step.fetch.path) == ("http://a", "truth", None)
    assert pit.arrived(step.fetch).ready == ["honest"]


def test_a_real_circle_comes_to_an_end():
    """Catches: an upstream is asked again and again on the same path."""
    pit = make()
    step, asked = pit.want(0, D, 9, A, 0.0, path="way 0"), []
    for number in range(1, 12):
        pit.want(number, D, 9, A, 0.0, path=f"way {number % 4}")
    while step.fetch is not None:
        asked.append(step.fetch.path)
        step = pit.refused(step.fetch, Reason.LOOP, "a circle", 0.0)
    assert asked == ["way 0", "way 1", "way 2", "way 3"]
    assert len(pit) == 0


def test_what_went_in_a_circle_from_here_does_so_on_any_path():
    """Catches: a circle is gone round once more for each way that Interests come."""
    pit = make()
    fetch = pit.want("device", D, 9, A, 0.0).fetch
    pit.want("edge", D, 9, A, 0.0, path="way")
    step = pit.refused(fetch, Reason.LOOP, "a circle", 0.0)
    assert [each.waiter for each in step.refused] == ["device", "edge"]


def test_the_last_waiter_that_leaves_cancels_the_fetch():
    pit = make()
    fetch = pit.want("x", D, 9, A, 0.0).fetch
    pit.want("y", D, 9, A, 0.0)
    assert pit.leave("x", D).cancel == []
    assert pit.leave("y", D).cancel == [fetch]
    assert pit.leave("y", D).cancel == []
    assert len(pit) == 0


def test_a_fetch_too_late_to_cancel_serves_who_came_after_and_cancels_the_second():
    pit = make()
    early = pit.want("x", D, 9, A, 0.0).fetch
    pit.leave("x", D)
    late = pit.want("y", D, 9, A, 0.0).fetch
    assert late != early
    step = pit.arrived(early)
    assert (step.ready, step.cancel) == (["y"], [late])


def test_no_route_is_refused_at_once():
    step = make().want("x", D, 9, (), 0.0)
    assert step.refused[0].reason is Reason.NOT_FOUND
    assert step.fetch is None


def test_a_block_that_cannot_be_kept_is_refused_to_all_whatever_their_route():
    pit = make()
    fetch = pit.want("x", D, 9, A, 0.0).fetch
    pit.want("y", D, 9, B, 0.0)
    step = pit.drop(fetch, Reason.NO_SPACE, "full")
    assert {refusal.waiter for refusal in step.refused} == {"x", "y"}
    assert len(pit) == 0


def test_a_hedge_is_asked_of_another_and_the_first_answer_cancels_the_other():
    pit = make()
    first = pit.want("x", D, 9, AB, 0.0).fetch
    assert pit.others(first) == ("http://b",)
    second = pit.hedge(first, "http://b")
    assert (second.upstream, second.length) == ("http://b", 9)
    assert second.serial != first.serial
    assert pit.others(first) == pit.others(second) == (), "two at most are under way"
    step = pit.arrived(second)
    assert (step.ready, step.cancel) == (["x"], [first])
    assert pit.arrived(first).ready == [], "told once"


def test_a_hedge_that_is_refused_leaves_the_first_under_way_and_nobody_refused():
    pit = make()
    first = pit.want("x", D, 9, AB, 0.0).fetch
    second = pit.hedge(first, "http://b")
    step = pit.refused(second, Reason.NOT_FOUND, "no", 0.0)
    assert (step.fetch, step.refused, step.cancel) == (None, [], [])
    assert pit.others(first) == (), "the one that refused is not asked again"
    last = pit.refused(first, Reason.UPSTREAM, "gone", 0.0)
    assert [refusal.waiter for refusal in last.refused] == ["x"]


def test_a_hedge_goes_on_when_the_first_is_refused_and_nobody_is_asked_a_third_time():
    pit = make()
    first = pit.want("x", D, 9, AB, 0.0).fetch
    second = pit.hedge(first, "http://b")
    step = pit.refused(first, Reason.CORRUPT, "bad", 0.0)
    assert (step.fetch, step.refused) == (None, [])
    assert pit.arrived(second).ready == ["x"]


def test_the_last_waiter_that_leaves_cancels_a_hedge_too():
    pit = make()
    first = pit.want("x", D, 9, AB, 0.0).fetch
    second = pit.hedge(first, "http://b")
    assert pit.leave("x", D).cancel == [first, second]


def test_a_block_that_cannot_be_kept_ends_the_hedge_too():
    pit = make()
    first = pit.want("x", D, 9, AB, 0.0).fetch
    second = pit.hedge(first, "http://b")
    assert pit.drop(first, Reason.NO_SPACE, "full").cancel == [second]


def test_a_hedge_is_asked_as_the_one_says_whose_route_it_is():
    """Catches: who names a wrong length, where upstream is frozen, keeps the block from others."""
    pit = make()
    first = pit.want("liar", D, 5, A, 0.0).fetch
    pit.want("x", D, 9, B, 0.0, hint="as x says")
    assert pit.others(first) == B
    assert pit.length(first, "http://b") == 9
    second = pit.hedge(first, "http://b")
    assert (second.length, second.hint) == (9, "as x says")
    step = pit.arrived(second)
    assert (step.ready, step.cancel) == (["x"], [first])
    assert [(each.waiter, each.reason) for each in step.refused] == [("liar", Reason.LENGTH)]


def test_what_was_not_asked_for_yet_goes_to_whom_those_who_still_wait_may_ask():
    pit = make()
    fetch = pit.want("x", D, 9, A, 0.0).fetch
    assert pit.want("y", D, 9, B, 0.0).joined == fetch
    assert pit.candidates(fetch, AB) == AB
    assert list(pit.ways(fetch, "y")) == [(B, None)]
    pit.leave("x", D)
    assert pit.candidates(fetch, A) == ()
    assert pit.candidates(fetch, AB) == B
    moved = pit.assign(fetch, "http://b")
    assert (moved.upstream, moved.serial) == ("http://b", fetch.serial)
    assert pit.refused(fetch, Reason.NOT_FOUND, "no", 0.0).refused == [], "it is that no more"
    assert pit.arrived(moved).ready == ["y"]


def test_what_was_not_asked_for_yet_is_asked_for_as_those_say_who_still_wait():
    """Catches: the wrong length of one who left, in vain asked for, of the same upstream."""
    pit = make()
    fetch = pit.want("liar", D, 5, A, 0.0).fetch
    pit.want("x", D, 9, A, 0.0, hint="as x says")
    pit.leave("liar", D)
    asked = pit.assign(fetch, "http://a")
    assert (asked.length, asked.hint, asked.serial) == (9, "as x says", fetch.serial)
    assert pit.arrived(asked).ready == ["x"]


DIGESTS = [Digest.of(bytes([n])) for n in range(3)]


class PitMachine(RuleBasedStateMachine):
    """Whatever happens: a waiter is told exactly once, and a block is fetched once at a time, or
    twice if that was asked for, of different upstreams."""

    def __init__(self):
        super().__init__()
        self.pit = make()
        self.now = 0.0
        self.waiting = set()
        self.fetches = {}
        self.count = 0

    def take(self, step):
        for fetch in step.cancel:
            assert self.fetches.pop(fetch.serial) == fetch
        for refusal in step.refused:
            self.waiting.remove((refusal.waiter, refusal.digest))
        if step.fetch is not None:
            assert all(one.digest != step.fetch.digest for one in self.fetches.values())
            self.fetches[step.fetch.serial] = step.fetch

    @rule(
        digest=st.sampled_from(DIGESTS),
        length=st.sampled_from([5, 9]),
        route=st.sampled_from([A, B, AB, ()]),
        path=st.sampled_from([None, "one way", "another"]),
    )
    def want(self, digest, length, route, path):
        self.count += 1
        self.waiting.add((self.count, digest))
        self.take(self.pit.want(self.count, digest, length, route, self.now, path=path))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        waiter, digest = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.remove((waiter, digest))
        self.take(self.pit.leave(waiter, digest))

    @precondition(lambda self: self.fetches)
    @rule(data=st.data())
    def hedge(self, data):
        fetch = self.fetches[data.draw(st.sampled_from(sorted(self.fetches)))]
        others = self.pit.others(fetch)
        if others:
            second = self.pit.hedge(fetch, others[-1])
            assert second.upstream != fetch.upstream
            self.fetches[second.serial] = second

    @precondition(lambda self: self.fetches)
    @rule(data=st.data())
    def assign(self, data):
        serial = data.draw(st.sampled_from(sorted(self.fetches)))
        fetch = self.fetches[serial]
        if sum(one.digest == fetch.digest for one in self.fetches.values()) == 1:
            candidates = self.pit.candidates(fetch, AB) or (fetch.upstream,)
            moved = self.pit.assign(fetch, data.draw(st.sampled_from(candidates)))
            assert moved.length == self.pit.length(fetch, moved.upstream)
            self.fetches[serial] = moved

    @precondition(lambda self: self.fetches)
    @rule(
        data=st.data(),
        reason=st.sampled_from(
            [None, Reason.NOT_FOUND, Reason.LOOP, Reason.UPSTREAM, Reason.NO_SPACE]
        ),
    )
    def answer(self, data, reason):
        fetch = self.fetches.pop(data.draw(st.sampled_from(sorted(self.fetches))))
        if reason is None:
            step = self.pit.arrived(fetch)
            for waiter in step.ready:
                self.waiting.remove((waiter, fetch.digest))
        elif reason is Reason.NO_SPACE:
            step = self.pit.drop(fetch, reason, "full")
        else:
            step = self.pit.refused(fetch, reason, "no", self.now)
        self.take(step)

    @rule(seconds=st.sampled_from([0.5, 6.0]))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def everyone_waits_for_something_under_way(self):
        under_way = [fetch.digest for fetch in self.fetches.values()]
        assert {digest for _, digest in self.waiting} == set(under_way)
        assert len(self.pit) == len(set(under_way))
        assert all(under_way.count(digest) <= 2 for digest in under_way)
        assert self.pit.waiting() == len(self.waiting)


TestPitMachine = PitMachine.TestCase
TestPitMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_refusal_under_one_name_does_not_fail_who_asks_under_another():
    """An upstream that routes by name may lack a block for one name and find it for another."""
    pit = make()
    first = pit.want("x", D, 9, A, 0.0, hint="hint x", scope="acme/x").fetch
    pit.want("y", D, 9, A, 0.0, hint="hint y", scope="zoo/y")
    step = pit.refused(first, Reason.NOT_FOUND, "no", 0.0)
    assert [refusal.waiter for refusal in step.refused] == ["x"]
    assert (step.fetch.upstream, step.fetch.hint) == ("http://a", "hint y")
    assert pit.arrived(step.fetch).ready == ["y"]
    # It is remembered for the name alone, too.
    assert pit.want("z", D, 9, A, 0.1, scope="acme/x").fetch is None
    assert pit.want("z", D, 9, A, 0.1, scope="zoo/y").fetch is not None

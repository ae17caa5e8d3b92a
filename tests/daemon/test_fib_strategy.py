"""Routes by longest prefix, and the order in which upstreams are asked."""

import pytest

from icnblocks.errors import UsageError
from icnblocks.naming import Name
from icnblocks_daemon.fib import Fib, parse_upstream
from icnblocks_daemon.strategies import FailOver, Failure, make_strategy


def fib():
    texts = [
        "http://any", "acme=http://acme1", "acme=http://acme2/", "acme/llm=https://llm:8443/x",
    ]  # fmt: skip
    return Fib(map(parse_upstream, texts))


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("acme/llm", ("https://llm:8443/x",)),
        ("acme/llm@v2", ("https://llm:8443/x",)),
        ("acme/llm-med", ("http://acme1", "http://acme2")),  # a prefix ends at a part
        ("acmee/llm", ("http://any",)),
        ("other/x", ("http://any",)),
    ],
)
def test_the_longest_prefix_wins(name, route):
    assert fib().route(Name.parse(name)) == route


def test_without_a_name_all_upstreams_are_candidates_the_general_one_first():
    assert fib().route(None)[0] == "http://any"
    assert len(fib().route(None)) == 4


def test_no_prefix_means_this_is_the_origin():
    assert Fib([("acme", "http://a")]).route(Name.parse("other/x")) == ()
    assert not Fib([("acme", "http://a")]).has_default


@pytest.mark.parametrize(
    "text",
    ["", "x", "acme", "=", "acme=", "ftp://x", "acme/=a=http://x", "a/b/c=http://x", "http://",
     "http://x?y", "http://x:99999", "../x=http://h", "http://a b", "http://x:0",
     "http://user:secret@x"],
)  # fmt: skip
def test_what_is_no_upstream_is_refused_in_one_line(text):
    with pytest.raises(UsageError) as caught:
        parse_upstream(text)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_fail_over_rests_longer_each_time_and_comes_back():
    strategy, route = FailOver(), ("a", "b")
    assert strategy.choose(route, (), 0.0) == "a"
    strategy.failed("a", Failure.BROKEN, 0.0)
    strategy.failed("a", Failure.BROKEN, 0.5)  # of the same incident
    assert strategy.choose(route, (), 0.9) == "b"
    assert strategy.choose(route, (), 1.1) == "a"
    strategy.failed("a", Failure.BROKEN, 1.1)
    assert strategy.resting("a", 1.1) == pytest.approx(2.0)
    strategy.answered("a", 1.2)
    assert strategy.choose(route, (), 1.2) == "a"


def test_when_all_rest_the_one_that_rests_shortest_is_asked():
    strategy = FailOver()
    strategy.failed("a", Failure.BROKEN, 0.0)
    strategy.failed("b", Failure.BROKEN, 0.5)
    assert strategy.choose(("a", "b"), (), 0.6) == "a"
    assert strategy.choose(("a", "b"), ("a",), 0.6) == "b"
    assert strategy.choose(("a", "b"), ("a", "b"), 0.6) is None


def test_an_unknown_strategy_is_refused():
    with pytest.raises(UsageError) as caught:
        make_strategy("magic")
    assert "fail-over" in caught.value.hint

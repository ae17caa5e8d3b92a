"""Who may write: loopback, tokens, publisher keys; and how many may ask at once."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from icnblocks.client.access import sign_access
from icnblocks.client.endpoint import is_loopback
from icnblocks.errors import IcnError, RefusedError, UsageError
from icnblocks.manifest.record import fingerprint, public_bytes
from icnblocks.naming import Name
from icnblocks_daemon.access import Access, Quota
from icnblocks_daemon.tokens import read_tokens

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PRINT = fingerprint(public_bytes(KEY))
FAR, NOW = "192.0.2.9", 1_000_000


def may(access, peer=FAR, host="edge:1", now=NOW, **headers):
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return access.writer(peer, named, host, now)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_on_loopback_anyone_may_write(peer):
    assert may(Access(), peer).prefixes is None


def test_a_credential_that_is_not_known_here_does_no_harm_on_loopback():
    # icn-publish signs its requests to whomever it talks.
    assert may(Access(), "127.0.0.1", Authorization="Bearer wrong").prefixes is None


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        (FAR, {}), (None, {}), ("nonsense", {}), ("::ffff:192.0.2.1", {}), ("fe80::1%eth0", {}),
        ("127.0.0.1", {"X_Forwarded_For": "127.0.0.1"}),
        ("127.0.0.1", {"Forwarded": "for=x"}), ("127.0.0.1", {"Via": "1.1 proxy"}),
        ("127.0.0.1", {"X_Real_IP": "1"}),
        (FAR, {"Authorization": "Bearer wrong"}), (FAR, {"Authorization": "Bearer "}),
        (FAR, {"Authorization": "Basic eDp5"}),
        (FAR, {"Authorization": "Bearer " + "x" * 5000}),
        (FAR, {"Authorization": "Bearer \u00e9"}),
    ],
)  # fmt: skip
def test_everyone_else_is_refused(peer, headers):
    with pytest.raises(RefusedError):
        may(Access(("right-token-0123456",)), peer, **headers)


PAGES = [
    {"Origin": "https://example.com", "Content_Type": "text/plain"},
    {"Origin": "null"},
    {"Origin": "http://rebound.example:4260", "Host": "rebound.example:4260"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "none"},
]


@pytest.mark.parametrize("headers", PAGES)
def test_a_web_page_in_a_browser_on_this_machine_writes_nothing(headers):
    """Catches: any page that somebody looks at there uploads blocks, or ends plans."""
    with pytest.raises(RefusedError):
        may(Access(), "127.0.0.1", **headers)


def test_a_web_page_that_knows_a_token_may_write():
    writer = may(Access(("right",)), "127.0.0.1", Origin="null", Authorization="Bearer right")
    assert writer.prefixes is None


def test_a_token_writes_every_name():
    writer = may(Access(("right",)), Authorization="Bearer right")
    writer.check(Name.parse("any/name"))


@pytest.mark.parametrize("value", ["Bearer ", "Bearer", "Bearer    ", "bearer \udce9"])
def test_an_empty_bearer_value_matches_nothing_even_if_an_empty_token_got_in(value):
    with pytest.raises(RefusedError):
        may(Access(("",)), Authorization=value)


def test_a_publisher_key_writes_under_its_prefix_only():
    access = Access((), (("acme/llm", PRINT),))
    writer = may(access, Authorization=sign_access("acme", KEY, "edge:1", NOW))
    writer.check(Name.parse("acme/llm@v2"))
    with pytest.raises(RefusedError):
        writer.check(Name.parse("acme/other"))


def test_a_key_allowed_for_every_name_still_speaks_for_its_publisher_only():
    writer = may(Access((), (("", PRINT),)), Authorization=sign_access("acme", KEY, "edge:1", NOW))
    writer.check(Name.parse("acme/x"))
    with pytest.raises(RefusedError):
        writer.check(Name.parse("rival/x"))


@pytest.mark.parametrize(
    ("publisher", "host", "now"),
    [("rival", "edge:1", NOW), ("acme", "other:1", NOW), ("acme", "edge:1", NOW + 700),
     ("acme", "edge:1", NOW - 700), ("acme/llm", "edge:1", NOW)],
)  # fmt: skip
def test_a_signature_is_bound_to_publisher_host_and_time(publisher, host, now):
    access = Access((), (("acme", PRINT),))
    with pytest.raises(RefusedError):
        may(access, now=now, Authorization=sign_access(publisher, KEY, host, NOW))


def test_an_unknown_key_is_refused():
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    with pytest.raises(RefusedError, match="not allowed"):
        may(Access((), (("acme", PRINT),)), Authorization=sign_access("acme", other, "edge:1", NOW))


@given(st.text(st.characters(codec="latin-1"), max_size=200))
def test_no_header_makes_more_than_a_refusal(value):
    with pytest.raises(IcnError):
        may(Access(("token-0123456789ab",), (("", PRINT),)), Authorization=f"ICN {value}")


def test_token_files():
    assert read_tokens("# c\n\nabcdefghijklmnop # mine\n") == ("abcdefghijklmnop",)
    assert read_tokens("abcdefghijklmnop#rs\n") == ("abcdefghijklmnop#rs",)  # whole, not cut
    for text in ("short", "two words-of-sixteen-chars", "abcdefghijklmnop\x07qr"):
        with pytest.raises(UsageError, match="line 1"):
            read_tokens(text)


def test_is_loopback_of_nobody():
    assert not is_loopback(None)
    assert not is_loopback("")


def test_the_quota_counts_each_client_and_all():
    quota = Quota(3, 2)
    assert [quota.enter("a"), quota.enter("a"), quota.enter("a")] == [None, None, "client"]
    assert [quota.enter("b"), quota.enter("c")] == [None, "total"]
    quota.leave("a")
    assert quota.enter("c") is None
    assert quota.busy == 3

"""Records: signatures that hold, chains of keys that lead, and sequences that never go back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks import limits
from icnblocks.errors import FormatError, TrustError, VersionError
from icnblocks.manifest.canonical import pack, unpack
from icnblocks.manifest.record import (
    MAX_SEQ,
    RECORD_PREFIX,
    ROTATION_PREFIX,
    Record,
    Rotation,
    check_follows,
    check_time,
    fingerprint,
    open_record,
    pack_rotations,
    public_bytes,
    rotate,
    sign_record,
    trusted_via,
    unpack_rotations,
)
from icnblocks.naming import Digest, Name

SETTINGS = settings(max_examples=100, deadline=None)
T0 = 1_767_225_600  # 2026-01-01T00:00:00Z


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32 * number, 32 * number + 32)))


K0, K1, K2, K3 = (key(number) for number in range(4))
P0, P1, P2, P3 = (public_bytes(key) for key in (K0, K1, K2, K3))
MANIFEST = Digest.parse("02516b719efdc990164932a98ee9fbb26a89f97e1104a2709e4036f0a73926cd")
RECORD = Record(Name("acme", "minilm"), MANIFEST, 7, T0, P0)
R01 = rotate(K0, P1, "acme", T0 + 100)
R12 = rotate(K1, P2, "acme", T0 + 200)
WITHDRAWN = Record(Name("acme", "minilm", "v2"), None, 8, T0 + 200, P1, rotations=(R01,))

# The private keys of the vectors are the bytes 00..1f and 20..3f.
VECTOR = bytes.fromhex(
    "93 c4 8a"  # envelope: body of 138 bytes, signature, rotations
    "88"
    "a3 6b6579 c4 20"  # key
    "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    "a8 6c69666574696d65 3c"  # lifetime: 60 s
    "a8 6d616e6966657374 c4 20"  # manifest
    "02516b719efdc990164932a98ee9fbb26a89f97e1104a2709e4036f0a73926cd"
    "a4 6e616d65 ab 61636d652f6d696e696c6d"  # name: acme/minilm
    "a3 736571 07"  # seq: 7
    "a3 746167 a4 6d61696e"  # tag: main
    "a4 74696d65 ce 6955b900"  # time
    "a1 76 92 01 00"  # v: [1, 0]
    "c4 40"  # signature over "icnblocks record v1\0" + body
    "1b9f53dedd51e77c130271fd5364c85ea7fae3c80515d6f481e910783c9fd9e7"
    "0093f25c1c266b2e69099f6c1be9a54e4935824a789f6ec33a1855cf9d33e408"
    "90"  # no rotations
)
WITHDRAWN_VECTOR = bytes.fromhex(
    "93 c4 67"
    "88"
    "a3 6b6579 c4 20 29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7"
    "a8 6c69666574696d65 3c"
    "a8 6d616e6966657374 c0"  # manifest: nil, so the tag is withdrawn
    "a4 6e616d65 ab 61636d652f6d696e696c6d"
    "a3 736571 08"
    "a3 746167 a2 7632"  # tag: v2
    "a4 74696d65 ce 6955b9c8"
    "a1 76 92 01 00"
    "c4 40"
    "05f9b82671dbd500c9f8f388cc99a3af7ddbe0d799e83ffe2140528cc0761afd"
    "a9fcf89af8f6833159dc0515e23161454216d3a70370e8b5d7a5e7e83f1dbc0f"
    "91"  # one rotation:
    "92 c4 66"  # statement of 102 bytes, signature
    "84"
    "a3 6e6577 c4 20 29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7"  # new
    "a3 6f6c64 c4 20 03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"  # old
    "a9 7075626c6973686572 a4 61636d65"  # publisher: acme
    "a4 74696d65 ce 6955b964"  # time
    "c4 40"  # signature by the old key over "icnblocks rotation v1\0" + statement
    "048fc5e45c49fbc3d45962d0eab7c776d1bf038cc7b17ade1ace92a7a9d02800"
    "96352c629ee77a10b51a94e27138d2dc953a0d9300f8af94fe26c6d64898cc01"
)


@pytest.mark.parametrize(
    ("record", "private", "data"),
    [(RECORD, K0, VECTOR), (WITHDRAWN, K1, WITHDRAWN_VECTOR)],
    ids=["record", "withdrawn, key rotated"],
)
def test_golden_vectors(record, private, data):
    assert sign_record(record, private) == data
    assert open_record(data) == record


def test_a_fingerprint_is_the_digest_of_the_public_key():
    assert fingerprint(P0) == "98ba85304ac639f0f55daab01ad6d592be44a125d9b3b65e1efca5b96960baec"


parts = st.from_regex(r"[a-zA-Z0-9]{1,8}", fullmatch=True)
records = st.builds(
    Record,
    st.builds(Name, st.just("acme"), parts, parts),
    st.none() | st.binary(min_size=32, max_size=32).map(Digest),
    st.integers(1, MAX_SEQ),
    st.integers(0, 1 << 39),
    st.just(P2),
    st.integers(1, limits.MAX_LIFETIME_S),
    st.sampled_from([(), (R12,), (R01, R12)]),
)


@SETTINGS
@given(records, st.dictionaries(st.text("xyz", min_size=1), st.integers(0, 9), max_size=3))
def test_what_is_signed_can_be_opened(record, extra):
    if extra:
        packed = tuple((key, pack(extra[key])) for key in sorted(extra))
        record = replace(record, minor=1, extra=packed)
    data = sign_record(record, K2)
    assert open_record(data) == record
    assert len(data) < limits.MAX_RECORD_BYTES


@SETTINGS
@given(st.sampled_from([VECTOR, WITHDRAWN_VECTOR]), st.data())
def test_no_changed_byte_is_believed(data, draw):
    position = draw.draw(st.integers(0, len(data) - 1))
    change = draw.draw(st.binary(max_size=3))
    changed = data[:position] + change + data[position + draw.draw(st.integers(0, 3)) :]
    if changed != data:
        with pytest.raises((FormatError, TrustError)) as caught:
            open_record(changed)
        assert str(caught.value).isprintable()


@SETTINGS
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_documented_error(data):
    with pytest.raises((FormatError, TrustError)):
        open_record(data)


def envelope(private=K0, prefix=RECORD_PREFIX, rotations=(), taken=(), **fields) -> bytes:
    """A record, rightly signed, whatever its body says."""
    value = unpack(unpack(VECTOR, max_bytes=1000)[0], max_bytes=1000) | fields
    body = pack({key: item for key, item in value.items() if key not in taken})
    return pack([body, private.sign(prefix + body), list(rotations)])


def wire(rotation: Rotation) -> list[bytes]:
    return [rotation.statement(), rotation.signature]


NUMBERED = Rotation(5, P0, P1, T0, b"")  # type: ignore[arg-type]
NUMBERED = replace(NUMBERED, signature=K0.sign(ROTATION_PREFIX + NUMBERED.statement()))

LIES = {
    "rotation of publisher number 5": (
        envelope(K1, key=P1, name="5/x", rotations=[wire(NUMBERED)]),
        "publisher is not text",
    ),
    "empty": (b"", "ends too early"),
    "a map": (pack({}), "is not \\[body"),
    "body is text": (pack(["", b"", []]), "is not \\[body"),
    "body is a list": (pack([pack([]), b"", []]), "not a map"),
    "body not canonical": (pack([b"\xcc\x01", b"", []]), "canonical"),
    "field missing": (envelope(taken=("seq",)), "no field 'seq'"),
    "no version": (envelope(taken=("v",)), "'v'"),
    "unknown field": (envelope(w=1), "unknown field 'w'"),
    "name without model": (envelope(name="acme"), "model"),
    "name of three": (envelope(name="acme/a/b"), "model"),
    "name with a tag": (envelope(name="acme/a@b"), "model"),
    "name leads out": (envelope(name="acme/.."), "model"),
    "name is bytes": (envelope(name=b"acme/x"), "name"),
    "tag bad": (envelope(tag="a/b"), "tag"),
    "tag nil": (envelope(tag=None), "tag"),
    "manifest short": (envelope(manifest=bytes(31)), "manifest is not 32"),
    "manifest is text": (envelope(manifest="x" * 32), "manifest is not 32"),
    "key short": (envelope(key=bytes(31)), "key is not 32"),
    "seq 0": (envelope(seq=0), "seq"),
    "seq negative": (envelope(seq=-1), "seq"),
    "seq beyond SQLite": (envelope(seq=1 << 63), "seq"),
    "seq true": (envelope(seq=True), "seq"),
    "time negative": (envelope(time=-1), "time"),
    "time absurd": (envelope(time=1 << 40), "time"),
    "lifetime 0": (envelope(lifetime=0), "lifetime"),
    "lifetime long": (envelope(lifetime=limits.MAX_LIFETIME_S + 1), "lifetime"),
    "signature short": (pack([*unpack(VECTOR, max_bytes=999)[:1], b"x", []]), "not 64 bytes"),
    "rotation is bytes": (envelope(rotations=[b""]), "rotation is not"),
    "rotation empty": (envelope(rotations=[[b"\x80", b""]]), "has not the fields"),
    "rotation of elsewhere": (
        envelope(K1, key=P1, rotations=[wire(rotate(K0, P1, "evil", T0))]),
        "another publisher's",
    ),
    "rotation to another key": (envelope(K1, key=P1, rotations=[wire(R12)]), "do not lead"),
    "rotations in the wrong order": (
        envelope(K2, key=P2, rotations=[wire(R12), wire(R01)]),
        "do not lead",
    ),
    "rotations with a gap": (
        envelope(K3, key=P3, rotations=[wire(R01), wire(rotate(K2, P3, "acme", T0))]),
        "do not lead",
    ),
    "rotations in a ring": (
        envelope(K0, rotations=[wire(R01), wire(rotate(K1, P0, "acme", T0))]),
        "lead back",
    ),
    "too many rotations": (
        envelope(rotations=[wire(R01)] * (limits.MAX_ROTATIONS + 1)),
        "more than 16",
    ),
    "too large": (envelope(v=[1, 1], w=bytes(limits.MAX_RECORD_BYTES)), "at most"),
}


@pytest.mark.parametrize(("data", "says"), LIES.values(), ids=LIES)
def test_malformed_records_are_refused_and_named(data, says):
    with pytest.raises(FormatError, match=says) as caught:
        open_record(data)
    assert str(caught.value).isprintable()


FORGED = {
    "signed by another key": envelope(K1),
    "signature made for a rotation": envelope(prefix=ROTATION_PREFIX),
    "signature over the bare body": envelope(prefix=b""),
    "key of no point": envelope(key=bytes([2]) + bytes(30) + b"\xff"),
    "rotation signed by the new key": envelope(
        K1, key=P1, rotations=[[R01.statement(), K1.sign(ROTATION_PREFIX + R01.statement())]]
    ),
    "rotation signed as a record": envelope(
        K1, key=P1, rotations=[[R01.statement(), K0.sign(RECORD_PREFIX + R01.statement())]]
    ),
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_signatures_that_do_not_hold_are_not_trusted(data):
    with pytest.raises(TrustError, match="does not hold"):
        open_record(data)


def test_a_newer_major_version_says_so():
    with pytest.raises(VersionError, match="format 2"):
        open_record(envelope(v=[2, 0], seq="none"))


def test_unknown_fields_of_a_newer_minor_version_are_kept():
    record = open_record(envelope(v=[1, 4], note="x"))
    assert (record.minor, record.extra) == (4, (("note", pack("x")),))
    assert open_record(sign_record(record, K0)) == record


def test_a_record_is_signed_with_its_own_key_only():
    with pytest.raises(TrustError):
        sign_record(RECORD, K1)


@pytest.mark.parametrize(
    "broken",
    [
        replace(RECORD, seq=0),
        replace(RECORD, lifetime=0),
        replace(RECORD, extra=(("w", b"\x01"),)),
        replace(RECORD, minor=1, extra=(("seq", b"\x01"),)),
        replace(RECORD, minor=1, extra=(("b", b"\x01"), ("a", b"\x01"))),
    ],
    ids=["seq", "lifetime", "extra", "known extra", "unordered extras"],
)
def test_what_could_not_be_opened_is_not_signed(broken):
    with pytest.raises(FormatError):
        sign_record(broken, K0)


def test_a_key_cannot_be_rotated_to_half_a_key_or_to_itself():
    with pytest.raises(FormatError):
        rotate(K0, P1[:31], "acme", T0)
    with pytest.raises(FormatError):
        rotate(K0, P0, "acme", T0)
    with pytest.raises(FormatError):
        rotate(K0, P1, "a/b", T0)


def test_rotations_alone_are_packed_and_read_like_those_of_a_record():
    assert unpack_rotations(pack_rotations((R01, R12))) == (R01, R12)
    assert unpack_rotations(pack_rotations(())) == ()
    for bad in (b"", pack({}), pack(7), pack([7]), pack([wire(R01)] * 17)):
        with pytest.raises(FormatError):
            unpack_rotations(bad)
    with pytest.raises(TrustError):
        unpack_rotations(pack([[R01.statement(), R12.signature]]))


def test_a_key_is_trusted_if_it_signed_or_stands_behind_the_rotations():
    record = replace(RECORD, key=P2, rotations=(R01, R12))
    assert [trusted_via(record, fingerprint(public)) for public in (P0, P1, P2, P3)] == [
        True,
        True,
        True,
        False,
    ]
    assert not trusted_via(RECORD, fingerprint(P1))


def test_records_from_the_future_are_refused_beyond_the_skew_of_clocks():
    check_time(RECORD, T0 - limits.MAX_CLOCK_SKEW_S)
    check_time(RECORD, T0 + 1e9)  # old is not wrong
    with pytest.raises(TrustError, match="601 s in the future"):
        check_time(RECORD, T0 - limits.MAX_CLOCK_SKEW_S - 1)
    with pytest.raises(TrustError, match="in the future"):
        check_time(
            replace(RECORD, key=P1, rotations=(rotate(K0, P1, "acme", T0 + 10_000),)), float(T0)
        )


def after(**changes) -> Record:
    return replace(RECORD, seq=8, time=T0 + 500, **changes)


@pytest.mark.parametrize(
    "new",
    [
        RECORD,
        after(),
        replace(after(), time=T0 - 500),  # a publisher's clock may jump; the sequence counts
        after(manifest=None),
        after(key=P1, rotations=(R01,)),
        after(key=P2, rotations=(R01, R12)),
        after(key=P0, rotations=(rotate(K3, P0, "acme", T0),)),
    ],
    ids=["itself", "next", "clock back", "withdrawn", "one rotation", "two", "chain tells more"],
)
def test_a_record_that_may_follow(new):
    check_follows(RECORD, new)


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (replace(RECORD, seq=6), "goes back from number 7 to 6"),
        (replace(RECORD, manifest=None), "two different records"),
        (replace(RECORD, time=T0 + 1), "two different records"),
        (after(name=Name("acme", "minilm", "v2")), "the record is of"),
        (after(name=Name("evil", "minilm")), "the record is of"),
        (after(key=P3), "changed from"),
        (after(key=P2, rotations=(R12,)), "changed from"),  # reached, but not from the old key
    ],
    ids=["older", "same number", "same number, time", "tag", "publisher", "key", "other chain"],
)
def test_a_record_that_must_not_follow(new, says):
    with pytest.raises(TrustError, match=says):
        check_follows(RECORD, new)


def test_the_old_key_cannot_come_back_once_it_was_rotated():
    rotated = after(key=P1, rotations=(R01,))
    with pytest.raises(TrustError, match="changed from"):
        check_follows(rotated, replace(RECORD, seq=9))

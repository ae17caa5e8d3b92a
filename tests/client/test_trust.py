"""Trust: whose key may sign for a publisher, and what is remembered of it."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from icnblocks.client.trust import KnownPublishers, Trust, check_fingerprint, read_trust_file
from icnblocks.errors import TrustError, UsageError
from icnblocks.manifest.record import Record, fingerprint, public_bytes, rotate
from icnblocks.naming import Digest, Name

OLD, NEW, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
NAME = Name("acme", "m")


def record(key=OLD, rotations=()):
    return Record(NAME, Digest.of(b""), 1, 0, public_bytes(key), rotations=tuple(rotations))


def print_of(key):
    return fingerprint(public_bytes(key))


ROTATED = record(NEW, [rotate(OLD, public_bytes(NEW), "acme", 5)])


@pytest.fixture
def known(tmp_path):
    return KnownPublishers(tmp_path / "etc" / "known_publishers")


def test_an_unknown_publisher_is_refused_with_the_fingerprint_to_compare(known):
    with pytest.raises(TrustError, match=print_of(OLD)) as error:
        Trust(known).judge(record())
    assert "--trust" in error.value.hint
    assert "ICN_TRUST_FIRST_USE" in error.value.hint, "`load` and scripts have no such argument"
    assert known.get("acme") is None


def test_first_use_is_remembered_and_a_changed_key_refused_loudly(known):
    trust = Trust(known, first_use=True)
    trust.judge(record())
    assert trust.met == {"acme": print_of(OLD)}
    Trust(known).judge(record())
    with pytest.raises(TrustError, match="HAS CHANGED"):
        Trust(known, first_use=True).judge(record(OTHER))
    assert known.get("acme") == print_of(OLD)


def test_a_person_is_asked_and_a_no_is_a_no(known):
    asked = []
    with pytest.raises(TrustError):
        Trust(known, ask=lambda *what: asked.append(what)).judge(record())
    assert asked == [("acme", print_of(OLD))]
    Trust(known, ask=lambda *_: True).judge(record())
    assert known.get("acme") == print_of(OLD)


def test_a_rotation_by_the_old_key_is_followed_and_remembered(known):
    Trust(known, first_use=True).judge(record())
    Trust(known).judge(ROTATED)
    assert known.get("acme") == print_of(NEW)
    with pytest.raises(TrustError):  # and the old key no longer speaks for acme
        Trust(known).judge(record())


def test_the_trust_file_goes_first_and_cannot_be_overruled(known, tmp_path):
    path = tmp_path / "trust.toml"
    path.write_text(f'acme = "{print_of(OLD).upper()}"\n')
    trust = Trust(known, read_trust_file(path), first_use=True, expected=print_of(OTHER))
    trust.judge(record())
    trust.judge(ROTATED)
    with pytest.raises(TrustError, match="trust file"):
        trust.judge(record(OTHER))
    assert known.get("acme") is None


def test_an_expected_fingerprint_replaces_what_was_known(known):
    Trust(known, first_use=True).judge(record())
    with pytest.raises(TrustError):
        Trust(known, expected=print_of(OTHER)).judge(record())
    Trust(known, expected=print_of(OTHER)).judge(record(OTHER))
    assert known.get("acme") == print_of(OTHER)


def test_remembering_keeps_other_lines(known):
    known.remember("a", "0" * 64)
    known.remember("b", "1" * 64)
    known.remember("a", "2" * 64)
    assert (known.get("a"), known.get("b")) == ("2" * 64, "1" * 64)


@pytest.mark.parametrize("text", ["", "xyz", "0" * 63, "g" * 64, "0" * 65])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(UsageError):
        check_fingerprint(text)


@pytest.mark.parametrize("text", ["acme = 3", 'acme = "x"', "acme = [1]", "= ="])
def test_a_bad_trust_file_is_a_clear_error(tmp_path, text):
    (tmp_path / "t").write_text(text)
    with pytest.raises(UsageError):
        read_trust_file(tmp_path / "t")


def test_a_record_accepted_before_its_key_was_replaced_stays_usable_and_a_new_one_does_not(known):
    """The old key may be in wrong hands now: it must not make new records."""
    Trust(known, first_use=True).judge(record())
    Trust(known).judge(ROTATED)
    Trust(known).judge(record(), accepted=True)
    with pytest.raises(TrustError, match="has replaced since") as error:
        Trust(known).judge(record())
    assert "publish acme/m again" in error.value.hint
    with pytest.raises(TrustError):  # nor does naming the old key bring it back
        Trust(known, expected=print_of(OLD)).judge(record())
    assert known.get("acme") == print_of(NEW)


def test_a_lost_key_that_was_replaced_by_hand_is_no_predecessor(known):
    Trust(known, first_use=True).judge(record())
    Trust(known, expected=print_of(OTHER)).judge(record(OTHER))
    with pytest.raises(TrustError, match="HAS CHANGED"):
        Trust(known).judge(record(), accepted=True)


def test_a_line_that_is_no_fingerprint_is_named_with_its_file(known):
    known.remember("b", "1" * 64)
    with open(known._path, "a") as file:
        file.write("acme zz\n")
    with pytest.raises(UsageError, match="known_publishers, line 2"):
        known.get("acme")

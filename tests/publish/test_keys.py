"""Publisher keys: private to their owner, rotated with a trail that records carry."""

import os
import stat
import subprocess
import sys

import pytest

from icnblocks.errors import TrustError, UsageError
from icnblocks.limits import MAX_ROTATIONS
from icnblocks.manifest.record import open_record, sign_record, trusted_via
from icnblocks.naming import Digest, Name
from icnblocks.publish.deliver import next_record
from icnblocks.publish.keys import load_key, load_or_make_key, rotate_key

NAME = Name("acme", "m")
ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "keys" / "acme.pem"
    made = load_or_make_key(path)
    assert made.made
    assert not load_or_make_key(path).made
    assert load_or_make_key(path).public == made.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["acme.pem"]


UNHEARD_OF = """-----BEGIN PRIVATE KEY-----
MA0CAQAwBQYDKgMEBAEA
-----END PRIVATE KEY-----
"""  # of the algorithm 1.2.3.4


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", UNHEARD_OF.encode()]
)
def test_a_file_that_is_no_key_is_a_clear_error(tmp_path, data):
    """Catches: what the parser beneath says to programmers, an address of its manual among it."""
    (tmp_path / "k").write_bytes(data)
    with pytest.raises(UsageError, match="k holds no unencrypted PEM key of the kind Ed25519"):
        load_key(tmp_path / "k")


def test_a_key_survives_a_power_cut(tmp_path, monkeypatch):
    """Catches: a record at the origin whose key nobody has any more."""
    original, flushed = os.fsync, []

    def fsync(fd):
        original(fd)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            flushed.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "acme.pem"
    load_or_make_key(path)
    assert flushed[-1] == {"acme.pem": path.read_bytes()}
    rotate_key(path, "acme", 10)
    assert flushed[-1] == {one.name: one.read_bytes() for one in tmp_path.iterdir()}


def test_after_two_rotations_a_record_leads_back_to_the_first_key(tmp_path):
    path = tmp_path / "acme.pem"
    first = load_or_make_key(path)
    rotate_key(path, "acme", 10)
    last = rotate_key(path, "acme", 20)
    assert load_key(path).rotations == last.rotations
    assert len(last.rotations) == 2
    record = next_record(NAME, ONE, last, None, 30)
    assert trusted_via(open_record(sign_record(record, last.private)), first.fingerprint)


def test_sequence_numbers_go_up_and_repeating_makes_no_record(tmp_path):
    key = load_or_make_key(tmp_path / "k")
    first = next_record(NAME, ONE, key, None, 100)
    assert (first.seq, first.time) == (1, 100)
    assert next_record(NAME, ONE, key, first, 200) is None
    second = next_record(NAME, TWO, key, first, 50)  # the clock went back: time does not
    assert (second.seq, second.time) == (2, 100)
    assert next_record(NAME, None, key, second, 300).manifest is None


def test_a_lifetime_stays_until_another_is_asked_for_and_ends_with_a_withdrawal(tmp_path):
    key = load_or_make_key(tmp_path / "k")
    first = next_record(NAME, ONE, key, None, 100, lifetime=3600)
    assert next_record(NAME, ONE, key, first, 200) is None
    second = next_record(NAME, TWO, key, first, 200)
    assert second.lifetime == 3600
    third = next_record(NAME, TWO, key, second, 300, lifetime=60)
    assert (third.seq, third.lifetime) == (3, 60)
    withdrawn = next_record(NAME, None, key, second, 300)
    assert withdrawn.lifetime == 60
    assert next_record(NAME, None, key, withdrawn, 400) is None
    assert next_record(NAME, ONE, key, withdrawn, 400).lifetime == 60


def test_another_key_may_not_go_on_with_a_name(tmp_path):
    first = next_record(NAME, ONE, load_or_make_key(tmp_path / "a"), None, 1)
    with pytest.raises(TrustError, match="another key"):
        next_record(NAME, TWO, load_or_make_key(tmp_path / "b"), first, 2)


def test_a_key_can_be_rotated_more_often_than_a_record_can_tell(tmp_path):
    path = tmp_path / "acme.pem"
    load_or_make_key(path)
    for time in range(MAX_ROTATIONS + 3):
        rotate_key(path, "acme", time)
    key = load_key(path)
    assert len(key.rotations) == MAX_ROTATIONS
    sign_record(next_record(NAME, ONE, key, None, 100), key.private)


def test_a_rotation_cut_off_between_its_two_files_leaves_the_old_key_working(tmp_path):
    path = tmp_path / "acme.pem"
    load_or_make_key(path)
    rotate_key(path, "acme", 1)
    before = path.read_bytes()
    rotate_key(path, "acme", 2)
    path.write_bytes(before)  # the chain is written first: this is a kill before the key
    key = load_key(path)
    assert len(key.rotations) == 1
    sign_record(next_record(NAME, ONE, key, None, 100), key.private)


def test_two_processes_that_need_a_first_key_at_once_get_the_same_one(tmp_path):
    """The loser of the race must not replace a key that may have signed already."""
    code = (
        "import sys; from pathlib import Path\n"
        "from icnblocks.publish.keys import load_or_make_key\n"
        "sys.stdin.read()\n"
        "print(load_or_make_key(Path(sys.argv[1])).fingerprint)\n"
    )
    for attempt in range(4):
        path = tmp_path / str(attempt) / "k.pem"
        command = [sys.executable, "-c", code, str(path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        racers = [subprocess.Popen(command, **pipes) for _ in range(4)]
        for racer in racers:
            racer.stdin.close()
            racer.stdin = None
        prints = {racer.communicate(timeout=30)[0].strip() for racer in racers}
        assert prints == {load_key(path).fingerprint}
        assert [p.name for p in path.parent.iterdir()] == ["k.pem"]

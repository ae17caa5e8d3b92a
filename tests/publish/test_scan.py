"""Scanning: what is found, cut and hashed, and what is refused."""

import os
import threading

import pytest

from icnblocks.errors import ChangedError, FormatError, StorageError, UsageError
from icnblocks.manifest.codec import decode, encode
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest
from icnblocks.publish import scan as scanning
from icnblocks.publish.scan import Scanning, scan, size_of
from icnblocks.testing.models import write_llama

BLOCK = 4096


def test_every_block_is_named_by_the_bytes_at_its_place(tmp_path):
    write_llama(tmp_path / "m", layers=2, hidden=64, vocabulary=300, seed=1)
    found = scan(tmp_path / "m", Kind.BASE, block_bytes=BLOCK, threads=3)
    assert decode(encode(found.manifest)) == found.manifest
    for block in found.manifest.blocks():
        data = (tmp_path / "m" / found.manifest.files[block.file].path).read_bytes()
        assert Digest.of(data[block.offset : block.offset + block.length]) == block.digest
    assert set(found.facts) == {file.path for file in found.manifest.files}


def test_links_to_files_are_followed_and_our_own_state_is_left_out(tmp_path):
    (tmp_path / "blobs").write_bytes(b"weights")
    root = tmp_path / "snapshot"
    (root / ".icnblocks").mkdir(parents=True)
    (root / ".icnblocks" / "manifest").write_bytes(b"state")
    (root / ".gitattributes").write_bytes(b"kept")
    (root / "model.bin").symlink_to("../blobs")
    found = scan(root, Kind.PACK)
    assert [file.path for file in found.manifest.files] == [".gitattributes", "model.bin"]
    assert found.manifest.files[1].size == 7


def test_a_broken_safetensors_file_is_refused_by_name(tmp_path):
    (tmp_path / "x.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(FormatError, match=r"x\.safetensors"):
        scan(tmp_path, Kind.BASE)


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(bytes(64 * BLOCK))
    original, once = scanning._digest_batch, threading.Event()

    def change_then_digest(path, spans):
        if not once.is_set():
            once.set()
            with open(path, "r+b") as file:
                file.write(b"other")
        return original(path, spans)

    monkeypatch.setattr(scanning, "_digest_batch", change_then_digest)
    with pytest.raises(ChangedError, match=r"a\.bin"):
        scan(tmp_path, Kind.PACK, block_bytes=BLOCK)


def test_a_folder_that_cannot_be_read_is_a_clear_error(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    original = os.scandir

    def refuse(path):
        if path == tmp_path / "sub/":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for read in (size_of, Scanning):
        with pytest.raises(StorageError, match="sub: Permission denied"):
            read(tmp_path)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        scan(tmp_path / "absent", Kind.PACK)
    with pytest.raises(StorageError, match="name too long"):  # it cannot be looked at
        scan(tmp_path / ("x" * 300), Kind.PACK)
    with pytest.raises(UsageError, match="holds no files"):
        scan(tmp_path, Kind.PACK)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is not a regular file"):
        scan(tmp_path, Kind.PACK)


def test_all_names_that_a_model_may_not_have_are_told_before_anything_is_hashed(
    tmp_path, monkeypatch
):
    """Catches: a publish that hashes for an hour and then names one bad file, run after run."""
    monkeypatch.setattr(scanning, "_digest_batch", pytest.fail)
    bad = [
        b"\xff.bin",
        b"back\\slash",
        b"new\nline",
        b"x" * 248,
        b"a.partial",
        b"Config",
        b"config",
    ]
    for name in [*bad, b"good"]:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(b"x")
    with pytest.raises(UsageError) as caught:
        scan(tmp_path, Kind.PACK)
    message = str(caught.value)
    assert message.isprintable()
    assert "backslash" in message
    assert "6 file names" in message
    assert "and 3 more" in message
    assert "rename" in caught.value.hint
    for name in bad[:5]:
        os.remove(os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(UsageError, match=r"1 file name .*'config'"):
        scan(tmp_path, Kind.PACK)


def test_leaving_a_scan_ends_it_before_all_is_hashed(tmp_path, monkeypatch):
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(bytes(100 * 32 * BLOCK))
    hashed: list[int] = []
    begun, known = threading.Event(), threading.Event()

    def digest(path, spans):
        begun.set()
        assert known.wait(20)  # the thread begins before there is a name for what it waits for
        assert left.wait(20)
        hashed.append(len(spans))
        return bytes(32 * len(spans))

    monkeypatch.setattr(scanning, "_digest_batch", digest)
    before = threading.active_count()
    with (  # noqa: PT012
        pytest.raises(KeyError),
        Scanning(tmp_path, block_bytes=BLOCK, threads=2) as under_way,
    ):
        left = under_way._left
        known.set()
        assert begun.wait(20)
        raise KeyError("what went wrong meanwhile")
    assert len(hashed) < 20, "a batch for each thread and those that waited behind"
    assert threading.active_count() == before

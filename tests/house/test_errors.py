"""Errors of the tree: what they say, wherever they come out, and that they say it once."""

import copy
import errno
import os
import pickle
import resource
import sqlite3
import traceback

import pytest

from icnblocks.errors import FormatError, IcnError, SourceError, StorageError
from icnblocks.store.database import storage_errors
from icnblocks.testing.device import Device


def _traceback(error):
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("hint", ["", "look at it"])
def test_a_traceback_tells_what_to_do(hint):
    """Catches: advice that only users of the commands ever see."""
    error = SourceError("it is gone", hint=hint)
    assert _traceback(error).endswith(f"SourceError: it is gone\nhint: {error.hint}\n")
    assert str(error) == "it is gone"


def test_where_there_is_no_advice_there_is_no_note():
    assert _traceback(FormatError("odd")).endswith("FormatError: odd\n")


@pytest.mark.parametrize("again", [copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("hint", ["", "look at it"])
def test_a_copy_says_it_once(again, hint):
    one = StorageError("it is full", hint=hint)
    two = again(one)
    assert (str(two), two.hint) == (str(one), one.hint)
    assert _traceback(two).count(one.hint) == 1
    assert two.__notes__ == one.__notes__


def test_a_command_says_it_once(tmp_path):
    ran = Device(tmp_path / "d").run("show", "/nowhere")
    assert (ran.code, ran.last["hint"]) == (4, "check the path")
    assert "hint" not in ran.err
    assert "hint:" not in ran.last["message"]


def test_the_base_of_all_errors_has_no_advice():
    assert not hasattr(IcnError("x"), "__notes__")


@pytest.mark.parametrize(
    ("number", "wanted", "others"),
    [
        (errno.ENOSPC, "free space", "ulimit"),
        (errno.EDQUOT, "free space", "who may"),
        (errno.EMFILE, "ulimit -n", "free space"),
        (errno.ENFILE, "ulimit -n", "who may"),
        (errno.EACCES, "who may", "free space"),
        (errno.EPERM, "who may", "free space"),
        (errno.EROFS, "another place", "free space"),
        (errno.EEXIST, "in the way", "free space"),
        (errno.ENOTDIR, "in the way", "free space"),
        (errno.EIO, "free space, see who may", "ulimit"),
    ],
)
def test_what_to_do_depends_on_what_the_system_says(number, wanted, others):
    """Catches: advice to free space where files may not be opened."""
    with pytest.raises(StorageError, match="a store: ") as caught, storage_errors("a store"):
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in str(caught.value)
    assert wanted in caught.value.hint
    assert others not in caught.value.hint


def test_a_full_disk_under_a_database_is_told_as_one():
    db = sqlite3.connect(":memory:")
    db.execute("PRAGMA max_page_count=1")
    with pytest.raises(StorageError) as caught, storage_errors("index"):
        db.execute("CREATE TABLE one (two)")
    db.close()
    assert str(caught.value) == "index: database or disk is full"
    assert caught.value.hint.startswith("free space")
    assert "who may" not in caught.value.hint


def test_a_store_that_may_open_no_file_more_names_the_limit(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open("/dev/null", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
    try:
        with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
            os.open(tmp_path, os.O_RDONLY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)
    assert "ulimit -n" in caught.value.hint

"""Errors of the tree: what they say, wherever they come out, and that they say it once."""

import copy
import pickle
import traceback

import pytest

from icnblocks.errors import FormatError, IcnError, SourceError, StorageError
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

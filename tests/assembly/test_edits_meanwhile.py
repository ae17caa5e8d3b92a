"""What somebody does in a directory while a pull into it is under way.

No network: what is published in place is pulled on the same machine.
"""

import os

import pytest

from icnblocks.assembly.directory import ModelDirectory
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.errors import ConflictError
from icnblocks.limits import MIB
from icnblocks.naming import Name
from icnblocks.puller import Puller
from tests.assembly.test_new_versions import tree
from tests.assembly.test_puller import pull, puller, put, settings

__all__ = ["pull", "puller", "put", "settings"]  # fixtures

MINE = b"mine, written while the new version came"


class Meanwhile:
    """A listener that does something once the directory was looked at."""

    def __init__(self, do):
        self.begun = lambda *_: do()

    def moved(self, count):
        pass

    def reused(self, count):
        pass

    def warned(self, text):
        pass


@pytest.fixture
def pull_meanwhile(settings):
    def run(to, do, *, overwrite=False):
        trust = Trust(KnownPublishers(settings.known_publishers), first_use=True)
        with Puller(settings, trust, Meanwhile(do), overwrite=overwrite) as puller:
            return puller.pull(Name.parse("acme/m"), to)

    return run


@pytest.fixture
def to(put, pull, tmp_path):
    """The first version, pulled; the next one has other files."""
    put("acme/m", "1", config=b"one", old=b"old", old2=b"old", w=os.urandom(MIB))
    pull("acme/m", tmp_path / "to")
    put("acme/m", "2", config=b"two", new=b"new", w=os.urandom(MIB))
    return tmp_path / "to"


@pytest.mark.parametrize("path", ["config", "new", "w"])
@pytest.mark.parametrize("goes_on", ["overwrite", "move"])
def test_what_was_edited_or_made_meanwhile_is_kept(pull_meanwhile, pull, to, path, goes_on):
    """Catches: a rename onto a file without a look at what stands there by now."""
    before = tree(to)
    with pytest.raises(ConflictError, match=f"to/{path} was changed"):
        pull_meanwhile(to, lambda: (to / path).write_bytes(MINE))
    partials = {at for at in tree(to) if at.endswith(".partial")}
    assert partials == {"config.partial", "new.partial", "w.partial"}  # no file is another's
    assert {at: data for at, data in tree(to).items() if at not in partials} == before | {
        path: MINE
    }
    with pytest.raises(ConflictError, match=path):
        pull("acme/m", to)
    if goes_on == "move":
        (to / path).rename(to / "kept")
    pull("acme/m", to, overwrite=goes_on == "overwrite")
    new = {"config": b"two", "new": b"new"}
    assert {at: data for at, data in tree(to).items() if at in new} == new
    assert not any(at.endswith(".partial") for at in tree(to))
    if goes_on == "move":
        assert (to / "kept").read_bytes() == MINE


def test_a_link_made_meanwhile_is_kept(pull_meanwhile, to):
    """Catches: a link that a rename replaces, though none is replaced that was there before."""
    with pytest.raises(ConflictError, match="to/new"):
        pull_meanwhile(to, lambda: (to / "new").symlink_to("config"))
    assert (to / "new").is_symlink()


def test_with_overwrite_it_is_replaced(pull_meanwhile, to):
    """Catches: a pull that refuses what it was told to do."""
    pull_meanwhile(to, lambda: (to / "config").write_bytes(MINE), overwrite=True)
    assert (to / "config").read_bytes() == b"two"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_the_new_version_has_no_more_is_kept_if_it_was_edited(pull_meanwhile, to, overwrite):
    """Catches: a file of the version before that is removed though it is somebody's by now."""
    pull_meanwhile(to, lambda: (to / "old").write_bytes(MINE), overwrite=overwrite)
    assert (to / "old").read_bytes() == MINE
    assert not (to / "old2").exists()
    assert (to / "config").read_bytes() == b"two"


def test_an_edit_between_two_renames_is_kept(pull, to, monkeypatch):
    """Catches: one look before all of the renames, and none right before each."""
    rename = ModelDirectory.rename

    def renaming(directory, old, new):
        rename(directory, old, new)
        if old.endswith(".partial"):
            last = max(at for at in tree(to) if at.endswith(".partial"))
            (to / last.removesuffix(".partial")).write_bytes(MINE)

    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "rename", renaming)
        with pytest.raises(ConflictError, match="to/w was changed"):
            pull("acme/m", to)
    assert (to / "w").read_bytes() == MINE
    (to / "w").unlink()
    pull("acme/m", to)
    assert {"config", "new", "w"} == tree(to).keys()

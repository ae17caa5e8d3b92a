"""icnblocks.pull: what a caller may write, and what he hears of it."""

import logging
import os
import socket
from pathlib import Path

import pytest

import icnblocks
from icnblocks.errors import ConflictError, StorageError, UsageError
from icnblocks.manifest.model import Kind
from icnblocks.publish.facade import publish
from tests.assembly.test_puller import settings

__all__ = ["settings"]  # a fixture


@pytest.fixture
def pull(tmp_path, settings):
    """icnblocks.pull on a machine that has acme/a, published in place."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "file").write_bytes(os.urandom(10_000))
    publish(root, "acme/a", store=settings.store, kind=Kind.PACK, settings=settings)

    def run(name="acme/a", **options):
        return icnblocks.pull(name, settings=settings, trust_first_use=True, **options)

    return run


@pytest.fixture
def nobody():
    """The URL of a source that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None},
        {"name": Path("acme/a")},
        {"to": ""},
        {"to": "x\0y"},
        {"to": "y\ud800"},
        {"to": b"raw"},
        {"to": 3},
        {"max_age_s": None},
        {"max_age_s": float("nan")},
        {"max_age_s": "1h"},
        {"sources": ""},
        {"sources": [None]},
        {"sources": 80},
    ],
    ids=repr,
)
def test_what_cannot_be_meant_is_a_usage_error_of_one_line(pull, wrong, tmp_path, monkeypatch):
    """Catches: a model spilt into the current directory for a variable that was not set."""
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError) as caught:
        pull(**wrong)
    assert str(caught.value).isprintable()
    assert sorted(os.listdir(tmp_path)) == before


def test_one_source_may_be_given_as_text_and_what_is_odd_is_logged(pull, nobody, caplog):
    """Catches: a URL asked letter by letter, and a stale model used without a word."""
    with caplog.at_level(logging.WARNING, "icnblocks"):
        path = pull(sources=nobody, max_age_s=0)
    assert (path / "file").stat().st_size == 10_000
    (told,) = caplog.records
    assert (told.name, told.levelno) == ("icnblocks", logging.WARNING)
    assert "using what is known" in told.getMessage()
    assert nobody in told.getMessage()


def test_changed_files_are_replaced_when_that_is_asked_for(pull):
    path = pull()
    (path / "file").write_bytes(b"mine")
    with pytest.raises(ConflictError) as caught:
        pull()
    assert "overwrite=True" in caught.value.hint
    assert pull(overwrite=True) == path
    assert (path / "file").stat().st_size == 10_000


def test_a_base_whose_place_cannot_be_looked_at_is_an_error_of_the_disk(pull, tmp_path, settings):
    """Catches: what the system raises, which no caller that heeds the documentation catches."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "file").write_bytes(b"delta")
    publish(adapter, "acme/b", store=settings.store, base="acme/a", settings=settings)
    (tmp_path / "model" / "file").unlink()
    with pytest.raises(StorageError):
        pull("acme/b", to=tmp_path / ("x" * 300) / "b")

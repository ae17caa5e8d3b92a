"""Which files are loaded, and what is said where they cannot be."""

import os
import tempfile
from pathlib import Path

import pytest

import icnblocks
from icnblocks.errors import FormatError, NotFoundError, StorageError, UsageError
from icnblocks.manifest.model import Tensor
from icnblocks.testing.models import Part, noise, write_safetensors
from tests.assembly.test_puller import pull, puller, put, settings

__all__ = ["pull", "puller", "put", "settings"]  # fixtures

INDEX = "model.safetensors.index.json"


def write(path, *names):
    """A file with a tensor of each name, of the file's own bytes."""
    tensors = [Tensor(name, "U8", (64,)) for name in names]
    write_safetensors(path, [Part(tensor, noise(tensor, len(path.name))) for tensor in tensors])
    return path


def index(root, **files):
    text = ", ".join(f'"{tensor}": "{file}.safetensors"' for tensor, file in files.items())
    (root / INDEX).write_text(f'{{"weight_map": {{{text}}}}}')


def test_a_whole_model_goes_before_an_index_as_transformers_decides_it(tmp_path):
    write(tmp_path / "model.safetensors", "whole")
    write(tmp_path / "shard.safetensors", "part")
    index(tmp_path, part="shard")
    assert list(icnblocks.load(tmp_path)) == ["whole"]


def test_an_adapter_pulled_beside_somebodys_base_gives_its_own_tensors(put, pull, tmp_path):
    """Catches: the tensors of whatever lay in the directory before."""
    at = tmp_path / "to"
    at.mkdir()
    write(at / "model.safetensors", "base")
    made = write(tmp_path / "made", "lora")
    put("acme/adapter", **{"adapter_model.safetensors": made.read_bytes()})
    assert list(icnblocks.load(pull("acme/adapter", at).path)) == ["lora"]
    assert list(icnblocks.load(at / "model.safetensors")) == ["base"]


def test_a_pulled_model_without_safetensors_gives_nobody_elses(put, pull, tmp_path):
    at = tmp_path / "to"
    at.mkdir()
    write(at / "model.safetensors", "other")
    put("acme/pickled", **{"model.bin": b"pickled"})
    pull("acme/pickled", at)
    with pytest.raises(NotFoundError, match="no safetensors files that were pulled"):
        icnblocks.load(at)


def test_a_state_that_cannot_be_understood_leaves_the_directory_as_any_other(put, pull, tmp_path):
    made = write(tmp_path / "made", "w")
    put("acme/m", **{"model.safetensors": made.read_bytes()})
    at = pull("acme/m").path
    (at / ".icnblocks" / "manifest").write_bytes(b"of another time")
    assert list(icnblocks.load(at)) == ["w"]


def test_an_index_that_promises_what_a_shard_lacks_is_refused(tmp_path):
    """Catches: a model loaded without complaint that lacks a layer."""
    write(tmp_path / "one.safetensors", "a")
    write(tmp_path / "two.safetensors", "b")
    index(tmp_path, a="one", b="one")
    with pytest.raises(FormatError, match=r"one\.safetensors has no tensor 'b'"):
        icnblocks.load(tmp_path)


def test_a_missing_shard_is_a_matter_of_the_file_not_of_a_source(tmp_path):
    index(tmp_path, a="one")
    with pytest.raises(NotFoundError, match=r"no file .*one\.safetensors.* names") as caught:
        icnblocks.load(tmp_path)
    assert "source" not in caught.value.hint
    assert "pull it again" in caught.value.hint


def test_a_shard_that_was_not_published_is_a_matter_of_the_index(put, pull, tmp_path):
    """Catches: the advice to pull what can be pulled for ever; and another model's shard."""
    index(tmp_path, a="one")
    put("acme/m", **{INDEX: (tmp_path / INDEX).read_bytes()})
    at = pull("acme/m").path
    write(at / "one.safetensors", "a")
    with pytest.raises(NotFoundError) as caught:
        icnblocks.load(at)
    assert "its index is of another model" in caught.value.hint


def test_a_truncated_file_says_how_to_mend_it(tmp_path):
    file = write(tmp_path / "model.safetensors", "w")
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(FormatError) as caught:
        icnblocks.load(tmp_path)
    assert "icn-verify" in caught.value.hint
    assert "pull it again" in caught.value.hint


@pytest.fixture
def closed():
    """A directory that this process may not enter, with a model in it."""
    with tempfile.TemporaryDirectory() as above:  # not below pytest's, which only root may enter
        os.chmod(above, 0o755)
        root = Path(above, "closed")
        root.mkdir()
        write(root / "model.safetensors", "w")
        root.chmod(0)
        user = os.geteuid()
        if user == 0:  # who may enter everything
            os.seteuid(65534)
        yield root
        os.seteuid(user)
        root.chmod(0o700)


def test_a_directory_that_may_not_be_entered_is_a_storage_error_about_reading(closed):
    for path in (closed, closed / "model.safetensors"):
        with pytest.raises(StorageError) as caught:
            icnblocks.load(path)
        assert "who may read" in caught.value.hint


def test_a_path_that_is_too_long_is_a_storage_error(tmp_path):
    for path in (tmp_path / ("x" * 300), f"./{'x' * 300}"):
        with pytest.raises(StorageError, match="too long"):
            icnblocks.load(path)


def test_a_path_with_a_null_byte_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="not a path"):
        icnblocks.load(tmp_path / "x\0")


@pytest.mark.parametrize("model", [None, 3, b"acme/m", ["acme/m"]])
def test_what_is_no_model_is_a_usage_error(model):
    with pytest.raises(UsageError, match="not a model"):
        icnblocks.load(model)


@pytest.mark.parametrize("name", [None, 3, ["w"]])
def test_what_is_no_tensors_name_is_a_usage_error(name, tmp_path):
    write(tmp_path / "model.safetensors", "w")
    with icnblocks.open_model(tmp_path) as model, pytest.raises(UsageError, match="name"):
        model.tensor(name)

"""What frameworks and their versions have: types, and mappings that need no open file."""

import copy
import io
import os
import resource
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open

import icnblocks
from icnblocks.errors import StorageError, UsageError
from icnblocks.loader import frameworks
from icnblocks.manifest.model import Tensor
from icnblocks.testing.models import Part, noise, write_safetensors

torch = pytest.importorskip("torch")


def write(path, *tensors):
    write_safetensors(path, [Part(tensor, noise(tensor, 7)) for tensor in tensors])
    return path


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def few_files():
    """The limit of open files, lowered for a test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_loaded_torch_models_keep_no_file_open(tmp_path, few_files):
    """Catches: a server of a thousand adapters that runs out of descriptors."""
    write(tmp_path / "model.safetensors", Tensor("w", "F32", (4,)))
    before = open_files()
    loaded = [icnblocks.load(tmp_path, "torch") for _ in range(100)]
    assert open_files() <= before  # what earlier tests left may go meanwhile
    assert all(tensors["w"].equal(loaded[0]["w"]) for tensors in loaded)


@pytest.mark.parametrize("keeps", ["no descriptor", "a descriptor"])
def test_what_copies_or_saves_a_torch_tensor_takes_its_bytes_and_no_others(
    tmp_path, monkeypatch, keeps
):
    """Catches: tensors whose storage is the whole file, of no one type.

    A copy of a layer took the room of a shard, and `torch.save` refused files of two types.
    """
    if keeps == "a descriptor":

        def refuse(*args, **options):
            raise RuntimeError

        monkeypatch.setattr(torch.UntypedStorage, "from_file", refuse)
    wide, ids, empty = (
        Tensor("w", "F32", (3, 2)),
        Tensor("i", "I64", (2,)),
        Tensor("e", "F16", (0,)),
    )
    write(tmp_path / "model.safetensors", wide, ids, empty, Tensor("rest", "BF16", (100_000,)))
    found = icnblocks.load(tmp_path, "torch")
    sizes = {name: tensor.untyped_storage().nbytes() for name, tensor in found.items()}
    assert sizes == {"w": 24, "i": 16, "e": 0, "rest": 200_000}
    with icnblocks.open_model(tmp_path, "torch") as model:
        tensors = {name: model.tensor(name) for name in model}
        offsets = {name: model.info(name).offset for name in model if name != "e"}
    first = min(offsets, key=offsets.__getitem__)
    for name, offset in offsets.items():  # none was copied: they lie as in the file
        apart = tensors[name].data_ptr() - tensors[first].data_ptr()
        assert apart == offset - offsets[first], name
    copied = copy.deepcopy(found["w"])
    assert copied.untyped_storage().nbytes() == 24
    saved = io.BytesIO()
    torch.save(found, saved)
    saved.seek(0)
    for name, tensor in torch.load(saved).items():
        assert tensor.view(torch.uint8).equal(found[name].view(torch.uint8)), name


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="its mmap keeps no descriptor")
def test_too_many_open_files_say_what_to_do(tmp_path, few_files):
    write(tmp_path / "model.safetensors", Tensor("w", "F32", (4,)))
    with pytest.raises(StorageError) as caught:
        [icnblocks.load(tmp_path) for _ in range(100)]
    assert "ulimit -n" in caught.value.hint


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="a torch without the type")
def test_pairs_of_four_bits_are_what_the_reference_library_gives(tmp_path):
    shapes = {"flat": (4,), "wide": (3, 2, 6), "none": (2, 0)}
    file = write(tmp_path / "f4", *(Tensor(name, "F4", shape) for name, shape in shapes.items()))
    found = icnblocks.load(file, "torch")
    with safe_open(file, "pt") as reference:
        for name in shapes:
            expected = reference.get_tensor(name)
            assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
            assert found[name].view(torch.uint8).equal(expected.view(torch.uint8))


def test_an_older_ml_dtypes_gives_the_types_that_it_has(tmp_path, monkeypatch):
    """Catches: no model at all loads beside a package that lacks one of its types."""
    older = SimpleNamespace(bfloat16=np.uint16)
    monkeypatch.setattr(frameworks, "find_spec", lambda _: older)
    monkeypatch.setattr(frameworks, "import_module", lambda _: older)
    file = write(tmp_path / "types", Tensor("b", "BF16", (2,)), Tensor("f", "F8_E8M0", (2,)))
    with icnblocks.open_model(file) as model:
        assert model.tensor("b").shape == (2,)
        with pytest.raises(UsageError, match="F8_E8M0") as caught:
            model.tensor("f")
    assert "newest ml_dtypes" in caught.value.hint


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("shape", [(0, 1 << 63), (0, 1 << 40, 1 << 40)])
def test_an_empty_tensor_of_a_shape_beyond_the_framework_is_a_clear_error(
    tmp_path, framework, shape
):
    """Catches: a model that makes `load` raise what is no error of the tree."""
    path = write(tmp_path / "x.safetensors", Tensor("a", "F32", shape), Tensor("b", "F32", (2,)))
    with pytest.raises(UsageError, match=str(shape[-1])):
        icnblocks.load(path, framework)
    with icnblocks.open_model(path, framework) as model:
        assert model.tensor("b").shape == (2,)

"""Loading gives the same tensors as the reference library, without copies, or a clear error."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

import icnblocks
from icnblocks.errors import FormatError, IcnError, NotFoundError, StorageError, UsageError
from icnblocks.loader import frameworks
from icnblocks.manifest.model import Tensor
from icnblocks.testing.models import Part, header_of, lora, noise, write_llama, write_safetensors
from icnblocks.testing.odd_models import odd_files

torch = pytest.importorskip("torch")


def _write(path, *tensors):
    write_safetensors(path, [Part(tensor, noise(tensor, 7)) for tensor in tensors])
    return path


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("what", sorted(set(odd_files()) - {"every-dtype"}))
def test_odd_files_load_as_the_reference_library_loads_them(what, framework, tmp_path):
    file = tmp_path / "odd.safetensors"
    file.write_bytes(odd_files()[what])
    found = icnblocks.load(file, framework)
    with safe_open(file, "np" if framework == "numpy" else "pt") as reference:
        assert set(found) == set(reference.keys())
        for name, tensor in found.items():
            expected = reference.get_tensor(name)
            assert tuple(tensor.shape) == tuple(expected.shape)
            assert tensor.dtype == expected.dtype
            assert np.asarray(tensor).tobytes() == np.asarray(expected).tobytes()


def test_every_dtype_that_torch_has_has_the_reference_librarys_bits(tmp_path):
    file = tmp_path / "dtypes.safetensors"
    file.write_bytes(odd_files()["every-dtype"])
    none = {"F4": "its last dimension is odd", "F6_E2M3": "no type", "F6_E3M2": "no type"}
    with icnblocks.open_model(file, "torch") as model, safe_open(file, "pt") as reference:
        for name, why in none.items():
            with pytest.raises(UsageError, match=why):
                model.tensor(name)
        for name in set(model) - none.keys():
            found, expected = model.tensor(name), reference.get_tensor(name)
            assert found.dtype == expected.dtype
            assert found.view(torch.uint8).equal(expected.view(torch.uint8))
        assert len(model) == 22


def test_a_model_in_shards_is_one_dict(tmp_path):
    directory = write_llama(tmp_path, shards=3, dtype="F32")
    found = icnblocks.load(str(directory))
    for file in directory.glob("*.safetensors"):
        for name, expected in load_file(file).items():
            assert found.pop(name).tobytes() == expected.tobytes()
    assert not found


def test_an_index_hides_files_that_repeat_the_model(tmp_path):
    """Hubs carry the same weights twice, in two layouts: the index says which ones to take."""
    write_llama(tmp_path, shards=2, dtype="F32")
    _write(tmp_path / "consolidated.safetensors", Tensor("lm_head.weight", "F32", (1,)))
    assert icnblocks.load(tmp_path)["lm_head.weight"].shape == (2000, 256)


def test_two_files_with_one_name_and_no_index_are_refused(tmp_path):
    for file in ("a", "b"):
        _write(tmp_path / f"{file}.safetensors", Tensor("w", "F32", (1,)))
    with pytest.raises(FormatError, match="two tensors named 'w', in a"):
        icnblocks.load(tmp_path)


def test_an_adapter_gives_its_own_tensors(tmp_path):
    assert all(".lora_" in name for name in icnblocks.load(lora(tmp_path)))


def test_tensors_are_views_that_may_be_written_and_never_reach_the_file(tmp_path):
    file = _write(tmp_path / "model.safetensors", Tensor("w", "F32", (4,)))
    before = file.read_bytes()
    tensors = icnblocks.load(tmp_path)
    tensors["w"][:] = 1
    icnblocks.load(tmp_path, "torch")["w"].zero_()
    assert tensors["w"].base is not None
    assert tensors["w"].tolist() == [1, 1, 1, 1]
    assert file.read_bytes() == before


def test_tensors_outlive_the_model(tmp_path):
    _write(tmp_path / "model.safetensors", Tensor("w", "U8", (5,)))
    with icnblocks.open_model(tmp_path) as model:
        assert model.info("w").shape == (5,)
        assert "w" in model
        assert list(model) == ["w"]
        assert len(model) == 1
        tensor = model.tensor("w")
    expected = b"".join(noise(Tensor("w", "U8", (5,)), 7))
    assert tensor.tobytes() == expected
    with pytest.raises(UsageError, match="is closed"):
        model.tensor("w")


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_file_larger_than_the_memory_is_mapped_not_read(framework, tmp_path):
    """Without MAP_NORESERVE the kernel refuses a private mapping beyond memory and swap."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wide = 4 * memory
    header = header_of([Tensor("wide", "U8", (wide,)), Tensor("last", "U8", (4,))])
    file = tmp_path / "model.safetensors"
    with file.open("wb") as out:
        out.write(header)
        try:
            out.truncate(len(header) + wide)
        except OSError:
            pytest.skip(f"this file system has no sparse file of {wide} bytes")
        out.seek(0, 2)
        out.write(b"last")
    with icnblocks.open_model(tmp_path, framework) as model:
        assert bytes(model.tensor("last")) == b"last"
        assert model.tensor("wide")[wide // 2] == 0


def test_bf16_in_numpy_without_ml_dtypes_says_what_to_do(tmp_path, monkeypatch):
    _write(tmp_path / "model.safetensors", Tensor("w", "BF16", (2,)))
    monkeypatch.setattr(frameworks, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="BF16, which numpy has no type for") as caught:
        icnblocks.load(tmp_path)
    assert "torch" in caught.value.hint
    assert "ml_dtypes" in caught.value.hint


def test_torch_that_is_not_installed_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setattr(frameworks, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="not installed"):
        icnblocks.load(tmp_path, "torch")


def test_numpy_needs_no_torch(tmp_path):
    """Importing torch takes seconds: nothing may do it before it is asked for."""
    _write(tmp_path / "model.safetensors", Tensor("w", "F32", (2,)))
    script = "import sys, icnblocks; icnblocks.load(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", FormatError),
        ("{}", FormatError),
        ('{"weight_map": {}}', FormatError),
        ('{"weight_map": {"w": 3}}', FormatError),
        ('{"weight_map": {"w": "../model.safetensors"}}', FormatError),
        ('{"weight_map": {"w": ".."}}', FormatError),
        ('{"weight_map": {"w": "absent.safetensors"}}', NotFoundError),
        ("[" * 100_000, FormatError),
    ],
)
def test_a_bad_index_is_one_clear_error(content, error, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(error):
        icnblocks.load(tmp_path)


@pytest.mark.parametrize(
    ("model", "framework", "error"),
    [
        ("nonsense", "numpy", UsageError),
        ("x\0/y", "numpy", UsageError),
        ("x" * 10_000, "numpy", UsageError),
        (".", "jax", UsageError),
    ],
)
def test_what_cannot_be_meant_is_refused(model, framework, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "model.safetensors", Tensor("w", "F32", (2,)))
    with pytest.raises(error):
        icnblocks.load(model, framework)


def test_what_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="there is no directory"):
        icnblocks.load(tmp_path / "absent")
    with pytest.raises(NotFoundError, match="holds no safetensors"):
        icnblocks.load(tmp_path)
    _write(tmp_path / "model.safetensors", Tensor("w", "F32", (2,)))
    with icnblocks.open_model(tmp_path) as model, pytest.raises(NotFoundError, match="no tensor"):
        model.info("v")


def test_a_directory_in_place_of_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        icnblocks.load(tmp_path)


_GOOD = odd_files()["metadata"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(_GOOD)), st.binary(max_size=12), st.booleans())
def test_any_damage_gives_tensors_or_one_documented_error(tmp_path_factory, at, junk, cut):
    file = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    file.write_bytes(_GOOD[:at] + junk + (b"" if cut else _GOOD[at + len(junk) :]))
    with suppress(IcnError):
        icnblocks.load(file)


def test_the_index_is_read_as_a_map_of_names(tmp_path):
    """A good index in an odd order gives the same model."""
    directory = write_llama(tmp_path, shards=2, dtype="F32")
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_bytes())
    index["weight_map"] = dict(reversed(index["weight_map"].items()))
    before = icnblocks.open_model(directory).keys()
    path.write_text(json.dumps(index))
    assert icnblocks.open_model(directory).keys() == before

"""The model makers make what they promise: models that open, variants that share."""

import json

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from icnblocks.manifest.safetensors_header import parse_header
from icnblocks.testing.models import (
    extended_vocabulary,
    half_frozen,
    lora,
    small_tensors,
    write_llama,
)
from icnblocks.testing.odd_models import odd_files, write_odd_model


def _tensors(directory):
    return {
        name: value
        for file in sorted(directory.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def test_a_seed_gives_the_same_bytes_in_any_number_of_shards(tmp_path):
    one = _tensors(write_llama(tmp_path / "one", shards=1, dtype="F32"))
    three = _tensors(write_llama(tmp_path / "three", shards=3, dtype="F32"))
    other = _tensors(write_llama(tmp_path / "other", shards=3, dtype="F32", seed=9))
    assert one.keys() == three.keys()
    assert all(one[name].tobytes() == three[name].tobytes() for name in one)
    assert all(one[name].tobytes() != other[name].tobytes() for name in one)


def test_the_index_tells_where_each_tensor_lies(tmp_path):
    directory = write_llama(tmp_path, shards=3)
    index = json.loads((directory / "model.safetensors.index.json").read_bytes())
    for file in set(index["weight_map"].values()):
        with safe_open(directory / file, "numpy") as opened:
            assert set(opened.keys()) == {n for n, f in index["weight_map"].items() if f == file}


def test_half_frozen_changes_the_upper_layers_and_nothing_else(tmp_path):
    base = _tensors(write_llama(tmp_path / "base", layers=4, dtype="F32"))
    tuned = _tensors(half_frozen(tmp_path / "base", tmp_path / "tuned"))
    changed = {name for name in base if base[name].tobytes() != tuned[name].tobytes()}
    assert changed == {n for n in base if n.startswith(("model.layers.2.", "model.layers.3."))}


def test_an_extended_vocabulary_only_appends(tmp_path):
    base = _tensors(write_llama(tmp_path / "base", dtype="F32"))
    grown = _tensors(extended_vocabulary(tmp_path / "base", tmp_path / "grown", rows=5))
    for name, value in base.items():
        assert grown[name][: len(value)].tobytes() == value.tobytes()
    assert len(grown["lm_head.weight"]) == len(base["lm_head.weight"]) + 5
    config = json.loads((tmp_path / "grown" / "config.json").read_bytes())
    assert config["vocab_size"] == 2005


def test_an_adapter_and_very_many_tensors_open(tmp_path):
    assert len(_tensors(lora(tmp_path / "lora", layers=3))) == 12
    assert len(_tensors(small_tensors(tmp_path / "small", count=300))) == 300


@pytest.mark.parametrize("what", sorted(odd_files()))
def test_odd_files_are_legal(what, tmp_path):
    """The real library opens them, so refusing one of them would be our bug."""
    content = odd_files()[what]
    (tmp_path / "odd.safetensors").write_bytes(content)
    with safe_open(tmp_path / "odd.safetensors", "numpy") as opened:
        assert {t.name for t in parse_header(content, len(content)).tensors} == set(opened.keys())


def test_an_odd_model_has_every_odd_file(tmp_path):
    directory = write_odd_model(tmp_path)
    assert len(list(directory.rglob("*.safetensors"))) == len(odd_files())

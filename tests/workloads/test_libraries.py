"""Libraries share what they promise to share, and cutting them into equal blocks loses nothing."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import UsageError
from icnblocks.workloads.library import Pieces
from icnblocks.workloads.llm import Mix, llm_library
from icnblocks.workloads.lora import lora_library
from icnblocks.workloads.resnet import BACKBONES, resnet_library
from tests.siting.problems import membership

MAKERS = {
    "resnet": lambda seed: resnet_library(seed, variants=20),
    "equal layers": lambda seed: resnet_library(seed, variants=20, equal_layers=True),
    "lora": lambda seed: lora_library(adapters=20),
    "llm": llm_library,
}


@pytest.mark.parametrize(
    ("backbone", "layers", "megabytes"),
    list(zip(BACKBONES, (41, 73, 107), (44.91, 85.34, 94.85), strict=True)),
    ids=lambda value: getattr(value, "name", None),
)
def test_networks_have_the_layers_and_bytes_of_the_real_ones(backbone, layers, megabytes):
    sizes = backbone.layer_bytes()
    assert len(sizes) == layers
    assert round(sum(sizes) / 1e6, 2) == megabytes


@pytest.mark.parametrize("equal", [False, True])
def test_a_variant_is_as_large_as_its_network_and_shares_only_with_its_kind(equal):
    library = resnet_library(3, variants=10, equal_layers=equal)
    whole = {backbone.name: sum(backbone.layer_bytes()) for backbone in BACKBONES}
    for model, size in zip(library.models, library.model_bytes, strict=True):
        assert size == whole[model.name.split("/")[1].split("-")[0]]
    has = membership(library).astype(int)
    shared = has @ has.T
    kinds = [model.name.split("-")[0] for model in library.models]
    assert all((shared[i, j] > 0) == (kinds[i] == kinds[j]) for i in range(30) for j in range(30))


def test_an_adapter_brings_its_base_and_a_hundredth_of_its_own():
    library = lora_library(share=0.01)
    assert len(library.models) == 300
    assert library.unique_bytes == 2 * 1_750_000_000
    assert set(library.model_bytes.tolist()) == {252_500_000, 505_000_000, 1_010_000_000}


def test_the_llm_library_has_every_kind_and_shares_as_each_kind_does():
    library = llm_library(0)
    kinds = Counter(model.kind for model in library.models)
    assert set(kinds) == {"base", "adapter", "half-frozen", "full", "quantised"}
    assert kinds["adapter"] > kinds["half-frozen"] > kinds["full"]
    pieces = library.piece_bytes
    for model in library.models:
        if model.base is None:
            continue
        base = set(library.models[model.base].pieces)
        common, all_of_it = base & set(model.pieces), set(model.pieces)
        share = pieces[list(common)].sum() / pieces[list(all_of_it)].sum() if common else 0
        low, high = {
            "adapter": (0.96, 0.999),
            "half-frozen": (0.24, 0.76),
            "full": (0, 0),
            "quantised": (0, 0),
        }[model.kind]
        assert low <= share <= high, model.name
    assert any(library.models[m.base].kind == "quantised" for m in library.models if m.base)


def test_the_kinds_of_a_mix_cannot_come_to_more_than_all():
    with pytest.raises(UsageError, match="at most"):
        Mix(adapters=0.9, full=0.2)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_the_same_seed_gives_the_same_library(maker):
    assert maker(5) == maker(5)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_equal_blocks_keep_sizes_and_what_is_a_models_own(maker):
    """A layer smaller than half a block once vanished with the variant's only difference."""
    library = maker(1)
    cut = library.in_units()
    listed = [cut.blocks_of(model) for model in range(len(cut.models))]
    assert {size for blocks in listed for _, size in blocks} == {library.unit}
    assert len({frozenset(blocks) for blocks in listed}) == len(listed)
    for blocks, size, model in zip(listed, library.model_bytes, library.models, strict=True):
        assert len(blocks) == len(set(blocks))
        assert abs(sum(length for _, length in blocks) - size) <= library.unit * len(model.pieces)
    assert sum(dict(block for blocks in listed for block in blocks).values()) == cut.unique_bytes


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_the_seams_of_a_run_add_no_bytes(parts, unit):
    """Rounding each piece by itself made a hundred thin layers twice as large as their network."""
    made = Pieces()
    made.model("a/b", made.run("run", np.cumsum(parts).tolist()))
    cut = made.library("test", unit).in_units()
    assert abs(cut.unique_bytes - sum(parts)) <= unit
    assert (cut.piece_bytes > 0).all()


@pytest.mark.parametrize("unit", [0, -1, 1, 1 << 51])
def test_a_unit_that_cannot_be_meant_is_refused(unit):
    with pytest.raises(UsageError):
        llm_library(0).in_units(unit)


def test_a_library_beyond_64_bits_is_refused():
    """Its sums were an OverflowError of numpy."""
    with pytest.raises(UsageError, match=r"2\^63"):
        llm_library(0, bases=[1 << 61])


def test_blocks_of_uneven_pieces_end_with_a_short_one():
    made = Pieces()
    model = made.model("a/b", made.run("run", [25]))
    assert made.library("test", 10).blocks_of(model) == [("run:0", 10), ("run:1", 10), ("run:2", 5)]

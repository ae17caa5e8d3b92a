"""Manifests of real shapes: at most 40 bytes a block + names, and read in a blink."""

from __future__ import annotations

import os
import time

import pytest

from icnblocks.limits import BLOCK_BYTES
from icnblocks.manifest.codec import decode, encode
from icnblocks.manifest.cutting import CutFile, blocks_in, build_manifest
from icnblocks.manifest.dtypes import tensor_bytes
from icnblocks.manifest.model import BaseRef, Kind, Manifest, Run, Tensor
from icnblocks.naming import Digest, Name

PROJECTIONS = {
    "self_attn.q_proj": (8192, 8192),
    "self_attn.k_proj": (1024, 8192),
    "self_attn.v_proj": (1024, 8192),
    "self_attn.o_proj": (8192, 8192),
    "mlp.gate_proj": (28_672, 8192),
    "mlp.up_proj": (28_672, 8192),
    "mlp.down_proj": (8192, 28_672),
}
NORMS = {"input_layernorm": (8192,), "post_attention_layernorm": (8192,)}
SMALL_FILES = {"config.json": 700, "tokenizer.json": 9_000_000, "tokenizer_config.json": 50_000}


def llama(layers: int) -> list[Tensor]:
    """A Llama of 70 billion parameters and more, in BF16."""
    outer = [
        Tensor("model.embed_tokens.weight", "BF16", (128_256, 8192)),
        Tensor("lm_head.weight", "BF16", (128_256, 8192)),
        Tensor("model.norm.weight", "BF16", (8192,)),
    ]
    return outer + [
        Tensor(f"model.layers.{layer}.{name}.weight", "BF16", shape)
        for layer in range(layers)
        for name, shape in (PROJECTIONS | NORMS).items()
    ]


def lora(layers: int, rank: int) -> list[Tensor]:
    """An adapter of rank `rank` to every projection of that Llama."""
    return [
        Tensor(f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight", "F32", shape)
        for layer in range(layers)
        for name, (rows, columns) in PROJECTIONS.items()
        for side, shape in (("A", (rank, columns)), ("B", (rows, rank)))
    ]


def small_tensors(count: int) -> list[Tensor]:
    """What a mixture of experts has most of, made small: the worst case for names and runs."""
    return [
        Tensor(f"model.layers.{number // 256}.experts.{number % 256}.w.weight", "BF16", (64, 64))
        for number in range(count)
    ]


def manifest_of(tensors: list[Tensor], shards: int, kind: Kind = Kind.BASE) -> Manifest:
    files = [
        CutFile(path, size, (Run(0, size, 0),), os.urandom(32 * blocks_in(size, BLOCK_BYTES)))
        for path, size in SMALL_FILES.items()
    ]
    for shard in range(shards):
        part = tensors[shard::shards]
        header = 8 + sum(len(tensor.name) + 70 for tensor in part)
        runs, offset, block = [], 0, 0
        for tensor in (None, *part):
            length = tensor_bytes(tensor.dtype, tensor.shape) if tensor else header
            runs.append(Run(offset, length, block, tensor))
            offset += length
            block += blocks_in(length, BLOCK_BYTES)
        path = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        files.append(CutFile(path, offset, tuple(runs), os.urandom(32 * block)))
    base = BaseRef(Name("acme", "llama"), Digest(bytes(32))) if kind is Kind.ADAPTER else None
    return build_manifest(kind, files, base=base)


MODELS = {
    "Llama of 141 GB": manifest_of(llama(80), 30),
    "LoRA of rank 16": manifest_of(lora(80, 16), 1, Kind.ADAPTER),
    "20,000 small tensors": manifest_of(small_tensors(20_000), 1),
}


@pytest.mark.parametrize("manifest", MODELS.values(), ids=MODELS)
def test_at_most_40_bytes_a_block_and_the_names(manifest):
    names = sum(
        len(file.path) + sum(len(run.tensor.name) for run in file.runs if run.tensor)
        for file in manifest.files
    )
    data = encode(manifest)
    # 200 bytes once, for the fields themselves and the base's name and digest.
    a_block = (len(data) - names - 200) / manifest.block_count
    assert a_block <= 40, f"{a_block:.1f} bytes a block"


@pytest.mark.parametrize("manifest", MODELS.values(), ids=MODELS)
def test_reading_is_no_part_of_the_wait(manifest):
    data = encode(manifest)
    times = []
    for _ in range(5):  # the machine may be busy with something else, but not five times
        start = time.perf_counter()
        assert decode(data).block_count == manifest.block_count
        times.append(time.perf_counter() - start)
        if times[-1] < 0.3:
            break
    assert min(times) < 1.0

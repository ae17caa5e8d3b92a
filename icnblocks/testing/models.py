"""Makers of models for tests and benchmarks: seeded, streamed, any size in bounded memory.

The weights are noise, the shapes, names and files are those of the real thing. The same seed and
name give a tensor the same bytes in whichever file and variant it lies, so that variants share
exactly what real variants share. This module must not need torch; `icnblocks.testing.sentences`
has the real model.
"""

from __future__ import annotations

import json
import shutil
from itertools import chain
from typing import TYPE_CHECKING, Final
from zlib import crc32

import numpy as np

from icnblocks.manifest.dtypes import tensor_bytes
from icnblocks.manifest.model import Tensor
from icnblocks.manifest.safetensors_header import header_bytes, parse_header
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_CHUNK: Final = 4 * 1024 * 1024
INDEX_FILE: Final = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor to be written: what it is, and its bytes in pieces."""

    tensor: Tensor
    pieces: Iterable[bytes]


def header_of(
    tensors: Sequence[Tensor], metadata: Mapping[str, str] | None = None, *, padding: int = 8
) -> bytes:
    """The header of a safetensors file of these tensors, back to back in this order.

    Args:
        tensors: what the file holds.
        metadata: its `__metadata__`, absent when None.
        padding: spaces follow until the header's length is a multiple of this.
    """
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in tensors:
        end = offset + tensor_bytes(tensor.dtype, tensor.shape)
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % padding)
    return len(text).to_bytes(8, "little") + text


def write_safetensors(
    path: Path, parts: Sequence[Part], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file piece by piece."""
    with path.open("wb") as out:
        out.write(header_of([part.tensor for part in parts], metadata))
        for part in parts:
            for piece in part.pieces:
                out.write(piece)


def noise(tensor: Tensor, seed: int) -> Iterator[bytes]:
    """The bytes that a tensor has under this seed, in pieces of at most 4 MiB."""
    generator = np.random.Generator(np.random.SFC64([seed, crc32(tensor.name.encode())]))
    left = tensor_bytes(tensor.dtype, tensor.shape)
    while left:
        size = min(left, _CHUNK)
        yield generator.bytes(size)
        left -= size


def write_llama(
    directory: Path,
    *,
    layers: int = 4,
    hidden: int = 256,
    intermediate: int = 704,
    vocabulary: int = 2000,
    kv: int = 64,
    dtype: str = "BF16",
    shards: int = 2,
    seed: int = 0,
) -> Path:
    """Make a Llama-shaped model in Hub layout: config, shards of equal size, their index.

    Args:
        directory: made if need be.
        layers: how many transformer layers.
        hidden: width.
        intermediate: width of the feed-forward part.
        vocabulary: rows of the embedding and the head.
        kv: width of keys and values together, of all their heads.
        dtype: of every tensor, as safetensors spells it.
        shards: files; one file has no index, as on the Hub.
        seed: the same gives the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = _llama(
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=vocabulary,
        kv=kv,
        dtype=dtype,
    )
    for file, members in _shards(tensors, shards).items():
        parts = [Part(tensor, noise(tensor, seed)) for tensor in members]
        write_safetensors(directory / file, parts, {"format": "pt"})
    if shards > 1:
        _write_index(directory, _shards(tensors, shards))
    _write_json(
        directory / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "model_type": "llama",
            "num_hidden_layers": layers,
            "vocab_size": vocabulary,
        },
    )
    return directory


def write_llama_2gb(directory: Path, *, seed: int = 0) -> Path:
    """Make the model of the benchmarks: 2.02 GB of BF16 in two shards."""
    return write_llama(
        directory,
        layers=20,
        hidden=2048,
        intermediate=5632,
        vocabulary=32_000,
        kv=256,
        seed=seed,
    )


def half_frozen(src: Path, dst: Path, *, seed: int = 1) -> Path:
    """Copy a model made by `write_llama` with every tensor of the upper half of its layers new."""
    config = json.loads((src / "config.json").read_bytes())
    layers = config["num_hidden_layers"]
    upper = tuple(f"model.layers.{layer}." for layer in range(layers // 2, layers))

    def part(file: Path, offset: int, tensor: Tensor) -> Part:
        if tensor.name.startswith(upper):
            return Part(tensor, noise(tensor, seed))
        return Part(tensor, _read(file, offset, tensor_bytes(tensor.dtype, tensor.shape)))

    return _rewrite(src, dst, part, config)


def extended_vocabulary(src: Path, dst: Path, *, rows: int = 64, seed: int = 2) -> Path:
    """Copy a model made by `write_llama` with rows appended to its embedding and its head."""
    config = json.loads((src / "config.json").read_bytes())
    config["vocab_size"] += rows

    def part(file: Path, offset: int, tensor: Tensor) -> Part:
        old = _read(file, offset, tensor_bytes(tensor.dtype, tensor.shape))
        if tensor.name not in {"model.embed_tokens.weight", "lm_head.weight"}:
            return Part(tensor, old)
        grown = Tensor(tensor.name, tensor.dtype, (tensor.shape[0] + rows, *tensor.shape[1:]))
        added = Tensor(tensor.name, tensor.dtype, (rows, *tensor.shape[1:]))
        return Part(grown, chain(old, noise(added, seed)))

    return _rewrite(src, dst, part, config)


def lora(
    directory: Path,
    *,
    layers: int = 4,
    hidden: int = 256,
    kv: int = 64,
    rank: int = 8,
    base: str = "acme/base",
    dtype: str = "F32",
    seed: int = 3,
) -> Path:
    """Make a LoRA adapter for a model made by `write_llama`, as peft writes them."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = []
    for layer in range(layers):
        for module, rows in (("q_proj", hidden), ("v_proj", kv)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors.append(Tensor(f"{stem}.lora_A.weight", dtype, (rank, hidden)))
            tensors.append(Tensor(f"{stem}.lora_B.weight", dtype, (rows, rank)))
    parts = [Part(tensor, noise(tensor, seed)) for tensor in tensors]
    write_safetensors(directory / "adapter_model.safetensors", parts, {"format": "pt"})
    _write_json(
        directory / "adapter_config.json",
        {
            "base_model_name_or_path": base,
            "lora_alpha": 16,
            "peft_type": "LORA",
            "r": rank,
            "target_modules": ["q_proj", "v_proj"],
        },
    )
    return directory


def small_tensors(directory: Path, *, count: int = 20_000, seed: int = 4) -> Path:
    """Make a model of very many tensors of 1 to 64 bytes: as hard on the bookkeeping as can be."""
    directory.mkdir(parents=True, exist_ok=True)
    width = len(str(count))
    tensors = [Tensor(f"t.{n:0{width}}", "U8", (1 + n % 64,)) for n in range(count)]
    parts = [Part(tensor, noise(tensor, seed)) for tensor in tensors]
    write_safetensors(directory / "model.safetensors", parts)
    return directory


def _llama(
    *, layers: int, hidden: int, intermediate: int, vocabulary: int, kv: int, dtype: str
) -> list[Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        shapes |= {
            f"{stem}.input_layernorm.weight": (hidden,),
            f"{stem}.mlp.down_proj.weight": (hidden, intermediate),
            f"{stem}.mlp.gate_proj.weight": (intermediate, hidden),
            f"{stem}.mlp.up_proj.weight": (intermediate, hidden),
            f"{stem}.post_attention_layernorm.weight": (hidden,),
            f"{stem}.self_attn.k_proj.weight": (kv, hidden),
            f"{stem}.self_attn.o_proj.weight": (hidden, hidden),
            f"{stem}.self_attn.q_proj.weight": (hidden, hidden),
            f"{stem}.self_attn.v_proj.weight": (kv, hidden),
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    return [Tensor(name, dtype, shape) for name, shape in shapes.items()]


def _shards(tensors: Sequence[Tensor], count: int) -> dict[str, list[Tensor]]:
    """Deal the tensors in order into files of about the same size."""
    if count == 1:
        return {"model.safetensors": list(tensors)}
    files: dict[str, list[Tensor]] = {
        f"model-{number:05}-of-{count:05}.safetensors": [] for number in range(1, count + 1)
    }
    names = list(files)
    total = sum(tensor_bytes(tensor.dtype, tensor.shape) for tensor in tensors)
    done = 0
    for tensor in tensors:
        files[names[min(count - 1, done * count // total)]].append(tensor)
        done += tensor_bytes(tensor.dtype, tensor.shape)
    return files


def _write_index(directory: Path, files: Mapping[str, Sequence[Tensor]]) -> None:
    sizes = [tensor_bytes(tensor.dtype, tensor.shape) for part in files.values() for tensor in part]
    _write_json(
        directory / INDEX_FILE,
        {
            "metadata": {"total_size": sum(sizes)},
            "weight_map": {tensor.name: file for file, part in files.items() for tensor in part},
        },
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _rewrite(
    src: Path,
    dst: Path,
    change: Callable[[Path, int, Tensor], Part],
    config: Mapping[str, object],
) -> Path:
    """Copy a model tensor by tensor through `change`, which is told file and offset of each."""
    shutil.copytree(src, dst, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    files: dict[str, list[Tensor]] = {}
    for file in sorted(src.glob("*.safetensors")):
        parts = []
        offset, tensors = _layout(file)
        for tensor in tensors:
            parts.append(change(file, offset, tensor))
            offset += tensor_bytes(tensor.dtype, tensor.shape)
        write_safetensors(dst / file.name, parts, {"format": "pt"})
        files[file.name] = [part.tensor for part in parts]
    if len(files) > 1:
        _write_index(dst, files)
    _write_json(dst / "config.json", config)
    return dst


def _layout(file: Path) -> tuple[int, tuple[Tensor, ...]]:
    """Where the first tensor of a safetensors file begins, and all of them in order."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        first = opened.read(8)
        header = parse_header(first + opened.read(header_bytes(first, size) - 8), size)
    return header.length, header.tensors


def _read(path: Path, offset: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while length:
            piece = file.read(min(length, _CHUNK))
            yield piece
            length -= len(piece)

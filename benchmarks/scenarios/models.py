"""Models that only benchmarks need."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from icnblocks.manifest.model import Tensor
from icnblocks.testing.models import Part, noise, write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

MEAN_SMALL: Final = 10 * 1024
"""Mean size of a small tensor, in bytes."""


def small_tensors(directory: Path, count: int, *, seed: int = 5) -> Path:
    """Make a model of `count` tensors of 4 to 16 KiB in one file.

    Args:
        directory: made if need be.
        count: of tensors.
        seed: the same gives the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    tensors = [
        Tensor(f"layers.{n}.scale", "F32", (chance.randint(1024, 4096),)) for n in range(count)
    ]
    parts = [Part(tensor, noise(tensor, seed)) for tensor in tensors]
    write_safetensors(directory / "model.safetensors", parts)
    return directory

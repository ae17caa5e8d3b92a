"""The ResNet library: three backbones, a hundred variants of each with frozen bottom layers.

The set-up of TrimCaching (arXiv 2405.03990): a variant shares its first layers with its backbone
and has the others to itself. Layers are counted as convolutions, batch norms and the classifier,
in fp32, with a classifier of 100 classes. This module must not know of demand.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

import numpy as np

from icnblocks.values import dataclass
from icnblocks.workloads.library import Library, Pieces

_FP32: Final = 4
_CLASSES: Final = 100
UNIT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Backbone:
    """One ResNet of He et al. (arXiv 1512.03385).

    Attributes:
        name: of the network.
        blocks: residual blocks of each of the four stages.
        bottleneck: whether a block is 1x1, 3x3, 1x1 (four times as wide at its end) or 3x3, 3x3.
        frozen: the least and the largest number of frozen bottom layers of a variant.
    """

    name: str
    blocks: tuple[int, int, int, int]
    bottleneck: bool
    frozen: tuple[int, int]

    def layer_bytes(self) -> list[int]:
        """Bytes of the parameters of each layer, from the input up."""
        sizes: list[int] = []

        def convolution(inputs: int, outputs: int, side: int) -> None:
            sizes.append(inputs * outputs * side * side * _FP32)
            sizes.append(2 * outputs * _FP32)

        convolution(3, 64, 7)
        inputs = 64
        for stage, count in enumerate(self.blocks):
            width = 64 << stage
            outputs = width * 4 if self.bottleneck else width
            for _ in range(count):
                if self.bottleneck:
                    convolution(inputs, width, 1)
                    convolution(width, width, 3)
                    convolution(width, outputs, 1)
                else:
                    convolution(inputs, width, 3)
                    convolution(width, outputs, 3)
                if inputs != outputs:
                    convolution(inputs, outputs, 1)
                inputs = outputs
        sizes.append((inputs + 1) * _CLASSES * _FP32)
        return sizes


BACKBONES: Final = (
    Backbone("resnet18", (2, 2, 2, 2), bottleneck=False, frozen=(29, 40)),
    Backbone("resnet34", (3, 4, 6, 3), bottleneck=False, frozen=(49, 72)),
    Backbone("resnet50", (3, 4, 6, 3), bottleneck=True, frozen=(87, 106)),
)


def resnet_library(seed: int, *, variants: int = 100, equal_layers: bool = False) -> Library:
    """Three backbones with variants; the backbones themselves are not asked for.

    Args:
        seed: for the number of frozen layers of each variant.
        variants: of each backbone.
        equal_layers: give all layers of a backbone the same bytes, instead of their own.
    """
    random = np.random.default_rng([seed, 1])
    made = Pieces()
    for backbone in BACKBONES:
        sizes = backbone.layer_bytes()
        ends = list(accumulate(sizes))
        if equal_layers:
            ends = [ends[-1] * (layer + 1) // len(ends) for layer in range(len(ends))]
        low, high = backbone.frozen
        frozen = random.integers(low, high + 1, variants).tolist()
        cuts = sorted(set(frozen))
        run = made.run(backbone.name, [ends[layers - 1] for layers in cuts])
        for variant, layers in enumerate(frozen):
            name = f"resnet/{backbone.name}-{variant:03}"
            own = made.run(name, [ends[-1] - ends[layers - 1]])
            shared = run[: cuts.index(layers) + 1]
            made.model(name, [*shared, *own], kind="partly-frozen")
    return made.library("resnet", UNIT)

"""Load a model in one of several ways, touch every tensor, and say how long that took.

    python -m benchmarks.scenarios.loading WAY DIRECTORY

Run as a process of its own by the `load` scenario. Libraries are imported before the clock
starts; every tensor is summed, 8 bytes at a time, since a lazy mapping would win by doing nothing.
The sum is printed, so that all ways can be seen to have loaded the same.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def _files(model: Path) -> list[str]:
    return [str(path) for path in sorted(model.glob("*.safetensors"))]


def _icnblocks(model: Path) -> Callable[[], Iterable[Any]]:
    import torch  # noqa: F401  (imported before the clock, as for the others)

    from icnblocks import load

    return lambda: load(model, framework="torch").values()


def _safetensors(model: Path) -> Callable[[], Iterable[Any]]:
    from safetensors.torch import load_file

    return lambda: [tensor for file in _files(model) for tensor in load_file(file).values()]


def _fastsafetensors(model: Path) -> Callable[[], Iterable[Any]]:
    from fastsafetensors import fastsafe_open

    def run() -> Iterable[Any]:
        with fastsafe_open(_files(model), nogds=True, device="cpu") as opened:
            yield from (opened.get_tensor(name) for name in opened.keys())  # noqa: SIM118  (it is no mapping)

    return run


def _runai(model: Path) -> Callable[[], Iterable[Any]]:
    from runai_model_streamer import SafetensorsStreamer

    def run() -> Iterable[Any]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(_files(model))
            yield from (tensor for _, tensor in streamer.get_tensors())

    return run


def _tensorizer(model: Path) -> Callable[[], Iterable[Any]]:
    from tensorizer import TensorDeserializer

    def run() -> Iterable[Any]:
        with TensorDeserializer(str(model / TENSORIZED), device="cpu") as opened:
            yield from opened.values()

    return run


TENSORIZED: Final = "model.tensors"
WAYS: Final = {
    "icnblocks": _icnblocks,
    "safetensors": _safetensors,
    "fastsafetensors": _fastsafetensors,
    "runai-model-streamer": _runai,
    "tensorizer": _tensorizer,
}


def tensorize(model: Path) -> None:
    """Write a model's tensors once more, as tensorizer wants them."""
    from safetensors.torch import load_file
    from tensorizer import TensorSerializer

    state = {name: value for file in _files(model) for name, value in load_file(file).items()}
    serializer = TensorSerializer(str(model / TENSORIZED))
    serializer.write_state_dict(state)
    serializer.close()


def total(tensor: Any) -> int:
    """The sum of a tensor's bytes taken as 8-byte integers, wrapping."""
    import torch

    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = flat.numel() // 8 * 8
    if flat.data_ptr() % 8 or flat.storage_offset() % 8:
        flat = flat.clone()
    return int(flat[:whole].view(torch.int64).sum()) + int(flat[whole:].sum())


def main() -> None:
    way, model = sys.argv[1], Path(sys.argv[2])
    if way == "tensorize":
        tensorize(model)
        return
    run = WAYS[way](model)
    import torch

    # Two threads that sum in step wait for each other wherever anything else runs: noise.
    torch.set_num_threads(1)
    began = time.perf_counter()
    found = sum(total(tensor) for tensor in run()) % (1 << 64)
    print(json.dumps({"load_s": time.perf_counter() - began, "sum": found}))


if __name__ == "__main__":
    main()

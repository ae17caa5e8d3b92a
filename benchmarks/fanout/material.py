"""The models of the benchmark, published in place once for all scenarios."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from icnblocks.client.settings import load_settings
from icnblocks.manifest.codec import decode
from icnblocks.publish.facade import publish
from icnblocks.testing.device import Device
from icnblocks.testing.models import lora, write_llama

if TYPE_CHECKING:
    from pathlib import Path

    from icnblocks.naming import Digest
    from icnblocks.testing.processes import Edge

LAYERS: Final = 8
HIDDEN: Final = 1024
KV: Final = 256


@dataclass(slots=True)
class Model:
    """One model.

    Attributes:
        name: under which it is published.
        files: its directory.
        manifest: digest of its manifest, as text.
        wants: its distinct blocks and their lengths.
        base: the model that an adapter brings along.
    """

    name: str
    files: Path
    manifest: str
    wants: dict[Digest, int] = field(default_factory=dict)
    base: Model | None = None

    @property
    def unique(self) -> int:
        """Bytes of its distinct blocks, its base's not counted."""
        return sum(self.wants.values())

    @property
    def paths(self) -> list[str]:
        """Its files, as they are asked for by those who know no blocks."""
        return [f"{self.files.name}/{path.name}" for path in sorted(self.files.iterdir())]


def union(models: list[Model]) -> int:
    """Bytes of the distinct blocks of all these models and their bases."""
    wants: dict[Digest, int] = {}
    for model in models:
        wants |= model.wants
        if model.base is not None:
            wants |= model.base.wants
    return sum(wants.values())


class Material:
    """Makes models as they are asked for.

    Args:
        root: where they go.
        quick: a tenth of the size.
    """

    def __init__(self, root: Path, *, quick: bool) -> None:
        self.root = root
        self.files = root / "files"
        self.files.mkdir(parents=True)
        self.store = root / "origin"
        self._quick = quick
        self._publisher = Device(root / "publisher")
        self._models: dict[str, Model] = {}

    def real(self) -> Model:
        """The sentence model, 91 MB of weights; where it is not installed, another of that size."""
        if "real" not in self._models:
            made = _sentences(self.files / "sentences", quick=self._quick)
            self._models["real"] = self._publish(made, "acme/mini")
        return self._models["real"]

    def synthetic(self) -> Model:
        """A Llama-shaped model of 256 MB (of 26 MB to be quick)."""
        if "synthetic" not in self._models:
            vocabulary = 18_400
            layers = LAYERS
            if self._quick:
                vocabulary, layers = 1840, 1
            made = write_llama(
                self.files / "llama", layers=layers, hidden=HIDDEN, intermediate=2816,
                vocabulary=vocabulary, kv=KV, seed=1,
            )  # fmt: skip
            self._models["synthetic"] = self._publish(made, "acme/llama")
        return self._models["synthetic"]

    def adapter(self, number: int) -> Model:
        """A LoRA adapter of 0.9 MB for the synthetic model; each number is another one."""
        key = f"lora{number}"
        if key not in self._models:
            base = self.synthetic()
            made = lora(
                self.files / key, layers=LAYERS, hidden=HIDDEN, kv=KV, base=base.name,
                seed=100 + number,
            )  # fmt: skip
            self._models[key] = self._publish(made, f"acme/{key}", base)
        return self._models[key]

    def learn(self, origin: Edge) -> None:
        """Ask an origin of them all which blocks the models consist of."""
        for model in self._models.values():
            if not model.wants:
                manifest = decode(origin.get(f"/v1/manifests/{model.manifest}"))
                model.wants = manifest.lengths()

    def _publish(self, files: Path, name: str, base: Model | None = None) -> Model:
        settings = load_settings(self._publisher.environ)
        base_name = None if base is None else base.name
        done = publish(files, name, store=self.store, base=base_name, settings=settings)
        return Model(name, files, str(done.manifest), base=base)


def _sentences(directory: Path, *, quick: bool) -> Path:
    if not quick:
        try:
            from icnblocks.testing.sentences import minilm_dir

            return minilm_dir(directory)
        except ImportError:
            pass
    layers = 1 if quick else 4
    return write_llama(directory, layers=layers, hidden=768, intermediate=2048, vocabulary=8000)

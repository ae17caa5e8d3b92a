"""What edges nearby hold of the models that are asked for here. Pure.

A sibling is another edge that is cheaper to reach than the upstreams. What it says that it holds
is asked of it first; it is never made to fetch anything. The time is an argument. This module
must not ask anybody.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import field
from itertools import compress
from typing import TYPE_CHECKING, Final

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from icnblocks.naming import Digest
    from icnblocks_daemon.fib import Route

FRESH_S: Final = 15.0
"""So long what a sibling said of a model is believed; then it is asked anew, if that is needed."""
MOST_BLOCKS: Final = 500_000
"""Known to be held, of all models and siblings; beyond, what was asked for longest ago goes."""


MOST_MODELS: Final = 4096
"""Of which it is known what siblings hold, or that they hold nothing."""


@dataclass(slots=True)
class _Model:
    at: float
    held: dict[str, frozenset[Digest]] = field(default_factory=dict)


class Siblings:
    """Who holds what.

    Args:
        urls: the siblings, in the order of the settings.
    """

    __slots__ = ("_count", "_models", "urls")

    def __init__(self, urls: Iterable[str] = ()) -> None:
        self.urls: Route = tuple(dict.fromkeys(urls))
        self._models: OrderedDict[Digest, _Model] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Blocks that are known to be held, each once for each sibling."""
        return self._count

    def is_due(self, manifest: Digest, now: float) -> bool:
        """Should they be asked what they hold of a model?"""
        known = self._models.get(manifest)
        return bool(self.urls) and (known is None or now - known.at >= FRESH_S)

    def told(
        self, manifest: Digest, blocks: Sequence[Digest], flags: Mapping[str, bytes], now: float
    ) -> None:
        """What siblings said of a model; those that said nothing hold nothing.

        Args:
            manifest: the model.
            blocks: its distinct blocks, in the order of the flags.
            flags: a byte for each block, 1 if it is held, by sibling.
            now: the time.
        """
        self._forget(manifest)
        model = self._models[manifest] = _Model(now)
        for url in self.urls:
            held = flags.get(url, b"")
            if any(held):
                model.held[url] = frozenset(compress(blocks, held))
        self._count += sum(map(len, model.held.values()))
        while len(self._models) > 1 and (
            self._count > MOST_BLOCKS or len(self._models) > MOST_MODELS
        ):
            self._forget(next(iter(self._models)))

    def _forget(self, manifest: Digest) -> None:
        model = self._models.pop(manifest, None)
        if model is not None:
            self._count -= sum(map(len, model.held.values()))

    def holders(self, manifest: Digest | None, digest: Digest) -> Route:
        """The siblings that said that they hold a block of a model."""
        model = self._models.get(manifest) if manifest is not None else None
        if model is None:
            return ()
        return tuple(url for url, held in model.held.items() if digest in held)

    def price(
        self,
        manifest: Digest,
        lengths: Mapping[Digest, int],
        rates: Mapping[str, float],
        far: float,
    ) -> float:
        """What a miss of a model costs, of what it costs if all of it comes from an upstream.

        It takes a while for a large model. May be called from any thread.

        Args:
            manifest: the model.
            lengths: its blocks.
            rates: bytes a second of siblings, as far as they are known.
            far: those of the best upstream.

        Returns:
            From 0 to 1.
        """
        model = self._models.get(manifest)
        if model is None or far <= 0:
            return 1.0
        known = {url: held for url, held in model.held.items() if rates.get(url)}
        size = cost = 0.0
        for digest, length in lengths.items():
            near = max((rates[url] for url, held in known.items() if digest in held), default=0.0)
            size += length
            cost += length * (min(far / near, 1.0) if near else 1.0)
        return cost / size if size else 1.0

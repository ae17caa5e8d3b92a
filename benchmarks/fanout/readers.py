"""Many pulls in one process that keep nothing: the client's own engine, each block verified.

    python -m benchmarks.fanout.readers URL NAME MANIFEST PULLS

256 icn-fetch processes would take 10 GB and the cores of this machine; what the edge sees of
these is the same: two connections for each pull, bundles, and a reader that takes its time.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from icnblocks.client.engine import Engine, Hint
from icnblocks.client.source import Source
from icnblocks.manifest.codec import decode
from icnblocks.naming import Digest, Name
from icnblocks.placement.plan import Plan
from icnblocks.wire.bundle import Want

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.errors import IcnError
    from icnblocks.store.base import Verified


class _Nowhere:
    """A sink that counts."""

    def __init__(self) -> None:
        self.received = 0
        self.refused: list[str] = []

    def accept(self, blocks: Sequence[Verified]) -> None:
        self.received += sum(len(block.data) for block in blocks)

    def refuse(self, want: Want, error: IcnError) -> None:
        del want
        self.refused.append(str(error))


def main() -> None:
    url, name, manifest, pulls = sys.argv[1:]
    wanted = Digest.parse(manifest)
    with ExitStack() as stack:
        first = stack.enter_context(Source(url))
        plan = Plan(decode(first.manifest(wanted, headers={"ICN-Name": name})))
        wants = [Want(digest, length) for _, digest, length, _ in plan.wants()]
        engines, sinks = [], []
        for _ in range(int(pulls)):
            source, sink = stack.enter_context(Source(url)), _Nowhere()
            engine = stack.enter_context(Engine([source], sink))
            engine.add(wants, Hint(Name.parse(name), wanted, os.urandom(16)))
            engines.append(engine)
            sinks.append(sink)
        for engine, sink in zip(engines, sinks, strict=True):
            if not engine.wait(240) or sink.refused or sink.received != plan.unique_bytes:
                raise SystemExit(f"incomplete: {sink.received} bytes, {sink.refused[:3]}")


if __name__ == "__main__":
    main()

"""iroh's blobs over QUIC, verified by BLAKE3: a provider and a reader, as processes.

python -m benchmarks.scenarios.irohblobs give MODEL STORE        prints its tickets and goes on
python -m benchmarks.scenarios.irohblobs take STORE TARGET NAME=TICKET...
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


async def _node(store: Path) -> Any:
    import iroh

    iroh.iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    options = iroh.NodeOptions(node_discovery=iroh.NodeDiscoveryConfig.NONE)
    store.mkdir(parents=True, exist_ok=True)
    return await iroh.Iroh.persistent_with_options(str(store), options)


async def give(model: Path, store: Path) -> None:
    """Offer every file of a model where it lies, until killed."""
    import iroh

    class Added(iroh.AddCallback):  # type: ignore[misc, name-defined]
        hash: Any = None

        async def progress(self, progress: Any) -> None:
            if progress.type() == iroh.AddProgressType.ALL_DONE:
                Added.hash = progress.as_all_done().hash

    node, tickets = await _node(store), {}
    for path in sorted(model.rglob("*")):
        if path.is_file():
            tag, wrap = iroh.SetTagOption.auto(), iroh.WrapOption.no_wrap()
            await node.blobs().add_from_path(str(path), True, tag, wrap, Added())
            how = iroh.AddrInfoOptions.ADDRESSES
            ticket = await node.blobs().share(Added.hash, iroh.BlobFormat.RAW, how)
            tickets[str(path.relative_to(model))] = str(ticket)
    print(json.dumps(tickets), flush=True)
    await asyncio.sleep(10**9)


async def take(store: Path, target: Path, tickets: list[str]) -> None:
    """Download files one after the other and put each in its place, by reference if it can be."""
    import iroh

    class Heard(iroh.DownloadCallback):  # type: ignore[misc, name-defined]
        async def progress(self, progress: Any) -> None:
            pass

    node = await _node(store)
    for one in tickets:
        name, _, text = one.partition("=")
        ticket = iroh.BlobTicket(text)
        await node.blobs().download(ticket.hash(), ticket.as_download_options(), Heard())
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = iroh.BlobExportMode.TRY_REFERENCE
        await node.blobs().export(ticket.hash(), str(path), iroh.BlobExportFormat.BLOB, mode)
    await node.node().shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "give":
        asyncio.run(give(Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        asyncio.run(take(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))

"""libtorrent as a seed or a leecher.

    python -m benchmarks.fanout.swarm make DIR TORRENT
    python -m benchmarks.fanout.swarm seed TORRENT PARENT ADDRESS:PORT READY-FILE
    python -m benchmarks.fanout.swarm leech TORRENT DIR ADDRESS:PORT PEER...

A leecher says so when it has everything, and serves on; it and the seed run until killed. Pieces
of 1 MiB, version 2 (SHA-256 of 16 KiB), no encryption, no tracker: everybody is told of everybody
at the start.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any


def _session(listen: str) -> Any:
    import libtorrent

    return libtorrent.session({
        "listen_interfaces": listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "allow_multiple_connections_per_ip": True,
        "out_enc_policy": 2,
        "in_enc_policy": 2,
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "unchoke_slots_limit": 8,
        "alert_mask": 0,
    })  # fmt: skip


def make(files: Path, torrent: Path) -> None:
    """Describe a directory in a torrent file."""
    import libtorrent

    made = libtorrent.create_torrent(libtorrent.list_files(str(files)), 1 << 20)
    libtorrent.set_piece_hashes(made, str(files.parent))
    torrent.write_bytes(libtorrent.bencode(made.generate()))


def _add(session: Any, torrent: Path, folder: Path, *, seeds: bool) -> Any:
    import libtorrent

    wanted = libtorrent.add_torrent_params()
    wanted.ti = libtorrent.torrent_info(str(torrent))
    wanted.save_path = str(folder)
    if seeds:
        wanted.flags |= libtorrent.torrent_flags.seed_mode
    return session.add_torrent(wanted)


def seed(torrent: Path, parent: Path, listen: str, ready: Path) -> None:
    """Serve until killed."""
    session = _session(listen)
    handle = _add(session, torrent, parent, seeds=True)
    while not handle.status().is_seeding:
        time.sleep(0.01)
    ready.touch()
    while True:
        time.sleep(3600)


def leech(torrent: Path, folder: Path, listen: str, peers: list[str]) -> None:
    """Fetch everything, serving meanwhile."""
    session = _session(listen)
    handle = _add(session, torrent, folder, seeds=False)
    for peer in peers:
        host, _, port = peer.rpartition(":")
        handle.connect_peer((host, int(port)))
    while not handle.status().is_seeding:
        time.sleep(0.02)
    print("has everything", flush=True)
    while True:
        time.sleep(3600)


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "make":
        make(Path(words[0]), Path(words[1]))
    elif what == "seed":
        seed(Path(words[0]), Path(words[1]), words[2], Path(words[3]))
    else:
        leech(Path(words[0]), Path(words[1]), words[2], words[3:])


if __name__ == "__main__":
    main()

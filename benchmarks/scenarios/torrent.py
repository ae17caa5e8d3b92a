"""BitTorrent v2 by libtorrent: one seed, one leech, as processes of the `pull` scenario.

python -m benchmarks.scenarios.torrent seed MODEL TORRENT       prints its port and goes on
python -m benchmarks.scenarios.torrent leech TORRENT TARGET PORT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

_SETTINGS: Final = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,  # TCP is several times faster on loopback
    "enable_incoming_utp": False,
    "max_out_request_queue": 2000,
    "max_allowed_in_request_queue": 4000,
    "send_buffer_watermark": 4 << 20,
    "allow_multiple_connections_per_ip": True,
}


def _session() -> Any:
    import libtorrent

    return libtorrent.session(dict(_SETTINGS))


def seed(model: Path, torrent: Path) -> None:
    """Make the torrent, and send it to whoever connects, until killed."""
    import libtorrent

    made = libtorrent.create_torrent(
        libtorrent.list_files(str(model)), 0, libtorrent.create_torrent.v2_only
    )
    libtorrent.set_piece_hashes(made, str(model.parent))
    torrent.write_bytes(libtorrent.bencode(made.generate()))
    session = _session()
    adding = libtorrent.load_torrent_file(str(torrent))
    adding.save_path = str(model.parent)
    adding.flags = libtorrent.torrent_flags.seed_mode
    session.add_torrent(adding)
    while not session.listen_port():
        time.sleep(0.01)
    print(session.listen_port(), flush=True)
    while True:
        time.sleep(3600)


def leech(torrent: Path, target: Path, port: int) -> None:
    """Download everything from the one seed."""
    import libtorrent

    session = _session()
    adding = libtorrent.load_torrent_file(str(torrent))
    adding.save_path = str(target)
    adding.peers = [("127.0.0.1", port)]
    handle = session.add_torrent(adding)
    while not handle.status().is_seeding:  # which it becomes once all is checked and written
        time.sleep(0.01)


if __name__ == "__main__":
    if sys.argv[1] == "seed":
        seed(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        leech(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))

"""Scrubbing finds what rotted on disk before anybody asks for it."""

import os

from icnblocks.testing.device import Device
from icnblocks.testing.faults import flip_bit
from icnblocks.testing.processes import poll_until, start_edge


def test_a_rotten_block_is_erased_and_fetched_again(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(3 << 20))
    device = Device(tmp_path / "device")
    with start_edge(tmp_path / "origin") as origin:
        Device(tmp_path / "publisher").publish(model, "acme/model", origin.url)
        with start_edge(tmp_path / "edge", "--upstream", origin.url) as edge:
            Device(tmp_path / "first").fetch("acme/model", edge.url)
        segments = (tmp_path / "edge" / "blocks" / "segments").iterdir()
        flip_bit(max(segments, key=lambda path: path.stat().st_size), 1_500_000)
        rate = ("--scrub-rate", "1GB")
        with start_edge(tmp_path / "edge", "--upstream", origin.url, *rate) as edge:
            poll_until(lambda: edge.metric("icn_corrupt_blocks_total") == 1, what="scrubbing")
            assert "had rotted" in edge.logged()
            assert device.fetch("acme/model", edge.url)["bytes_network"] == 3 << 20
            # (a block is passed on before it is counted)
            poll_until(lambda: edge.metric("icn_upstream_received_bytes_total") >= 1 << 20)
            assert edge.metric("icn_upstream_received_bytes_total") == 1 << 20

"""A small fan-out in a network of namespaces: what crosses the backhaul, counted at both ends.

`benchmarks.fanout` takes the figures; this sees that a block crosses once, and that it is the
kernel's counters that say so.
"""

import random
from itertools import pairwise

import pytest

from benchmarks.fanout.context import MBIT
from benchmarks.fanout.running import run_together
from benchmarks.fanout.site import DAEMON_PORT, REFETCHED, fetch, told
from icnblocks.testing.device import Device
from icnblocks.testing.models import lora, write_llama
from icnblocks.testing.processes import start_edge

RECEIVED = "icn_upstream_received_bytes_total"
SENT = "icn_sent_bytes_total"
DEVICES = 4
RATE = 400 * MBIT
FRAMING = 0.05
"""What headers of packets, of HTTP and of frames may add to the payload on this link."""


class Place:
    """origin --400 Mbit/s-- edge -- switch --1 Gbit/s each-- four devices."""

    def __init__(self, net, root):
        self.root = root
        self.net = net
        self.origin, self.edge, switch = net.host("origin"), net.host("edge"), net.switch("switch")
        self.backhaul = net.link(self.origin, self.edge, RATE)
        self.uplink = net.plug(self.edge, switch, None)
        self.devices = [net.host(f"device{number}") for number in range(DEVICES)]
        for host in self.devices:
            net.plug(host, switch, 1000 * MBIT)
        self.publisher = Device(root / "publisher")
        self.store = root / "origin"

    def publish(self, files, name, *args):
        self.publisher.run("publish", files, name, "--store", self.store, *args).done()
        return sum(path.stat().st_size for path in files.iterdir())

    def pull(self, names, *, starts=(), edge_args=()):
        """Pull these at once; block payload over the backhaul by the edge and by the origin, and
        the bytes that the kernel saw there."""
        listen = f"{self.backhaul.near.address}:{DAEMON_PORT}"
        with start_edge(self.store, listen=listen, within=self.origin.within) as origin:
            towards = ("--upstream", origin.url)
            listen = f"{self.uplink.near.address}:{DAEMON_PORT}"
            with start_edge(
                self.root / "edge", *towards, *edge_args, listen=listen, within=self.edge.within
            ) as edge:
                starts = starts or [0.0] * len(names)
                commands = []
                for number, (name, at) in enumerate(zip(names, starts, strict=True)):
                    device = Device(self.root / f"d{number}", NO_PROXY="*", no_proxy="*")
                    commands.append(fetch(self.devices[number], device, name, [edge.url], at=at))
                before = self.backhaul.far.counters()
                run_together(commands, deadline_s=60)
                wire = self.backhaul.far.counters().since(before).received_bytes
                return (
                    told(self.edge, edge, RECEIVED),
                    told(self.origin, origin, SENT),
                    wire,
                    told(self.edge, edge, REFETCHED),
                )

    def same(self, number, name, files):
        """The device has the model, bit for bit."""
        pulled = self.root / f"d{number}" / "models" / name
        for path in files.iterdir():
            assert (pulled / path.name).read_bytes() == path.read_bytes(), (number, path.name)


@pytest.fixture
def place(net, tmp_path):
    return Place(net, tmp_path)


@pytest.fixture
def model(tmp_path):
    """13 MB, all blocks different."""
    return write_llama(tmp_path / "model", layers=2, hidden=512, intermediate=1408, kv=128)


def test_a_model_crosses_the_backhaul_once_however_many_want_it(place, model):
    """Without the PIT each block would cross for each device that came before it was there."""
    size = place.publish(model, "acme/model")
    received, sent, wire, again = place.pull(["acme/model"] * DEVICES)
    assert received == sent == size
    assert size < wire < size * (1 + FRAMING)
    assert again == 0
    for number in range(DEVICES):
        place.same(number, "acme/model", model)


def test_it_crosses_once_for_devices_that_come_while_it_does(place, model):
    """A late one that began a sweep of its own would bring the beginning once more."""
    size = place.publish(model, "acme/model")
    chance = random.Random(7)
    starts = [0.0, *sorted(chance.uniform(0.0, 8 * size / RATE) for _ in range(DEVICES - 1))]
    assert all(one < other for one, other in pairwise(starts))
    received, sent, wire, again = place.pull(["acme/model"] * DEVICES, starts=starts)
    assert received == sent == size
    assert wire < size * (1 + FRAMING)
    assert again == 0


def test_a_base_crosses_once_for_different_adapters(place, model):
    """Each adapter brings its base along, under another name and hint."""
    size = place.publish(model, "acme/model")
    names = []
    for number in range(DEVICES):
        adapter = lora(
            place.root / f"lora{number}", layers=2, hidden=512, kv=128, base="acme/model",
            seed=number,
        )  # fmt: skip
        names.append(f"acme/lora{number}")
        place.publish(adapter, names[-1], "--base", "acme/model")
        weights = adapter / "adapter_model.safetensors"
        config = adapter / "adapter_config.json"
        size += weights.stat().st_size + (config.stat().st_size if number == 0 else 0)
    received, sent, wire, again = place.pull(names)
    # The adapters' headers and configs are equal, and cross once.
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    size -= header * (DEVICES - 1)
    assert received == sent == size
    assert wire < size * (1 + FRAMING)
    assert again == 0
    place.same(2, "acme/lora2", place.root / "lora2")
    place.same(2, "acme/model", model)


@pytest.mark.slow
def test_it_crosses_once_through_a_cache_that_is_smaller_than_the_model(place, tmp_path):
    """What is evicted before everybody has it is fetched again, and counted; a sweep keeps that
    far below one transfer for each device, also on a machine that is busy with other things."""
    model = write_llama(
        tmp_path / "larger", layers=2, hidden=1024, intermediate=2816, vocabulary=8000, kv=256
    )
    size = place.publish(model, "acme/larger")
    assert size > 2 * 32 * 1024 * 1024
    received, sent, _, again = place.pull(
        ["acme/larger"] * DEVICES, edge_args=("--capacity", "32MiB")
    )
    assert received == sent == size + again
    assert again < size
    place.same(0, "acme/larger", model)

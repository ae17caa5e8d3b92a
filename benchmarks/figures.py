"""What the system moves and stores, counted: reuse, fan-out, kills, disk.

    python -m benchmarks.figures [--seed N]

Real daemons and real commands on a Llama-shaped model of 0.3 GB. The origin sits in a network
namespace of its own when this runs as root, so that the kernel counts the bytes on its interface;
otherwise that line is left out, and said to be. docs/performance.md has the results.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from icnblocks.limits import MIB
from icnblocks.testing.device import Device
from icnblocks.testing.models import half_frozen, lora, write_llama
from icnblocks.testing.processes import poll_until, start_edge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.testing.processes import Edge

CONNECTIONS = 4
IN_FLIGHT = CONNECTIONS * 8 * MIB
"""The bound for one kill: for each connection the block being received, and what the kernel
buffers of the next ones (its send buffer of at most 4 MiB and receive buffer of at most 6 MiB,
halved by the kernel's own accounting)."""


def size_of(root: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def disk_of(root: Path) -> int:
    """Bytes that a directory takes on disk."""
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*"))


def say(what: str, value: float, bound: float, unit: str = "bytes") -> None:
    """One line: what, how much, and the bound that it should keep."""
    word = "ok" if value <= bound else "OVER"
    print(f"{what:66} {value:16,.4g} {unit:6} bound {bound:16,.4g}  {word}")


def reuse(root: Path, base: Path, origin: Edge, edge: Edge, publisher: Device) -> None:
    """An adapter and a half-frozen variant move what is theirs."""
    variant = half_frozen(base, root / "variant")
    adapter = lora(root / "adapter", layers=8, hidden=1536)
    changed = publisher.publish(variant, "acme/variant", origin.url)["bytes_sent"]
    publisher.publish(adapter, "acme/adapter", origin.url, "--base", "acme/base")
    device = Device(root / "reuse")
    device.fetch("acme/base", edge.url)
    done = device.fetch("acme/adapter", edge.url)
    say("adapter, base on the device: network", done["bytes_network"], size_of(adapter) + 65536)
    print(f"{'    its manifest':66} {done['bytes_manifest']:16,} bytes")
    done = device.fetch("acme/variant", edge.url)
    say("half-frozen variant after base: network", done["bytes_network"], changed + 65536)
    print(f"{'    its manifest':66} {done['bytes_manifest']:16,} bytes")


def fan_out(root: Path, base: Path, origin: Edge, pit: str) -> None:
    """Eight simultaneous cold pulls through one edge."""
    sent, wire = origin.metric("icn_sent_bytes_total"), interface_bytes()
    with start_edge(root / f"fan-{pit}", "--upstream", origin.url, "--pit", pit) as edge:
        devices = [Device(root / f"fan-{pit}-{number}") for number in range(8)]
        args = ("acme/base", "--from", edge.url, "--trust-first-use")
        running = [device.start("fetch", *args) for device in devices]
        for process in running:
            process.communicate()
            assert process.returncode == 0
    sent = origin.metric("icn_sent_bytes_total") - sent
    unique = size_of(base)
    if pit == "true":
        say("8 cold pulls: origin sent / model", sent / unique, 1.0, "x")
        if wire is not None:
            after = interface_bytes()
            assert after is not None
            say(
                "8 cold pulls: bytes on the origin's interface / model",
                (after - wire) / unique,
                1.03,
                "x",
            )
        else:
            print("8 cold pulls: bytes on the interface: not counted, needs root and iproute2")
    else:
        print(f"{'    the same without the PIT':66} {sent / unique:16,.4g} x")
    for device in devices:
        shutil.rmtree(device.root)


def kills(root: Path, base: Path, edge: Edge, seed: int) -> None:
    """A pull killed at ten random points."""
    chance, device = random.Random(seed), Device(root / "killed")
    sent = edge.metric("icn_sent_bytes_total")
    note = device.root / "models" / "acme" / "base" / ".icnblocks" / "map"
    count = 0
    for point in sorted(chance.random() for _ in range(10)):
        process = device.start("fetch", "acme/base", "--from", edge.url, "--trust-first-use")

        def reached(point: float = point) -> bool:
            return note.exists() and note.stat().st_size / 4 * MIB >= point * size_of(base)

        poll_until(lambda: process.poll() is not None or reached(), timeout_s=60)  # noqa: B023
        count += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = device.fetch("acme/base", edge.url)
    same = all(
        (Path(done["path"]) / path.name).read_bytes() == path.read_bytes()
        for path in base.iterdir()
    )
    sent = edge.metric("icn_sent_bytes_total") - sent
    print(f"{f'killed {count} times: result bit for bit the same':66} {same!s:>16}")
    say("    edge sent beyond the model", sent - size_of(base), count * IN_FLIGHT)


def disk(root: Path, base: Path, origin: Edge) -> None:
    """What a pulled and a published model take on disk."""
    device = Device(root / "disk")
    device.fetch("acme/base", origin.url)
    say("pulled model: disk / its size", disk_of(device.root) / size_of(base), 1.02, "x")
    store = root / "in-place"
    Device(root / "owner").run("publish", base, "acme/base", "--store", store).done()
    say("published in place: disk / its size", disk_of(store) / size_of(base), 0.02, "x")


def interface_bytes() -> int | None:
    """Bytes that the origin's end of the link has sent, or None if there is no such link."""
    path = Path("/sys/class/net/icnfig0/statistics/rx_bytes")
    return int(path.read_text()) if path.exists() else None


@contextmanager
def namespace() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A host for the origin: its address, and the words that run a command there."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        yield "127.0.0.1", ()
        return
    commands = (
        "ip netns add icnfig",
        "ip link add icnfig0 type veth peer name icnfig1 netns icnfig",
        "ip address add 10.199.199.1/30 dev icnfig0",
        "ip link set icnfig0 up",
        "ip -n icnfig address add 10.199.199.2/30 dev icnfig1",
        "ip -n icnfig link set icnfig1 up",
        "ip -n icnfig link set lo up",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield "10.199.199.2", ("ip", "netns", "exec", "icnfig")
    finally:
        subprocess.run(["ip", "netns", "del", "icnfig"], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="figures-") as folder, namespace() as (host, within):
        root = Path(folder)
        base = write_llama(
            root / "base", layers=8, hidden=1536, intermediate=4096, vocabulary=16000, kv=512
        )
        publisher = Device(root / "publisher", ICN_TOKEN="a-token-for-figures")
        print(f"model: {size_of(base):,} bytes\n")
        with (
            start_edge(
                root / "origin", "--token", "a-token-for-figures", listen=f"{host}:0", within=within
            ) as origin,
            start_edge(root / "edge", "--upstream", origin.url) as edge,
        ):
            publisher.publish(base, "acme/base", origin.url)
            reuse(root, base, origin, edge, publisher)
            fan_out(root, base, origin, "true")
            fan_out(root, base, origin, "false")
            kills(root, base, edge, options.seed)
            disk(root, base, origin)


if __name__ == "__main__":
    main()

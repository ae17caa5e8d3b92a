"""The network of the benchmark: origin -- edge -- switch -- devices, and one fan-out through it.

The origin serves the models twice: as a daemon, and as plain files by nginx, for curl and for
the caches that are compared with. Every fan-out begins with a cold edge and empty devices.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout.context import BACKHAUL, PORT, load, median
from benchmarks.fanout.nginx import nginx
from benchmarks.fanout.running import HELD, Command, processor_s, run_together
from icnblocks.testing.device import Device
from icnblocks.testing.network import network
from icnblocks.testing.processes import peak_mb, start_edge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.fanout.context import Context
    from benchmarks.fanout.material import Model
    from icnblocks.testing.network import Host, Link, Network, Switch
    from icnblocks.testing.processes import Edge

ROOT: Final = Path(__file__).resolve().parents[2]
DAEMON_PORT: Final = 4260
FILES_PORT: Final = 8080
CACHE_PORT: Final = 6081
RECEIVED: Final = "icn_upstream_received_bytes_total"
REFETCHED: Final = "icn_refetched_bytes_total"


@cache
def _startup_s(log: Path) -> float:
    """The median of five times."""
    module = ["benchmarks.fanout.held", "2", "0", "fetch"]  # it tells stderr, and stdin has ended
    words = [sys.executable, "-m", *module, "--help"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return median([run_together([Command(words, log, environ)]).seconds for _ in range(5)])


@dataclass(slots=True)
class Site:
    """A network, and an origin in it.

    Attributes:
        context: of the run.
        network: to add to.
        origin: the host of the origin.
        edge: the host of the edge.
        backhaul: origin (near) -- edge (far).
        switch: where the devices are.
        uplink: edge (near) -- switch (far).
        devices: hosts of the devices.
        ports: device (near) -- switch (far), one for each.
        daemon: the origin's.
        files: URL of the same models as plain files.
        startup_s: how long it takes to load what icn-fetch loads, alone.
    """

    context: Context
    network: Network
    origin: Host
    edge: Host
    backhaul: Link
    switch: Switch
    uplink: Link
    devices: list[Host]
    ports: list[Link]
    daemon: Edge
    files: str
    startup_s: float

    @property
    def edge_address(self) -> str:
        """Of the edge, as the devices see it."""
        return self.uplink.near.address

    def curl(self, model: Model, host: Host | None = None) -> dict[str, float]:
        """What curl gets alone over the backhaul: B in bytes a second, and its framing.

        The model's largest file, fetched by the edge's host (or another one) to nowhere. The
        real model's is large enough: 91 MB.
        """
        largest = max(model.files.iterdir(), key=lambda path: path.stat().st_size)
        url = f"{self.files}/{model.files.name}/{largest.name}"
        before = self.backhaul.far.counters()
        words = [*(host or self.edge).within, "curl", "-sSf", "--noproxy", "*", url]
        words += ["-o", "/dev/null"]
        times = run_together([Command(words, self.context.root / "curl.log")])
        size = largest.stat().st_size
        wire = self.backhaul.far.counters().since(before).received_bytes
        return {"seconds": times.seconds, "rate": size / times.seconds, "framing": wire / size - 1}

    @contextmanager
    def cold_edge(
        self, *args: str, upstreams: Sequence[str] = (), address: str = ""
    ) -> Iterator[Edge]:
        """An edge daemon with an empty store, towards the origin unless told otherwise."""
        towards = [word for url in upstreams or [self.daemon.url] for word in ("--upstream", url)]
        with cold_daemon(
            self.context.root / "edge", self.edge, address or self.edge_address, *towards, *args
        ) as edge:
            yield edge

    @contextmanager
    def empty_devices(self, count: int) -> Iterator[list[Device]]:
        """Devices that have nothing yet; their files are gone afterwards."""
        root = self.context.memory / "devices"
        shutil.rmtree(root, ignore_errors=True)
        try:
            yield [
                Device(root / str(number), NO_PROXY="*", no_proxy="*") for number in range(count)
            ]
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def fan_out(
        self,
        models: Sequence[Model],
        *,
        starts: Sequence[float] = (),
        held: bool = True,
    ) -> dict[str, Any]:
        """Cold edge, empty devices, all at once (or at `starts`): times and bytes.

        Args:
            models: one for each device.
            starts: seconds after the first; () is none.
            held: they are loaded beforehand, and let go together.
        """
        size = sum(model.unique + (model.base.unique if model.base else 0) for model in models)
        self.context.ballast.fill(size)
        with (
            self.cold_edge() as edge,
            self.empty_devices(len(models)) as devices,
        ):
            begun = starts or [0.0] * len(models)
            commands = [
                fetch(host, device, model.name, [edge.url], at=at, held=held)
                for host, device, model, at in zip(
                    self.devices[: len(models)], devices, models, begun, strict=True
                )
            ]
            return self.measured("icnblocks", commands, edge)

    def measured(self, who: str, commands: Sequence[Command], edge: Edge) -> dict[str, Any]:
        """Run devices of ours and count what crossed the backhaul and the uplink."""
        before = self.told(edge, RECEIVED)
        used = processor_s(edge.process.pid), processor_s(self.daemon.process.pid)
        found = self.timed(who, commands)
        found["backhaul_payload"] = self.told(edge, RECEIVED) - before
        found["refetched"] = self.told(edge, REFETCHED)
        found["edge_processor_s"] = processor_s(edge.process.pid) - used[0]
        found["origin_processor_s"] = processor_s(self.daemon.process.pid) - used[1]
        found["edge_rss_mb"] = peak_mb(edge.process.pid)
        return found

    def told(self, edge: Edge, counter: str) -> float:
        """What a counter of the edge daemon says."""
        return told(self.edge, edge, counter)

    def timed(self, who: str, commands: Sequence[Command]) -> dict[str, Any]:
        """Run processes side by side and count what the interfaces saw of it."""
        backhaul, uplink = self.backhaul.far.counters(), self.uplink.near.counters()
        # Filled before, too; but while 32 interpreters load, the kernel drops what was.
        times = run_together(commands, prepare=partial(self.context.ballast.fill, 0))
        return {
            "who": who,
            "devices": len(commands),
            "seconds": times.seconds,
            "each": sorted(times.each),
            "in_order": times.each,
            "user_s": times.user_s,
            "system_s": times.system_s,
            "backhaul_wire": self.backhaul.far.counters().since(backhaul).received_bytes,
            "uplink_wire": self.uplink.near.counters().since(uplink).sent_bytes,
            "load": load(),
            "startup_s": self.startup_s if any(command.held for command in commands) else 0.0,
        }


def told(host: Host, daemon: Edge, counter: str) -> float:
    """What a counter of a daemon on a host says."""
    with host.entered():
        return daemon.metric(counter)


@contextmanager
def cold_daemon(store: Path, host: Host, address: str, *args: str) -> Iterator[Edge]:
    """A daemon with an empty store on some host; the store is gone afterwards."""
    shutil.rmtree(store, ignore_errors=True)
    listen = f"{address}:{DAEMON_PORT}"
    try:
        with start_edge(store, *args, listen=listen, within=host.within) as edge:
            yield edge
    finally:
        shutil.rmtree(store, ignore_errors=True)


def fetch(
    host: Host | None, device: Device, name: str, sources: Sequence[str], *args: str,
    at: float = 0.0, awaited: bool = True, held: bool = True,
) -> Command:  # fmt: skip
    """An icn-fetch on a host (None: on this machine itself), loaded beforehand if it is `held`.

    With `--share` among `args` it counts as ended when it has everything, and serves on.
    """
    module = ["benchmarks.fanout.held", *HELD] if held else ["icnblocks_tools"]
    words = [*(host.within if host else ()), sys.executable, "-m", *module, "fetch", name]
    words += [word for url in sources for word in ("--from", url)]
    words += ["--trust-first-use", "--json", *args]
    paths = [str(ROOT), *filter(None, [device.environ.get("PYTHONPATH")])]
    environ = device.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    until = '"event": "done"' if "--share" in args else ""
    log = device.root / "fetch.log"
    return Command(words, log, environ, at=at, awaited=awaited, until=until, held=held)


@contextmanager
def site(
    context: Context,
    devices: int,
    *,
    backhaul: int | None = BACKHAUL,
    ports: Sequence[int] | int = PORT,
    uplink: int | None = None,
) -> Iterator[Site]:
    """The network with its origin; gone at the end.

    Args:
        context: of the run; the models that are used must have been made.
        devices: how many hosts.
        backhaul: bits a second between origin and edge.
        ports: between switch and devices, for all or one by one.
        uplink: between edge and switch; None: as fast as the machine can.
    """
    rates = [ports] * devices if isinstance(ports, int) else list(ports)
    with ExitStack() as stack:
        net = stack.enter_context(network(context.congestion))
        origin, edge, switch = net.host("origin"), net.host("edge"), net.switch("switch")
        middle = net.link(origin, edge, backhaul)
        up = net.plug(edge, switch, uplink)
        hosts = [net.host(f"device{number}") for number in range(devices)]
        plugs = [net.plug(host, switch, rate) for host, rate in zip(hosts, rates, strict=True)]
        edge.forward()
        origin.route(middle.far.address)
        for host in hosts:
            host.route(up.near.address)
        listen = f"{middle.near.address}:{DAEMON_PORT}"
        daemon = stack.enter_context(
            start_edge(context.material.store, listen=listen, within=origin.within)
        )
        with origin.entered():
            context.material.learn(daemon)
        files = stack.enter_context(
            nginx(context.root, origin, middle.near.address, FILES_PORT, context.material.files)
        )
        startup_s = _startup_s(context.root / "startup.log")
        yield Site(
            context, net, origin, edge, middle, switch, up, hosts, plugs, daemon, files, startup_s
        )

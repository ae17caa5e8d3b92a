"""Hosts of their own on one machine: network namespaces, links with rates, switches, lost packets.

For tests and benchmarks that need to know which bytes crossed which link. All of a network lies in
namespaces that are named after the process that made it: nothing of it is seen outside, it is gone
at the end of its context, and what a killed process left is removed when the next network is made.
Rates are those of `tc tbf`, without netem. This needs root on Linux with iproute2; where that is
missing, `obstacle()` says what. This must not touch the machine's own interfaces or rules; only
how its hosts keep TCP from congesting a link has to be allowed for the machine, and stays so.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = "icnnet"
_NAMED: Final = Path("/run/netns")
_LEAST_BURST: Final = 128 * 1024
"""Bytes that a shaped link lets through at once. Above the largest packet that the kernel makes
before it is cut for the wire (64 KiB and headers): `tbf` would cut it, at a cost."""
_BURST_S: Final = 0.004
"""The same in time: above what a timer of the kernel is late by."""
_QUEUE: Final = "200ms"
CUBIC: Final = "cubic"
"""How hosts keep TCP from congesting a link: as Linux does where nobody chose otherwise."""
_ALLOWED: Final = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
_CLONE_NEWNET: Final = 0x40000000
_numbers = count()


class NetworkImpossibleError(Exception):
    """No network namespaces can be made here; the text says why."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the kernel counted on an interface since it was made: bytes and packets."""

    received_bytes: int
    sent_bytes: int
    received_packets: int
    sent_packets: int
    dropped: int

    def since(self, before: Counters) -> Counters:
        """What came to it after `before`."""
        return Counters(
            self.received_bytes - before.received_bytes,
            self.sent_bytes - before.sent_bytes,
            self.received_packets - before.received_packets,
            self.sent_packets - before.sent_packets,
            self.dropped - before.dropped,
        )


@dataclass(frozen=True, slots=True)
class Host:
    """A host: a network namespace with loopback.

    Attributes:
        name: as it was asked for.
        space: name of the namespace, unique on the machine.
    """

    name: str
    space: str

    @property
    def within(self) -> tuple[str, ...]:
        """Words before a command that run it on this host, as the same process."""
        return ("nsenter", f"--net={_NAMED / self.space}")

    def run(self, *words: str) -> str:
        """Run a command here to its end; its output.

        Raises:
            RuntimeError: if it fails; the text has its standard error.
        """
        return _run(*self.within, *words)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command here with the options of Popen; gone with the network at the latest.

        It is here from its first moment (`within` would let it come a little later), so that a
        network that is removed at once finds it.
        """
        with self.entered():
            return subprocess.Popen(words, **options)

    def forward(self) -> None:
        """Be a router: pass on what is meant for others."""
        self.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def route(self, address: str) -> None:
        """Send what is for other networks by way of the router at this address."""
        self.run("ip", "route", "add", "default", "via", address)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is on this host while the context lasts.

        Sockets that it makes and processes that it starts meanwhile stay there; its other
        threads, and the sockets it had, are where they were.
        """
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(_NAMED / self.space)
            try:
                yield
            finally:
                _set(own)
        finally:
            os.close(own)

    @contextmanager
    def dropping(self, fraction: float, *, protocol: str = "tcp") -> Iterator[None]:
        """Drop this fraction of the packets that arrive here, at random, while the context lasts.

        Raises:
            NetworkImpossibleError: without iptables, or where the kernel lacks its `statistic`.
        """
        if shutil.which("iptables") is None:
            raise NetworkImpossibleError("iptables is not installed")
        chosen = ("-m", "statistic", "--mode", "random", "--probability", f"{fraction:.6f}")
        rule = ("INPUT", "-p", protocol, *chosen, "-j", "DROP")
        try:
            self.run("iptables", "-A", *rule)
        except RuntimeError as error:
            raise NetworkImpossibleError(f"iptables refuses: {error}") from None
        try:
            yield
        finally:
            self.run("iptables", "-D", *rule)


@dataclass(slots=True)
class Interface:
    """One end of a link.

    Attributes:
        host: whose end it is.
        device: its name there.
        address: its IPv4 address; empty at a switch.
    """

    host: Host
    device: str
    address: str = ""

    def counters(self) -> Counters:
        """What has gone through it so far."""
        text = _run("ip", "-n", self.host.space, "-j", "-s", "link", "show", "dev", self.device)
        told = json.loads(text)[0]["stats64"]
        rx, tx = told["rx"], told["tx"]
        return Counters(
            rx["bytes"], tx["bytes"], rx["packets"], tx["packets"], rx["dropped"] + tx["dropped"]
        )

    def shape(self, rate: int | None) -> None:
        """Let it send at most `rate` bits a second; None: as fast as it can."""
        with suppress(RuntimeError):  # there was no rate
            self.host.run("tc", "qdisc", "del", "dev", self.device, "root")
        if rate is not None:
            burst = max(_LEAST_BURST, int(rate / 8 * _BURST_S))
            words = f"tc qdisc add dev {self.device} root tbf rate {rate}bit burst {burst}"
            self.host.run(*words.split(), "latency", _QUEUE)

    def up(self) -> None:
        """Plug the cable in."""
        self.host.run("ip", "link", "set", self.device, "up")

    def down(self) -> None:
        """Pull the cable: neither end hears the other, and no connection is told."""
        self.host.run("ip", "link", "set", self.device, "down")

    def readdress(self, address: str) -> None:
        """Take another address of the same network; connections to the old one hear no more."""
        length = 24 if self.address.startswith("10.77.") else 16
        self.host.run("ip", "addr", "flush", "dev", self.device)
        self.host.run("ip", "addr", "add", f"{address}/{length}", "dev", self.device)
        self.address = address


@dataclass(frozen=True, slots=True)
class Link:
    """A cable: its two ends, in the order in which the hosts were named."""

    near: Interface
    far: Interface


@dataclass(slots=True)
class Switch:
    """A bridge in a namespace of its own; `Network.plug` joins hosts to it."""

    host: Host
    number: int
    ports: int = 0


class Network:
    """Hosts, links and switches; made by `network()`."""

    def __init__(self, congestion: str) -> None:
        self._congestion = congestion
        self._stem = f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"
        self._hosts: list[Host] = []
        self._links = 0
        self._switches = 0

    def host(self, name: str) -> Host:
        """A new host. How it keeps TCP from congesting a link is not this machine's choice."""
        host = Host(name, f"{self._stem}-{name}")
        self._hosts.append(host)  # before it is made: half made is to be removed, too
        _run("ip", "netns", "add", host.space)
        _run("ip", "-n", host.space, "link", "set", "lo", "up")
        host.run("sh", "-c", f"echo {self._congestion} >/proc/sys/net/ipv4/tcp_congestion_control")
        return host

    def link(self, near: Host, far: Host, rate: int | None, back: int | None = None) -> Link:
        """Join two hosts by a cable.

        Args:
            near: one end.
            far: the other.
            rate: bits a second from `near` to `far`; None: as fast as the machine can.
            back: the other way; None: the same.
        """
        self._links += 1
        stem = f"10.77.{self._links}"
        ends = Link(
            Interface(near, f"eth-{far.name}"[:15], f"{stem}.1"),
            Interface(far, f"eth-{near.name}"[:15], f"{stem}.2"),
        )
        self._lay(ends, (rate, rate if back is None else back), length=24)
        return ends

    def switch(self, name: str) -> Switch:
        """A new switch without ports."""
        host = self.host(name)
        self._switches += 1
        host.run("ip", "link", "add", "bridge", "type", "bridge")
        host.run("ip", "link", "set", "bridge", "up")
        return Switch(host, self._switches)

    def plug(self, host: Host, switch: Switch, rate: int | None, back: int | None = None) -> Link:
        """Join a host to a switch; `near` is the host's end and has an address there.

        Args:
            host: who is joined.
            switch: to what.
            rate: bits a second from the host to the switch; None: as fast as the machine can.
            back: from the switch to the host; None: the same.
        """
        switch.ports += 1
        high, low = divmod(switch.ports, 250)
        address = f"10.{77 + switch.number}.{high}.{low + 1}"
        ends = Link(
            Interface(host, f"eth-{switch.host.name}"[:15], address),
            Interface(switch.host, f"port{switch.ports}"),
        )
        self._lay(ends, (rate, rate if back is None else back), length=16)
        switch.host.run("ip", "link", "set", ends.far.device, "master", "bridge")
        return ends

    def _lay(self, ends: Link, rates: tuple[int | None, int | None], *, length: int) -> None:
        near, far = ends.near, ends.far
        pair = ("type", "veth", "peer", "name", far.device, "netns", far.host.space)
        _run("ip", "-n", near.host.space, "link", "add", near.device, *pair)
        for end, rate in zip((near, far), rates, strict=True):
            if end.address:
                end.host.run("ip", "addr", "add", f"{end.address}/{length}", "dev", end.device)
            end.up()
            if rate is not None:
                end.shape(rate)

    def close(self) -> None:
        """Kill what still runs on the hosts and remove them. Idempotent."""
        while self._hosts:
            _remove(self._hosts.pop().space)


@contextmanager
def network(congestion: str = CUBIC) -> Iterator[Network]:
    """A network of one's own, empty at first; gone at the end whatever happens.

    Args:
        congestion: how its hosts keep TCP from congesting a link.

    Raises:
        NetworkImpossibleError: where none can be made.
    """
    why = obstacle()
    if why:
        raise NetworkImpossibleError(why)
    sweep()
    _allow(congestion)
    made = Network(congestion)
    try:
        yield made
    finally:
        made.close()


def obstacle() -> str:
    """Why no network can be made here; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: iproute2, util-linux)"
    probe = f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-probe{next(_numbers)}"
    try:
        _run("ip", "netns", "add", probe)
        _run("ip", "netns", "del", probe)
    except RuntimeError as error:
        return f"this machine allows no network namespaces: {error}"
    return ""


def sweep() -> list[str]:
    """Remove what killed processes left behind; the namespaces that were."""
    gone = []
    for path in sorted(_NAMED.glob(f"{PREFIX}-*")):
        pid, _, rest = path.name.removeprefix(f"{PREFIX}-").partition("-")
        if pid.isdigit() and _started(int(pid)) != rest.partition("-")[0]:
            _remove(path.name)
            gone.append(path.name)
    return gone


def _allow(congestion: str) -> None:
    """A host may choose only what the machine allows to all: its own choice and what it is told."""
    allowed = _ALLOWED.read_text().split()
    if congestion not in allowed:
        try:
            _ALLOWED.write_text(" ".join([*allowed, congestion]))
        except OSError as error:
            raise NetworkImpossibleError(
                f"this kernel does not know {congestion}: {error}"
            ) from None


def _enter(space: Path) -> None:
    fd = os.open(space, os.O_RDONLY)
    try:
        _set(fd)
    finally:
        os.close(fd)


def _set(fd: int) -> None:
    """setns(2) of the calling thread alone; Python has it from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _remove(space: str) -> None:
    """A namespace lives on, nameless, as long as a process is in it: they go first."""
    if not (_NAMED / space).exists():
        return
    found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, check=False)
    for pid in found.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _started(pid: int) -> str:
    """When a process was started, in ticks of the kernel, so that its number means it alone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, check=False, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout

"""Networks that lose packets, part, and move hosts: daemons and devices on hosts of their own."""

import contextlib
import subprocess
import sys

import pytest

from icnblocks.limits import MIB
from icnblocks.testing.device import Device
from icnblocks.testing.network import NetworkImpossibleError, network
from icnblocks.testing.processes import poll_until, start_edge
from tests.faults.pulls import ASKED, QUICK, pulled

RATE = 12_000_000
"""Bits a second of a link on which a pull takes seven seconds: enough to cut it in its middle, also
where who cuts is held up for some of them."""
STOP = ("--stop-timeout", "1s")
"""A daemon that is stopped does not wait for those who can no longer be reached."""


@pytest.fixture
def net():
    try:
        with network() as made:
            yield made
    except NetworkImpossibleError as error:
        pytest.skip(str(error))


class Chain:
    """origin -- edge -- device, each a host of its own, with a daemon on the first two."""

    def __init__(self, net, store, tmp_path, stack, *options, rate=RATE):
        self.origin, self.edge, self.device = (net.host(n) for n in ("origin", "edge", "device"))
        far = net.link(self.origin, self.edge, rate)
        self.near = net.link(self.edge, self.device, None)
        self.upstream = stack.enter_context(
            start_edge(store, *STOP, listen=f"{far.near.address}:0", within=self.origin.within)
        )
        self.daemon = stack.enter_context(
            start_edge(
                tmp_path / "edge", "--upstream", self.upstream.url, *STOP, *options,
                listen=f"{self.near.near.address}:0", within=self.edge.within,
            )
        )  # fmt: skip

    def metric(self, name, **labels):
        with self.edge.entered():
            return self.daemon.metric(name, **labels)

    def start(self, device):
        with self.device.entered():
            return device.start("fetch", *ASKED, self.daemon.url)


@pytest.mark.parametrize(
    "loss", [0.01, pytest.param(0.05, marks=pytest.mark.slow)], ids=["1%", "5%"]
)
def test_lost_packets_make_a_pull_slower_and_nothing_else(
    loss, net, store, size, tmp_path, device, right
):
    """Catches: time limits so short that a connection which only lost packets counts as broken."""
    with contextlib.ExitStack() as stack:
        chain = Chain(net, store, tmp_path, stack, rate=None)
        stack.enter_context(chain.edge.dropping(loss))
        stack.enter_context(chain.device.dropping(loss))
        pulled(chain.start(device))
        assert chain.metric("icn_upstream_received_bytes_total") <= size
        assert right(device.root / "models" / "acme" / "model")


def survive_a_partition(chain, where, seconds_held, device, right):
    """Nothing arrives at a host for a while, in the middle of a pull; nobody is told."""
    process = chain.start(device)
    poll_until(lambda: chain.metric("icn_sent_bytes_total") > 2 * MIB)
    with where.dropping(1.0), contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds_held)
    assert process.poll() is None, "the pull is to be cut in its middle"
    pulled(process)
    assert right(device.root / "models" / "acme" / "model")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["device", "edge"])
def test_a_partition_longer_than_every_patience_with_one_connection_is_survived(
    where, net, store, tmp_path, right
):
    """Catches: a connection that is waited for though the network has parted, and retries that
    are used up while it has. At the edge both ways are cut."""
    device = Device(tmp_path / "device", ICN_STALL_S="1", ICN_RETRY_S="30")
    with contextlib.ExitStack() as stack:
        options = (*QUICK, "--upstream-retry", "30s", "--upstream-wait", "30s")
        chain = Chain(net, store, tmp_path, stack, *options)
        survive_a_partition(chain, getattr(chain, where), 3, device, right)


@pytest.mark.slow
def test_a_partition_of_thirty_seconds_is_survived(net, store, tmp_path, right):
    """As above, with the time limits that everybody has."""
    device = Device(tmp_path / "device")
    with contextlib.ExitStack() as stack:
        chain = Chain(net, store, tmp_path, stack)
        survive_a_partition(chain, chain.edge, 30, device, right)


@pytest.mark.slow
def test_a_device_that_vanishes_gives_back_its_place_and_its_leases(net, store, tmp_path):
    """Catches: a half-open connection that holds blocks in the budget for ever.

    The device is killed while its cable is out: the edge never hears that it is gone.
    """
    device = Device(tmp_path / "device")
    with contextlib.ExitStack() as stack:
        options = ("--send-grace", "1s", "--send-floor", "1MiB", "--alive-interval", "200ms")
        chain = Chain(net, store, tmp_path, stack, *options)
        process = chain.start(device)
        poll_until(lambda: chain.metric("icn_sent_bytes_total") > MIB)
        chain.near.far.down()
        process.kill()
        process.communicate()
        poll_until(
            lambda: chain.metric("icn_requests_in_flight") == 0, timeout_s=60,
            what="the place is given back",
        )  # fmt: skip
        poll_until(lambda: chain.metric("icn_pit_blocks") == 0)
        poll_until(lambda: chain.metric("icn_store_reserved_bytes") == 0)


def start_with_hosts(host, device, hosts, *args):
    """A pull by a device that finds names in a hosts file of its own."""
    words = ['mount --bind "$0" /etc/hosts && exec "$@"', str(hosts), sys.executable, "-m"]
    command = ["unshare", "-m", "sh", "-c", *words, "icnblocks_tools", "fetch", *args, "--json"]
    with host.entered():
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=device.environ
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "comes_back",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["same-name", "second-source"],
)
def test_an_edge_that_moves_to_another_address_is_found_again(
    comes_back, net, store, tmp_path, device, right
):
    """Catches: an address that is looked up once and kept, and a second source never asked.

    The edge takes another address in the middle of a pull; the name follows, or it does not and
    the device has been told of the origin, too.
    """
    hosts = tmp_path / "hosts"
    with contextlib.ExitStack() as stack:
        edge, user = net.host("edge"), net.host("device")
        switch = net.switch("switch")
        at = net.plug(edge, switch, RATE).near
        net.plug(user, switch, None)
        first, second = at.address, "10.78.0.200"
        daemon = stack.enter_context(
            start_edge(store, *STOP, listen="0.0.0.0:0", within=edge.within)
        )
        sources = ["--from", f"http://edge.test:{daemon.port}"]
        if not comes_back:
            sources += ["--from", f"http://{second}:{daemon.port}"]
        hosts.write_text(f"127.0.0.1 localhost\n{first} edge.test\n")
        process = start_with_hosts(user, device, hosts, "acme/model", "--trust-first-use", *sources)

        def sent():
            with edge.entered():
                return daemon.metric("icn_sent_bytes_total")

        poll_until(lambda: sent() > 2 * MIB)
        at.readdress(second)
        if comes_back:
            hosts.write_text(f"127.0.0.1 localhost\n{second} edge.test\n")
        pulled(process)
        assert right(device.root / "models" / "acme" / "model")

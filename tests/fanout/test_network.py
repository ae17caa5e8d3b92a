"""The network that figures are taken on: its rates, its counters, and that it leaves nothing."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from icnblocks.testing.network import NetworkImpossibleError, network, sweep
from icnblocks.testing.processes import poll_until

SPACES = Path("/run/netns")
MIB = 1 << 20


@contextmanager
def listening(host, address):
    with host.entered():
        server = socket.create_server((address, 0))
    server.settimeout(20)
    with server:
        yield server


def sink(server, size):
    """Take one connection's bytes in the background."""

    def take():
        taken, _ = server.accept()
        with taken:
            taken.settimeout(20)
            left = size
            while left and (piece := taken.recv(65536)):
                left -= len(piece)
            taken.sendall(b"!")

    thread = threading.Thread(target=take)
    thread.start()
    return thread


def send(host, server, size):
    with host.entered():
        client = socket.create_connection(server.getsockname(), timeout=20)
    with client:
        client.sendall(bytes(size))
        assert client.recv(1) == b"!"


@pytest.mark.usefixtures("net")
def test_hosts_keep_from_congestion_as_asked_whatever_the_machine_allowed_before():
    """Catches: hosts refused CUBIC on a machine whose image allows BBR and Reno only."""
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    for name in known:
        with network(name) as made:
            chosen = made.host("one").run("cat", "/proc/sys/net/ipv4/tcp_congestion_control")
            assert chosen.strip() == name
    with pytest.raises(NetworkImpossibleError, match="does not know vegas-and-mars"):
        network("vegas-and-mars").__enter__()


def test_hosts_are_apart_and_a_link_joins_them(net):
    one, two, three = net.host("one"), net.host("two"), net.host("three")
    link = net.link(one, two, None)
    with listening(two, link.far.address) as server:
        thread = sink(server, 10)
        send(one, server, 10)
        thread.join()
        with three.entered(), pytest.raises(OSError, match="unreachable"):
            socket.create_connection(server.getsockname(), timeout=5)


def test_a_switch_joins_all_and_a_router_leads_out(net):
    outside, edge, device = net.host("outside"), net.host("edge"), net.host("device")
    out, switch = net.link(outside, edge, None), net.switch("switch")
    up, port = net.plug(edge, switch, None), net.plug(device, switch, None)
    outside.route(out.far.address)
    device.route(up.near.address)
    edge.forward()
    with listening(outside, out.near.address) as server:
        thread = sink(server, 10)
        send(device, server, 10)
        thread.join()
    assert port.far.counters().received_packets > 0


def test_counters_tell_what_crossed_and_a_rate_what_may(net):
    """Without the rate nothing waits in its queue; without counters nothing could be claimed."""
    near, far = net.host("near"), net.host("far")
    link = net.link(near, far, 400_000_000)
    before = link.far.counters()
    with listening(far, link.far.address) as server:
        thread = sink(server, 8 * MIB)
        send(near, server, 8 * MIB)
        thread.join()
    crossed = link.far.counters().since(before)
    assert 8 * MIB <= crossed.received_bytes <= 1.06 * 8 * MIB
    told = near.run("tc", "-s", "qdisc", "show", "dev", link.near.device)
    assert "tbf" in told
    assert "rate 400Mbit" in told
    assert "overlimits 0" not in told


def test_a_cable_that_is_pulled_carries_nothing_until_it_is_back(net):
    one, two = net.host("one"), net.host("two")
    link = net.link(one, two, None)
    link.near.down()
    with listening(two, link.far.address) as server:
        with one.entered(), pytest.raises(OSError, match=r"unreachable|timed out"):
            socket.create_connection(server.getsockname(), timeout=0.3)
        link.near.up()
        thread = sink(server, 10)
        send(one, server, 10)
        thread.join()


def test_packets_are_dropped_only_while_it_is_asked_for(net):
    one, two = net.host("one"), net.host("two")
    link = net.link(one, two, None)
    try:
        with two.dropping(1.0):
            with listening(two, link.far.address) as server:
                with one.entered(), pytest.raises(TimeoutError):
                    socket.create_connection(server.getsockname(), timeout=0.3)
    except NetworkImpossibleError as error:
        pytest.skip(str(error))
    with listening(two, link.far.address) as server:
        thread = sink(server, 10)
        send(one, server, 10)
        thread.join()


def test_another_address_is_reached_where_the_old_one_was(net):
    one, two = net.host("one"), net.host("two")
    link = net.link(one, two, None)
    link.far.readdress("10.77.1.77")
    with listening(two, "10.77.1.77") as server:
        thread = sink(server, 10)
        send(one, server, 10)
        thread.join()
    assert "10.77.1.2/" not in two.run("ip", "addr")


def test_the_calling_thread_comes_back_from_a_host(net):
    own = os.readlink("/proc/thread-self/ns/net")
    with net.host("there").entered():
        assert os.readlink("/proc/thread-self/ns/net") != own
    assert os.readlink("/proc/thread-self/ns/net") == own


def test_nothing_is_left_behind_after_a_failure(net):
    """Processes that still run there would keep the namespace alive without a name."""
    process = None

    def breaks():
        nonlocal process
        with network() as made:
            process = made.host("lost").start("sleep", "600")
            raise KeyboardInterrupt

    before = set(SPACES.iterdir())
    with pytest.raises(KeyboardInterrupt):
        breaks()
    assert process.wait(10) == -signal.SIGKILL
    assert set(SPACES.iterdir()) <= before


def test_what_a_killed_process_left_is_removed_and_nobody_elses(net):
    net.host("mine")
    code = (
        "import sys, time\nfrom icnblocks.testing.network import network\n"
        "with network() as made:\n"
        "    made.host('lost').start('sleep', '600', stdout=-3)\n    print('up', flush=True)\n"
        "    time.sleep(600)\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert killed.stdout.readline() == b"up\n"
    left = [path.name for path in SPACES.glob(f"icnnet-{killed.pid}-*")]
    assert len(left) == 1
    killed.kill()
    killed.wait(10)
    killed.stdout.close()
    found = subprocess.run(["ip", "netns", "pids", left[0]], capture_output=True, check=True)
    (sleeper,) = found.stdout.split()
    assert not set(sweep()) - set(left)
    poll_until(lambda: not Path(f"/proc/{int(sleeper)}/ns/net").exists(), what="the sleeper's end")
    assert not (SPACES / left[0]).exists()
    assert list(SPACES.glob(f"icnnet-{os.getpid()}-*-mine"))


def test_hosts_keep_tcp_from_congesting_as_they_are_told(net):
    """Catches: hosts with what this machine happens to use."""
    with network("reno") as made:
        host = made.host("any")
        told = host.run("cat", "/proc/sys/net/ipv4/tcp_congestion_control")
        assert told.strip() == "reno"

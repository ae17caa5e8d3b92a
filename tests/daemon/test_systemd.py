"""Under systemd: the unit is valid and tight, and the real process speaks the real protocol."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from icnblocks.errors import UsageError
from icnblocks.testing.processes import launch_edge
from icnblocks_daemon.unit import render_unit

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze"
)


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    """The unit as `icn-edge print-unit` prints it."""
    program = Path(sys.executable).with_name("icn-edge")
    done = subprocess.run([program, "print-unit"], capture_output=True, text=True, check=True)
    path = tmp_path_factory.mktemp("unit") / "icn-edge.service"
    path.write_text(done.stdout)
    return path


def test_print_unit_starts_this_installation(unit):
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    assert line == f"ExecStart={Path(sys.executable).with_name('icn-edge')}"
    assert "@" not in line


@needs_analyze
def test_the_rendered_unit_is_valid(unit):
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_analyze
def test_the_rendered_unit_exposes_little(unit):
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", ["icn-edge", "/a\nb", '/a"b', ""])
def test_a_path_that_a_unit_cannot_name_is_refused(path):
    with pytest.raises(UsageError):
        render_unit(path)


def test_odd_paths_are_quoted():
    text = render_unit("/opt/my %tools$/icn-edge")
    assert 'ExecStart="/opt/my %%tools$$/icn-edge"' in text


class Manager:
    """What systemd is to a service: a socket that hears what it says."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(20)

    def expect(self, word):
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            if word in lines:
                return lines


@pytest.fixture
def manager(tmp_path):
    found = Manager(tmp_path / "notify")
    yield found
    found.socket.close()


def test_ready_watchdog_reload_and_stop_are_told_to_the_manager(tmp_path, manager):
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "150000"}
    edge = launch_edge(tmp_path / "store", environ=environ)
    try:
        lines = manager.expect("READY=1")
        assert any(line.startswith("STATUS=origin on") for line in lines)
        for _ in range(3):
            manager.expect("WATCHDOG=1")
        edge.process.send_signal(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in manager.expect("RELOADING=1"))
        manager.expect("READY=1")
        edge.process.send_signal(signal.SIGTERM)
        manager.expect("STOPPING=1")
        assert edge.stop() == 0
    finally:
        edge.kill()


def test_a_hung_process_feeds_no_watchdog(tmp_path, manager):
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "60000"}
    edge = launch_edge(tmp_path / "store", environ=environ)
    try:
        manager.expect("WATCHDOG=1")
        edge.process.send_signal(signal.SIGSTOP)
        manager.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            manager.expect("never said")  # what was on its way is read, then nothing more comes
        edge.process.send_signal(signal.SIGCONT)
        manager.socket.settimeout(10)
        manager.expect("WATCHDOG=1")
    finally:
        edge.kill()


def test_a_watchdog_meant_for_another_process_is_not_fed(tmp_path, manager):
    environ = {
        "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid()),
    }  # fmt: skip
    edge = launch_edge(tmp_path / "store", environ=environ)
    try:
        manager.expect("READY=1")
        manager.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            manager.socket.recv(4096)
    finally:
        edge.kill()

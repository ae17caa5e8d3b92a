"""Under systemd: the unit is valid and tight, and the real process speaks the real protocol."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from icnblocks.errors import UsageError, VersionError
from icnblocks.testing.processes import launch_edge
from icnblocks_daemon.notify import _watchdog
from icnblocks_daemon.unit import _HIDDEN, obstacle, render_unit

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


def test_the_service_can_tell_one_boot_from_another(unit):
    """Catches: no boot id in the service, so that each kill was handled as a power cut.

    The kernel shows nothing but processes below a /proc with `subset=pid`.
    """
    assert "ProcSubset" not in {line.split("=")[0] for line in unit.read_text().splitlines()}


def test_what_no_restart_mends_is_not_tried_again_for_ever(unit):
    """Catches: a start every two seconds for a store that a newer program has written."""
    assert f"RestartPreventExitStatus={VersionError.exit_code}" in unit.read_text().splitlines()


@pytest.mark.parametrize("path", ["icn-edge", "/a\nb", '/a"b', ""])
def test_a_path_that_a_unit_cannot_name_is_refused(path):
    with pytest.raises(UsageError):
        render_unit(path)


def test_odd_paths_are_quoted():
    text = render_unit("/opt/my %tools$/icn-edge")
    assert 'ExecStart="/opt/my %%tools$$/icn-edge"' in text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/opt/none/icn-edge", "there is no program /opt/none/icn-edge"),
        ("/etc/passwd", "is not executable"),
        ("/usr/bin/env", ""),
    ],
)
def test_a_program_that_the_service_could_not_run_is_warned_of(path, said):
    assert bool(obstacle(path)) == bool(said)
    assert said in obstacle(path)


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """A directory that stands for /home, beside one that the service sees."""
    for name in ("home", "opt"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("icnblocks_daemon.unit._HIDDEN", (str(tmp_path / "home"),))
    return tmp_path / "home"


@pytest.mark.parametrize("linked", [False, True])
def test_a_program_below_what_the_unit_hides_is_warned_of(hidden, linked):
    """It ended with 203/EXEC, and nothing had said why."""
    path = hidden / "icn-edge"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    if linked:
        (hidden.parent / "opt" / "icn-edge").symlink_to(path)
        path = hidden.parent / "opt" / "icn-edge"
    assert f"lies below {hidden}, which the unit hides" in obstacle(str(path))


def test_an_interpreter_below_what_the_unit_hides_is_warned_of(hidden):
    path = hidden.parent / "opt" / "icn-edge"
    path.write_text(f"#!{hidden}/python3\n")
    path.chmod(0o755)
    assert f"{hidden}/python3, which {path} needs, lies below {hidden}" in obstacle(str(path))
    path.write_text("#!/bin/sh\n")
    assert obstacle(str(path)) == ""


@pytest.mark.parametrize("folder", ["/home", "/root", "/run/user", "/tmp", "/var/tmp"])
def test_all_that_the_unit_hides_is_known(unit, folder):
    assert folder in _HIDDEN
    assert {"ProtectHome=yes", "PrivateTmp=yes"} <= set(unit.read_text().splitlines())


def test_print_unit_warns_on_stderr_and_prints_all_the_same():
    command = [Path(sys.executable).with_name("icn-edge"), "print-unit", "--exec", "/opt/no/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("icn-edge: warning: there is no program /opt/no/x: systemd")
    assert done.stderr.count("\n") == 1
    assert "ExecStart=/opt/no/x\n" in done.stdout


def test_the_unit_names_the_documentation_of_the_project(unit):
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith("Documentation=")]
    assert line.startswith("Documentation=file:///")
    assert line.endswith("/docs/operations.md")


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


@pytest.mark.parametrize("text", ["", "0", "x", "\u00b2", "9" * 5000])
def test_a_watchdog_interval_that_is_none_is_passed_over(text):
    assert _watchdog({"WATCHDOG_USEC": text}) is None


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

"""The demo is the promise of the README: it must work, be right, and leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


def _processes_with(text):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in command:
            found.append(command)
    return found


@pytest.mark.slow
def test_the_demo_shows_what_it_says_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, DEMO],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checks = [line for line in done.stdout.splitlines() if line.startswith(("  yes", "  NO"))]
    assert [line[:6] for line in checks] == ["  yes "] * 3, done.stdout
    assert list(tmp_path.iterdir()) == []
    assert _processes_with(str(tmp_path)) == []

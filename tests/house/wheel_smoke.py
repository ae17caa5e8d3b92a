"""Build the wheel, install it in an empty environment, and use it there as a stranger would.

`make wheel` runs this. It guards what an editable install hides: files that the wheel forgot,
a dependency that only the test tools brought, an import of torch where none is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (
    "icnblocks/py.typed",
    "icnblocks/testing/__init__.py",
    "icnblocks_daemon/py.typed",
    "icnblocks_daemon/systemd/icn-edge.service",
    "icnblocks_tools/py.typed",
)
COMMANDS = ("icn", "icn-edge", "icn-fetch", "icn-publish", "icn-show", "icn-sim", "icn-verify")
LOAD = """
import sys, json, struct, pathlib, icnblocks
model = pathlib.Path("model")
model.mkdir()
header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
(model / "model.safetensors").write_bytes(
    struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2.0))
assert icnblocks.load(model)["w"].tolist() == [1.5, -2.0]
from icnblocks.errors import UsageError
try:
    icnblocks.load(model, framework="torch")
except UsageError as error:
    assert "torch" in str(error), error
else:
    raise SystemExit("torch is not installed here, yet it was loaded")
import icnblocks_daemon, icnblocks_tools
assert "torch" not in sys.modules
"""


def run(*command: object, cwd: Path) -> str:
    """Run a command, show its output only if it fails, and give its standard output back."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="icn-wheel-") as scratch:
        place = Path(scratch)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", place, ROOT, cwd=place)
        (wheel,) = place.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        absent = [name for name in SHIPPED if name not in names]
        foreign = [name for name in names if not name.startswith("icnblocks")]
        assert not absent, f"the wheel lacks {absent}"
        assert not foreign, f"the wheel holds {foreign}"
        assert any(name.endswith("licenses/LICENSE") for name in names), "the wheel lacks LICENSE"

        venv.create(place / "venv", with_pip=False)
        programs = place / "venv" / "bin"
        pip = (sys.executable, "-m", "pip", "--python", programs / "python")
        run(*pip, "--disable-pip-version-check", "install", "--quiet", wheel, cwd=place)

        run(programs / "python", "-W", "error", "-c", LOAD, cwd=place)
        for command in COMMANDS:
            assert "Usage:" in run(programs / command, "--help", cwd=place), command
        version = wheel.name.split("-")[1]
        for command in ("icn", "icn-edge"):
            assert version in run(programs / command, "--version", cwd=place), command
        run(programs / "icn-edge", "--store", place / "store", "--check-config", cwd=place)
        unit = run(programs / "icn-edge", "print-unit", cwd=place)
        assert f"ExecStart={programs / 'icn-edge'}" in unit, unit
        print(json.dumps({"wheel": wheel.name, "bytes": wheel.stat().st_size, "smoke": "ok"}))


if __name__ == "__main__":
    main()

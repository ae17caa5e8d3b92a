"""The names that a script needs are seen by people, tab completion and type checkers."""

import subprocess
import sys

import pytest

import icnblocks


def test_the_names_are_listed():
    assert {"load", "open_model", "pull", "stream", "__version__"} <= set(dir(icnblocks))


@pytest.mark.slow  # mypy reads numpy
def test_a_misspelt_name_is_an_error_for_mypy_and_for_python(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import icnblocks\n\nicnblocks.load\nicnblocks.lod\n")
    run = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--config-file="]
    said = subprocess.run(
        [*run, "--follow-imports=silent", script], capture_output=True, text=True, check=False
    ).stdout
    assert 'has no attribute "lod"' in said
    assert '"load"' not in said.replace('maybe "load"', "")

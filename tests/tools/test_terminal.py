"""What others call things is shown, and does nothing to the terminal that it is shown on."""

import os
import subprocess
import sys
from pathlib import Path

from icnblocks.manifest.model import Tensor
from icnblocks.testing.device import Device
from icnblocks.testing.models import Part, noise, write_safetensors
from icnblocks.testing.processes import start_edge

EVIL = "w\x1b[2J\x1b]0;t\x07\r\n  manifest 00\x9b31m\u202e\u2028x"


def said(device: Device, *words: object) -> str:
    """What a command of `icn` says to people."""
    ran = subprocess.run(
        [sys.executable, "-m", "icnblocks_tools", *map(str, words)],
        env=device.environ, capture_output=True, check=False,
    )  # fmt: skip
    text = (ran.stdout + ran.stderr).decode()
    assert "Traceback" not in text
    return text


def test_the_names_of_tensors_do_nothing_to_a_terminal(tmp_path):
    """Catches: escape sequences and lines of a publisher's own in what icn-show and icn-verify say.

    He could have cleared the screen, or written that another manifest was looked at.
    """
    device = Device(tmp_path / "device")
    tensor = Tensor(EVIL, "U8", (4,))
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "model.safetensors", [Part(tensor, noise(tensor, 7))])
    with start_edge(tmp_path / "origin") as origin:
        device.publish(tmp_path / "m", "acme/m", origin.url)
        pulled = Path(device.fetch("acme/m", origin.url)["path"])
    file = pulled / "model.safetensors"
    with file.open("r+b") as changed:
        changed.seek(-1, os.SEEK_END)
        last = changed.read(1)[0]
        changed.seek(-1, os.SEEK_END)
        changed.write(bytes([last ^ 1]))
    for words in (("show", "acme/m"), ("show", "acme/m", "--all"), ("verify", pulled)):
        text = said(device, *words)
        assert r"w\x1b[2J\x1b]0;t\x07\r\n  manifest 00\x9b31m\u202e\u2028x" in text, words
        assert text.replace("\n", "").isprintable(), words
        assert not any(line.startswith("  manifest 00") for line in text.splitlines()), words


def test_what_standard_output_cannot_say_is_spelled_out(tmp_path):
    """Catches: a traceback in the middle of what a command was run for."""
    device = Device(tmp_path / "device", PYTHONIOENCODING="latin-1")
    (tmp_path / "м").mkdir()
    (tmp_path / "м" / "файл").write_bytes(b"bytes")
    device.run("publish", tmp_path / "м", "acme/m", "--store", tmp_path / "store").done()
    text = said(device, "show", "acme/m", "--store", tmp_path / "store", "--trust-first-use")
    assert f"{tmp_path}/\\u043c" in text
    assert "  \\u0444\\u0430\\u0439\\u043b  5 B" in text


def test_beside_a_bar_a_line_is_said_as_it_is():
    """Catches: `:100:` in a path that became a picture, and a URL in two lines."""
    line = f"warning: /data/:100:/{'x' * 100} {'y' * 100}"
    code = (
        "from icnblocks_tools.output import make_output\n"
        "with make_output(as_json=False) as output:\n"
        "    output.begin('acme/m', 1000)\n"
        f"    output.say('warning', '{line}')\n"
    )
    ours, theirs = os.openpty()
    try:
        subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=60)
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert line in shown

"""The systemd unit that is shipped, and its rendering for this installation."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from icnblocks.errors import UsageError

UNIT_NAME: Final = "icn-edge.service"
_PROGRAM: Final = "icn-edge"
_MARK: Final = "@EXEC@"
_DOCS_LINE: Final = "Documentation=@DOCS@\n"
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108
"""What ProtectHome and PrivateTmp keep from the service."""
_ADVICE: Final = (
    "systemd would say 203/EXEC; install into a place of its own, for example"
    " python3 -m venv /opt/icnblocks, and name that with --exec /opt/icnblocks/bin/icn-edge"
)


def unit_template() -> str:
    """The shipped unit, with @EXEC@ where the program goes.

    Raises:
        UsageError: if this installation lacks it.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "systemd", here.parent / "systemd"):  # installed; in a checkout
        path = folder / UNIT_NAME
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise UsageError(f"{UNIT_NAME} is not part of this installation")


def program() -> str:
    """The absolute path of `icn-edge`, as this installation runs it."""
    beside = str(Path(sys.executable).with_name(_PROGRAM))
    for path in (os.path.abspath(sys.argv[0]), beside, shutil.which(_PROGRAM)):
        if path and os.path.basename(path) == _PROGRAM and os.access(path, os.X_OK):
            return path
    raise UsageError("cannot find the installed icn-edge program", hint="give --exec PATH")


def obstacle(path: str) -> str:
    """Why the service could not run this program; empty if nothing is known against it."""
    if not os.path.isfile(path):
        return f"there is no program {path}: {_ADVICE}"
    if not os.access(path, os.X_OK):
        return f"{path} is not executable: {_ADVICE}"
    runs = [path, os.path.realpath(path)]
    interpreter = _interpreter(path)
    if interpreter:
        runs += [interpreter, os.path.realpath(interpreter)]
    for each in runs:
        for folder in _HIDDEN:
            if each.startswith(f"{folder}/"):
                needed = "" if each == path else f", which {path} needs,"
                return f"{each}{needed} lies below {folder}, which the unit hides: {_ADVICE}"
    return ""


def _interpreter(path: str) -> str:
    """What the first line of a script names; empty for other programs."""
    try:
        with open(path, "rb") as file:
            line = file.readline(4096)
    except OSError:
        return ""
    words = line[2:].split() if line.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def _docs_line() -> str:
    """Where the daemon's documentation lies, if it came with this installation."""
    path = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
    return f"Documentation={path.as_uri().replace('%', '%%')}\n" if path.is_file() else ""


def render_unit(path: str) -> str:
    """The unit that runs the program at `path` (absolute).

    Raises:
        UsageError: if the path cannot stand in a unit.
    """
    if not os.path.isabs(path) or not path.isprintable() or '"' in path or "\\" in path:
        raise UsageError(f"not a path that a unit can name: {path!r}")
    quoted = path.replace("%", "%%").replace("$", "$$")
    if " " in quoted:
        quoted = f'"{quoted}"'
    return unit_template().replace(_MARK, quoted).replace(_DOCS_LINE, _docs_line())

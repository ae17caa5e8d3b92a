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
    return unit_template().replace(_MARK, quoted)

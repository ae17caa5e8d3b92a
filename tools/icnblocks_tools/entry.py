"""Where the commands begin: `icn`, and its short forms `icn-fetch`, `icn-publish` and so on.

Nothing is imported here before an interrupt may come: until there is somebody to answer it in a
line, it ends the program as it ends any other, without a traceback. This module must not do more.
"""

import gc
import signal

GARBAGE = 200_000
"""Objects more than there were, for which it is worth looking for garbage. Imports and the manifest
of a large model make so many, all of which stay."""


def _begin(name: str) -> None:
    gc.set_threshold(GARBAGE)
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from icnblocks_tools.main import command, run

    found = command(name)
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run(found, name)


def main() -> None:
    """Entry point of `icn`."""
    _begin("icn")


def fetch() -> None:
    """Entry point of `icn-fetch`."""
    _begin("icn-fetch")


def publish() -> None:
    """Entry point of `icn-publish`."""
    _begin("icn-publish")


def show() -> None:
    """Entry point of `icn-show`."""
    _begin("icn-show")


def verify() -> None:
    """Entry point of `icn-verify`."""
    _begin("icn-verify")


def sim() -> None:
    """Entry point of `icn-sim`."""
    _begin("icn-sim")

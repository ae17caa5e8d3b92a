"""The `icn` command, and how every command is run as a program.

Commands are imported when they are run, so that `--help` is fast. This module turns every error
into one line and a stable exit code; it must not do any command's work.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from typing import Final, NoReturn

import click

from icnblocks.errors import Fault, IcnError, StorageError, UsageError
from icnblocks_tools.lazy import LazyGroup, load

COMMANDS: Final = {
    "fetch": ("icnblocks_tools.fetch:fetch", "Pull a model into a directory, ready to run."),
    "publish": ("icnblocks_tools.publish:publish", "Cut, sign and publish a model directory."),
    "show": (
        "icnblocks_tools.show:show",
        "Say what a model is made of, and what two models share.",
    ),
    "verify": ("icnblocks_tools.verify:verify", "Recheck a directory or a store, and repair it."),
    "withdraw": ("icnblocks_tools.keys:withdraw", "Withdraw a tag that you published."),
    "rotate-key": (
        "icnblocks_tools.keys:rotate_key",
        "Replace a publisher key by a new one that the old one signs.",
    ),
    "sim": ("icnblocks_tools.sim:sim", "Replay access traces: which policy, how much disk?"),
    "edge": ("icnblocks_daemon.cli:icn_edge", "Run the edge cache daemon (icn-edge)."),
}
_WRITING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class Interrupted(IcnError):
    """Ctrl-C."""

    code, exit_code, fault, retry = "interrupted", 130, Fault.USER, True
    advice = "run it again to go on"


@click.group(cls=LazyGroup, table=COMMANDS)
def icn() -> None:
    """Named blocks of model parameters: publish, fetch, look, verify, serve, simulate."""


def command(name: str) -> click.Command:
    """The command of a program: `icn`, or one of its short forms, `icn-` and its name there."""
    return icn if name == "icn" else load(COMMANDS[name.removeprefix("icn-")][0])


def report(error: IcnError, *, as_json: bool) -> None:
    """Print an error: one line with what to do next, or one JSON object."""
    if as_json:
        fields = {
            "event": "error",
            "error": error.code,
            "message": str(error),
            "hint": error.hint,
            "fault": error.fault,
            "retry": error.retry,
            "exit_code": error.exit_code,
        }
        click.echo(json.dumps(fields))
        return
    hint = f" ({error.hint})" if error.hint else ""
    click.echo(f"error: {error}{hint}", err=True)


def run(command: click.Command, name: str) -> NoReturn:
    """Run a click command as a program and exit with its stable code."""
    as_json = "--json" in sys.argv[1:]
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Paths that are no text go out as they are; what an encoding lacks is spelled out.
        whole = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if whole else "backslashreplace")
    try:
        version = click.version_option(package_name="icnblocks", message="%(prog)s %(version)s")
        _run(version(command), name, as_json=as_json)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it was closed before we began
                stream.flush()
    except BrokenPipeError:  # whoever read our output is gone
        _hush()
        sys.exit(1)
    # Everything was closed: taking down the interpreter would cost what a hundred blocks do.
    os._exit(0)


def _run(command: click.Command, name: str, *, as_json: bool) -> None:
    try:
        helps = ["-h", "--help"]  # of the commands below it, too
        command.main(prog_name=name, standalone_mode=False, help_option_names=helps)
    except BrokenPipeError:
        raise
    except OSError as error:
        _fail(StorageError.of(error, _whose(error)), as_json=as_json)
    except MemoryError:
        hint = "ask for less at a time, or use a machine with more memory"
        _fail(IcnError("there is not enough memory for this", hint=hint), as_json=as_json)
    except IcnError as error:
        _fail(error, as_json=as_json)
    except UnicodeEncodeError as error:
        if sys.getfilesystemencoding() == "utf-8":  # a mistake of ours
            raise
        what = f"{error.object[:200]!a} cannot be named here: the locale is not UTF-8"
        _fail(UsageError(what, hint="set PYTHONUTF8=1 or LC_ALL=C.UTF-8"), as_json=as_json)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail(Interrupted("interrupted; what arrived is kept"), as_json=as_json)
    except RuntimeError as error:  # after click's, which are of this kind
        if "can't start new thread" not in str(error):
            raise
        hint = "end other programs, or allow more (`ulimit -u`; in a container, its pids limit)"
        _fail(IcnError("the system gives this no more threads", hint=hint), as_json=as_json)
    except click.ClickException as error:
        if as_json:
            _fail(UsageError(error.format_message()), as_json=True)
        error.show()
        sys.exit(error.exit_code)


def _whose(error: OSError) -> str:
    """What the system speaks of; only our own output is written to without a name."""
    if error.filename:
        return str(error.filename)
    return "standard output" if error.errno in _WRITING else "the system"


def _fail(error: IcnError, *, as_json: bool) -> NoReturn:
    try:
        report(error, as_json=as_json)
    except BrokenPipeError:
        raise
    except OSError:  # our own output is what cannot be written
        _hush()
        report(error, as_json=False)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # Python would try it once more, and end with a code of its own
        _hush()
    sys.exit(error.exit_code)


def _hush() -> None:
    """Let nothing more go to standard output, whose buffer Python would try to empty at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

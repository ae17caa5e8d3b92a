"""`icn-edge prefetch`: hands a plan's part for one edge to its daemon, and shows how it goes.

The work is the daemon's: this command may be interrupted at any time. It must not write the
store, nor decide anything about the plan.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from icnblocks.errors import (
    BusyError,
    IcnError,
    IncompleteError,
    NotFoundError,
    SourceError,
    UsageError,
)
from icnblocks.quantities import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

    from icnblocks_daemon.prefetch_client import Daemon

POLL_S: Final = 0.5
LINE_EVERY_S: Final = 10.0
"""Between two lines about progress where there is no terminal."""
PATIENCE_S: Final = 30.0
"""How long a daemon may be away (it restarts, say) while it is waited for."""
_NAMED: Final = 5
_WAITS: Final = {"window": "for its window", "room": "for room", "retry": "to try again"}


@click.command("prefetch", short_help="Bring the models of a plan here, and pin those it pins.")
@click.argument("plan", required=False, metavar="[PLAN]")
@click.option("--edge", metavar="NAME", help="The edge of the plan that this daemon is.")
@click.option(
    "--url", metavar="URL", help="The daemon; by default, the one whose settings these are."
)
@click.option("--rate", metavar="RATE", help="Bring at most this much, e.g. 50Mbit or 5MB/s.")
@click.option(
    "--window",
    metavar="FROM-TO",
    help="Bring only then, by the daemon's local time, e.g. 01:00-05:00.",
)
@click.option("--bases/--no-bases", default=True, help="Bring the bases of adapters too, or not.")
@click.option("--wait/--no-wait", default=True, help="Wait until all is here (the default), or go.")
@click.option("--status", "status", is_flag=True, help="Say how far the plan in force is.")
@click.option("--cancel", "cancel", is_flag=True, help="End it, and release what it pins.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for scripts.")
@click.pass_context
def prefetch(
    context: click.Context,
    plan: str | None,
    edge: str | None,
    url: str | None,
    rate: str | None,
    window: str | None,
    *,
    bases: bool,
    wait: bool,
    status: bool,
    cancel: bool,
    as_json: bool,
) -> None:
    """Make a plan real: bring the models that PLAN names for an edge, and pin those it pins.

    PLAN is a file as `icn-sim place` writes it (`-` reads standard input). The running daemon
    does the work, and goes on with it after a restart. A new plan takes the place of the old one.
    Writing needs what publishing needs: to be on the same machine, or a token (ICN_TOKEN).

    \b
    Examples:
      icn-edge prefetch plan.json --edge cellar --rate 50Mbit --window 01:00-05:00
      icn-edge prefetch plan.json --edge roof --url http://roof:4260 --no-wait
      icn-edge prefetch --status --url http://roof:4260

    Exit codes: 0 all is here, 2 usage, 4 a model is not known (the rest is here), 7 not a plan,
    9 daemon unreachable, 10 something cannot be had (yet), 14 not allowed, or the pins do not fit,
    130 interrupted (the daemon goes on).
    """
    talk = _talk(as_json=as_json)
    try:
        if (plan is not None) + status + cancel != 1:
            raise UsageError(
                "one of PLAN, --status and --cancel is expected", hint="icn-edge prefetch --help"
            )
        if plan is None and (edge, rate, window) != (None, None, None):
            raise UsageError("--edge, --rate and --window go with a PLAN")
        order = None if plan is None else _order(plan, edge, rate, window, bases=bases)
        daemon = _daemon(context, url)
        if order is None:
            told = daemon.cancel() if cancel else daemon.status()
            talk.result(told)
            return
        told = daemon.put(order)
        if wait:
            told = _follow(daemon, told, talk)
        talk.result(told)
        _conclude(told, wait=wait)
    except IcnError as error:
        talk.error(error)
        raise
    except KeyboardInterrupt:
        talk.end()
        click.echo("the daemon goes on; --status says how far it is, --cancel ends it", err=True)
        raise click.Abort from None


def _daemon(context: click.Context, url: str | None) -> Daemon:
    from icnblocks_daemon.prefetch_client import Daemon, daemon_url

    if url is None:
        from icnblocks_daemon.cli import config_path

        flags = dict(context.parent.params) if context.parent is not None else {}
        flags.pop("check_config", None)
        path = config_path(flags.pop("config_file", None), os.environ)
        url = daemon_url(path, os.environ, flags)
    return Daemon(url)


def _order(
    plan: str, edge: str | None, rate: str | None, window: str | None, *, bases: bool
) -> bytes:
    """The order that a plan file means for one of its edges."""
    from icnblocks.client.settings import read_limit
    from icnblocks.siting.planfile import parse_plan
    from icnblocks_daemon.prefetch_order import Entry, Order, write_order
    from icnblocks_daemon.prefetch_pace import Window

    terms = Order("", edge=edge or "", bases=bases)
    if rate is not None:
        try:
            terms.rate = read_limit(rate)
        except ValueError as error:
            raise UsageError(f"--rate: {error}") from None
    if window is not None:
        terms.window = Window.parse(window)
    found = parse_plan(_read(plan))
    if edge is None:
        if len(found.edges) != 1:
            some = ", ".join(sorted(found.edges)[:_NAMED])
            raise UsageError(
                f"the plan is for {len(found.edges)} edges", hint=f"--edge, one of: {some}"
            )
        (terms.edge,) = found.edges
    terms.entries = [Entry(str(one.model), one.pin) for one in found.of(terms.edge)]
    return write_order(terms)


def _read(plan: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if plan == "-" else Path(plan).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"no such file: {plan}") from None
    except OSError as error:
        raise UsageError(f"cannot read {plan}: {error.strerror}") from None


def _follow(daemon: Daemon, told: dict[str, Any], talk: _Plain) -> dict[str, Any]:
    """Show how it goes, until it is done or no more of it can be had for now."""
    ident, heard_at = told.get("id"), time.monotonic()
    while told["state"] in {"fetching", "waiting"} and told.get("waits_for") != "retry":
        talk.progress(told)
        time.sleep(POLL_S)
        try:
            told = daemon.status()
        except (SourceError, BusyError):
            if time.monotonic() - heard_at > PATIENCE_S:
                raise
            continue
        heard_at = time.monotonic()
        if told.get("id") != ident:
            raise IncompleteError(
                "another plan took the place of this one", hint="look with --status"
            )
    return told


def _conclude(told: dict[str, Any], *, wait: bool) -> None:
    """The exit code.

    Raises:
        NotFoundError: if all that is wrong is that models are not known.
        IncompleteError: if something else could not be had, or not yet.
    """
    if told["state"] == "cancelled":
        raise IncompleteError("the plan was cancelled")
    models = told["models"]
    count = models["failed"] + (models["left"] if wait else 0)
    if not count:
        return
    # Of many only some are told, but of each kind of failure one.
    failures = [one for one in told["failures"] if wait or not one["again"]]
    names = ", ".join(one["model"] for one in failures[:_NAMED])
    more = ", ..." if count > _NAMED else ""
    text = f"{count} of {models['planned']} models cannot be had: {names}{more}"
    if wait and models["left"]:
        raise IncompleteError(text, hint="the daemon tries again by itself; look with --status")
    if all(one["error"] in {"not-found", "withdrawn"} for one in failures):
        raise NotFoundError(text, hint="the rest is taken care of; correct the plan")
    raise IncompleteError(text, hint="the rest is taken care of; the messages above say why")


def _terms(told: dict[str, Any]) -> str:
    rate = f", at most {human_bytes(told['rate'])}/s" if told["rate"] else ""
    return rate + (f", only {told['window']}" if told["window"] else "")


def _summary(told: dict[str, Any]) -> str:
    if told["state"] == "none":
        return "there is no plan"
    models, sizes = told["models"], told["bytes"]
    title = f"{told['edge'] or 'plan'}: {told['state']}"
    if told["waits_for"]:
        title += f" {_WAITS[told['waits_for']]}"
    return (
        f"{title}; {models['done']} of {models['planned']} models are here,"
        f" {models['pinned']} pinned, {models['failed']} failed;"
        f" {human_bytes(sizes['fetched'])} brought,"
        f" {human_bytes(sizes['left'])} to come{_terms(told)}"
    )


class _Plain:
    """Lines: results on standard output, progress and failures on standard error."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def progress(self, told: dict[str, Any]) -> None:
        """Called twice a second."""
        if time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            click.echo(_summary(told), err=True)

    def result(self, told: dict[str, Any]) -> None:
        """What the command was run for."""
        self.end()
        for one in told.get("failures", ()):
            again = "; it is tried again" if one["again"] else ""
            click.echo(f"{one['model']}: {one['message']}{again}", err=True)
        click.echo(_summary(told))

    def error(self, error: IcnError) -> None:  # noqa: ARG002
        """It failed; the line about it is the caller's."""
        self.end()

    def end(self) -> None:
        """Let go of the terminal."""


class _Bar(_Plain):
    """The same with a bar, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[Progress, TaskID] | None = None

    def progress(self, told: dict[str, Any]) -> None:
        progress, task = self._shown or self._show()
        sizes, models = told["bytes"], told["models"]
        waits = f", waiting {_WAITS[told['waits_for']]}" if told["waits_for"] else ""
        progress.update(
            task,
            total=sizes["planned"],
            completed=sizes["planned"] - sizes["left"],
            description=f"{models['done']} of {models['planned']} models{waits}",
        )

    def result(self, told: dict[str, Any]) -> None:
        if self._shown is not None and "bytes" in told:
            self.progress(told)  # or the bar would end short of its end
        super().result(told)

    def _show(self) -> tuple[Progress, TaskID]:
        from rich import progress
        from rich.console import Console

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        bar.start()
        self._shown = bar, bar.add_task("", total=None)
        return self._shown

    def end(self) -> None:
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None


class _Json(_Plain):
    """One JSON object a line on standard output; progress when there is some."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, Any] = {}

    def progress(self, told: dict[str, Any]) -> None:
        if told != self._told:
            self._told = told
            self._say("progress", told)

    def result(self, told: dict[str, Any]) -> None:
        self._say("status", told)

    def error(self, error: IcnError) -> None:
        fields = {"error": error.code, "message": str(error), "hint": error.hint}
        ended = {"fault": error.fault, "retry": error.retry, "exit_code": error.exit_code}
        self._say("error", {**fields, **ended})

    @staticmethod
    def _say(event: str, fields: dict[str, Any]) -> None:
        click.echo(json.dumps({"event": event, **fields}))


def _talk(*, as_json: bool) -> _Plain:
    kind: Callable[[], _Plain] = _Json if as_json else _Bar if sys.stderr.isatty() else _Plain
    return kind()

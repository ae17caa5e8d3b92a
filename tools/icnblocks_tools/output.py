"""How commands talk: a bar on a terminal, quiet lines in a log, JSON lines for scripts.

This module must not know what a command does; it is handed counts and facts.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TextIO

import click

from icnblocks.quantities import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.progress import Progress, TaskID

LINE_EVERY_S: Final = 10.0
"""Seconds between two lines about progress in a log or in JSON."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits there; a stream that was closed from the start is None."""
    return stream is not None and stream.isatty()


def printable(text: str) -> str:
    """Text of others for a terminal, which must not do what it says."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class Output(Protocol):
    """Where a command says what happens. A context manager: leaving it ends a bar."""

    def say(self, event: str, text: str, **facts: object) -> None:
        """Something worth a line: `text` for people, `event` and `facts` for scripts."""
        ...

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A long piece of work begins: `total` bytes, of which `done` are done."""
        ...

    def advance(self, count: int, what: str = "") -> None:
        """`count` more bytes are done; `what` names the work anew."""
        ...

    def end(self) -> None:
        """The piece of work is over."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class _Plain:
    """Lines on standard error, now and then one about progress; results on standard output."""

    def __init__(self, results: frozenset[str]) -> None:
        self._results = results
        self._what, self._total, self._done = "", 0, 0
        self._began = self._last = 0.0

    def say(self, event: str, text: str, **facts: object) -> None:  # noqa: ARG002
        click.echo(text, err=event not in self._results)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done = what, total, done
        self._began = self._last = time.monotonic()

    def advance(self, count: int, what: str = "") -> None:
        self._done += count
        self._what = what or self._what
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            self._line(now - self._began)

    def _line(self, seconds: float) -> None:
        click.echo(
            f"{self._what}: {human_bytes(self._done)} of {human_bytes(self._total)}"
            f" after {seconds:.0f} s",
            err=True,
        )

    def end(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


class _Json(_Plain):
    """One JSON object a line on standard output."""

    def say(self, event: str, text: str, **facts: object) -> None:
        fields: dict[str, Any] = {"event": event, **facts}
        if event not in {"done", "progress"}:
            fields.setdefault("message", text)
        click.echo(json.dumps(fields, default=str))

    def _line(self, seconds: float) -> None:
        self.say(
            "progress", "", what=self._what, bytes=self._done, total=self._total, seconds=seconds
        )


class _Bar(_Plain):
    """A progress bar on a terminal."""

    def __init__(self, results: frozenset[str]) -> None:
        super().__init__(results)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def say(self, event: str, text: str, **facts: object) -> None:
        if self._progress is not None:
            console = self._progress.console
            console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
        else:
            super().say(event, text, **facts)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        from rich import progress
        from rich.console import Console

        self.end()
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=5,
        )
        self._progress.start()
        self._task = self._progress.add_task(what, total=total, completed=done)

    def advance(self, count: int, what: str = "") -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count, description=what or None)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


def make_output(*, as_json: bool, results: Iterable[str] = ("done",)) -> Output:
    """The right way to talk, given where standard error goes.

    Args:
        as_json: for scripts: everything as JSON lines on standard output.
        results: events that the command was run for, so that they go to standard output.
    """
    kind = _Json if as_json else _Bar if is_terminal(sys.stderr) else _Plain
    return kind(frozenset(results))

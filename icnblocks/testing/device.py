"""Devices for tests: the real commands run as processes, each device with its own files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended.

    Attributes:
        code: its exit code.
        events: the JSON objects that it printed, in order.
        err: its standard error.
    """

    code: int
    events: list[dict[str, Any]]
    err: str

    @property
    def last(self) -> dict[str, Any]:
        """The last event: the summary, or the error."""
        return self.events[-1]

    def done(self) -> dict[str, Any]:
        """The summary.

        Raises:
            AssertionError: if the command did not end well.
        """
        assert self.code == 0, (self.events[-1:], self.err)
        assert self.last["event"] == "done", self.events
        return self.last


class Device:
    """A machine of its own, as far as icnblocks can tell: its own models, indexes, keys and trust.

    Args:
        root: where everything of it lies.
        **environ: more variables, for example ICN_STALL_S.
    """

    def __init__(self, root: Path, **environ: str) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        (root / "config.toml").touch()
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ICN_")}
        # It starts as where it was installed: with its modules compiled.
        clean.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environ = clean | {
            "ICN_CONFIG": str(root / "config.toml"),
            "ICN_MODELS": str(root / "models"),
            "ICN_STORE": str(root / "store"),
            "ICN_KEYS": str(root / "keys"),
            "ICN_KNOWN_PUBLISHERS": str(root / "known_publishers"),
            "ICN_TRUST_FILE": os.devnull,
            "no_proxy": "127.0.0.1,localhost",
            **environ,
        }

    def start(self, command: str, *args: object) -> subprocess.Popen[bytes]:
        """Start a command of `icn` with --json; the caller waits for it or kills it."""
        words = [sys.executable, "-m", "icnblocks_tools", command, *map(str, args), "--json"]
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environ
        )

    def run(self, command: str, *args: object) -> Ran:
        """Run a command of `icn` with --json to its end."""
        process = self.start(command, *args)
        out, err = process.communicate(timeout=LIMIT_S)
        return Ran(
            process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()
        )

    def publish(self, directory: Path, name: str, url: str, *args: object) -> dict[str, Any]:
        """Publish to an origin; the summary."""
        return self.run("publish", directory, name, "--to", url, *args).done()

    def fetch(self, name: str, url: str, *args: object) -> dict[str, Any]:
        """Pull from a source, trusting on first use; the summary."""
        return self.run("fetch", name, "--from", url, "--trust-first-use", *args).done()

"""The main job on real weights: `make demo` runs this.

Starts an origin and an edge, publishes a sentence model and two LoRA adapters that are trained
here and now, pulls them to two devices, runs them there, and compares what comes out with what
the original files give. Everything lives in one temporary directory and is gone at the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icnblocks.testing.processes import Edge, start_edge
from icnblocks.testing.sentences import TASKS, embed, minilm_dir, train_lora

BASE = "demo/minilm"
ADAPTERS = {"medicine": "demo/minilm-medicine", "law": "demo/minilm-law"}
SENTENCES = [side for pairs in TASKS.values() for pair in pairs for side in pair]
SLACK = 64 * 1024  # what a pull may move beyond the bytes that are new to the device


@dataclass(frozen=True)
class Row:
    """What one model of one pull moved, in bytes."""

    device: str
    name: str
    model: int
    network: int
    reused: int


@dataclass(frozen=True)
class Pull:
    """One `icn-fetch`: its rows, where things lie, and what crossed the backhaul meanwhile."""

    rows: list[Row]
    path: Path
    base: Path
    backhaul: int


class Machine:
    """A machine of its own, as far as icnblocks can tell: its settings point to its own folder."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self._environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ICN_")},
            "NO_PROXY": "127.0.0.1",
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_DATA_HOME": str(home / "data"),
        }

    def run(self, *command: object) -> list[dict[str, Any]]:
        """Run one of the commands here with --json, and give what it said."""
        program, *arguments = (str(part) for part in command)
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *arguments, "--json"],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{program} ended with {done.returncode}: {done.stdout}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def fetch(self, name: str, edge: Edge, fingerprint: str) -> Pull:
        """Pull a model through the edge."""
        before = backhaul_bytes(edge)
        said = self.run("icn-fetch", name, "--from", edge.url, "--trust", fingerprint)
        models = [event for event in said if event["event"] == "model"]
        rows = [
            Row(self.name, m["name"], m["bytes_model"], m["bytes_network"], m["bytes_reused"])
            for m in models
        ]
        base, path = Path(models[0]["path"]), Path(models[-1]["path"])
        return Pull(rows, path, base, backhaul_bytes(edge) - before)


def backhaul_bytes(edge: Edge) -> int:
    """Bytes of blocks that the edge has received from its upstreams so far."""
    return round(edge.metric("icn_upstream_received_bytes_total"))


def publish(machine: Machine, directory: Path, name: str, origin: Edge, *more: str) -> str | None:
    """Publish a directory; the fingerprint of the key, if one had to be made."""
    said = machine.run("icn-publish", directory, name, "--to", origin.url, *more)
    (sent,) = [event["bytes_sent"] for event in said if event["event"] == "done"]
    print(f"  published {name}: {sent:,} bytes sent to the origin")
    return next((event["fingerprint"] for event in said if event["event"] == "key"), None)


def print_table(pulls: list[Pull]) -> None:
    """For each pull: bytes of the model, from the network, reused, and over the backhaul."""
    line = "{:<8} {:<22} {:>12} {:>12} {:>12} {:>12}"
    print(line.format("device", "model", "its bytes", "network", "reused", "backhaul"))
    for pull in pulls:
        for row in pull.rows:
            last = row is pull.rows[-1]
            moved = [f"{count:,}" for count in (row.model, row.network, row.reused)]
            print(line.format(row.device, row.name, *moved, f"{pull.backhaul:,}" if last else ""))


def same_embeddings(originals: Path, pull: Pull, task: str) -> bool:
    """Do the pulled directories give what the original files give, to the last bit?"""
    expected = embed(originals / "minilm", SENTENCES, originals / task)
    plain = embed(originals / "minilm", SENTENCES)
    found = embed(pull.base, SENTENCES, pull.path)
    equal = expected.tobytes() == found.tobytes() and expected.tobytes() != plain.tobytes()
    print(f"  {pull.rows[-1].name} on {pull.base.name}: {'equal' if equal else 'DIFFERENT'}")
    return equal


def main() -> None:
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="icn-demo-") as scratch:
        place = Path(scratch)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(place / "torch")  # else a folder stays in /tmp
        originals = place / "originals"
        print("Training two LoRA adapters on a real sentence model ...")
        minilm_dir(originals / "minilm")
        for task in TASKS:
            train_lora(originals / "minilm", originals / task, task=task, base_name=BASE)

        print("Starting an origin and an edge, publishing ...")
        with (
            start_edge(place / "origin") as origin,
            start_edge(place / "edge", "--upstream", origin.url, "--capacity", "1GB") as edge,
        ):
            author = Machine("author", place / "author")
            fingerprint = publish(author, originals / "minilm", BASE, origin)
            assert fingerprint is not None, "no key was made for the publisher"
            for task, name in ADAPTERS.items():
                publish(author, originals / task, name, origin, "--base", BASE)

            print("Pulling through the edge ...")
            a, b = Machine("A", place / "a"), Machine("B", place / "b")
            base = a.fetch(BASE, edge, fingerprint)
            medicine = a.fetch(ADAPTERS["medicine"], edge, fingerprint)
            law = b.fetch(ADAPTERS["law"], edge, fingerprint)

        print()
        print_table([base, medicine, law])
        print("\nEmbeddings by transformers + peft, pulled against original files:")
        equal = [
            same_embeddings(originals, p, t) for p, t in ((medicine, "medicine"), (law, "law"))
        ]

        weights = sum(row.model for row in base.rows)
        adapter = medicine.rows[-1]
        checks = {
            "both devices give the very bits that the original files give": all(equal),
            "A's adapter moved its own bytes and nothing of the base": (
                sum(row.network for row in medicine.rows) <= adapter.model + SLACK
            ),
            "the base crossed the backhaul once, for two devices": (
                base.backhaul <= weights and law.backhaul <= law.rows[-1].model + SLACK
            ),
        }
    print()
    for what, holds in checks.items():
        print(f"  {'yes' if holds else 'NO '}  {what}")
    print(f"\n{time.monotonic() - began:.0f} s; nothing is left running, no files are left behind.")
    sys.exit(0 if all(checks.values()) else 1)


if __name__ == "__main__":
    main()

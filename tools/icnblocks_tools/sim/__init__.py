"""`icn-sim`: replay access traces, ask for advice, make traces, place models.

A new command is one line in COMMANDS and one file beside this one, with a click command in it
that imports what it needs when it runs: this module and the head of each file import click and
nothing heavy, so that `--help` is fast.
"""

from __future__ import annotations

from typing import Any, Final

import click

from icnblocks_tools.lazy import LazyGroup

COMMANDS: Final = {
    "replay": (
        "icnblocks_tools.sim.replay:replay",
        "Replay a trace with policies and capacities, and say what they reach.",
    ),
    "advise": (
        "icnblocks_tools.sim.advise:advise",
        "Say which policy and how much disk suit the requests of a trace.",
    ),
    "make": ("icnblocks_tools.sim.make:make", "Make a trace of requests for a library of models."),
    "place": ("icnblocks_tools.sim.place:place", "Say which edge should keep which model."),
}


class _Simulations(LazyGroup):
    """Says what an interrupt means: unlike pulls, what was done by then is of no use later."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            from icnblocks_tools.main import Interrupted

            hint = "nothing is kept for another run"
            raise Interrupted("interrupted", hint=hint) from None


@click.group(cls=_Simulations, table=COMMANDS)
def sim() -> None:
    """Which eviction policy, and how much disk? Traces of model requests, replayed.

    docs/traces.md describes the format of traces; `icn-edge --trace FILE` writes one.
    """

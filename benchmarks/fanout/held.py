"""`icn-fetch`, or the floor, loaded and then held until all others are, too: see `running`.

    python -m benchmarks.fanout.held READY GATE fetch ARGUMENTS...
    python -m benchmarks.fanout.held READY GATE floor JOB

A machine that plays 32 devices would spend the first seconds of a fan-out on loading 32
interpreters, which 32 devices do beside each other. So each process loads what icn-fetch loads,
says so on the descriptor READY, and goes on when GATE is closed. This must do nothing that
icn-fetch would not do before it knows what it is to fetch.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from icnblocks_tools.entry import GARBAGE, fetch


def main() -> None:
    gc.set_threshold(GARBAGE)  # as icn-fetch does first of all
    import benchmarks.suite.loaded  # noqa: F401

    ready, gate = int(sys.argv[1]), int(sys.argv[2])
    program, *words = sys.argv[3:]
    if program == "floor":
        from benchmarks.suite import floor

        gc.disable()  # as by itself
    os.write(ready, b".")
    os.close(ready)
    os.read(gate, 1)  # nothing is ever written: it ends when the gate is closed
    os.close(gate)
    if program == "floor":
        floor.do(Path(*words))
    sys.argv = ["icn-fetch", *words]
    fetch()


if __name__ == "__main__":
    main()

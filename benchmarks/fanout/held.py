"""`icn-fetch`, loaded and then held until all others are, too: see `running`.

    python -m benchmarks.fanout.held READY GATE icn-fetch-arguments...

A machine that plays 32 devices would spend the first seconds of a fan-out on loading 32
interpreters, which 32 devices do beside each other. So each process loads what icn-fetch loads,
says so on the descriptor READY, and goes on as icn-fetch when GATE is closed. This must do
nothing that icn-fetch would not do before it knows what it is to fetch.
"""

from __future__ import annotations

import os
import sys

import benchmarks.suite.loaded  # noqa: F401
from icnblocks_tools.entry import fetch


def main() -> None:
    ready, gate = int(sys.argv[1]), int(sys.argv[2])
    sys.argv = ["icn-fetch", *sys.argv[3:]]
    os.write(ready, b".")
    os.close(ready)
    os.read(gate, 1)  # nothing is ever written: it ends when the gate is closed
    os.close(gate)
    fetch()


if __name__ == "__main__":
    main()

"""`python -m tests.simulation`: run seeds of the simulation, and say which fail.

python -m tests.simulation --seed 4711      one seed, with all that happened in it
python -m tests.simulation --count 1000     many, from --first on
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.simulation.world import FailedError, run


def main() -> int:
    """Run what is asked for; 1 if any seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--first", type=int, default=0, help="the first of many")
    parser.add_argument("--count", type=int, default=100, help="how many")
    asked = parser.parse_args()
    first, count = (asked.first, asked.count) if asked.seed is None else (asked.seed, 1)
    logging.disable(logging.CRITICAL)  # what the product logs is not what happened
    failed = []
    began = time.perf_counter()
    for seed in range(first, first + count):
        try:
            world = run(seed)
        except FailedError as error:
            failed.append(seed)
            print(error if asked.seed is not None else str(error).splitlines()[-1], flush=True)
            if asked.seed is None:
                print(f"    seed {seed}", flush=True)
        else:
            if asked.seed is not None:
                print(*world.events, world.plan, sep="\n")
    spent = time.perf_counter() - began
    print(f"{count} seeds in {spent:.1f} s, {len(failed)} failed: {failed[:20]}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

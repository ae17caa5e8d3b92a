"""How long a replay of a million requests over 300 models of 100 blocks takes.

    python -m benchmarks.replay_speed [--requests N] [--capacity PERCENT]... [POLICY...]

Half of a model's blocks are shared with the other variants of its base; Zipf 0.9. Prints seconds
of CPU, which other programs on the machine hardly change, beside seconds by the clock.
"""

from __future__ import annotations

import argparse
import random
import time
from itertools import accumulate

from icnblocks.cache.replay.replay import Replay
from icnblocks.cache.replay.trace import Trace, TraceBuilder

MODELS, BLOCKS, BASES, SIZE = 300, 100, 6, 1 << 20


def trace(requests: int) -> Trace:
    """Seeded; one request a second."""
    rng, builder = random.Random(1), TraceBuilder()
    for model in range(MODELS):
        shared = [(f"base {model % BASES} {at}", SIZE) for at in range(BLOCKS // 2)]
        own = [(f"own {model} {at}", SIZE) for at in range(BLOCKS // 2)]
        builder.model(model, shared + own)
    weights = list(accumulate((rank + 1) ** -0.9 for rank in range(MODELS)))
    for t, model in enumerate(rng.choices(range(MODELS), cum_weights=weights, k=requests)):
        builder.get(t, str(model))
    return builder.build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("policies", nargs="*", default=["lru", "sharing"])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--capacity", type=int, action="append", help="percent of unique bytes")
    options = parser.parse_args()
    began = time.process_time()
    made = trace(options.requests)
    print(f"made {len(made)} requests in {time.process_time() - began:.1f} s of CPU", flush=True)
    for policy in options.policies:
        for percent in options.capacity or (5, 15, 50):
            began = time.process_time()
            result = Replay(made, policy, made.unique_bytes * percent // 100).run()
            print(
                f"{policy:10} {percent:3} %  {time.process_time() - began:7.1f} s of CPU,"
                f" {result.seconds:7.1f} s; model hits {result.model_hit_ratio:.3f},"
                f" evictions {result.evictions}, plans {result.plans},"
                f" {result.plan_seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()

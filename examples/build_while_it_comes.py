"""Put a model's tensors where they are needed while the rest is still on its way.

python examples/build_while_it_comes.py acme/minilm        (ICN_FROM says where to ask)

Here they are copied into a dict, and it is printed when each kind of layer was complete; a program
would move them to a device. The second time the model is on this machine, and loaded from there.
"""

from __future__ import annotations

import json
import sys
import time

import icnblocks
from icnblocks.errors import IcnError


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    began, parameters = time.monotonic(), {}
    try:
        with icnblocks.stream(sys.argv[1], trust_first_use=True) as tensors:
            config = json.loads(tensors.read("config.json"))  # files without tensors come first
            print(f"{time.monotonic() - began:6.2f} s  a model of type {config.get('model_type')}")
            for name, tensor in tensors:
                parameters[name] = tensor.copy()
                if len(parameters) % 20 == 1:
                    print(f"{time.monotonic() - began:6.2f} s  {len(parameters):4} tensors: {name}")
            print(f"{time.monotonic() - began:6.2f} s  all of {tensors.wait()}")
    except IcnError as error:
        sys.exit(f"error: {error} ({error.hint})")


if __name__ == "__main__":
    main()

"""Pull a model if need be, and look at its tensors with numpy, without a second copy of it.

python examples/load_numpy.py acme/minilm        (a name; ICN_FROM says where to ask)
python examples/load_numpy.py ./minilm           (a directory)

With ICN_TRUST_FIRST_USE=1 the key of a publisher never met before is accepted.
"""

from __future__ import annotations

import sys

import icnblocks
from icnblocks.errors import IcnError


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        with icnblocks.open_model(sys.argv[1]) as model:
            for name in model:
                info = model.info(name)
                print(f"{info.dtype:>8} {info.shape!s:>20} {info.length:>12,} bytes  {name}")
            floats = [name for name in model if model.info(name).dtype == "F32"]
            if floats:
                print(f"mean of {floats[0]}: {model.tensor(floats[0]).mean():.6f}")
    except IcnError as error:
        sys.exit(f"error: {error} ({error.hint})")


if __name__ == "__main__":
    main()

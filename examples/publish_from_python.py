"""Publish a model directory from Python, and say what a fetcher has to know.

python examples/publish_from_python.py ./minilm acme/minilm http://origin:4260
"""

from __future__ import annotations

import sys
from pathlib import Path

from icnblocks.client.settings import load_settings
from icnblocks.errors import IcnError
from icnblocks.naming import Name
from icnblocks.publish.facade import publish
from icnblocks.publish.keys import load_or_make_key


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    directory, origin = Path(sys.argv[1]), sys.argv[3]
    try:
        name = Name.parse(sys.argv[2])
        key_file = load_settings().keys / f"{name.publisher}.pem"
        key = load_or_make_key(key_file)
        published = publish(directory, name, to=origin, key=key_file)
    except IcnError as error:
        sys.exit(f"error: {error} ({error.hint})")
    print(f"{name} is manifest {published.manifest}; {published.bytes_sent:,} bytes were sent")
    print(f"icn-fetch {name} --from {origin} --trust {key.fingerprint}")


if __name__ == "__main__":
    main()

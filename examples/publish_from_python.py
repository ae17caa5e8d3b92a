"""Publish a model directory from Python, and say what a fetcher has to know.

python examples/publish_from_python.py ./minilm acme/minilm http://origin:4260
python examples/publish_from_python.py ./minilm-med acme/minilm-med http://origin:4260 acme/minilm

The last word is the base of an adapter: whoever pulls the adapter gets it too.
"""

from __future__ import annotations

import sys

from icnblocks.client.settings import load_settings
from icnblocks.errors import IcnError
from icnblocks.naming import Name
from icnblocks.publish.facade import publish
from icnblocks.publish.keys import load_or_make_key


def main() -> None:
    if len(sys.argv) not in {4, 5}:
        sys.exit(__doc__)
    directory, called, origin, *rest = sys.argv[1:]
    base = rest[0] if rest else None
    try:
        name = Name.parse(called)
        key_file = load_settings().keys / f"{name.publisher}.pem"
        key = load_or_make_key(key_file)
        published = publish(directory, name, to=origin, key=key_file, base=base)
    except IcnError as error:
        sys.exit(f"error: {error} ({error.hint})")
    print(f"{name} is manifest {published.manifest}; {published.bytes_sent:,} bytes were sent")
    print(f"icn-fetch {name} --from {origin} --trust {key.fingerprint}")


if __name__ == "__main__":
    main()

"""What `icn-fetch` has loaded by the time that it asks for its first block.

To import this must be all that it does.
"""

import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401  (by the first record)

import icnblocks.puller  # noqa: F401
import icnblocks_tools.fetch
import icnblocks_tools.main  # noqa: F401

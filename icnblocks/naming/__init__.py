"""Names: digests of bytes, and names of models. Pure: no I/O, no clock."""

from icnblocks.naming.digest import DIGEST_BYTES, Digest, Hasher
from icnblocks.naming.name import Name

__all__ = ["DIGEST_BYTES", "Digest", "Hasher", "Name"]

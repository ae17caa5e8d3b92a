"""Every bound of the formats and the protocol, in one place.

A count, length or depth that comes from a file or the network is compared with one of these
before anything is allocated for it. This module must not hold settings that a user may change.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024

BLOCK_BYTES: Final = MIB
"""The one default size of a block; docs/decisions/block-size.md says why."""
MIN_BLOCK_BYTES: Final = 4 * KIB
MAX_BLOCK_BYTES: Final = 16 * MIB

MAX_MANIFEST_BYTES: Final = 256 * MIB
MAX_FILES: Final = 100_000
MAX_RUNS: Final = 500_000
"""Tensors and plain runs of one manifest, all files together."""
MAX_BLOCKS: Final = 8_000_000
MAX_FILE_BYTES: Final = 1 << 50
MAX_PATH_BYTES: Final = 1024
MAX_TENSOR_NAME_BYTES: Final = 1024
MAX_TENSOR_DIMS: Final = 32
MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format itself."""
MAX_EXTRA_BYTES: Final = 64 * KIB
"""Unknown fields of a newer minor version, per manifest or record."""

MAX_PART_CHARS: Final = 96
"""Characters of a publisher, a model or a tag."""

MAX_RECORD_BYTES: Final = 16 * KIB
MAX_ROTATIONS: Final = 16
MAX_CLOCK_SKEW_S: Final = 600
DEFAULT_LIFETIME_S: Final = 60
MAX_LIFETIME_S: Final = 30 * 24 * 3600

MAX_WANTS: Final = 1024
"""Wants in one bundle."""
BUNDLE_WANTS: Final = 64
"""Wants that our own client puts into a bundle (few enough to steal, many enough to stream)."""
MAX_BUNDLE_BYTES: Final = 64 * KIB
"""A bundle request: MAX_WANTS of 36 bytes, and its few other fields."""
MAX_HOPS: Final = 16
"""Daemons that a bundle may pass before it is taken for a loop."""
MAX_NEIGHBOURS: Final = 64
"""Devices that an edge names to another at a time, at most."""
MAX_PRIORITY: Final = 7
"""Of a bundle; the larger goes first."""
DEFAULT_PRIORITY: Final = 3
MAX_NACK_TEXT_BYTES: Final = 512
MAX_REQUEST_BYTES: Final = 1_000_000
"""Largest request body: a stock nginx refuses more than 1 MiB."""
MISSING_BATCH: Final = 16_384
"""Digests in one missing-set query."""
MAX_HAVE_BYTES: Final = 16 + MAX_BLOCKS // 8
"""A have-map: its head, and a bit for each block where runs are not shorter."""
MAX_BASES: Final = 8
"""Bases that a pull follows from an adapter, one the base of the other."""
MAX_OPEN_PARTS_BYTES: Final = 64 * MIB
"""Memory that a daemon gives to uploaded blocks of which parts are still to come."""
MAX_ERROR_BYTES: Final = 64 * KIB
"""An error answer: what a client reads of it before it gives up on the text."""

MAX_KNOWN_BLOCKS: Final = 4_000_000
"""Blocks of all manifests that an eviction policy knows at a time."""

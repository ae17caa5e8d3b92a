"""Headers that clients and daemons both know."""

from __future__ import annotations

from typing import Final

VERSION_HEADER: Final = "ICN-Version"
"""The protocol that is spoken, on every request and answer."""
VIA_HEADER: Final = "ICN-Via"
"""The ids of the daemons that it came through."""
NAME_HEADER: Final = "ICN-Name"
"""With a manifest or a single block: the model under whose name to look upstream."""
EXPECT_HEADER: Final = "ICN-Expect"
EXPECT_BLOCKS: Final = "blocks"
"""With a manifest: all of its blocks will be asked for next."""

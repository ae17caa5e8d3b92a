"""Headers that clients and daemons both write on requests."""

from __future__ import annotations

from typing import Final

VIA_HEADER: Final = "ICN-Via"
"""The ids of the daemons that it came through."""
NAME_HEADER: Final = "ICN-Name"
"""With a manifest or a single block: the model under whose name to look upstream."""

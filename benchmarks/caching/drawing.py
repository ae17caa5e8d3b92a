"""Charts as SVG files that come out the same from the same figures."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def figure(path: Path, panels: int, *, columns: int) -> Iterator[list[Any]]:
    """Axes to draw on; written to `path` at the end."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    # Without the date and with fixed ids: the file changes when the figures do.
    with mpl.rc_context({"svg.hashsalt": "icnblocks", "font.size": 9, "axes.grid": True,
                         "grid.alpha": 0.3}):  # fmt: skip
        rows = -(-panels // columns)
        drawn, axes = plt.subplots(
            rows, columns, figsize=(5 * columns, 3.6 * rows), squeeze=False, layout="constrained"
        )
        flat = list(axes.flat)
        for spare in flat[panels:]:
            spare.set_visible(False)
        yield flat[:panels]
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, metadata={"Date": None})
        plt.close(drawn)

"""What `/metrics` serves is what docs/operations.md tells operators of: no more and no less."""

import re
from pathlib import Path

from icnblocks.testing.exchange import call
from icnblocks.testing.processes import start_edge

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_every_metric_is_documented_and_every_documented_one_is_served(origin, tmp_path):
    """Catches: a dashboard built from the document that stays empty."""
    section = OPERATIONS.read_text().partition("## Metrics and status")[2]
    table = section.partition("`/v1/status` is")[0]
    told, last = set(), ""
    for full, ending in re.findall(r"`(?:(icn_\w+)|\.\.\.(_\w+))(?:\{[\w,]+\})?`", table):
        last = full or re.sub(r"_[a-z]+_total$", ending, last)
        told.add(last)
    with start_edge(tmp_path / "edge", "--upstream", origin.url) as edge:
        text = call(edge, "GET", "/metrics").body.decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    served = {name for name in types if name.startswith("icn_") and not name.endswith("_created")}
    assert told == served

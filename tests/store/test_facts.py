"""Facts of files: a change right after they were taken shows."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from icnblocks.store.facts import FileFacts, let_times_move_on

if TYPE_CHECKING:
    from pathlib import Path


def test_a_change_right_after_shows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for turn in range(20):
        path.write_bytes(b"%02d" % turn)
        facts = FileFacts.of(os.stat(path))
        let_times_move_on([facts])
        path.write_bytes(b"%02d" % (turn + 50))
        assert FileFacts.of(os.stat(path)) != facts


def test_it_waits_until_the_clock_has_passed_and_not_for_ever() -> None:
    soon = time.time_ns() + 8_000_000
    let_times_move_on([FileFacts(1, soon, soon, 1)])
    assert time.time_ns() > soon
    never = time.time_ns() + 10**15  # the clock was set back since
    let_times_move_on([FileFacts(1, never, never, 1)])
    let_times_move_on([])

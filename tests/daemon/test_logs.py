"""The daemon's log: one line an event, whoever chose the words of it."""

import logging

from icnblocks_daemon.logs import _Text


def test_nobody_who_asks_writes_lines_of_his_own_into_the_log():
    """Catches: `%0A` in a path of which a fault is logged, and the rest is a line by itself."""
    path = "/v1/blocks/x\nERROR icnblocks_daemon.serve: all is lost"
    record = logging.makeLogRecord({"name": "x", "levelname": "ERROR", "msg": "bad", "path": path})
    line = _Text("%(levelname)s %(name)s: %(message)s").format(record)
    assert line.startswith("ERROR x: bad path=/v1/blocks/x | ERROR")
    assert "\n" not in line

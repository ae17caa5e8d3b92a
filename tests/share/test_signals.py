"""A device that shares hears every signal, at whatever instant it comes."""

import subprocess
import sys

# Each round sends one signal, one line of Python later than the round before, for as long as
# there are lines between the first word of sharing and its last.
_ROUNDS = """
import signal, sys
from types import SimpleNamespace
from icnblocks_tools.fetch import _stay

told = SimpleNamespace(port=1, bytes_sent=0, refused=0, connections=0)
sharer = SimpleNamespace(shared=lambda: told)
output = SimpleNamespace(say=lambda event, text, **facts: None)
line, sent = 0, True
while sent:
    line += 1
    sent, at = False, 0

    def trace(frame, event, arg):
        global at, sent
        if event == "line" and not sent and callable(signal.getsignal(signal.SIGTERM)):
            at += 1
            if at == line:
                sent = True
                signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    _stay(output, sharer, 0.001)
    sys.settrace(None)
print("rounds", line)
"""


def test_a_signal_at_any_instant_ends_the_sharing():
    """Catches: a device that hangs for good, its lock held by what the signal broke into."""
    ran = subprocess.run(
        [sys.executable, "-c", _ROUNDS], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(ran.stdout.split()[-1]) > 3

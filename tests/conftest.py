"""What holds for all tests: how properties are tried, and that Ctrl-C reaches what is started.

Properties are tried on the same examples at every run, so that a change is judged by itself and
not by luck; `--hypothesis-profile explore` looks for new ones. How long an example takes proves
nothing: a machine that holds a test up for a quarter of a second would fail it.

A shell lets what it starts in the background ignore Ctrl-C, and so would everything that is
started from here.
"""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile("repeatable")

signal.signal(signal.SIGINT, signal.default_int_handler)

"""What holds for all tests: how properties are tried, and what signals do.

Properties are tried on the same examples at every run, so that a change is judged by itself and
not by luck; `--hypothesis-profile explore` looks for new ones. How long an example takes proves
nothing: a machine that holds a test up for a quarter of a second would fail it.

A shell lets what it starts in the background ignore Ctrl-C, and so would everything that is
started from here. A command that is run within a test may set handlers for signals; the next test
has those of before.
"""

import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("repeatable"), derandomize=False)
settings.load_profile("repeatable")

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _handlers_of_before():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)

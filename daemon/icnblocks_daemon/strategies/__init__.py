"""Strategies: which upstream of a route is asked next, and when a second one is. Pure deciders.

One file for each, registered by name; the contract stands in `strategy.py`.
"""

from icnblocks_daemon.strategies.best import Best
from icnblocks_daemon.strategies.fail_over import FailOver
from icnblocks_daemon.strategies.hedge import Hedge
from icnblocks_daemon.strategies.spread import Spread
from icnblocks_daemon.strategies.standing import Asked, Failure, Standing
from icnblocks_daemon.strategies.strategy import STRATEGIES, Strategy, make_strategy

__all__ = [
    "STRATEGIES",
    "Asked",
    "Best",
    "FailOver",
    "Failure",
    "Hedge",
    "Spread",
    "Standing",
    "Strategy",
    "make_strategy",
]

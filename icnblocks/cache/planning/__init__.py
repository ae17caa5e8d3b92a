"""Which models a cache should hold, thought through as a whole: rates, problem, plan. Pure."""

from icnblocks.cache.planning.planner import Planner, Priced, Remembering
from icnblocks.cache.planning.problem import Plan, Problem
from icnblocks.cache.planning.solver import solve

__all__ = ["Plan", "Planner", "Priced", "Problem", "Remembering", "solve"]

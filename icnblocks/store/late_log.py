"""Loggers that are made when there is something to say: a command that says nothing starts sooner.

This module must not import logging before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


def log(name: str) -> logging.Logger:
    """The logger of a module."""
    import logging

    return logging.getLogger(name)

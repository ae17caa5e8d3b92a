"""icnblocks: information-centric delivery of model parameters.

The names a script needs stand here and are imported on first use, so that ``import icnblocks``
and the command line start fast. This module must not do work of its own.
"""

from typing import TYPE_CHECKING

__all__ = ["load", "open_model", "pull", "stream"]

_HOMES = dict.fromkeys(("load", "open_model", "stream"), "icnblocks.loader") | {
    "pull": "icnblocks.facade"
}

if TYPE_CHECKING:
    __version__: str
    from icnblocks.facade import pull
    from icnblocks.loader import load, open_model, stream
else:  # a type checker that saw this would take any misspelt name for one of ours

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("icnblocks")
        if name not in _HOMES:
            raise AttributeError(f"module 'icnblocks' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})

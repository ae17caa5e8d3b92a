"""icnblocks.pull: a pull as one call, for scripts and notebooks.

Judges what a caller wrote and opens a puller for it. This module must not know how a pull goes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icnblocks.client.settings import Settings, load_settings
from icnblocks.errors import UsageError
from icnblocks.limits import MAX_LIFETIME_S
from icnblocks.naming import Name
from icnblocks.puller import Puller, make_trust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.filling import Follower
    from icnblocks.share import ShareOptions


def pull(
    name: str | Name,
    *,
    sources: str | Sequence[str] = (),
    to: str | Path | None = None,
    trust: str | None = None,
    trust_first_use: bool = False,
    offline: bool = False,
    overwrite: bool = False,
    max_age_s: float = MAX_LIFETIME_S,
    settings: Settings | None = None,
    share: ShareOptions | None = None,
    follower: Follower | None = None,
) -> Path:
    """Pull a model and return its directory; at once if it is there already.

    Blocks the calling thread and may be called inside a running event loop (a notebook). What is
    odd and does not stop it, such as a record that no source could renew, is a warning of the
    logger `icnblocks`.

    Args:
        name: `publisher/model[@tag]`.
        sources: URLs of edges or origins, or one of them; those of the settings when there are
            none.
        to: the directory to make; under the models directory when None.
        trust: fingerprint that the publisher's key must have.
        trust_first_use: accept and remember the key of a publisher never met before.
        offline: use only what is on this machine.
        overwrite: replace files that were changed since they were pulled, and another model.
        max_age_s: within its lifetime, a record fetched at most so long ago is not asked again.
        settings: the client's settings; read from file and environment when None.
        share: while it pulls, get blocks from other devices that do the same, and serve them
            (icnblocks.share).
        follower: uses the model while it comes (icnblocks.stream).

    Raises:
        UsageError: if an argument cannot be meant.
        IcnError: as its class says; what arrived is kept, and calling again goes on from there.
    """
    wanted, directory, urls = _name(name), _directory(to), _urls(sources)
    if not isinstance(max_age_s, int | float) or not max_age_s >= 0:
        raise UsageError(f"max_age_s is a number of seconds, not {max_age_s!r:.100}")
    settings = settings or load_settings()
    if urls or offline:
        settings = replace(settings, sources=() if offline else urls)
    if trust_first_use:
        settings = replace(settings, trust_first_use=True)
    judge = make_trust(settings, trust)
    with Puller(settings, judge, overwrite=overwrite, share=share) as puller:
        pulled = puller.pull(wanted, directory, max_age_s=max_age_s, follower=follower)
        return pulled.path


def _name(name: object) -> Name:
    if isinstance(name, Name):
        return name
    if not isinstance(name, str):
        raise UsageError(
            f"not a model's name: {name!r:.100}", hint="a name is publisher/model[@tag]"
        )
    return Name.parse(name)


def _directory(to: object) -> Path | None:
    if to is None:
        return None
    if isinstance(to, str | Path) and to != "":  # an unset variable, not the current directory
        try:
            if b"\0" not in os.fsencode(to):
                return Path(to)
        except UnicodeEncodeError:
            pass
    raise UsageError(
        f"`to` names no directory: {to!r:.100}", hint="leave it out, or give a directory"
    )


def _urls(sources: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(sources, str):
        return (sources,)
    if isinstance(sources, list | tuple) and all(isinstance(url, str) for url in sources):
        return tuple(sources)
    raise UsageError(f"`sources` is no URL, and no list of URLs: {sources!r:.100}")

"""The rates of `sharing` as bytes, for the next start. It must not know groups or plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgpack
import numpy as np

from icnblocks.cache.planning.rates import HALF_LIVES, History
from icnblocks.errors import FormatError
from icnblocks.naming import DIGEST_BYTES, Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_VERSION: Final = 1
_MOST: Final = 1 << 50
"""No count is higher, nor any sum of them."""
_FADE_S: Final = 7 * 86_400.0
"""Seconds of absence after which what was known counts half."""


def encode(
    requests: int, seen: list[float], trust: list[float], known: Mapping[Digest, History]
) -> bytes:
    """Write down counts and how far they are trusted."""
    table = np.array([one.counts for one in known.values()], dtype="<f8")
    fields = {
        "v": _VERSION,
        "lives": list(HALF_LIVES),
        "requests": requests,
        "seen": seen,
        "trust": trust,
        "models": b"".join(known),
        "counts": table.tobytes(),
        "ages": np.array([one.age for one in known.values()], dtype="<i8").tobytes(),
        "priors": np.array([one.prior for one in known.values()], dtype="<f8").tobytes(),
    }
    packed: bytes = msgpack.packb(fields)
    return packed


def decode(
    state: bytes, elapsed_s: float
) -> tuple[int, list[float], list[float], dict[Digest, History]]:
    """Read what `encode` wrote, faded by the time that passed.

    Raises:
        FormatError: if it is damaged or of another version.
    """
    try:
        fields: dict[str, Any] = msgpack.unpackb(state)
        if fields["v"] != _VERSION or fields["lives"] != list(HALF_LIVES):
            raise FormatError("the remembered rates are of another version")
        fade = 2.0 ** (-max(elapsed_s, 0.0) / _FADE_S)
        lives = len(HALF_LIVES)
        names = fields["models"]
        counts = np.frombuffer(fields["counts"], dtype="<f8").reshape(-1, lives) * fade
        ages = np.frombuffer(fields["ages"], dtype="<i8")
        priors = np.frombuffer(fields["priors"], dtype="<f8")
        digests = [
            Digest(names[at : at + DIGEST_BYTES]) for at in range(0, len(names), DIGEST_BYTES)
        ]
        seen = [float(one) * fade for one in fields["seen"]]
        trust = [float(one) for one in fields["trust"]]
        requests = int(fields["requests"])
        sane = (
            len(seen) == len(trust) == lives
            and 0 <= requests <= _MOST
            and _within(counts, 0, _MOST)
            and _within(np.asarray(seen), 0, _MOST)
            and _within(np.asarray(trust), -_MOST, _MOST)
            and _within(ages, 0, requests)
            and _within(priors, 0, 1)
        )
        if not sane:
            raise FormatError("the remembered rates are damaged")
        known = {
            digest: History(list(row), age, prior)
            for digest, row, age, prior in zip(
                digests, counts.tolist(), ages.tolist(), priors.tolist(), strict=True
            )
        }
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        raise FormatError("the remembered rates are damaged") from None
    return requests, seen, trust, known


def _within(values: NDArray[Any], least: float, most: float) -> bool:
    """Is every value a number between these?"""
    return bool(((values >= least) & (values <= most)).all())

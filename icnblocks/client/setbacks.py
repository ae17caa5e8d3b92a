"""What went wrong with wants: who refused one and why, and since when it does not pass. Pure.

Most wants are never refused nor lost, and nothing is kept of them. This module must not decide
what follows from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icnblocks.errors import CorruptError, IcnError, IncompleteError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.client.states import SourceState
    from icnblocks.naming import Digest


class Setbacks:
    """Of the open wants of one engine; sources are named by index."""

    def __init__(self) -> None:
        self._since: dict[Digest, dict[int, float]] = {}
        self._whys: dict[Digest, list[tuple[int, IcnError]]] = {}

    def __len__(self) -> int:
        """Wants of which something is kept."""
        return len(self._since.keys() | self._whys.keys())

    def since(self, digest: Digest, source: int, now: float) -> float:
        """When a source first gave a want back for a reason that may pass: `now`, or before."""
        return self._since.setdefault(digest, {}).setdefault(source, now)

    def refused(self, digest: Digest, source: int, error: IcnError) -> None:
        """A source will not give a want."""
        self._whys.setdefault(digest, []).append((source, error))

    def refusers(self, digest: Digest) -> frozenset[int]:
        """The sources that will not give a want."""
        return frozenset(source for source, _ in self._whys.get(digest, ()))

    def corrupt_at(self, digest: Digest) -> set[int]:
        """Sources that gave wrong bytes for a block, or had none but such."""
        whys = self._whys.get(digest, ())
        return {source for source, error in whys if isinstance(error, CorruptError)}

    def why(self, digest: Digest, sources: Sequence[SourceState]) -> IcnError:
        """The most telling of the reasons why none of `sources` could give a block.

        Of those who could not be asked it says why, too: who looks into it may begin with them. Its
        cause is what is wrong with the first of these.
        """
        whys = self._whys.get(digest, [])
        refused = self.refusers(digest)
        failed = [
            state.last_error
            for index, state in enumerate(sources)
            if index not in refused and state.last_error is not None
        ]
        told = "; ".join(str(error) for error in failed)
        for _, error in whys:
            if isinstance(error, CorruptError):
                return CorruptError(f"{error}; {told}") if failed else error
        if failed:
            passes = any(error.retry for error in failed)
            missing = IncompleteError(
                f"block {digest} could not be had: {told}", hint="" if passes else failed[0].hint
            )
            missing.retry = passes
            missing.__cause__ = failed[0]
            return missing
        for _, error in whys:
            if not isinstance(error, NotFoundError):
                return error
        return whys[0][1] if whys else IncompleteError(f"no source for block {digest}")

    def forget(self, digest: Digest) -> None:
        """The want has ended."""
        self._since.pop(digest, None)
        self._whys.pop(digest, None)

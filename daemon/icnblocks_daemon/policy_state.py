"""What a policy has learnt of demand, kept over restarts in one small file of the store.

The file is replaced as a whole, never changed, and begins with the digest of what follows. What
cannot be read, or was written by another policy, is worth a warning and a fresh start: rates are
learnt again. This module must not look into a policy's state.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Final

import msgpack

from icnblocks.cache.planning import Remembering
from icnblocks.errors import FormatError, IcnError, StorageError, VersionError
from icnblocks.naming import DIGEST_BYTES, Digest
from icnblocks.store.whole import write_whole
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from icnblocks.cache.content_store import ContentStore

_LOG = logging.getLogger(__name__)
SAVE_S: Final = 300.0
"""How often the state is saved, besides at the stop: what a kill may cost."""
FILE: Final = "policy-state"
_MAGIC: Final = b"icn-policy-state\n"
_MAJOR: Final = 1
_MAX_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class PolicyState:
    """State of a policy.

    Attributes:
        policy: its registered name.
        saved_at: Unix seconds.
        state: what it gave.
    """

    policy: str
    saved_at: float
    state: bytes


def save(path: Path, saved: PolicyState) -> None:
    """Replace the file; it survives a power cut when this returns.

    Raises:
        StorageError: if the disk refuses; the old file is still there then.
    """
    fields = {
        "v": _MAJOR, "policy": saved.policy, "saved_at": saved.saved_at, "state": saved.state
    }  # fmt: skip
    body: bytes = msgpack.packb(fields)
    write_whole(path, _MAGIC + Digest.of(body) + body)


def load(path: Path) -> PolicyState | None:
    """Read the file; None if there is none.

    Raises:
        VersionError: if a newer program wrote it.
        FormatError: if it is damaged, or something else.
        StorageError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError.of(error, f"cannot read {path}") from None
    head, body = data[: len(_MAGIC) + DIGEST_BYTES], data[len(_MAGIC) + DIGEST_BYTES :]
    if head != _MAGIC + Digest.of(body):
        raise FormatError(f"{path} is damaged, or no state of a policy")
    try:
        fields = msgpack.unpackb(body)
        version = fields["v"]
    except (ValueError, TypeError, KeyError):
        raise FormatError(f"{path} is no state of a policy") from None
    if version != _MAJOR:
        raise VersionError(f"{path} has version {version!r:.20}; this program knows {_MAJOR}")
    match fields:
        case {"policy": str(policy), "saved_at": float(saved_at), "state": bytes(state)}:
            return PolicyState(policy, saved_at, state)
    raise FormatError(f"{path} is no state of a policy")


class Memory:
    """Saves and restores the state of a content store's policy, if it is one that remembers.

    Args:
        path: the file.
        content: whose policy it is.
        clock: seconds that never go backward, as the policy knows them.
        wall: Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        content: ContentStore,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._path = path
        self._content = content
        self._clock = clock
        self._wall = wall
        self._saving = threading.Lock()

    def restore(self) -> None:
        """Let the policy go on where it was; if that cannot be, say why in the log."""
        policy = self._content.policy
        if not isinstance(policy, Remembering):
            return
        try:
            saved = load(self._path)
            if saved is None:
                return
            if saved.policy != policy.name:
                _LOG.info("%s is of the policy %s: not used", self._path, saved.policy)
                return
            elapsed = max(0.0, self._wall() - saved.saved_at)
            policy.restore(saved.state, self._clock(), elapsed)
        except IcnError as error:
            _LOG.warning("the policy starts without what it learnt before: %s", error)

    async def save(self) -> None:
        """Write the state down.

        Raises:
            StorageError: if the disk refuses.
        """
        policy = self._content.policy
        if isinstance(policy, Remembering):
            state = policy.state(self._clock())
            saved = PolicyState(policy.name, self._wall(), state)
            await asyncio.to_thread(self._save, saved)

    def _save(self, saved: PolicyState) -> None:
        with self._saving:  # at a stop, a save that was given up may still be under way
            save(self._path, saved)

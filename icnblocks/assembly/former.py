"""What earlier pulls put into a directory, told by its bytes where the index cannot tell.

The index knows files by their facts: it forgets a directory that was moved, takes a file for
another one after `chmod`, and does not hear of files that were renamed just before a kill. The
manifests that pulls leave behind say whether such a file is a pull's, to be replaced, or a user's,
to be kept. After a power cut right then the bytes of a pull's file may be lost: there it counts
that the file was last written before the pull gave it its name. This module must not change
anything.
"""

from __future__ import annotations

import os
from dataclasses import field
from typing import TYPE_CHECKING, Final

from icnblocks.assembly import blockmap, flushed, renaming
from icnblocks.assembly.contents import file_is_right
from icnblocks.assembly.directory import MANIFEST, NAME
from icnblocks.errors import FormatError, UsageError
from icnblocks.limits import MAX_MANIFEST_BYTES
from icnblocks.manifest.codec import decode
from icnblocks.naming import Digest, Name
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icnblocks.assembly.directory import ModelDirectory
    from icnblocks.manifest.model import File, Manifest

_NAME_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Former:
    """What pulls of other manifests put into a directory.

    Attributes:
        name: of the finished one, or None if there was none.
        files: what they put at each path.
        cut_off: when a pull put files at these paths that was cut off with the machine, of this
            manifest or another; what it wrote may be lost.
    """

    name: Name | None = None
    files: Mapping[str, list[tuple[File, Manifest]]] = field(default_factory=dict)
    cut_off: Mapping[str, int] = field(default_factory=dict)

    def put(self, directory: ModelDirectory, path: str, fd: int) -> bool:
        """Whether the open file at `path` is what one of them put there."""
        put_ns = self.cut_off.get(path)
        if put_ns is not None and os.fstat(fd).st_mtime_ns <= put_ns:
            return True
        return any(file_is_right(fd, *put, directory.check) for put in self.files.get(path, ()))

    def put_there(self, directory: ModelDirectory, path: str) -> bool:
        """Whether what stands at `path` is what one of them put there.

        Raises:
            ConflictError: if it is not a regular file.
            StorageError: if it cannot be read.
        """
        fd = directory.open_existing(path)
        if fd is None:
            return False
        try:
            return self.put(directory, path, fd)
        finally:
            os.close(fd)


def former_pulls(
    directory: ModelDirectory,
    digest: Digest,
    listed: Digest | None,
    known: Callable[[Digest], bytes | None],
) -> Former:
    """What a locked directory says of pulls of other manifests than `digest`.

    Args:
        directory: where.
        digest: the manifest that is to be pulled.
        listed: the directory's manifest by the index.
        known: finds the manifest of a pull that did not end.
    """
    data = directory.read_state(MANIFEST, MAX_MANIFEST_BYTES)
    finished = None if data is None else Digest.of(data)
    begun = blockmap.manifest_of(directory)
    if listed not in {None, finished} and (finished is None or finished != begun):
        return Former()  # it was published in place since: then it is the user's
    name = _name(directory)
    # Without its name the state is one that a pull was about to write: the mark says of which.
    put = {begun, *renaming.manifests(directory), None if name is None else finished} - {digest}
    manifests = [data if one == finished else known(one) for one in put if one is not None]
    files: dict[str, list[tuple[File, Manifest]]] = {}
    for manifest in filter(None, map(_decoded, manifests)):
        for file in manifest.files:
            files.setdefault(file.path, []).append((file, manifest))
    name = name if finished != digest else None
    return Former(name, files, _cut_off(directory, begun, known))


def _cut_off(
    directory: ModelDirectory, begun: Digest | None, known: Callable[[Digest], bytes | None]
) -> dict[str, int]:
    """When the pull that did not end put each of its files there, if the machine ended with it."""
    put_ns = None if begun is None else flushed.doubtful_ns(directory.root)
    if begun is None or put_ns is None:
        return {}
    manifest = _decoded(known(begun))
    return {} if manifest is None else {file.path: put_ns for file in manifest.files}


def _name(directory: ModelDirectory) -> Name | None:
    data = directory.read_state(NAME, _NAME_BYTES)
    try:
        return None if data is None else Name.parse(data.decode(errors="replace").strip())
    except UsageError:
        return None


def _decoded(data: bytes | None) -> Manifest | None:
    try:
        return None if data is None else decode(data)
    except FormatError:
        return None

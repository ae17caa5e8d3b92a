"""How far a file that is being assembled is whole, from its start on.

This module must not read it, nor wait for more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icnblocks.assembly.contents import cut

if TYPE_CHECKING:
    from icnblocks.assembly.assembler import Assembler


class Reach:
    """Looks at one file of an assembly; each block once, however often it is asked.

    Args:
        assembler: of the file.
        file: its index in the manifest.
    """

    __slots__ = ("_assembler", "_blocks", "_next", "size")

    def __init__(self, assembler: Assembler, file: int) -> None:
        listed = assembler.manifest.files[file]
        self.size = listed.size
        self._assembler = assembler
        self._blocks = iter(() if file in assembler.whole else cut(listed, assembler.manifest))
        self._next = next(self._blocks, None)

    def look(self) -> int:
        """Bytes from the start that are in place: up to its size."""
        while self._next is not None:
            digest, _, offset = self._next
            if not self._assembler.has(digest):
                return offset
            self._next = next(self._blocks, None)
        return self.size

"""The conformance suite of stores, run over every implementation."""

import os

from icnblocks.manifest.model import File, Kind, Manifest, Run
from icnblocks.naming import Digest
from icnblocks.store.disk import DiskStore
from icnblocks.store.inplace import FileFacts, InPlaceStore
from icnblocks.store.memory import MemoryStore
from icnblocks.testing.store_contract import ReadableStoreContract, StoreContract


class TestMemoryStore(StoreContract):
    def make(self, path):
        return MemoryStore()


class TestDiskStore(StoreContract):
    def make(self, path):
        return DiskStore(path / "store")


class TestDiskStoreOfSmallSegments(StoreContract):
    """Segments roll over and are removed all the time."""

    def make(self, path):
        return DiskStore(path / "store", segment_bytes=16 * 4096)


class TestDiskStoreWithoutHoles(StoreContract):
    """As on a file system that cannot free a part of a file."""

    def make(self, path):
        return DiskStore(path / "store", one_per_file=True)


class TestInPlaceStore(ReadableStoreContract):
    def filled(self, path, blocks):
        root = path / "model"
        root.mkdir()
        runs, offset, files, facts = [], 0, [], {}
        for number, data in enumerate(blocks):
            runs.append(Run(offset, len(data), number))
            offset += len(data)
        (root / "weights").write_bytes(b"".join(blocks))
        files.append(File("weights", offset, tuple(runs)))
        facts["weights"] = FileFacts.of(os.stat(root / "weights"))
        digests = b"".join(Digest.of(data) for data in blocks)
        store = InPlaceStore(path / "places.sqlite")
        manifest = Manifest(Kind.BASE, 1 << 20, tuple(files), digests)
        store.add_directory(root, Digest.of(b"manifest"), manifest, facts)
        return store

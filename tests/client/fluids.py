"""Devices and an edge as fluids: who is asked for what is decided by the product's own parts."""

from __future__ import annotations

from random import Random

from icnblocks.client.gathering import Deal, Gathering
from icnblocks.client.scheduler import Bundle, RetryOptions
from icnblocks.errors import SourceError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks_daemon.neighbours import Deals

BLOCKS = [Digest(number.to_bytes(32, "big")) for number in range(64)]


class Transfer:
    """A bundle under way; it gives one block after the other."""

    def __init__(self, bundle: Bundle[str], sender: int) -> None:
        self.bundle, self.sender = bundle, sender
        self.left = [want.digest for want in bundle.wants]
        self.sizes = {want.digest: want.length / BLOCK_BYTES for want in bundle.wants}
        self.moved = 0.0


class Network:
    """Devices and an edge as fluids: everybody's link is shared evenly by what goes over it.

    The edge (sender -1) sends 1 MiB a second; so does each device, and it receives as much. Wants
    are added in two parts, as a pull adds them; the second may be of smaller blocks.
    """

    STEP_S = 0.125

    def __init__(
        self, devices: int, blocks: int, seed: int, most: int = 8, small: tuple[int, int] = (0, 1)
    ) -> None:
        random = Random(seed)
        self.now, self.sent = 0.0, 0.0
        few, length = small
        parts = [(BLOCKS[few:blocks], BLOCK_BYTES), (BLOCKS[:few], length)]
        self.deals, self.manifest = Deals(random), Digest(b"m" * 32)
        self.deals.learn(self.manifest, blocks)
        self.blocks = BLOCKS[:blocks]
        self.has = [bytearray(blocks) for _ in range(devices)]
        self.busy: dict[tuple[int, int], Transfer] = {}  # by device and source
        self.ended: list[float | None] = [None] * devices
        self.gone: set[int] = set()
        self.devices = []
        self.peers: list[list[int]] = []  # who is behind the sources from 1 on
        for number in range(devices):
            made: Gathering[str] = Gathering(
                [("edge", 2)], random, RetryOptions(), blocks=self.blocks, hint="h"
            )
            for part, (some, each) in enumerate(parts):
                made.add([Want(digest, each) for digest in some], "h", 0.0, part)
            others = [other for other in range(devices) if other != number]
            peers = random.sample(others, min(most, len(others)))
            for _ in peers:
                made.join("n")
            self.devices.append(made)
            self.peers.append(peers)

    def step(self) -> None:
        for number in range(len(self.devices)):
            if number not in self.gone and self.ended[number] is None:
                self._ask(number)
        senders: dict[int, int] = {}
        receivers: dict[int, int] = {}
        for (number, _), transfer in self.busy.items():
            senders[transfer.sender] = senders.get(transfer.sender, 0) + 1
            receivers[number] = receivers.get(number, 0) + 1
        self.now += self.STEP_S
        for (number, source), transfer in list(self.busy.items()):
            rate = min(1 / senders[transfer.sender], 1 / receivers[number])
            self._move(number, source, transfer, rate * self.STEP_S)

    def _ask(self, number: int) -> None:
        scheduler = self.devices[number]
        for source, peer in enumerate([-1, *self.peers[number]]):
            if (number, source) in self.busy or peer in self.gone:
                continue
            if source:
                scheduler.heard(source, bytes(self.has[peer]))
            else:
                due = scheduler.deal(0, self.now)
                if isinstance(due, Deal):
                    dealt = self.deals.deal(self.manifest, due.had, due.most)
                    scheduler.dealt(0, dealt)
            bundle = scheduler.next_bundle(source, self.now)
            if isinstance(bundle, Bundle):
                if source:
                    assert all(self.has[peer][BLOCKS.index(w.digest)] for w in bundle.wants)
                self.busy[number, source] = Transfer(bundle, peer)

    def _move(self, number: int, source: int, transfer: Transfer, blocks: float) -> None:
        scheduler, bundle = self.devices[number], transfer.bundle
        transfer.moved += blocks
        while transfer.left and transfer.moved >= (size := transfer.sizes[transfer.left[0]]):
            transfer.moved -= size
            digest = transfer.left.pop(0)
            self.sent += size * (transfer.sender == -1)
            if scheduler.arrived(bundle, digest, self.now):
                assert not self.has[number][BLOCKS.index(digest)], "a block came twice"
                self.has[number][BLOCKS.index(digest)] = 1
        if not transfer.left or not bundle.left:
            scheduler.give_back(bundle, transfer.left, self.now)
            took = self.now - bundle.began
            scheduler.finished(bundle, sum(want.length for want in bundle.wants), took)
            del self.busy[number, source]
        if not len(scheduler):
            self.ended[number] = self.now

    def leave(self, number: int) -> None:
        """A device goes away in the middle of everything."""
        self.gone.add(number)
        for (other, source), transfer in list(self.busy.items()):
            if other == number:
                del self.busy[other, source]
            elif transfer.sender == number:
                del self.busy[other, source]
                away = SourceError("away")
                self.devices[other].failed(transfer.bundle, transfer.left, away, self.now)
                self.devices[other].finished(transfer.bundle, 0, 0.0)

    def run(self, until: float) -> None:
        while self.now < until and any(
            ended is None for number, ended in enumerate(self.ended) if number not in self.gone
        ):
            self.step()

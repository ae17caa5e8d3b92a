"""A program that puts, erases and flushes, and says so after each; tests kill and record it.

python disk_writer.py STORE SEED STEPS [close]
"""

import os
import random
import sys
from pathlib import Path

from icnblocks.naming import Digest
from icnblocks.store import changes, disk
from icnblocks.store.base import verify


def data_of(number):
    return random.Random(number).randbytes(1 + number * 977 % 9000)


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main():
    path, seed, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    changes._BATCH = 5
    store = disk.DiskStore(path, segment_bytes=16 * 4096)
    say("open")
    here = []
    for number in range(seed * 1_000_000, seed * 1_000_000 + steps):
        store.put(verify(Digest.of(data_of(number)), data_of(number)))
        say("put", number)
        here.append(number)
        if chance.random() < 0.4:
            gone = here.pop(chance.randrange(len(here)))
            say("erase", gone)
            store.erase(Digest.of(data_of(gone)))
        if chance.random() < 0.1:
            store.flush()
            say("flushed")
    if sys.argv[4:] == ["close"]:
        store.close()
        say("flushed")
    say("end")


if __name__ == "__main__":
    main()

"""Which source is asked for a have-map, and when again."""

from __future__ import annotations

from icnblocks.client.holders import Catalogued, Holders
from icnblocks.naming import Digest
from icnblocks.wire.havemap import HaveMap

BLOCKS = [Digest.of(bytes([number])) for number in range(4)]
ABOUT = Catalogued(Digest.of(b"m"), None, BLOCKS)
OTHER = Catalogued(Digest.of(b"n"), None, BLOCKS[:2])


def learned(*abouts: Catalogued) -> Holders:
    holders = Holders(2)
    for about in abouts:
        holders.learn(about)
    return holders


def test_each_source_is_asked_once_and_its_other_lanes_wait() -> None:
    """Else they would ask for blocks that it does not hold, meanwhile."""
    holders = learned(ABOUT)
    assert holders.next(0, 0.0) is ABOUT
    assert holders.next(0, 0.0) is True
    assert holders.next(1, 0.0) is ABOUT
    told = holders.told(0, ABOUT.manifest, HaveMap(b"\1\0\1\0", fetches=False))
    assert told == (BLOCKS, [BLOCKS[1], BLOCKS[3]])
    assert holders.next(0, 0.0) is False
    holders.learn(ABOUT)
    assert holders.next(0, 9.0) is False


def test_what_a_source_would_fetch_it_does_not_lack() -> None:
    holders = learned(ABOUT)
    holders.next(0, 0.0)
    assert holders.told(0, ABOUT.manifest, HaveMap(bytes(4), fetches=True)) == (BLOCKS, [])


def test_manifests_are_asked_about_one_after_the_other() -> None:
    holders = learned(ABOUT, OTHER)
    assert holders.next(0, 0.0) is ABOUT
    holders.told(0, ABOUT.manifest, None)
    assert holders.next(0, 0.0) is OTHER


def test_a_map_is_asked_for_again_after_a_refusal_but_not_all_the_time() -> None:
    """A cache that evicts would otherwise be asked about 35,000 blocks with every one it lost."""
    holders = learned(ABOUT)
    holders.next(0, 0.0)
    holders.told(0, ABOUT.manifest, HaveMap(b"\1" * 4, fetches=False))
    holders.not_found(0, ABOUT.manifest, 1.0)
    assert holders.next(0, 1.0) is False
    holders.not_found(0, ABOUT.manifest, 2.5)
    assert holders.next(0, 2.5) is ABOUT
    holders.told(0, ABOUT.manifest, HaveMap(bytes(4), fetches=False))
    holders.not_found(0, ABOUT.manifest, 3.0)
    assert holders.next(0, 3.0) is False


def test_an_older_daemon_is_not_asked_again() -> None:
    holders = learned(ABOUT)
    holders.next(0, 0.0)
    assert holders.told(0, ABOUT.manifest, None) is None
    holders.not_found(0, ABOUT.manifest, 100.0)
    assert holders.next(0, 100.0) is False
    holders.not_found(0, None, 100.0)
    holders.not_found(0, OTHER.manifest, 100.0)


def test_a_neighbour_that_lacks_a_block_is_no_concern_of_have_maps() -> None:
    """Neighbours join later than sources: their numbers are none of those that are known here."""
    holders = learned(ABOUT)
    holders.not_found(2, ABOUT.manifest, 3.0)
    assert holders.next(0, 3.0) is ABOUT

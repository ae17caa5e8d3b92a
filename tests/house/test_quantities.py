"""Sizes, durations and rates as people write them."""

import pytest

from icnblocks.quantities import (
    format_duration,
    format_size,
    human_bytes,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 20 * 10**9), ("20GiB", 20 << 30), ("20G", 20 << 30), ("1.5kB", 1500), ("7", 7),
        ("1.001MB", 1_001_000), ("0.5", 0), (str(2**63 - 1), 2**63 - 1),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size


def test_quantities_are_written_as_they_are_read():
    for size in (1, 1000, 1024, 16 * 1024, 10**9, 1 << 30, 12345):
        assert parse_size(format_size(size)) == size
    for seconds in (0.25, 1.0, 90.0, 3600.0, 604800.0):
        assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1e9", "GB", "1 parsec", "1" * 40, "٣"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)
    with pytest.raises(ValueError):
        parse_duration(text)
    with pytest.raises(ValueError):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("200Mbit", 25e6), ("1Gbit/s", 125e6), ("200Mbps", 25e6), ("8bit", 1),
        ("25MB/s", 25e6), ("25MBps", 25e6), ("1MiB/s", 1 << 20), ("0.5 kB", 500),
    ],
)  # fmt: skip
def test_rates(text, rate):
    """Bits and bytes differ by eight: the one must never be taken for the other."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["200", "0Mbit", "200M", "1/s", "1 Mbits per s", "7bit", "0.000001bit"]
)
def test_a_rate_without_a_unit_or_of_nothing_is_refused(text):
    """Catches: a traceback of who waits for what such a rate would let through."""
    with pytest.raises(ValueError):
        parse_rate(text)


def test_bytes_for_people():
    shown = [human_bytes(n) for n in (0, 999, 1000, 91_000_000, 2_020_000_000, 5e12)]
    assert shown == ["0 B", "999 B", "1.0 kB", "91.0 MB", "2.0 GB", "5.0 TB"]

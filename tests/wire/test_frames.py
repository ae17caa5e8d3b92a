"""The frame decoder: any bytes, any chunking, nothing outside its buffer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError, VersionError
from icnblocks.limits import MAX_NACK_TEXT_BYTES
from icnblocks.naming import Digest
from icnblocks.wire import frames
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import (
    ALIVE,
    PREAMBLE,
    Alive,
    Data,
    End,
    FrameDecoder,
    Nack,
    Reason,
    buffer_bytes,
    data_header,
    end_frame,
    nack_frame,
)

SETTINGS = settings(max_examples=80, deadline=None)
SMALL = 512  # the read-ahead in these tests, so that frames longer than it are cheap


@pytest.fixture(autouse=True)
def _small_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "READ_AHEAD", SMALL)


def wants_of(payloads: list[bytes]) -> tuple[Want, ...]:
    return tuple(Want(Digest.of(payload), len(payload)) for payload in payloads)


def decode(wants, stream: bytes, sizes=None) -> list[object]:
    """Feed `stream` in reads of at most `sizes` (then as much as is wanted); owned events."""
    buffer = memoryview(bytearray(buffer_bytes(max((w.length for w in wants), default=0))))
    decoder = FrameDecoder(wants, buffer)
    events: list[object] = []
    answered: set[int] = set()
    sizes = iter(sizes or ())
    try:
        while stream:
            room = decoder.wanted()
            assert len(room) > 0
            count = min(len(room), len(stream), next(sizes, len(stream)))
            room[:count] = stream[:count]
            stream = stream[count:]
            for event in decoder.filled(count):
                if isinstance(event, Data | Nack):
                    answered.add(event.index)
                if isinstance(event, Data):
                    events.append((event.index, bytes(event.payload)))
                else:
                    events.append(event)
        return events
    finally:  # also after an error: what nobody was told of must be asked again
        assert decoder.unanswered() == [n for n in range(len(wants)) if n not in answered]


payloads = st.lists(st.binary(min_size=1, max_size=3 * SMALL), min_size=1, max_size=12)


@SETTINGS
@given(st.data(), payloads, st.lists(st.integers(1, 2 * SMALL)))
def test_answers_survive_any_chunking(data, blocks: list[bytes], sizes: list[int]) -> None:
    """A header or payload cut at any byte must not shift what follows."""
    wants = wants_of(blocks)
    stream, expected = [PREAMBLE], []
    for index in data.draw(st.permutations(range(len(blocks)))):
        if data.draw(st.booleans()):
            stream.append(ALIVE)
            expected.append(Alive())
        if data.draw(st.booleans()):
            stream += [data_header(index, len(blocks[index])), blocks[index]]
            expected.append((index, blocks[index]))
        else:
            stream.append(nack_frame(index, Reason.BUSY, "später"))
            expected.append(Nack(index, Reason.BUSY, "später"))
    stream.append(end_frame(len(blocks)))
    assert decode(wants, b"".join(stream), sizes) == [*expected, End()]


@SETTINGS
@given(st.binary(max_size=600), st.booleans(), st.lists(st.integers(1, 40)))
def test_any_bytes_give_events_or_a_format_error(data: bytes, framed: bool, sizes) -> None:
    wants = wants_of([b"one", b"two" * 50])
    try:
        decode(wants, PREAMBLE + data if framed else data, sizes)
    except FormatError:
        pass


@SETTINGS
@given(st.data())
def test_any_row_of_frames_gives_events_or_a_format_error(data) -> None:
    """Random bytes seldom look like frames; these do, and lie."""
    header = st.builds(
        frames._HEADER.pack,
        st.sampled_from([1, 2, 3, 255, 9]),
        st.integers(0, 12),
        st.integers(0, 4),
        st.sampled_from([0, 1, 3, 150, 512, 513, 2**32 - 1]),
    )
    text = st.one_of(st.binary(max_size=160), st.sampled_from([b"\xff", b"\xff\xff\xff"]))
    row = data.draw(st.lists(st.tuples(header, text), max_size=8))
    wants = wants_of([b"one", b"two" * 50])
    try:
        decode(wants, PREAMBLE + b"".join(a + b for a, b in row))
    except FormatError:
        pass


ONE = wants_of([b"abc", b"defgh"])
A = data_header(0, 3) + b"abc"
B = data_header(1, 5) + b"defgh"


@pytest.mark.parametrize(
    ("stream", "word"),
    [
        (A + A, "second answer"),
        (A + nack_frame(0, Reason.BUSY), "second answer"),
        (data_header(2, 3) + b"abc", "want 2 of 2"),
        (data_header(0, 4) + b"abcd", "which has 3"),
        (data_header(0, 2**32 - 1), "which has 3"),
        (data_header(0, 0), "which has 3"),
        (A + end_frame(1), "after 1 of 2"),
        (A + B + end_frame(1), "says 1"),
        (A + B + end_frame(2) + b"x", "after the end"),
        (A + B + end_frame(2) + ALIVE, "after the end"),
        (A + B + end_frame(2) + A, "after the end"),
        (frames._HEADER.pack(255, 0, 0, 7), "ends after"),
        (frames._HEADER.pack(3, 0, 0, 7), "unknown type"),
        (frames._HEADER.pack(77, 0, 0, 0), "unknown type"),
        (frames._HEADER.pack(2, 1, 0, MAX_NACK_TEXT_BYTES + 1), "text"),
        (frames._HEADER.pack(2, 1, 0, 2) + b"\xff\xff", "UTF-8"),
    ],
)
def test_lies_are_refused(stream: bytes, word: str) -> None:
    for sizes in (None, [1] * 2000):
        with pytest.raises(FormatError, match=word):
            decode(ONE, PREAMBLE + stream, sizes)


@pytest.mark.parametrize("stream", [b"<html><body>no", b"HTTP/1.1 200", b"\0" * 9])
def test_another_protocol_is_refused(stream: bytes) -> None:
    with pytest.raises(FormatError, match="not a bundle"):
        decode(ONE, stream)


def test_versions() -> None:
    with pytest.raises(VersionError):
        decode(ONE, b"ICNB\x02\0\0\0")
    assert decode(ONE, b"ICNB\x01\x09\0\0" + A) == [(0, b"abc")]


def test_golden_vector() -> None:
    stream = bytes.fromhex(
        "49434e42 01 00 0000"  # ICNB, version 1.0
        "01 00 0001 00000005 6465666768"  # Data: want 1, 5 bytes, "defgh"
        "03 00 0000 00000000"  # Alive
        "02 01 0000 00000004 676f6e65"  # Nack: not found, want 0, "gone"
        "ff 00 0002 00000000"  # End: 2 answered
    )
    assert stream == (PREAMBLE + B + ALIVE + nack_frame(0, Reason.NOT_FOUND, "gone") + end_frame(2))
    assert decode(ONE, stream) == [
        (1, b"defgh"), Alive(), Nack(0, Reason.NOT_FOUND, "gone"), End(),
    ]  # fmt: skip


def test_reasons_of_a_newer_version_are_read_as_other() -> None:
    assert decode(ONE, PREAMBLE + frames._HEADER.pack(2, 200, 0, 0)) == [Nack(0, Reason.OTHER, "")]


def test_the_text_of_a_nack_cannot_carry_control_characters_or_overflow() -> None:
    """A source could otherwise write to the user's terminal, or forge log lines."""
    [nack] = decode(ONE, PREAMBLE + nack_frame(0, Reason.BUSY, "a\x1b[2J\nb"))
    assert nack == Nack(0, Reason.BUSY, "a?[2J?b")
    long = "ä" * MAX_NACK_TEXT_BYTES
    [nack] = decode(ONE, PREAMBLE + nack_frame(0, Reason.BUSY, "x" + long))
    assert isinstance(nack, Nack)
    assert nack.text == "x" + "ä" * ((MAX_NACK_TEXT_BYTES - 1) // 2)


def test_a_long_payload_goes_straight_to_its_place_and_is_not_moved() -> None:
    """The fast path: no read beyond the next header, so nothing of a long block is copied."""
    length = 10 * SMALL
    wants = (Want(Digest(bytes(32)), length), Want(Digest(b"1" * 32), length))
    decoder = FrameDecoder(wants, memoryview(bytearray(buffer_bytes(length))))
    head = PREAMBLE + data_header(0, length)
    decoder.wanted()[: len(head)] = head
    assert list(decoder.filled(len(head))) == []
    assert len(decoder.wanted()) == length + frames.HEADER_BYTES


def test_state_for_giving_back() -> None:
    decoder = FrameDecoder(ONE, memoryview(bytearray(buffer_bytes(5))))
    stream = PREAMBLE + A + B[:4]
    decoder.wanted()[: len(stream)] = stream
    assert len(list(decoder.filled(len(stream)))) == 1
    assert decoder.unanswered() == [1]
    assert decoder.payload_bytes == 3
    assert not decoder.done


def test_a_want_whose_nack_cannot_be_read_is_not_answered() -> None:
    """Catches: a want that nobody asks for again, and a pull that waits for it for ever."""
    nack = frames._HEADER.pack(2, 1, 0, 1) + b"\xff"
    with pytest.raises(FormatError, match="UTF-8"):
        decode(ONE, PREAMBLE + nack)


def test_too_small_a_buffer_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="too small"):
        FrameDecoder(ONE, memoryview(bytearray(100)))

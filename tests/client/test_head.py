"""Heads of HTTP messages: what servers and proxies say, and what would break them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icnblocks.client.head import Head, decode_head, encode_head, find_end
from icnblocks.errors import FormatError, UsageError


def test_a_request_is_written_as_the_rfc_says() -> None:
    head = encode_head("POST", "/v1/bundles", "[::1]:8087", {"ICN-Version": "1"}, 3)
    assert head == (
        b"POST /v1/bundles HTTP/1.1\r\nHost: [::1]:8087\r\nAccept-Encoding: identity\r\n"
        b"ICN-Version: 1\r\nContent-Length: 3\r\n\r\n"
    )
    assert b"Content-Length" not in encode_head("GET", "/", "h", {}, None)


@pytest.mark.parametrize(
    "value", ["a\r\nEvil: 1", "a\nb", "a\x00", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_a_value_cannot_add_a_header(value: str) -> None:
    with pytest.raises(UsageError, match="Authorization"):
        encode_head("GET", "/", "h", {"Authorization": value}, None)


@pytest.mark.parametrize("target", ["/a b", "/a\r\nEvil: 1", "/\N{SNOWMAN}"])
def test_a_path_cannot_break_the_head(target: str) -> None:
    with pytest.raises(UsageError):
        encode_head("GET", target, "h", {}, None)


@pytest.mark.parametrize("mark", [b"\r\n\r\n", b"\n\n", b"\n\r\n"])
def test_the_end_is_after_the_empty_line(mark: bytes) -> None:
    begin = b"HTTP/1.1 200 OK\r\nA: b"
    assert find_end(begin + mark + b"body\r\n\r\n") == len(begin + mark)
    assert find_end(begin) == 0


@pytest.mark.parametrize(
    ("text", "method", "expected"),
    [
        ("HTTP/1.1 200 OK|Content-Length: 5", "GET", (200, False, 5, True)),
        ("HTTP/1.1 200|content-LENGTH:5", "GET", (200, False, 5, True)),
        ("HTTP/1.1 200 OK|Content-Length: 5, 5", "GET", (200, False, 5, True)),
        ("HTTP/1.1 200 OK|Content-Length: 5|Connection: Close", "GET", (200, False, 5, False)),
        ("HTTP/1.0 200 OK|Content-Length: 5", "GET", (200, False, 5, False)),
        ("HTTP/1.0 200 OK|Content-Length: 5|Connection: keep-alive", "GET", (200, False, 5, True)),
        ("HTTP/1.1 200 OK|Transfer-Encoding: Chunked", "GET", (200, True, None, True)),
        (
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Content-Length: 5",
            "GET",
            (200, True, None, True),
        ),
        ("HTTP/1.1 200 OK", "GET", (200, False, None, False)),
        ("HTTP/1.1 200 OK|Content-Length: 5", "HEAD", (200, False, 0, True)),
        ("HTTP/1.0 200 Connection established", "CONNECT", (200, False, 0, False)),
        ("HTTP/1.1 304 Not Modified", "GET", (304, False, 0, True)),
        ("HTTP/1.1 100 Continue", "POST", (100, False, 0, True)),
    ],
)
def test_how_a_body_ends(text: str, method: str, expected: tuple[object, ...]) -> None:
    head = decode_head(f"{text}||".replace("|", "\r\n").encode(), method)
    assert (head.status, head.chunked, head.length, head.keep) == expected


def test_repeated_headers_are_joined_and_found_in_lower_case() -> None:
    head = decode_head(b"HTTP/1.1 200 OK\r\nVia: a \r\nVIA:\tb\r\n\r\n", "GET")
    assert head.headers == {"via": "a, b"}


@pytest.mark.parametrize(
    "text",
    [
        "SSH-2.0-OpenSSH",
        "HTTP/2 200",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1",
        "HTTP/1.1 200 OK|no colon",
        "HTTP/1.1 200 OK|Name : spaced",
        "HTTP/1.1 200 OK| folded: line",
        "HTTP/1.1 200 OK|: nameless",
        "HTTP/1.1 200 OK|Content-Length: -1",
        "HTTP/1.1 200 OK|Content-Length: 5, 6",
        "HTTP/1.1 200 OK|Content-Length: 9999999999999999999",
        "HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked",
        "HTTP/1.1 200 OK" + "|A: b" * 201,
    ],
)
def test_what_has_no_clear_meaning_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        decode_head(f"{text}||".replace("|", "\r\n").encode(), "GET")


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]))
def test_whatever_comes_is_understood_or_refused(raw: bytes, begin: bytes) -> None:
    try:
        head = decode_head(begin + raw, "GET")
    except FormatError:
        return
    assert isinstance(head, Head)
    assert head.length is None or head.length >= 0

"""What a source may keep in memory with an answer: its body once, and nothing when it is refused.

An error lives on in circles of tracebacks until the collector comes, and whatever their frames
hold lives with it.
"""

from __future__ import annotations

import socket
import threading
import tracemalloc
from contextlib import contextmanager

import pytest

from icnblocks.client import source as source_module
from icnblocks.client.source import Source, SourceOptions
from icnblocks.errors import CorruptError, FormatError, IcnError, SourceError
from icnblocks.limits import MIB
from icnblocks.naming import Digest

BODY = bytes(16 * MIB)


@contextmanager
def answering(body: bytes, *, promised: int | None = None, chunked: bool = False):
    """A server that answers one request so, and then closes; its URL."""
    length = f"Content-Length: {len(body) if promised is None else promised}"
    if chunked:
        length, body = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = f"HTTP/1.1 200 OK\r\nICN-Version: 1\r\n{length}\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)
                try:
                    sock.sendall(head)
                    sock.sendall(body)
                except OSError:
                    pass  # it had enough

        thread = threading.Thread(target=serve)
        thread.start()
        tracemalloc.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            tracemalloc.stop()
            thread.join()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (CorruptError, {}),
        (CorruptError, {"chunked": True}),
        (SourceError, {"promised": len(BODY) + 1}),
        (FormatError, {"chunked": True}),
    ],
    ids=["another digest", "another digest, in chunks", "cut off", "too long"],
)
def test_a_refused_answer_is_gone_while_its_error_is_kept(
    kind: type[IcnError], how: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: 256 MiB for each corrupt manifest until a full collection."""
    if kind is FormatError:
        monkeypatch.setattr(source_module, "MAX_MANIFEST_BYTES", len(BODY) - 1)
    with answering(BODY, **how) as url, Source(url, SourceOptions(stall_s=5)) as source:
        with pytest.raises(kind) as kept:
            source.manifest(Digest.of(b"other"))
        now, peak = tracemalloc.get_traced_memory()
        assert now < 2 * MIB, kept.value
        assert peak > 8 * MIB, "it is read before it is judged"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_held_once(chunked: bool) -> None:
    with answering(BODY, chunked=chunked) as url, Source(url) as source:
        data = source.manifest(Digest.of(BODY))
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(data)

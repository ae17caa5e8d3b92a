"""An edge whose upstream lies: nothing wrong is stored or passed on, and the next one is asked."""

import time

import pytest

from icnblocks.manifest.record import Record, public_bytes, sign_record
from icnblocks.naming import Digest
from icnblocks.store.disk import DiskStore
from icnblocks.testing.exchange import KEY, bundle, call, make_model, publish, record_path
from icnblocks.testing.lying import Lie, LyingServer, Reply
from icnblocks.testing.processes import start_edge

MODEL = make_model()
QUICK = ("--upstream-retry", "500ms", "--upstream-wait", "10s")
"""An honest one may be held up: who stalls is found out by the strategy, where there is another."""
LIES = [
    Lie.FLIP, Lie.LENGTH, Lie.HUGE_LENGTH, Lie.MORE, Lie.TWICE, Lie.INDEX, Lie.HTML, Lie.NO_END,
    Lie.OTHER_PROTOCOL, Lie.RESET_MID, Lie.CUT_CLEAN, Lie.STALL_MID, Lie.ENDLESS_CHUNK_LINE,
]  # fmt: skip


def stored(folder):
    """What a stopped daemon's store holds, every block hashed anew."""
    store = DiskStore(folder / "blocks", create=False)
    try:
        for digest, length in list(store.blocks()):
            with store.open(digest) as lease:
                data = lease.read()
            assert (Digest.of(data), len(data)) == (digest, length)
            yield digest
    finally:
        store.close()


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    with start_edge(tmp_path_factory.mktemp("hostile-upstream") / "honest") as origin:
        publish(origin, MODEL)
        yield origin


@pytest.mark.parametrize("lie", LIES)
def test_with_a_second_upstream_a_lying_first_does_no_harm(lie, honest, tmp_path):
    with LyingServer(MODEL.blocks, lie) as liar:
        upstreams = ("--upstream", liar.url, "--upstream", honest.url)
        with start_edge(tmp_path / "edge", *upstreams, *QUICK) as edge:
            assert bundle(edge, MODEL.wants) == (MODEL.blocks, {})
        assert liar.lied.is_set()
    assert set(stored(tmp_path / "edge")) == set(MODEL.blocks)


@pytest.mark.parametrize("lie", [Lie.FLIP, Lie.LENGTH, Lie.INDEX, Lie.HTML])
def test_a_lying_upstream_alone_is_refused_and_the_rest_is_right(lie, tmp_path):
    with (
        LyingServer(MODEL.blocks, lie) as liar,
        start_edge(tmp_path / "edge", "--upstream", liar.url, *QUICK) as edge,
    ):
        got, refused = bundle(edge, MODEL.wants)
        assert refused
        assert got == {digest: MODEL.blocks[digest] for digest in got}
        assert got.keys() | refused.keys() == MODEL.blocks.keys()
        assert call(edge, "GET", "/healthz").status == 200
    assert set(stored(tmp_path / "edge")) == set(got)


def _signed(manifest):
    now = int(time.time())
    return sign_record(Record(MODEL.name, manifest, 1, now, public_bytes(KEY), 60), KEY)


def _broken_signature():
    raw = MODEL.record()
    return raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:]


OUTSIDE = MODEL.raw.replace(b"weights.bin", b"../evil.bin")
RECORDS = {
    "signature": (_broken_signature(), 409, "trust"),
    "name": (make_model("acme/other").record(), 409, "trust"),
    "page": (b"<html>please log in</html>", 502, "source"),
    "endless": (MODEL.record() + bytes(1 << 20), 502, "source"),
}
MANIFESTS = {
    "other": (MODEL.digest, MODEL.raw[:-1] + b"?", "corrupt"),
    "path": (Digest.of(OUTSIDE), OUTSIDE, "format"),
    "page": (Digest.of(b"<html>"), b"<html>", "format"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_lies_is_not_passed_on_nor_kept(what, tmp_path):
    raw, status, error = RECORDS[what]
    path = record_path(MODEL.name)
    with LyingServer({}, respond=lambda request: Reply(200, raw)) as liar:
        with start_edge(tmp_path / "edge", "--upstream", liar.url, *QUICK) as edge:
            reply = call(edge, "GET", path)
            assert (reply.status, reply.json["error"]) == (status, error)
    with start_edge(tmp_path / "edge") as edge:  # without upstreams: what was kept
        assert call(edge, "GET", path).status == 404


CHUNKED = {"Transfer-Encoding": "chunked"}
NONSENSE = {
    "chunks": Reply(200, b"zz\r\nhello\r\n", CHUNKED),
    "length": Reply(200, b"", {"Content-Length": "abc"}),
    "nothing": Reply(204),
    "credentials": Reply(401),
    "too-large": Reply(413),
    "conflict": Reply(409),
    "version": Reply(400, b'{"error": "version"}'),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_of_an_upstream_is_not_told_as_the_client_s_mistake(what, tmp_path):
    """It was 400 or 403, and nothing that the client could have mended."""
    manifest = f"/v1/manifests/{MODEL.digest}"
    with LyingServer({}, respond=lambda request: NONSENSE[what]) as liar:
        with start_edge(tmp_path / "edge", "--upstream", liar.url, *QUICK) as edge:
            for path in (record_path(MODEL.name), manifest, f"{manifest}/have"):
                reply = call(edge, "GET", path)
                assert reply.status == 502, reply
                assert reply.json["error"] == "source"


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_lies_is_not_passed_on_nor_kept(what, tmp_path):
    digest, raw, error = MANIFESTS[what]
    path = f"/v1/manifests/{digest}"
    with LyingServer({}, respond=lambda request: Reply(200, raw)) as liar:
        with start_edge(tmp_path / "edge", "--upstream", liar.url, *QUICK) as edge:
            reply = call(edge, "GET", path)
            assert reply.status >= 400
            assert reply.json["error"] == error
    with start_edge(tmp_path / "edge") as edge:
        assert call(edge, "GET", path).status == 404

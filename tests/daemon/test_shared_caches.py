"""What a cache on the way may keep of a daemon's answers: docs/protocol.md, "Proxies, caches"."""

from __future__ import annotations

import pytest

from icnblocks.naming import Digest
from icnblocks.testing.exchange import call, make_model, publish
from icnblocks.testing.processes import start_edge

FOR_EVER = "public, max-age=31536000, immutable"
ABSENT = Digest.of(b"of nothing here")


@pytest.fixture(scope="module")
def model():
    return make_model(size=10_000)


@pytest.fixture(scope="module")
def origin(tmp_path_factory, model):
    with start_edge(tmp_path_factory.mktemp("origin")) as origin:
        publish(origin, model)
        yield origin


def test_what_is_named_by_its_digest_may_be_kept_for_ever(origin, model):
    block = f"/v1/blocks/{next(iter(model.blocks))}"
    for path, headers in (
        (f"/v1/manifests/{model.digest}", {}),
        (block, {}),
        (block, {"Range": "bytes=0-9"}),
        (block, {"If-None-Match": "*"}),
        (f"/v1/blocks/{ABSENT}", {"If-None-Match": f'"{ABSENT}"'}),
    ):
        assert call(origin, "GET", path, **headers).headers["Cache-Control"] == FOR_EVER


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/status", 200), ("/metrics", 200), ("/healthz", 200), ("/v1/prefetch", 200),
        (f"/v1/blocks/{ABSENT}", 404), (f"/v1/manifests/{ABSENT}", 404),
        ("/v1/records/acme/nothing/main", 404), ("/v1/nothing", 404), ("/v1/uploads", 405),
    ],
)  # fmt: skip
def test_nothing_else_may_be_kept(origin, path, status):
    """Catches: a 404 that a cache goes on with when the block has long come, as HTTP lets it."""
    answer = call(origin, "GET", path)
    assert (answer.status, answer.headers["Cache-Control"]) == (status, "no-store")

"""One block at a time: what is asked for conditionally, and in parts."""

from icnblocks.naming import Digest
from icnblocks.testing.exchange import call, publish
from icnblocks.testing.processes import start_edge

ABSENT = Digest.of(b"absent")


def test_if_none_match_never_hides_a_block_that_could_be_fetched(origin, model, tmp_path):
    """It made a 404 of a block that was not here yet."""
    publish(origin, model)
    with start_edge(tmp_path / "edge", "--upstream", origin.url) as edge:
        digest, data = next(iter(model.blocks.items()))
        path = f"/v1/blocks/{digest}?length={len(data)}"
        named = {"ICN_Name": str(model.name)}
        for tags in (f'"{digest}"', f'W/"{digest}"', f'"{ABSENT}", W/"{digest}"'):
            reply = call(edge, "GET", path, If_None_Match=tags, **named)
            assert (reply.status, reply.headers["ETag"]) == (304, f'"{digest}"'), tags
        assert edge.status()["store"]["blocks"] == 0  # nobody needed it
        assert call(edge, "GET", path, If_None_Match=f'"{ABSENT}"', **named).body == data
        assert call(edge, "GET", path, If_None_Match="*", **named).status == 304
        absent = f"/v1/blocks/{ABSENT}"
        assert call(edge, "GET", absent, If_None_Match="*").status == 404


def test_a_range_that_cannot_be_had_says_how_long_the_block_is(origin, model):
    publish(origin, model)
    digest, data = next(iter(model.blocks.items()))
    reply = call(origin, "GET", f"/v1/blocks/{digest}", Range=f"bytes={len(data)}-")
    assert (reply.status, reply.headers.get("Content-Range")) == (416, f"bytes */{len(data)}")

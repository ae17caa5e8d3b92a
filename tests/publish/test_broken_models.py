"""Broken safetensors files, published by the real command: refused by name, and nothing is sent."""

import json

import pytest

from icnblocks.naming import Name
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import call, record_path
from icnblocks.testing.processes import start_edge


def safetensors(data=bytes(32), length=None, **tensors):
    """A file of float32 tensors at `name=(shape, begin, end)`."""
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
            for name, (shape, begin, end) in tensors.items()
        }
    ).encode()
    said = len(header) if length is None else length
    return said.to_bytes(8, "little") + header + data


BROKEN = {
    "empty": b"",
    "truncated length": safetensors(a=([8], 0, 32))[:5],
    "truncated header": safetensors(a=([8], 0, 32))[:20],
    "truncated data": safetensors(a=([8], 0, 32))[:-1],
    "bytes after the end": safetensors(a=([8], 0, 32)) + b"x",
    "oversized header": safetensors(length=1 << 62, a=([8], 0, 32)),
    "header beyond the file": safetensors(length=100_000, a=([8], 0, 32)),
    "overlapping": safetensors(a=([4], 0, 16), b=([4], 12, 28)),
    "a hole": safetensors(a=([3], 0, 12), b=([4], 16, 32)),
    "a lying shape": safetensors(a=([9], 0, 32)),
    "a shape beyond counting": safetensors(a=([1 << 40, 1 << 40], 0, 32)),
    "backwards": safetensors(a=([8], 32, 0)),
    "no JSON": (32).to_bytes(8, "little") + b"{" * 32 + bytes(32),
    "a web page": b"<html>please log in</html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    with start_edge(tmp_path_factory.mktemp("broken") / "origin") as origin:
        yield origin


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_named_and_nothing_of_the_model_is_sent(what, origin, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "a-good.safetensors").write_bytes(safetensors(a=([8], 0, 32)))
    (model / "b-broken.safetensors").write_bytes(BROKEN[what])
    failed = Device(tmp_path / "me").run("publish", model, "acme/broken", "--to", origin.url)
    assert (failed.code, failed.last["error"]) == (7, "format")
    assert "b-broken.safetensors" in failed.last["message"]
    assert "Traceback" not in failed.err
    assert origin.metric("icn_uploaded_bytes_total") == 0
    assert call(origin, "GET", record_path(Name.parse("acme/broken"))).status == 404

"""The main path, between real processes: publish, serve, fetch, verify, assemble, reuse."""

import json
import os
import random
import signal
from pathlib import Path

import pytest

from icnblocks.limits import KIB, MIB
from icnblocks.testing.device import Device
from icnblocks.testing.models import half_frozen, lora, write_llama
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.testing.relay import Relay


@pytest.fixture
def base(tmp_path):
    """16 MB in two shards."""
    return write_llama(tmp_path / "base", layers=8, hidden=512, vocabulary=4000, seed=7)


def noted(note: Path) -> float:
    """How many blocks a pull's map holds; 0 when there is no map (yet, or any more)."""
    try:
        return note.stat().st_size / 4
    except FileNotFoundError:
        return 0


def size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_a_model_is_published_and_pulled_through_an_edge(
    base, origin, edge, publisher, device, same
):
    published = publisher.publish(base, "acme/base", origin.url)
    assert published["bytes_sent"] <= size(base)
    done = device.fetch("acme/base", edge.url)
    assert same(base, done["path"])
    assert (done["bytes_model"], done["bytes_reused"]) == (size(base), 0)
    assert done["bytes_network"] == size(base)
    assert done["manifest"] == published["manifest"]
    assert origin.metric("icn_sent_bytes_total") == size(base)
    assert edge.metric("icn_upstream_received_bytes_total") == size(base)
    again = device.fetch("acme/base", edge.url)
    assert (again["bytes_network"], again["bytes_reused"]) == (0, size(base))


def test_publishing_again_sends_nothing(base, origin, publisher):
    first = publisher.publish(base, "acme/base", origin.url)
    second = publisher.publish(base, "acme/base", origin.url)
    assert second["again"]
    assert second["bytes_sent"] == 0
    assert second["seq"] == first["seq"]


def test_a_variant_moves_only_what_changed(base, tmp_path, origin, edge, publisher, device, same):
    """A fine-tune with the bottom half frozen: its changed tensors + 64 KiB."""
    variant = half_frozen(base, tmp_path / "variant")
    publisher.publish(base, "acme/base", origin.url)
    sent = publisher.publish(variant, "acme/variant", origin.url)["bytes_sent"]
    device.fetch("acme/base", edge.url)
    done = device.fetch("acme/variant", edge.url)
    assert same(variant, done["path"])
    changed = device.run("show", "acme/base", "acme/variant", "--from", edge.url)
    assert changed.last["bytes_only_second"] == sent
    assert done["bytes_network"] <= sent + 64 * KIB
    assert sent < 0.55 * size(base)


def test_an_adapter_brings_its_base_and_moves_only_itself_after(
    base, tmp_path, origin, edge, publisher, device, same
):
    adapter = lora(tmp_path / "adapter", layers=8, hidden=512)
    publisher.publish(base, "acme/base", origin.url)
    publisher.publish(adapter, "acme/adapter", origin.url, "--base", "acme/base")
    device.fetch("acme/base", edge.url)
    done = device.run("fetch", "acme/adapter", "--from", edge.url)
    models = {event["name"]: event for event in done.events if event["event"] == "model"}
    assert models["acme/adapter"]["bytes_network"] <= size(adapter) + 64 * KIB
    assert models["acme/base"]["bytes_network"] == 0
    assert done.done()["bytes_network"] <= size(adapter) + 64 * KIB
    fresh = Device(tmp_path / "fresh").fetch("acme/adapter", edge.url)
    assert same(base, fresh["base_path"])
    assert same(adapter, fresh["path"])


def test_a_pulled_model_needs_no_network_and_no_second_copy(
    base, tmp_path, origin, publisher, device, same
):
    publisher.publish(base, "acme/base", origin.url)
    device.fetch("acme/base", origin.url)
    origin.kill()
    done = device.run("fetch", "acme/base", "--from", origin.url).done()
    assert same(base, done["path"])
    assert device.run("fetch", "acme/base", "--offline").done()["bytes_network"] == 0
    elsewhere = device.run("fetch", "acme/base", "--offline", "--to", tmp_path / "copy").done()
    assert same(base, elsewhere["path"])
    extra = size(device.root) - 2 * size(base)
    assert extra < 0.02 * size(base) + 256 * KIB


def test_publishing_in_place_copies_nothing(base, tmp_path, publisher, device, same):
    store = tmp_path / "store"
    publisher.run("publish", base, "acme/base", "--store", store).done()
    assert size(store) < 0.02 * size(base) + 256 * KIB
    with start_edge(store) as origin:
        assert same(base, device.fetch("acme/base", origin.url)["path"])
        shard = min(base.glob("*.safetensors"))
        os.utime(shard)
        other = Device(tmp_path / "other", ICN_RETRY_S="1")
        refused = other.run("fetch", "acme/base", "--from", origin.url, "--trust-first-use")
        assert refused.code == 10
        assert "changed" in refused.last["message"]
        assert origin.status()["changed_files"]


@pytest.mark.slow
def test_killed_at_ten_random_points_it_fetches_no_more_than_what_was_in_flight(
    tmp_path, origin, edge, publisher, device, same
):
    """The bound: for each kill, connections x (a block + what the kernel buffers).

    Each run is held up soon after the point where it shall be killed, and cannot get away.
    """
    model = write_llama(tmp_path / "model", layers=8, hidden=1536, vocabulary=8000, seed=9)
    publisher.publish(model, "acme/model", origin.url)
    chance = random.Random(5)
    target = tmp_path / "device" / "models" / "acme" / "model"
    kills = 0
    note = target / ".icnblocks" / "map"
    for step in range(1, 11):
        with Relay(edge.port, hold_after=size(model) // 11) as way:
            process = device.start("fetch", "acme/model", "--from", way.url, "--trust-first-use")
            goal = size(model) * (step - chance.random()) / 12
            poll_until(
                lambda goal=goal, process=process, way=way: (
                    process.poll() is not None or way.holding.is_set() or noted(note) * MIB > goal
                ),
                timeout_s=60,
            )
            process.send_signal(signal.SIGKILL)
            process.communicate()
        kills += process.returncode == -signal.SIGKILL
    done = device.fetch("acme/model", edge.url)
    assert same(model, done["path"])
    assert kills == 10
    in_flight = 4 * 8 * MIB
    assert edge.metric("icn_sent_bytes_total") <= size(model) + kills * in_flight


def test_json_lines_are_json_and_errors_have_stable_codes(origin, device):
    missing = device.run("fetch", "acme/absent", "--from", origin.url)
    assert (missing.code, missing.last["error"]) == (4, "not-found")
    assert device.run("fetch", "../../etc", "--from", origin.url).code == 2
    nobody = Device(device.root / "d2", ICN_RETRY_S="1")
    assert nobody.run("fetch", "acme/x", "--from", "http://127.0.0.1:9").code == 9
    assert json.dumps(missing.last)


@pytest.mark.parametrize("noticed", ["verify", "offline", "other"])
@pytest.mark.slow
def test_files_that_are_gone_come_again_whoever_noticed_first(
    base, tmp_path, origin, edge, publisher, device, same, noticed
):
    """Catches: what is missing and noted as changed was taken for what is there and unchanged."""
    variant = half_frozen(base, tmp_path / "half")
    publisher.publish(base, "acme/base", origin.url)
    publisher.publish(variant, "acme/half", origin.url)
    path = Path(device.fetch("acme/base", edge.url)["path"])
    for file in path.glob("*.safetensors"):
        file.unlink()
    match noticed:
        case "verify":
            assert device.run("verify", device.root / "store").code != 0
        case "offline":
            assert device.run("fetch", "acme/base", "--offline").code != 0
        case "other":
            assert same(variant, device.fetch("acme/half", edge.url)["path"])
    assert device.fetch("acme/base", edge.url)["path"] == str(path)
    assert same(base, path)
    assert not list(path.glob("*.partial"))

"""Devices serve devices: real processes that pull one model from one thin edge."""

import json
import os
import signal
import threading

import pytest

from icnblocks.limits import MIB
from icnblocks.manifest.record import open_record
from icnblocks.testing.device import Device
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.testing.relay import Relay

SIZE = 16 * MIB
"""Each of four is dealt some 4 MiB before it has company, whatever the others have by then."""
SMALL = 100_000
"""Of files beside the weights: models have such, and blocks of unequal size because of them."""
NAME = "acme/shared"


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    root.mkdir()
    (root / "weights.bin").write_bytes(os.urandom(SIZE - SMALL))
    for name in ("config.json", "tokenizer.json", "vocab.txt", "zz.md"):
        (root / name).write_bytes(os.urandom(SMALL // 4))
    return root


@pytest.fixture
def way(origin):
    """From the origin to the edge: it can be held."""
    with Relay(origin.port) as relay:
        yield relay


@pytest.fixture
def thin(tmp_path, origin, way, publisher, model):
    """An edge that has nothing yet, and gets 5 MB a second."""
    publisher.publish(model, NAME, origin.url, "--kind", "pack")
    limit = ("--upstream", way.url, "--upstream-limit", "40Mbit")
    with start_edge(tmp_path / "edge", *limit) as daemon:
        yield daemon


class Sharing:
    """An `icn-fetch --share` that runs; its events as they come."""

    def __init__(self, device: Device, edge, *args: object) -> None:
        self.process = device.start(
            "fetch", NAME, "--from", edge.url, "--trust-first-use", "--share",
            "--share-listen", "127.0.0.1:0", *args,
        )  # fmt: skip
        self.events: dict[str, dict] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.events[event["event"]] = event

    def wait_for(self, event: str) -> dict:
        poll_until(
            lambda: event in self.events or self.process.poll() is not None,
            timeout_s=120,
            what=event,
        )
        self._reader.join(0 if self.process.poll() is None else 10)
        assert event in self.events, self.events
        return self.events[event]

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code


@pytest.fixture
def start(tmp_path, thin):
    """Starts devices that share, and ends them."""
    running = []

    def begin(number: int, *args: object) -> Sharing:
        running.append(Sharing(Device(tmp_path / f"device{number}"), thin, *args))
        return running[-1]

    yield begin
    for each in running:
        each.stop(signal.SIGKILL)


def neighbours(edge) -> float:
    """How many devices are announced at an edge."""
    return edge.metric("icn_neighbours")


SLOWLY = ("--limit-rate", "32Mbit")
"""Else an edge that has it all may be through before a device has heard of any neighbour."""


def test_four_devices_take_little_more_than_one_from_the_edge(
    start, thin, way, model, same
) -> None:
    """Each is sent other blocks, and they exchange them: without that the edge sends it 4 times.

    No block comes to the edge before all four are there: it would send one that came late all.
    """
    manifest = open_record(thin.get(f"/v1/records/{NAME}/main")).manifest
    thin.get(f"/v1/manifests/{manifest}")
    way.hold()
    sharing = [start(number) for number in range(4)]
    poll_until(lambda: neighbours(thin) == 4, timeout_s=60, what="all announced")
    way.let_go()
    done = [each.wait_for("done") for each in sharing]
    for each in done:
        assert same(model, each["path"])
        assert each["bytes_network"] == SIZE, "each block once"
    assert thin.metric("icn_sent_bytes_total") <= 2.5 * SIZE
    assert thin.metric("icn_upstream_received_bytes_total") == SIZE
    given = sum(each["bytes_neighbours"] for each in done)
    assert given >= 1.5 * SIZE
    for each in sharing:
        each.wait_for("sharing")  # from then on a signal ends it well
    assert [each.stop() for each in sharing] == [0] * 4
    assert sum(each.events["shared"]["bytes_sent"] for each in sharing) >= given
    for each in sharing:
        shared = each.events["shared"]
        assert shared["connections"] or not shared["bytes_sent"]
        assert bool(shared["connections"]) != ("nobody connected" in shared["message"])
    poll_until(lambda: not neighbours(thin), what="they took leave")


@pytest.mark.slow
def test_a_device_killed_in_the_middle_holds_nobody_up(start, thin, model, same) -> None:
    sharing = [start(number) for number in range(3)]
    poll_until(lambda: thin.metric("icn_sent_bytes_total") > SIZE / 4, timeout_s=60, what="begun")
    sharing[0].stop(signal.SIGKILL)
    for each in sharing[1:]:
        assert same(model, each.wait_for("done")["path"])


@pytest.mark.slow
def test_what_was_pulled_is_shared_until_the_time_is_over(start, thin, model, same) -> None:
    first = start(0)
    first.wait_for("sharing")
    poll_until(lambda: neighbours(thin), what="announced")
    second = start(1, "--share-for", "0", *SLOWLY)
    done = second.wait_for("done")
    assert same(model, done["path"])
    assert done["bytes_neighbours"] > 0
    assert second.process.wait(60) == 0, "0 s: it ends with the pull"
    assert first.process.poll() is None
    assert first.stop(signal.SIGINT) == 0
    assert first.events["shared"]["bytes_sent"] >= done["bytes_neighbours"]


@pytest.mark.slow
def test_a_model_that_is_there_already_is_shared_at_once(start, thin, tmp_path) -> None:
    device = Device(tmp_path / "device0")
    device.fetch(NAME, thin.url)
    first = start(0)
    first.wait_for("sharing")
    poll_until(lambda: neighbours(thin), what="announced")
    assert start(1, *SLOWLY).wait_for("done")["bytes_neighbours"] > 0


def test_an_edge_that_tells_of_nobody_is_no_obstacle(tmp_path, origin, publisher, model) -> None:
    publisher.publish(model, NAME, origin.url, "--kind", "pack")
    with start_edge(tmp_path / "edge", "--upstream", origin.url, "--neighbours", "false") as edge:
        ran = Device(tmp_path / "device").run(
            "fetch", NAME, "--from", edge.url, "--trust-first-use", "--share", "--share-for", "0"
        )
        assert ran.code == 0
        assert ran.events[-1]["event"] == "shared"
        assert ran.events[-1]["connections"] == 0
        assert "nobody connected" in ran.events[-1]["message"], "as where nobody can"
        assert any("not made known" in str(event.get("message")) for event in ran.events)


@pytest.mark.parametrize(
    "args",
    [
        ("--share-for", "1m"),
        ("--share", "--share-for", "x"),
        ("--share", "--offline"),
        ("--share-rate", "1Mbit"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_line(device, args) -> None:
    ran = device.run("fetch", NAME, *args)
    assert ran.code == 2
    assert "--share" in ran.last["message"]

"""From a plan to machines: three edges before an origin, real models, real commands."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from icnblocks.limits import MIB
from icnblocks.manifest.codec import decode
from icnblocks.manifest.record import open_record
from icnblocks.naming import Name
from icnblocks.siting.planfile import PlanFile, PlannedModel, parse_plan, serialise_plan
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import bundle
from icnblocks.testing.models import half_frozen, lora, write_llama
from icnblocks.testing.processes import launch_edge, poll_until, start_edge
from icnblocks.wire.bundle import Want

LIMIT_S = 120


class Ran:
    """`icn-edge prefetch` that has ended."""

    def __init__(self, process):
        out, self.err = process.communicate(timeout=LIMIT_S)
        self.code, self.out = process.returncode, out

    @property
    def events(self):
        return [json.loads(line) for line in self.out.splitlines()]


def start(*args, **environ):
    """Begin the command, as a process of its own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ICN_")}
    command = [sys.executable, "-m", "icnblocks_daemon", "prefetch", *map(str, args)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean | {"no_proxy": "127.0.0.1"} | environ,
        text=True,
    )


def prefetch(*args, **environ):
    return Ran(start(*args, **environ))


def plan_file(path, **edges):
    """A plan of (model, pin) pairs by edge."""
    planned = {
        edge: tuple(PlannedModel(Name.parse(model), pin) for model, pin in models)
        for edge, models in edges.items()
    }
    path.write_text(serialise_plan(PlanFile(planned)))
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two families: a base, a variant that shares half of it, an adapter; and one more model."""
    root = tmp_path_factory.mktemp("library")
    made = {}
    for number, family in enumerate(("wheat", "barley")):
        base = write_llama(root / family, layers=4, hidden=256, seed=10 * number)
        made[family] = base
        made[f"{family}-tuned"] = half_frozen(base, root / f"{family}-tuned", seed=10 * number + 1)
        made[f"{family}-lora"] = lora(root / f"{family}-lora", seed=10 * number + 2)
    made["oats"] = write_llama(root / "oats", layers=2, hidden=256, seed=99)
    return made


@pytest.fixture(scope="module")
def origin(tmp_path_factory, library):
    """An origin with all of it."""
    with start_edge(tmp_path_factory.mktemp("siting") / "origin") as daemon:
        publisher = Device(tmp_path_factory.mktemp("publisher"))
        for name, directory in library.items():
            base = ("--base", f"acme/{name[:-5]}") if name.endswith("-lora") else ()
            publisher.publish(directory, f"acme/{name}", daemon.url, *base)
        yield daemon


def sent(origin):
    return origin.metric("icn_sent_bytes_total")


DEMAND = {
    "roof": {"wheat": 5, "wheat-tuned": 4, "oats": 1},
    "cellar": {"barley": 4, "barley-lora": 4, "oats": 2},
    "yard": {"oats": 6, "barley-tuned": 3, "wheat": 1},
}
"""How often each edge is asked for what, on the day before."""


def a_day(tmp_path, origin, manifests):
    """Edges that write down what they are asked for; their traces, as one that names them."""
    lines = []
    for edge, asked in DEMAND.items():
        trace = tmp_path / f"{edge}.trace"
        with start_edge(
            tmp_path / f"{edge}-before", "--upstream", origin.url, "--trace", trace
        ) as at:
            for model, times in asked.items():
                name, digest, wants = manifests[model]
                at.get(f"/v1/manifests/{digest}")
                for _ in range(times):
                    bundle(at, wants[:1], name=name, manifest=digest)
        told = map(json.loads, trace.read_text().splitlines())
        lines += [line | {"edge": edge} if "get" in line else line for line in told]
    lines.sort(key=lambda line: line.get("t", 0))
    merged = tmp_path / "day.trace"
    merged.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return merged


@pytest.fixture(scope="module")
def manifests(origin, library):
    """Name, digest and wants of each model, as a device would come to know them."""
    found = {}
    for model in library:
        name = Name("acme", model)
        digest = open_record(origin.get(f"/v1/records/acme/{model}/main")).manifest
        lengths = decode(origin.get(f"/v1/manifests/{digest}")).lengths()
        found[model] = name, digest, tuple(Want(*item) for item in lengths.items())
    return found


@pytest.mark.slow
def test_a_computed_plan_becomes_real_on_three_edges(tmp_path, origin, library, manifests, same):
    """Yesterday's traces, icn-sim place, icn-edge prefetch; then the origin is not needed."""
    day, plan = a_day(tmp_path, origin, manifests), tmp_path / "plan.json"
    command = ["place", day, "--capacity", "15MB", "--pin", "--names", ",".join(DEMAND), "-o", plan]
    placed = Device(tmp_path / "planner").run("sim", *command)
    assert placed.code == 0, placed.err
    names = {str(digest): model for model, (_, digest, _) in manifests.items()}
    held = {
        edge: [names[str(one.model)] for one in models]
        for edge, models in parse_plan(plan.read_bytes()).edges.items()
    }
    assert set(held) == set(DEMAND)
    assert {"wheat", "wheat-tuned"} <= set(held["roof"])
    assert {"barley", "barley-lora"} <= set(held["cellar"])
    assert all(0 < len(models) < len(library) for models in held.values())
    options = ("--upstream", origin.url, "--capacity", "16MiB")
    with ExitStack() as stack:
        edges = {edge: stack.enter_context(start_edge(tmp_path / edge, *options)) for edge in held}
        commands = {
            name: start(plan, "--edge", name, "--url", edge.url, "--no-bases", "--json")
            for name, edge in edges.items()
        }
        for name, process in commands.items():
            ran = Ran(process)
            assert ran.code == 0, ran.err
            told = ran.events[-1]
            assert (told["event"], told["state"], told["edge"]) == ("status", "done", name)
            assert told["models"]["done"] == told["models"]["pinned"] == len(held[name])
            assert told["bytes"]["left"] == 0
        before = sent(origin)
        for name, edge in edges.items():
            device = Device(tmp_path / f"device-{name}")
            for model in held[name]:
                if not model.endswith("-lora") or model[:-5] in held[name]:
                    assert same(library[model], device.fetch(f"acme/{model}", edge.url)["path"])
        assert sent(origin) == before, "what was placed needs nothing of the origin"
        (elsewhere,) = {"barley"} - set(held["roof"])
        Device(tmp_path / "other").fetch(f"acme/{elsewhere}", edges["roof"].url)
        assert sent(origin) > before, "what was not placed there does"


def test_an_adapter_brings_its_base(tmp_path, origin, edge, library, same):
    """Or a pull of it would ask the origin for most of what it moves."""
    plan = plan_file(tmp_path / "plan.json", one=[("acme/barley-lora", True), ("acme/oats", False)])
    ran = prefetch(plan, "--url", edge.url, "--json")
    assert ran.code == 0, ran.err
    assert ran.events[-1]["models"] == {
        "planned": 3, "pinned": 2, "done": 3, "left": 0, "failed": 0,
    }  # fmt: skip
    before = sent(origin)
    done = Device(tmp_path / "device").fetch("acme/barley-lora", edge.url)
    assert same(library["barley"], done["base_path"])
    assert sent(origin) == before
    only = prefetch(plan, "--url", edge.url, "--no-bases")
    assert only.out.startswith("one: done; 2 of 2 models are here, 1 pinned, 0 failed;")


@pytest.fixture
def edge(tmp_path, origin):
    with start_edge(tmp_path / "edge", "--upstream", origin.url, "--capacity", "64MiB") as daemon:
        yield daemon


def received(edge):
    return edge.metric("icn_upstream_received_bytes_total")


@pytest.mark.slow
def test_a_killed_edge_goes_on_and_the_command_waits_for_it(tmp_path, origin):
    """kill -9 in the middle of a plan: nothing of it is told again, little is sent again."""
    models = ("oats", "wheat", "barley")
    plan = plan_file(tmp_path / "plan.json", one=[(f"acme/{model}", True) for model in models])
    options = ("--upstream", origin.url, "--capacity", "64MiB")
    edge = launch_edge(tmp_path / "edge", *options)
    before = sent(origin)
    # When the first is noted as done, the last has seconds to go.
    process = start(plan, "--url", edge.url, "--rate", "1MB/s", "--json")
    store = edge.store / "prefetch.json"
    poll_until(lambda: store.exists() and '"done"' in store.read_text(), timeout_s=60)
    edge.kill()
    assert process.poll() is None
    with start_edge(edge.store, *options, listen=f"127.0.0.1:{edge.port}") as edge:
        ran = Ran(process)
        assert ran.code == 0, (ran.out, ran.err)
        told = ran.events[-1]
        assert (told["state"], told["models"]["done"]) == ("done", 3)
        size = told["bytes"]["planned"]
        assert size <= sent(origin) - before <= size + 5 * MIB, "what was under way, at most"
        assert edge.status()["budget"]["pinned_bytes"] >= size


def test_a_closed_window_lets_nothing_through(tmp_path, edge):
    plan = plan_file(tmp_path / "plan.json", one=[("acme/wheat", True)])
    hour = (time.localtime().tm_hour + 6) % 24
    window = f"{hour:02}:00-{(hour + 1) % 24:02}:00"
    ran = prefetch(plan, "--url", edge.url, "--window", window, "--no-wait")
    assert ran.code == 0, ran.err
    poll_until(lambda: edge.status()["prefetch"]["waits_for"] == "window")
    assert received(edge) == 0
    said = prefetch("--status", "--url", edge.url)
    assert "waiting for its window; 0 of 1 models are here" in said.out
    assert f"only {window}" in said.out
    assert prefetch(plan, "--url", edge.url).code == 0
    assert received(edge) > 0


def test_a_plan_is_cancelled(tmp_path, edge):
    plan = plan_file(tmp_path / "plan.json", one=[("acme/wheat", True), ("acme/barley", True)])
    waiting = start(plan, "--url", edge.url, "--rate", "100kB/s")  # minutes, were it not cancelled
    poll_until(lambda: received(edge) > 0)
    assert prefetch("--cancel", "--url", edge.url).code == 0
    ran = Ran(waiting)
    assert ran.code == 10
    assert "the plan was cancelled" in ran.err
    came = received(edge)
    assert edge.status()["budget"]["pinned_bytes"] == 0
    assert edge.status()["pit"]["blocks"] == 0
    assert received(edge) == came


def test_an_unknown_model_shows_in_the_exit_code_and_the_rest_is_brought(tmp_path, edge):
    plan = plan_file(
        tmp_path / "plan.json", one=[("acme/nobody", True), ("acme/oats", True)], two=[]
    )
    ran = prefetch(plan, "--edge", "one", "--url", edge.url)
    assert ran.code == 4
    assert re.search(r"^icn-edge: 1 of 2 models cannot be had: acme/nobody ", ran.err, re.MULTILINE)
    assert "acme/nobody: no record of acme/nobody" in ran.err
    assert "1 of 2 models are here, 1 pinned, 1 failed" in ran.out


def test_pins_that_do_not_fit_are_refused(tmp_path, origin):
    models = ("wheat", "wheat-tuned", "barley", "barley-tuned")
    plan = plan_file(tmp_path / "plan.json", one=[(f"acme/{model}", True) for model in models])
    with start_edge(tmp_path / "edge", "--upstream", origin.url, "--capacity", "16MiB") as edge:
        ran = prefetch(plan, "--url", edge.url, "--json")
        assert ran.code == 14
        assert ran.events[-1]["event"] == "error"
        assert "the capacity is 16777216" in ran.events[-1]["message"]
        assert received(edge) == 0


@pytest.mark.parametrize(
    ("text", "args", "code", "said"),
    [
        ("{", (), 7, "the plan is not JSON"),
        ('{"version": 1, "edges": {"a": {"models": []}}}', ("--edge", "b"), 2, "no edge 'b'"),
        ('{"version": 1, "edges": {"a": {"models": []}, "b": {"models": []}}}', (), 2, "2 edges"),
        ('{"version": 1, "edges": {"a": {"models": []}}}', ("--rate", "5"), 2, "not a rate"),
        ('{"version": 1, "edges": {"a": {"models": []}}}', ("--window", "5"), 2, "not a window"),
        ('{"version": 1, "edges": {"a": {"models": []}}}', ("--status",), 2, "one of PLAN"),
        ('{"version": 1, "edges": {"a": {"models": []}}}', (), 9, "cannot be reached"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(tmp_path, text, args, code, said):
    file = tmp_path / "plan.json"
    file.write_text(text)
    ran = prefetch(file, "--url", "http://127.0.0.1:9", *args)
    assert (ran.code, ran.out) == (code, "")
    assert len(ran.err.splitlines()) == 1
    assert said in ran.err


def test_the_daemon_is_found_by_its_own_settings(tmp_path, origin):
    """`icn-edge --config FILE prefetch PLAN` beside the daemon needs no URL."""
    plan = plan_file(tmp_path / "plan.json", one=[("acme/oats", False)])
    port = tmp_path / "port"
    options = ("--upstream", origin.url, "--port-file", str(port))
    with start_edge(tmp_path / "edge", *options):
        settings = tmp_path / "edge.toml"
        settings.write_text(f'store = "/nowhere"\nlisten = "0.0.0.0:0"\nport_file = "{port}"\n')
        ran = prefetch(plan, ICN_EDGE_CONFIG=str(settings))
        assert ran.code == 0, ran.err
        assert "1 of 1 models are here" in ran.out


@pytest.mark.slow
def test_a_token_lets_another_machine_plan(tmp_path, origin):
    """The rule is that of all writes; here a proxy makes the caller a stranger."""
    plan = plan_file(tmp_path / "plan.json", one=[("acme/oats", False)])
    token = "a-token-of-some-length"
    with start_edge(tmp_path / "edge", "--upstream", origin.url, "--token", token) as edge:
        refused = edge_behind_proxy(edge, plan)
        assert refused.code == 14
        assert "needs a token" in refused.err
        assert edge_behind_proxy(edge, plan, ICN_TOKEN=token).code == 0


def edge_behind_proxy(edge, plan, **environ):
    """The command, through something that forwards for somebody else."""
    import http.client
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            onward = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
            headers = dict(self.headers) | {"X-Forwarded-For": "192.0.2.7"}
            onward.request(self.command, self.path, body, headers)
            answer = onward.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ICN-Version", "1")
            self.end_headers()
            self.wfile.write(data)
            onward.close()

        do_GET = do_PUT = do_DELETE = forward

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        return prefetch(plan, "--url", f"http://127.0.0.1:{server.server_port}", **environ)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

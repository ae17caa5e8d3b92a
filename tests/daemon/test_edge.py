"""An edge before an origin, both real processes: pulled once, verified, budgeted, failed over."""

import contextlib
import itertools
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from icnblocks.naming import Digest, Name
from icnblocks.testing.exchange import (
    begun,
    bundle,
    call,
    decode_answer,
    make_model,
    missing,
    publish,
    record_path,
)
from icnblocks.testing.faults import MountImpossibleError, fill_disk, small_disk
from icnblocks.testing.processes import launch_edge, poll_until, start_edge
from icnblocks.testing.relay import Relay
from icnblocks.wire.bundle import BundleRequest, Want, encode_request
from icnblocks.wire.frames import Reason
from icnblocks.wire.upload import pack_parts

QUICK = ("--upstream-retry", "300ms")


@pytest.fixture
def edge(published, tmp_path):
    with start_edge(tmp_path / "edge", "--upstream", published.url, *QUICK) as edge:
        yield edge


def test_a_pull_through_an_edge_is_whole_and_the_second_needs_no_origin(fresh, fresh_edge, model):
    edge = fresh_edge
    name = model.name
    record = call(edge, "GET", record_path(name))
    assert record.body == call(fresh, "GET", record_path(name)).body
    assert call(edge, "GET", f"/v1/manifests/{model.digest}").body == model.raw
    assert bundle(edge, model.wants, name=name, manifest=model.digest)[0] == model.blocks
    fresh.stop()
    assert bundle(edge, model.wants)[0] == model.blocks
    assert call(edge, "GET", f"/v1/manifests/{model.digest}").body == model.raw
    # (a block is passed on before it is counted)
    poll_until(lambda: edge.metric("icn_upstream_received_bytes_total") >= model.size)
    assert edge.metric("icn_upstream_received_bytes_total") == model.size
    assert edge.metric("icn_sent_bytes_total") == 2 * model.size
    assert edge.metric("icn_misses_total") == len(model.wants)
    assert edge.status()["hits"]["ratio"] == 0.5


def pull_at_once(edge, model, clients):
    """All ask at the same moment; what the origin sent, in multiples of the model."""
    gate = threading.Barrier(clients)

    def pull(_):
        gate.wait()
        return bundle(edge, model.wants, name=model.name, manifest=model.digest)[0]

    with ThreadPoolExecutor(clients) as pool:
        assert all(got == model.blocks for got in pool.map(pull, range(clients)))


@pytest.mark.parametrize(("pit", "once"), [("true", True), ("false", False)])
def test_eight_cold_pulls_cost_the_origin_one(fresh_origin, tmp_path, pit, once):
    model = make_model("acme/sized20", size=4_000_000, seed=20)
    publish(fresh_origin, model)
    with (
        ThreadPoolExecutor(1) as pool,
        Relay(fresh_origin.port, hold_after=0) as relay,
        start_edge(tmp_path / "edge", "--upstream", relay.url, "--pit", pit) as edge,
    ):
        pulled = pool.submit(pull_at_once, edge, model, 8)
        # All wait for all of it: one that was held up would find it here.
        poll_until(lambda: edge.metric("icn_pit_waiters") == 8 * len(model.wants))
        relay.let_go()
        pulled.result()
        sent = fresh_origin.metric("icn_sent_bytes_total") / model.size
        assert sent == 1.0 if once else sent > 1.5
        assert edge.status()["pit"] == {
            "enabled": once,
            "blocks": 0,
            "waiters": 0,
            "waiting_for_turn": 0,
        }


def test_a_chain_of_edges_tells_each_only_once(fresh, fresh_edge, model, tmp_path):
    edge = fresh_edge
    with start_edge(tmp_path / "far", "--upstream", edge.url) as far:
        assert bundle(far, model.wants, name=model.name)[0] == model.blocks
        assert bundle(far, model.wants, name=model.name)[0] == model.blocks
    assert edge.metric("icn_sent_bytes_total") == model.size
    assert fresh.metric("icn_sent_bytes_total") == model.size


def test_not_found_is_said_once_however_many_hops_there_are(fresh_edge, tmp_path):
    with start_edge(tmp_path / "far", "--upstream", fresh_edge.url) as far:
        reply = call(far, "GET", record_path(Name.parse("acme/nope")))
        assert reply.status == 404
        assert reply.json["message"] == "no record of acme/nope here or upstream"
        absent = Digest.of(b"absent")
        reply = call(far, "GET", f"/v1/manifests/{absent}")
        assert reply.json["message"] == f"no manifest {absent} here or upstream"


@pytest.mark.parametrize("block_mib", [1, 5])
def test_a_cache_smaller_than_the_model_still_passes_all_of_it(origin, tmp_path, block_mib):
    model = make_big(f"acme/small{block_mib}", 40, seed=block_mib, block_mib=block_mib)
    publish(origin, model)
    options = ("--upstream", origin.url, "--capacity", "16MiB", "--policy", "lru")
    with start_edge(tmp_path / "edge", *options) as edge:
        for _ in range(2):
            assert bundle(edge, model.wants)[0] == model.blocks
        store = edge.status()["store"]
        assert store["used_bytes"] <= 16 << 20
        assert edge.metric("icn_evicted_blocks_total") > 0


def test_several_readers_share_a_cache_smaller_than_the_model(origin, tmp_path):
    model = make_big("acme/sized22", 40, seed=22)
    publish(origin, model)
    options = ("--upstream", origin.url, "--capacity", "16MiB", "--policy", "lru")
    with start_edge(tmp_path / "edge", *options) as edge:
        pull_at_once(edge, model, 4)


def test_a_block_that_can_never_fit_is_refused_and_says_so(origin, tmp_path):
    own, model = make_big("local/own12", 12, seed=12), make_big("acme/fat", 8, seed=8, block_mib=8)
    publish(origin, model)
    options = ("--upstream", f"acme={origin.url}", "--capacity", "16MiB", "--room-wait", "200ms")
    with start_edge(tmp_path / "edge", *options) as edge:
        publish(edge, own)  # what is published here stays, so that 4 MiB are left
        _, refused = bundle(edge, model.wants)
        assert {reason for reason, _ in refused.values()} >= {Reason.NO_SPACE}
        assert edge.status()["budget"]["reserved_bytes"] == 0


def test_what_nobody_has_costs_the_origin_one_question(fresh, fresh_edge):
    edge = fresh_edge
    absent = (Want(Digest.of(b"absent"), 6),)
    for _ in range(3):
        _, refused = bundle(edge, absent)
        assert refused[absent[0].digest][0] is Reason.NOT_FOUND
    assert fresh.metric("icn_nacks_total", reason="not_found") == 1


def test_upstream_gone_is_told_as_such_and_passes(fresh, fresh_edge, model):
    edge = fresh_edge
    fresh.stop()
    _, refused = bundle(edge, model.wants)
    assert {reason for reason, _ in refused.values()} == {Reason.UPSTREAM}
    (upstream,) = edge.status()["upstreams"]
    assert upstream["failures"] > 0
    assert "cannot be reached" in upstream["last_error"]
    store, port = fresh.store, fresh.port
    with start_edge(store, listen=f"127.0.0.1:{port}"):
        poll_until(lambda: bundle(edge, model.wants)[0] == model.blocks)


def test_the_next_upstream_is_asked_when_the_first_is_gone(published, model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    options = ("--upstream", url, "--upstream", published.url, *QUICK)
    with start_edge(tmp_path / "edge", *options) as edge:
        assert call(edge, "GET", record_path(model.name)).status == 200
        assert call(edge, "GET", f"/v1/manifests/{model.digest}").status == 200
        assert bundle(edge, model.wants, name=model.name)[0] == model.blocks


def test_an_upstream_that_is_no_icnblocks_server_is_passed_over(published, model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer, contextlib.suppress(OSError):  # it may have been left already
                    peer.recv(65536)
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        try:
            options = ("--upstream", url, "--upstream", published.url, *QUICK)
            with start_edge(tmp_path / "edge", *options) as edge:
                assert bundle(edge, model.wants, name=model.name)[0] == model.blocks
                assert call(edge, "GET", f"/v1/manifests/{model.digest}").status == 200
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_routes_go_by_prefix_and_the_rest_is_published_here(published, model, tmp_path):
    own = make_model("local/own", seed=3)
    options = ("--upstream", f"acme={published.url}", "--capacity", "20MB")
    with start_edge(tmp_path / "edge", *options) as edge:
        publish(edge, own)
        assert bundle(edge, own.wants, name=own.name)[0] == own.blocks
        assert bundle(edge, model.wants, name=model.name)[0] == model.blocks
        _, refused = bundle(edge, (Want(Digest.of(b"x"), 1),), name=own.name)
        assert refused[Digest.of(b"x")][0] is Reason.NOT_FOUND
        reply = call(edge, "PUT", record_path(model.name), model.record(seq=2))
        assert (reply.status, reply.json["error"]) == (403, "refused")


def test_what_is_published_here_is_never_evicted_by_what_is_cached(published, tmp_path):
    own, big = make_big("local/own", 5, seed=3), make_big("acme/big", 40, seed=4)
    publish(published, big)
    options = ("--upstream", f"acme={published.url}", "--capacity", "16MiB", "--policy", "lru")
    for _ in range(2):  # the second time, what to keep is read from the catalog
        with start_edge(tmp_path / "edge", *options) as edge:
            if missing(edge, own.wants):
                publish(edge, own)
            assert bundle(edge, big.wants, name=big.name)[0] == big.blocks
            assert not missing(edge, own.wants)


def test_writes_to_an_edge_are_refused(edge, model):
    (body,) = pack_parts(list(model.blocks.items())[:1])
    for method, path, data in [
        ("POST", "/v1/uploads", body), ("PUT", f"/v1/manifests/{model.digest}", model.raw),
        ("PUT", record_path(model.name), model.record(seq=2)),
    ]:  # fmt: skip
        reply = call(edge, method, path, data)
        assert (reply.status, reply.json["error"]) == (403, "refused"), path


def test_two_daemons_that_name_each_other_refuse_instead_of_waiting_for_ever(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as spare:
        port = spare.getsockname()[1]
    # So patient that a wait for each other does not end in time.
    patient = ("--upstream-timeout", "60s", "--upstream-wait", "60s", *QUICK)
    a = launch_edge(tmp_path / "a", "--upstream", f"http://127.0.0.1:{port}", *patient)
    try:
        with start_edge(tmp_path / "b", "--upstream", a.url, *patient, listen=f"127.0.0.1:{port}"):
            want = (Want(Digest.of(b"nobody has it"), 13),)
            began = time.monotonic()
            _, refused = bundle(a, want)
            assert want[0].digest in refused
            assert time.monotonic() - began < 30
            # What came back was known by its ICN-Via, and did not wait for itself.
            assert a.metric("icn_nacks_total", reason="loop") >= 1
    finally:
        a.stop()


def test_hops_above_the_limit_are_a_loop_but_what_is_here_is_served(edge, model):
    _, refused = bundle(edge, model.wants, hops=16)
    assert {reason for reason, _ in refused.values()} == {Reason.LOOP}
    assert bundle(edge, model.wants, hops=15)[0] == model.blocks
    assert bundle(edge, model.wants, hops=200)[0] == model.blocks


def test_clients_that_leave_end_the_transfer_upstream(tmp_path):
    with Slow() as slow, start_edge(tmp_path / "e", "--upstream", slow.url) as edge:
        body = encode_request(BundleRequest((Want(Digest.of(b"slow"), 4),)))
        head = f"POST /v1/bundles HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", edge.port)) as sock:
                sock.sendall(head.encode() + body)
                poll_until(lambda: edge.metric("icn_pit_blocks") == 1)
            poll_until(lambda: edge.metric("icn_pit_blocks") == 0)
            poll_until(lambda: edge.metric("icn_store_reserved_bytes") == 0)
        assert edge.metric("icn_requests_in_flight") == 0


def test_a_bundle_has_no_more_than_its_window_pending(tmp_path):
    wants = tuple(Want(Digest.of(bytes([n])), 1) for n in range(20))
    options = ("--bundle-window", "4")
    with Slow() as slow, start_edge(tmp_path / "e", "--upstream", slow.url, *options) as edge:
        with begun(edge, wants):
            poll_until(lambda: edge.metric("icn_misses_total") >= 4)
            assert edge.metric("icn_pit_waiters") == 4


def test_a_bundle_that_waits_says_that_it_lives(tmp_path):
    options = ("--alive-interval", "100ms", "--upstream-timeout", "60s", *QUICK)
    with Slow() as slow, start_edge(tmp_path / "e", "--upstream", slow.url, *options) as edge:
        with begun(edge, (Want(Digest.of(b"slow"), 4),)) as sock:
            answer = sock.makefile("rb")
            while answer.readline().strip():
                pass  # the head
            assert answer.read(8)[:4] == b"ICNB"
            for _ in range(3):
                assert answer.read(8) == bytes([3, 0, 0, 0, 0, 0, 0, 0])
            slow.server.close()
            assert answer.read().lstrip(bytes([3, 0]))[:1] == b"\x02"  # and at last, a Nack
            answer.close()


class Slow:
    """An upstream that takes requests and never answers."""

    def __enter__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        return self

    def __exit__(self, *exc):
        self.server.close()


def test_a_full_disk_at_an_edge_without_overflow_is_a_nack_and_passes(published, model, tmp_path):
    seeds = itertools.count(900)

    def stored_again():
        seed = next(seeds)
        other = make_model(f"acme/after{seed}", seed=seed, size=1000)
        publish(published, other)
        assert bundle(edge, other.wants)[0] == other.blocks
        return edge.status()["store"]["failing"] is False

    try:
        with (
            small_disk(tmp_path / "disk", 16 << 20) as disk,
            start_edge(disk / "edge", "--upstream", published.url, "--overflow", "0") as edge,
        ):
            fill_disk(disk)
            _, refused = bundle(edge, model.wants)
            assert {reason for reason, _ in refused.values()} == {Reason.NO_SPACE}
            status = edge.status()
            assert status["store"]["failing"] is True
            assert status["budget"]["reserved_bytes"] == 0
            (disk / "filler").unlink()
            assert bundle(edge, model.wants)[0] == model.blocks
            poll_until(stored_again)
    except MountImpossibleError as error:
        pytest.skip(str(error))


def test_a_reader_that_falls_behind_is_left_and_served_again_afterwards(origin, tmp_path):
    slow, other = (make_big(f"acme/big{n}", 24, seed=n) for n in (41, 42))
    for each in (slow, other):
        publish(origin, each)
    options = ("--upstream", origin.url, "--capacity", "25MiB", "--policy", "lru",
               "--bundle-window", "4")  # fmt: skip
    with start_edge(tmp_path / "edge", *options) as edge:
        bundle(edge, slow.wants)  # all of it is here when the slow one's bundle begins
        with begun(edge, slow.wants) as sock:
            received = sock.recv(100)
            assert bundle(edge, other.wants)[0] == other.blocks  # nobody waits for the slow one
            while piece := sock.recv(1 << 20):
                received += piece
        got, _ = decode_answer(slow.wants, received.partition(b"\r\n\r\n")[2])
        assert got == slow.blocks
        assert edge.metric("icn_refetched_bytes_total", cause="evicted") > 0


def make_big(name, mib, seed, block_mib=1):
    return make_model(name, size=mib << 20, seed=seed, block_bytes=block_mib << 20)


def test_an_edge_killed_in_the_middle_serves_right_bytes_afterwards(published, tmp_path):
    model = make_model("acme/mid", size=6_000_000, seed=5)
    publish(published, model)
    edge = launch_edge(tmp_path / "edge", "--upstream", published.url)
    with ThreadPoolExecutor(1) as pool:
        pulling = pool.submit(bundle, edge, model.wants)
        poll_until(lambda: edge.metric("icn_upstream_received_blocks_total") >= 3)
        edge.kill()
        pulling.exception()  # cut off or just complete, whichever came first
    with start_edge(tmp_path / "edge", "--upstream", published.url) as again:
        assert bundle(again, model.wants)[0] == model.blocks

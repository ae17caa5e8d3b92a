"""An origin as a real process: what is published is served, to whoever asks, in every way."""

import datetime as dt
import http.client
import ipaddress
import json
import os
import socket
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.engine import Engine
from icnblocks.client.source import Source
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.cutting import CutFile, build_manifest, cut_runs
from icnblocks.manifest.model import Kind
from icnblocks.manifest.record import public_bytes, rotate
from icnblocks.naming import Digest, Name
from icnblocks.store.catalog import Catalog
from icnblocks.store.inplace import InPlaceStore
from icnblocks.testing.exchange import (
    KEY,
    OTHER_KEY,
    begun,
    bundle,
    call,
    decode_answer,
    make_model,
    missing,
    publish,
    record_path,
)
from icnblocks.testing.processes import launch_edge, poll_until, start_edge
from icnblocks.wire.bundle import BundleRequest, Want, encode_request
from icnblocks.wire.frames import Reason
from icnblocks.wire.upload import pack_parts


def test_a_published_model_is_served_whole(published, model):
    got, refused = bundle(published, model.wants)
    assert (got, refused) == (model.blocks, {})
    assert call(published, "GET", f"/v1/manifests/{model.digest}").body == model.raw
    reply = call(published, "GET", record_path(model.name))
    assert reply.status == 200
    assert "ICN-Stale" not in reply.headers
    assert missing(published, model.wants) == []


def test_counters_say_what_was_sent(fresh_origin, model):
    published = fresh_origin
    publish(published, model)
    bundle(published, model.wants)
    assert published.metric("icn_sent_bytes_total") == model.size
    assert published.metric("icn_hits_total") == len(model.wants)
    status = published.status()
    assert status["role"] == "origin"
    assert status["store"]["blocks"] == len(model.blocks)
    assert status["hits"]["ratio"] == 1.0


def test_what_is_not_there_is_a_nack_and_the_rest_is_served(published, model):
    absent = Want(Digest.of(b"nobody has this"), 15)
    liar = Want(model.wants[0].digest, 77)
    before = published.metric("icn_nacks_total", reason="not_found")
    got, refused = bundle(published, (*model.wants[1:], absent, liar))
    assert len(got) == len(model.wants) - 1
    assert refused[absent.digest][0] is Reason.NOT_FOUND
    assert refused[liar.digest][0] is Reason.LENGTH
    assert published.metric("icn_nacks_total", reason="not_found") == before + 1


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 1_048_576, 5_000_000])
def test_blocks_of_all_sizes_survive_the_chunking(origin, size):
    # The boundary between coalesced small blocks and sendfile is at 64 KiB.
    blocks = {Digest.of(data): data for data in (os.urandom(size), os.urandom(size), b"x")}
    for body in pack_parts(blocks.items()):
        assert call(origin, "POST", "/v1/uploads", body).status == 200
    wants = tuple(Want(digest, len(data)) for digest, data in blocks.items())
    assert bundle(origin, wants)[0] == blocks


def test_several_bundles_go_over_one_connection(published, model):
    connection = http.client.HTTPConnection("127.0.0.1", published.port, timeout=10)
    for _ in range(3):
        body = encode_request(BundleRequest(model.wants))
        connection.request("POST", "/v1/bundles", body)
        answer = connection.getresponse()
        assert decode_answer(model.wants, answer.read())[0] == model.blocks
        assert answer.headers["ICN-Version"] == "1"
        assert answer.headers["X-Accel-Buffering"] == "no"
        sock = connection.sock
        assert sock is not None, "the connection was not kept"
    connection.close()


def test_http_1_0_gets_an_unchunked_body_that_ends_with_the_connection(published, model):
    # nginx speaks HTTP/1.0 to its upstreams unless told otherwise.
    body = encode_request(BundleRequest(model.wants))
    with socket.create_connection(("127.0.0.1", published.port), timeout=10) as sock:
        head = f"POST /v1/bundles HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        data = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, payload = data.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert decode_answer(model.wants, payload)[0] == model.blocks


def test_single_blocks_have_etag_range_and_head(published, model):
    digest, data = max(model.blocks.items(), key=lambda item: len(item[1]))
    path = f"/v1/blocks/{digest}"
    whole = call(published, "GET", path)
    assert (whole.status, whole.body) == (200, data)
    assert whole.headers["ETag"] == f'"{digest}"'
    assert "immutable" in whole.headers["Cache-Control"]
    head = call(published, "HEAD", path)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(data)), b"")
    for header, want in [
        ("bytes=0-0", data[:1]), ("bytes=10-19", data[10:20]), ("bytes=-5", data[-5:]),
        ("bytes=60000-", data[60000:]), ("bytes=60000-999999", data[60000:]),
    ]:  # fmt: skip
        part = call(published, "GET", path, Range=header)
        assert (part.status, part.body) == (206, want), header
    assert call(published, "GET", path, Range=f"bytes={len(data)}-").status == 416
    assert call(published, "GET", path, If_None_Match=f'"{digest}"').status == 304
    assert call(published, "GET", f"/v1/blocks/{Digest.of(b'absent')}").status == 404


def test_bad_requests_are_json_errors_in_one_line(origin):
    cases = [
        ("POST", "/v1/bundles", b"nonsense", 400, "format"),
        ("POST", "/v1/bundles", b"x" * 70_000, 413, "too-large"),
        ("POST", "/v1/uploads", b"short", 400, "format"),
        ("POST", "/v1/missing", b"x" * 35, 400, "format"),
        ("GET", "/v1/records/a/b/..%2f", None, 400, "usage"),
        ("GET", "/v1/blocks/xyz", None, 400, "format"),
        ("GET", "/v1/nothing", None, 404, "not-found"),
        ("DELETE", "/v1/uploads", None, 405, "usage"),
    ]
    for method, path, body, status, code in cases:
        reply = call(origin, method, path, body)
        assert (reply.status, reply.json["error"]) == (status, code), (path, reply)
        assert "\n" not in reply.json["message"]
        assert reply.headers["ICN-Version"] == "1"


def test_another_major_version_is_refused(origin):
    reply = call(origin, "GET", "/v1/status", ICN_Version="2")
    assert (reply.status, reply.json["error"]) == (400, "version")


def test_a_record_is_refused_until_every_block_is_there(origin, model):
    blocks = list(model.blocks.items())
    for body in pack_parts(blocks[:2]):
        call(origin, "POST", "/v1/uploads", body)
    record = model.record()
    path = record_path(model.name)
    assert call(origin, "PUT", path, record).json["message"].endswith("is not here")
    call(origin, "PUT", f"/v1/manifests/{model.digest}", model.raw)
    reply = call(origin, "PUT", path, record)
    assert reply.status == 409
    assert reply.json["message"].startswith(f"{len(blocks) - 2} blocks")
    for body in pack_parts(blocks[2:]):
        call(origin, "POST", "/v1/uploads", body)
    assert call(origin, "PUT", path, record).status == 201


def test_records_never_go_back_and_keys_change_by_rotation_only(fresh_origin, model):
    published = fresh_origin
    publish(published, model)
    path = record_path(model.name)

    def put(raw):
        return call(published, "PUT", path, raw).status

    fifth = model.record(seq=5)
    assert put(fifth) == 201
    assert put(model.record(seq=4)) == 409
    assert put(model.record(seq=5, lifetime=61)) == 409  # another record of the same number
    assert put(fifth) == 201  # the same again is no harm
    assert put(model.record(seq=6, key=OTHER_KEY)) == 409
    rotation = rotate(KEY, public_bytes(OTHER_KEY), "acme", int(time.time()))
    assert put(model.record(seq=6, key=OTHER_KEY, rotations=(rotation,))) == 201
    assert put(model.record(seq=7)) == 409  # the old key speaks no more
    other = make_model("acme/second", seed=2)
    assert (
        call(published, "PUT", record_path(other.name), other.record(manifest=None)).status == 409
    )


def test_a_record_for_another_path_from_the_future_or_forged_is_refused(published, model):
    elsewhere = record_path(Name.parse("acme/other"))
    assert call(published, "PUT", elsewhere, model.record()).status == 400
    late = model.record(seq=9, time=int(time.time()) + 7200)
    assert call(published, "PUT", record_path(model.name), late).status == 409
    forged = bytearray(model.record(seq=9))
    forged[-20] ^= 1
    assert call(published, "PUT", record_path(model.name), bytes(forged)).status in {400, 409}


def test_a_corrupt_upload_is_refused_and_not_kept(origin, model):
    digest, data = next(iter(model.blocks.items()))
    flipped = bytes([data[0] ^ 1]) + data[1:]
    (body,) = pack_parts([(digest, flipped)])
    reply = call(origin, "POST", "/v1/uploads", body)
    assert (reply.status, reply.json["error"]) == (422, "corrupt")
    assert missing(origin, (Want(digest, len(data)),)) == [0]


def test_a_manifest_comes_in_parts_in_order(origin, model):
    raw, path = model.raw, f"/v1/manifests/{model.digest}"
    total = len(raw)

    def put(first, last):
        header = f"bytes {first}-{last - 1}/{total}"
        return call(origin, "PUT", path, raw[first:last], Content_Range=header).status

    assert put(10, 20) == 409  # nothing before it
    assert put(0, 100) == 202
    assert put(200, total) == 409  # a gap
    assert put(50, 150) == 202  # once more after a lost answer
    assert put(150, total) == 201
    assert call(origin, "GET", path).body == raw
    assert call(origin, "PUT", path, raw[:50], Content_Range="bytes 0-60/100").status == 400
    huge = call(origin, "PUT", path, b"x", Content_Range=f"bytes 0-0/{1 << 30}")
    assert huge.status == 413


def test_a_manifest_that_is_none_is_refused(origin):
    raw = b"\x80"
    assert call(origin, "PUT", f"/v1/manifests/{Digest.of(raw)}", raw).status == 400
    assert call(origin, "PUT", f"/v1/manifests/{Digest.of(b'')}", raw).status == 422


def test_a_manifest_that_lies_of_a_block_that_is_here_is_refused(published, model):
    """Catches: a model that nobody can pull is taken, and told to whoever counts with lengths."""
    cut = CutFile("weights.bin", 300_001, cut_runs("weights.bin", 300_001, None,
                  block_bytes=64 * 1024), b"".join(model.blocks))  # fmt: skip
    raw = encode(build_manifest(Kind.PACK, [cut], block_bytes=64 * 1024))
    answer = call(published, "PUT", f"/v1/manifests/{digest_of(raw)}", raw)
    assert (answer.status, answer.json["error"]) == (400, "format")
    assert call(published, "GET", f"/v1/manifests/{digest_of(raw)}").status == 404
    assert call(published, "PUT", f"/v1/manifests/{model.digest}", model.raw).status == 201


def test_what_was_acknowledged_survives_kill_nine(tmp_path, model):
    edge = launch_edge(tmp_path / "store")
    try:
        publish(edge, model)
    finally:
        edge.kill()
    with start_edge(tmp_path / "store") as again:
        assert bundle(again, model.wants)[0] == model.blocks
        assert call(again, "GET", record_path(model.name)).status == 200


def test_a_second_process_on_one_store_is_told_so(origin):
    with pytest.raises(RuntimeError, match="ended with 13") as caught:
        launch_edge(origin.store)
    assert str(caught.value).splitlines()[-1].startswith("icn-edge: ")


def test_blocks_published_in_place_meanwhile_are_served(origin, model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"".join(model.blocks.values()))
    add_in_place(origin.store, folder, model)
    assert bundle(origin, model.wants)[0] == model.blocks
    assert call(origin, "GET", record_path(model.name)).status == 200
    (folder / "weights.bin").write_bytes(b"edited")
    _, refused = bundle(origin, model.wants)
    assert {reason for reason, _ in refused.values()} == {Reason.CHANGED}
    changed = origin.status()["changed_files"]
    assert str(folder / "weights.bin") in changed
    assert origin.metric("icn_changed_files") == len(changed)


def add_in_place(store, folder, model):
    from icnblocks.store.inplace import FileFacts

    facts = {"weights.bin": FileFacts.of(os.stat(folder / "weights.bin"))}
    with InPlaceStore(store / "places.sqlite") as places, Catalog(store / "catalog.sqlite") as cat:
        places.add_directory(folder, model.digest, model.manifest, facts)
        cat.put_manifest(model.digest, model.raw)
        cat.put_record(model.name, model.record(), 1, "ab" * 32, time.time())


def test_a_reader_that_stalls_is_cut_off_and_others_are_not(tmp_path):
    model = make_model(size=20_000_000)
    with start_edge(tmp_path / "o", "--send-grace", "300ms", "--send-floor", "100MB") as edge:
        publish(edge, model)
        body = encode_request(BundleRequest(model.wants))
        with socket.create_connection(("127.0.0.1", edge.port)) as sock:
            head = f"POST /v1/bundles HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall(head.encode() + body)
            sock.recv(1000)
            poll_until(lambda: edge.metric("icn_cut_off_total", cause="stalled") == 1)
            assert edge.metric("icn_requests_in_flight") == 0
            assert bundle(edge, model.wants[:4])[0]


def test_too_many_requests_get_429_and_retry_after(tmp_path, model):
    with start_edge(tmp_path / "o", "--max-client-requests", "1") as edge:
        with socket.create_connection(("127.0.0.1", edge.port)) as sock:
            sock.sendall(b"POST /v1/missing HTTP/1.1\r\nHost: x\r\nContent-Length: 36\r\n\r\n")
            poll_until(lambda: edge.metric("icn_requests_in_flight") == 1)
            reply = call(edge, "GET", record_path(model.name))
            assert (reply.status, reply.json["error"]) == (429, "busy")
            assert reply.headers["Retry-After"] == "1"
            assert call(edge, "GET", "/healthz").status == 200
        poll_until(lambda: edge.metric("icn_requests_in_flight") == 0)
        assert call(edge, "GET", record_path(model.name)).status == 404


def test_uploads_that_nobody_names_expire(tmp_path, model):
    with start_edge(tmp_path / "o", "--upload-ttl", "1s") as edge:
        unnamed = make_model(seed=9)
        elsewhere = make_model(seed=10)  # another process writes its manifest into the catalog
        # Named before they come: afterwards, whoever is held up for a second is too late.
        call(edge, "PUT", f"/v1/manifests/{model.digest}", model.raw)
        with Catalog(edge.store / "catalog.sqlite") as catalog:
            catalog.put_manifest(elsewhere.digest, elsewhere.raw)
        for each in (model, elsewhere, unnamed):
            for body in pack_parts(each.blocks.items()):
                call(edge, "POST", "/v1/uploads", body)
        # (asking for them with the missing-set query would renew them)
        poll_until(lambda: edge.metric("icn_expired_uploads_total") == len(unnamed.blocks))
        assert len(missing(edge, unnamed.wants)) == len(unnamed.blocks)
        assert missing(edge, elsewhere.wants) == []
        assert missing(edge, model.wants) == []  # a manifest names these


def test_uploads_from_before_a_restart_expire_too(tmp_path, model):
    store = tmp_path / "o"
    unnamed = make_model(seed=9)
    with start_edge(store) as edge:
        publish(edge, model, record=False)
        for body in pack_parts(unnamed.blocks.items()):
            call(edge, "POST", "/v1/uploads", body)
    with start_edge(store, "--upload-ttl", "1s") as edge:
        poll_until(lambda: edge.metric("icn_expired_uploads_total") == len(unnamed.blocks))
        assert missing(edge, model.wants) == []


def test_a_file_that_is_cut_short_while_it_is_sent_cuts_the_answer(origin, tmp_path):
    model = make_model("acme/inplace", size=16 << 20, seed=77, block_bytes=16 << 20)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"".join(model.blocks.values()))
    add_in_place(origin.store, folder, model)
    before = origin.metric("icn_cut_off_total", cause="changed")
    with begun(origin, model.wants) as sock:
        received = b""
        while len(received) < 200_000:  # the block itself is under way
            received += sock.recv(65536)
        os.truncate(folder / "weights.bin", 1000)
        try:
            while piece := sock.recv(1 << 20):
                received += piece
        except ConnectionResetError:
            pass
    assert len(received) < model.size
    poll_until(lambda: origin.metric("icn_cut_off_total", cause="changed") == before + 1)


def test_tls_serves_the_same_bytes(tmp_path, model):
    cert, key = make_certificate(tmp_path)
    big = make_model("acme/tls", size=5 << 20, seed=78, block_bytes=2 << 20)
    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    with start_edge(tmp_path / "o", *options, scheme="https") as edge:
        with Source(edge.url, SourceOptions(ca_file=cert)) as source:
            for each in (model, big):
                source.upload(pack_parts(each.blocks.items()))
            found = {}
            with Engine([source], Collector(found)) as engine:
                engine.add([*model.wants, *big.wants])
                assert engine.wait(20)
    assert found == {**model.blocks, **big.blocks}


class Collector:
    def __init__(self, found):
        self.found = found

    def accept(self, blocks):
        self.found |= {block.digest: bytes(block.data) for block in blocks}

    def refuse(self, want, error):
        raise error


def make_certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_a_full_capacity_refuses_uploads_and_keeps_what_there_is(tmp_path):
    model = make_model(size=18 << 20, block_bytes=512 << 10)
    with start_edge(tmp_path / "o", "--capacity", "16MiB") as edge:
        replies = [
            call(edge, "POST", "/v1/uploads", body)
            for item in model.blocks.items()
            for body in pack_parts([item])
        ]
        assert replies[0].status == 200
        assert (replies[-1].status, replies[-1].json["error"]) == (507, "storage")
        assert edge.status()["store"]["used_bytes"] <= 16 << 20


def test_writing_from_elsewhere_needs_a_token(tmp_path, model):
    tokens = tmp_path / "tokens"
    tokens.write_text("# ours\nsecret-token-0123456789\n")
    with start_edge(tmp_path / "o", "--token-file", str(tokens)) as edge:
        (body,) = pack_parts(list(model.blocks.items())[:1])
        proxied = {"X_Forwarded_For": "192.0.2.7"}
        refused = call(edge, "POST", "/v1/uploads", body, **proxied)
        assert (refused.status, refused.json["error"]) == (403, "refused")
        wrong = call(edge, "POST", "/v1/uploads", body, Authorization="Bearer no", **proxied)
        assert wrong.status == 403
        right = {"Authorization": "Bearer secret-token-0123456789", **proxied}
        assert call(edge, "POST", "/v1/uploads", body, **right).status == 200
        tokens.write_text("another-token-0123456789\n")
        edge.process.send_signal(1)  # SIGHUP
        poll_until(lambda: call(edge, "POST", "/v1/uploads", body, **right).status == 403)
        assert "secret-token" not in edge.logged()


def test_a_proxy_that_speaks_http_1_0_is_not_taken_for_loopback(origin, model):
    (body,) = pack_parts(list(model.blocks.items())[:1])
    with socket.create_connection(("127.0.0.1", origin.port), timeout=10) as sock:
        head = f"POST /v1/uploads HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        assert sock.recv(100).startswith(b"HTTP/1.0 403")


def test_a_graceful_stop_finishes_what_is_being_sent(tmp_path):
    model = make_model(size=20_000_000)
    edge = launch_edge(tmp_path / "o")
    publish(edge, model)
    body = encode_request(BundleRequest(model.wants))
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as sock:
        head = f"POST /v1/bundles HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        sock.recv(10)
        edge.process.terminate()
        poll_until(lambda: refuses_connections(edge.port), what="no new connections")
        received = 10
        while piece := sock.recv(1 << 20):
            received += len(piece)
    assert received > model.size
    assert edge.stop() == 0
    assert "stopped" in edge.logged()


def refuses_connections(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_logs_are_json_lines_when_asked(tmp_path):
    with start_edge(tmp_path / "o", "--log-format", "json") as edge:
        logged = poll_until(lambda: edge.logged().endswith("\n") and edge.logged())
        lines = [json.loads(line) for line in logged.splitlines()]
    assert lines[0]["level"] == "INFO"
    assert lines[0]["role"] == "origin"

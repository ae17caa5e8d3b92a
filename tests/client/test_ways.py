"""The way to a source: TLS, with authorities of one's own, and proxies."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
import subprocess
import sys

import pytest

from icnblocks.client.endpoint import Endpoint, Proxy, proxy_for, ssl_context
from icnblocks.client.source import Source, SourceOptions
from icnblocks.errors import NotFoundError, SourceError, UntrustedError, UsageError
from icnblocks.naming import Digest
from icnblocks.testing.lying import LyingServer, Reply, TunnelProxy
from icnblocks.wire.bundle import BundleRequest, Want
from icnblocks.wire.frames import Data, End, buffer_bytes
from tests.client.test_source import NAME, QUICK, serving


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory):
    """A throw-away authority, and a server's context that it has signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("tls")
    now = dt.datetime.now(dt.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def build(subject: str, issuer: str, key, ca: bool):
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = build("test authority", "test authority", ca_key, True).sign(ca_key, hashes.SHA256())
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    far = x509.DNSName("far.example")
    leaf = (
        build("edge", "test authority", key, False)
        .add_extension(x509.SubjectAlternativeName([address, far]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "edge.pem").write_bytes(
        leaf.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "edge.pem")
    return context, folder / "ca.pem"


def test_tls_with_a_private_authority(tls) -> None:
    context, ca_file = tls
    block = bytes(range(256)) * 4000
    want = Want(Digest.of(block), len(block))
    with LyingServer({want.digest: block}, tls=context) as server:
        with Source(server.url, SourceOptions(ca_file=ca_file)) as source:
            connection = source.connect()
            buffer = memoryview(bytearray(buffer_bytes(len(block))))
            for _ in range(2):
                got = [
                    bytes(event.payload) if isinstance(event, Data) else event
                    for event in source.bundle(BundleRequest((want,)), connection, buffer)
                ]
                assert got == [block, End()]
            connection.drop()
            assert server.connections == 1
        with (
            Source(server.url) as source,
            pytest.raises(UntrustedError, match="not trust") as caught,
        ):
            source.record(NAME)
        assert "ca_file" in caught.value.hint


def test_a_certificate_that_is_not_valid_yet_points_to_the_clock(tls, monkeypatch) -> None:
    """Catches: "name the CA file" on a device that was switched on without a clock."""
    context, ca_file = tls

    def trusting(file):
        made = ssl_context(file)
        made.verify_flags |= 0x2  # X509_V_FLAG_USE_CHECK_TIME, whose time is 1970
        return made

    monkeypatch.setattr("icnblocks.client.source.ssl_context", trusting)
    with LyingServer({}, tls=context) as server:
        with Source(server.url, SourceOptions(ca_file=ca_file)) as source:
            with pytest.raises(UntrustedError, match="not yet valid") as caught:
                source.record(NAME)
    assert "clock" in caught.value.hint


def test_a_ca_file_that_is_none_is_a_usage_error(tmp_path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "absent.pem"):
        with pytest.raises(UsageError, match="CA file"):
            Source("https://edge", SourceOptions(ca_file=tmp_path / name))


def test_https_to_an_http_server_is_a_clear_error() -> None:
    with serving(lambda _: Reply(200, b"raw")) as server:
        with Source(server.url.replace("http:", "https:"), QUICK) as source:
            with pytest.raises(SourceError):
                source.record(NAME)


def test_an_http_proxy_is_asked_for_the_whole_url(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(200, b"raw")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:pass%21@"))
        with Source("http://far.example:81/x") as source:
            assert source.record(NAME).raw == b"raw"
        [request] = proxy.requests
        assert request.path == "http://far.example:81/x/v1/records/acme/minilm/v1"
        assert request.headers["host"] == "far.example:81"
        assert request.headers["proxy-authorization"] == "Basic bWU6cGFzcyE="


def test_https_goes_through_a_tunnel_of_the_proxy(tls, monkeypatch: pytest.MonkeyPatch) -> None:
    context, ca_file = tls
    block = bytes(300_000)
    want = Want(Digest.of(block), len(block))
    with (
        LyingServer({want.digest: block}, tls=context) as server,
        TunnelProxy(server.port) as proxy,
    ):
        url = f"http://me:pass@127.0.0.1:{proxy.port}"
        monkeypatch.setenv("https_proxy", url)
        with Source("https://far.example", SourceOptions(ca_file=ca_file)) as source:
            connection = source.connect()
            buffer = memoryview(bytearray(buffer_bytes(len(block))))
            for _ in range(2):
                events = list(source.bundle(BundleRequest((want,)), connection, buffer))
                assert bytes(events[0].payload) == block
            connection.drop()
        [request] = proxy.requests
        assert (request.method, request.path) == ("CONNECT", "far.example:443")
        assert request.headers["host"] == "far.example:443"
        assert request.headers["proxy-authorization"] == "Basic bWU6cGFzcw=="
        with Source("https://far.example.", SourceOptions(ca_file=ca_file)) as source:
            with pytest.raises(NotFoundError):  # a certificate says no dot at a name's end
                source.record(NAME)
        with Source("https://else.example", SourceOptions(ca_file=ca_file)) as source:
            with pytest.raises(UntrustedError) as caught:
                source.record(NAME)
        assert "host name" in caught.value.hint


def test_a_proxy_that_refuses_a_tunnel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with TunnelProxy(0, refuses=True) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with Source("https://far.example") as source:
            with pytest.raises(SourceError, match=r"proxy.*407") as caught:
                source.record(NAME)
        assert caught.value.hint == Proxy.advice


def test_where_no_proxy_is_named_the_module_that_reads_them_is_not_loaded() -> None:
    script = (
        "import sys; from icnblocks.client.endpoint import Endpoint, proxy_for;"
        "assert proxy_for(Endpoint.parse('http://far.example')) is None;"
        "assert 'urllib.request' not in sys.modules"
    )
    named = {"NO_PROXY": "*", "no_proxy": "far.example", "HTTP_PROXY": "", "http_proxy": ""}
    clean = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    subprocess.run([sys.executable, "-c", script], env=clean | named, check=True, timeout=60)


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    far, near = Endpoint.parse("https://far.example"), Endpoint.parse("https://a.near.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "near.example,fd00::1,[fd00::2],[fd00::3]:4260")
    proxy = proxy_for(far)
    assert proxy is not None
    assert (proxy.host, proxy.port) == ("proxy", 3128)
    assert proxy_for(near) is None
    assert proxy_for(Endpoint.parse("https://a.near.example.")) is None
    for literal in ("[fd00::1]", "[fd00::2]", "[fd00::3]:4260"):
        assert proxy_for(Endpoint.parse(f"https://{literal}")) is None
    assert proxy_for(Endpoint.parse("https://[fd00::3]")) is not None
    assert proxy_for(Endpoint.parse("http://far.example")) is None
    assert proxy_for(Endpoint.parse("https://127.0.0.1")) is None
    assert proxy_for(Endpoint.parse("https://localhost")) is None
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    with pytest.raises(UsageError):
        proxy_for(far)

"""Behind a stock nginx `proxy_pass` all is right: small bodies, HTTP/1.0, re-chunked answers."""

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager

import pytest

from icnblocks.testing.device import Device
from icnblocks.testing.models import lora, write_llama
from icnblocks.testing.processes import poll_until, start_edge

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
TOKEN = "a-token-for-behind-nginx"
CONFIG = """
{user} daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  {http}
  server {{ listen 127.0.0.1:{port}; location / {{ {location} proxy_pass {upstream}; }} }}
}}
"""


READ_TOKEN = "a-token-to-read-with"
ASKING = {
    "http": f"""map $http_authorization $may_read {{
        "Bearer {READ_TOKEN}" 1; "Bearer {TOKEN}" 1; default 0; }}""",
    "location": "if ($may_read = 0) { return 401; }",
}


@contextmanager
def behind_nginx(tmp_path, *, http="", location=""):
    """An origin, and nginx in front of it, which is told this besides: the URLs of both."""
    if NGINX is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    root = tmp_path / "nginx"
    root.mkdir()
    with (
        socket.socket() as kept,
        start_edge(tmp_path / "origin", "--token", TOKEN) as origin,
    ):
        # Bound and never listening, it keeps the port for nginx, which shares addresses too.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        user = "user root;" if os.geteuid() == 0 else ""
        config = CONFIG.format(user=user, root=root, port=port, upstream=origin.url,
                               http=http, location=location)  # fmt: skip
        (root / "nginx.conf").write_text(config)
        command = [NGINX, "-p", str(root), "-c", str(root / "nginx.conf")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

        def answers():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            poll_until(answers, what="nginx")
            yield f"http://127.0.0.1:{port}", origin
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def proxied(tmp_path):
    """The same with a stock nginx."""
    with behind_nginx(tmp_path) as both:
        yield both


@pytest.mark.slow
def test_publish_and_pull_through_a_stock_nginx(proxied, tmp_path, same):
    url, origin = proxied
    model = write_llama(tmp_path / "model", layers=8, hidden=1024, vocabulary=4000)
    adapter = lora(tmp_path / "adapter", layers=8, hidden=1024)
    stranger = Device(tmp_path / "stranger")
    refused = stranger.run("publish", model, "acme/model", "--to", url)
    assert refused.code == 14, "whoever comes through a proxy is not on loopback"
    publisher = Device(tmp_path / "publisher", ICN_TOKEN=TOKEN)
    publisher.publish(model, "acme/model", url)
    publisher.publish(adapter, "acme/adapter", url, "--base", "acme/model")
    done = Device(tmp_path / "device").fetch("acme/adapter", url)
    assert same(adapter, done["path"])
    assert same(model, done["base_path"])
    with start_edge(tmp_path / "edge", "--upstream", url) as edge:
        through = Device(tmp_path / "other").fetch("acme/adapter", edge.url)
        assert same(model, through["base_path"])
    assert origin.metric("icn_sent_bytes_total") == 2 * done["bytes_network"]


@pytest.mark.slow
def test_devices_and_edges_read_through_an_nginx_that_asks_for_a_token(tmp_path, same):
    """As docs/operations.md has it. Catches: nobody can read through it but edges."""
    model = write_llama(tmp_path / "model", layers=2, hidden=128)
    shown = {"ICN_READ_TOKEN": READ_TOKEN}
    with behind_nginx(tmp_path, **ASKING) as (url, _):
        Device(tmp_path / "publisher", ICN_TOKEN=TOKEN).publish(model, "acme/model", url)
        stranger = Device(tmp_path / "stranger").run("fetch", "acme/model", "--from", url)
        assert stranger.code == 14, "not allowed"
        done = Device(tmp_path / "device", **shown).fetch("acme/model", url)
        assert same(model, done["path"])
        reader = Device(tmp_path / "reader", ICN_TOKEN=READ_TOKEN)
        assert reader.run("publish", model, "acme/other", "--to", url).code == 14
        more = ("--upstream", url, "--upstream-token", READ_TOKEN)
        with start_edge(tmp_path / "edge", *more) as edge:
            through = Device(tmp_path / "other").fetch("acme/model", edge.url)
            assert same(model, through["path"])

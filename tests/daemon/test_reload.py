"""SIGHUP: what is taken over, what is refused whole, and what is only warned of."""

import signal

from icnblocks.testing.exchange import call
from icnblocks.testing.processes import poll_until, start_edge


def test_nothing_is_reloaded_when_the_trust_file_is_gone(tmp_path):
    tokens, trust = tmp_path / "tokens", tmp_path / "trust.toml"
    tokens.write_text("secret-token-0123456789\n")
    trust.write_text(f'acme = "{"0" * 64}"\n')
    options = ("--token-file", str(tokens), "--trust-file", str(trust))
    with start_edge(tmp_path / "o", *options) as edge:
        tokens.write_text("another-token-0123456789\n")
        trust.unlink()
        edge.process.send_signal(signal.SIGHUP)
        poll_until(lambda: "nothing was reloaded: trust_file: no such file" in edge.logged())
        right = {"Authorization": "Bearer secret-token-0123456789", "X_Forwarded_For": "192.0.2.7"}
        assert call(edge, "POST", "/v1/uploads", b"", **right).status != 403


def test_a_reload_warns_of_settings_that_need_a_restart(tmp_path):
    settings = tmp_path / "edge.toml"
    settings.write_text('log_level = "info"\n')
    with start_edge(tmp_path / "o", "--config", str(settings)) as edge:
        settings.write_text('capacity = "1GB"\nmax_requests = 5\n')
        edge.process.send_signal(signal.SIGHUP)
        poll_until(lambda: "only after a restart: capacity, max_requests" in edge.logged())
        assert edge.status()["budget"]["capacity"] is None

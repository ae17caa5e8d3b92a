"""Settings: one table of keys, later ones win, every mistake one line with exit code 2."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from icnblocks.errors import UsageError
from icnblocks_daemon.addresses import Address, parse_address
from icnblocks_daemon.cli import config_path, icn_edge
from icnblocks_daemon.config import keys, load_config, taken_over

ROOT = Path(__file__).parents[2]


def load(tmp_path, text="", environ=(), **flags):
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return load_config(path, {"ICN_EDGE_STORE": "/x", **dict(environ)}, flags)


def test_flags_win_over_variables_over_the_file(tmp_path):
    text = 'capacity = "1GB"\npolicy = "lru"\nnegative_ttl = "9s"\n'
    environ = {"ICN_EDGE_CAPACITY": "2GB", "ICN_EDGE_POLICY": "lfu"}
    config = load(tmp_path, text, environ, policy="gdsf")
    assert (config.capacity, config.policy, config.negative_ttl) == (2 * 10**9, "gdsf", 9.0)


def test_lists_come_from_toml_lists_words_and_repeated_flags(tmp_path):
    want = (("", "http://a"), ("acme", "http://b"))
    assert load(tmp_path, 'upstream = ["http://a", "acme=http://b"]').upstream == want
    environ = {"ICN_EDGE_UPSTREAM": "http://a acme=http://b"}
    assert load(tmp_path, "", environ).upstream == want
    assert load(tmp_path, upstream=("http://a", "acme=http://b")).upstream == want


@pytest.mark.parametrize(
    ("text", "environ", "flags", "said"),
    [
        ("x = 1", {}, {}, "unknown key 'x'"),
        ("capacity = [1]", {}, {}, "capacity"),
        ("nonsense", {}, {}, "not TOML"),
        ("", {"ICN_EDGE_CAPCITY": "1"}, {}, "unknown variable ICN_EDGE_CAPCITY"),
        ("", {"ICN_EDGE_PIT": "perhaps"}, {}, "ICN_EDGE_PIT"),
        ("", {}, {"capacity": "20 parsecs"}, "--capacity"),
        ("", {}, {"listen": "localhost"}, "--listen"),
        ("", {}, {"upstream": ("ftp://x",)}, "--upstream"),
        ("", {}, {"stop_timeout": "soon"}, "--stop-timeout"),
        ("", {}, {"max_requests": "0"}, "--max-requests"),
        ("", {}, {"log_level": "loud"}, "--log-level"),
        ("", {}, {"publisher": ("acme=12",)}, "--publisher"),
        ("", {}, {"publisher": ("acme",)}, "--publisher: 'acme' is not PREFIX=FINGERPRINT"),
        ("", {}, {"tls_cert": "/x"}, "go together"),
        ("", {}, {"ca_file": "/does/not/exist"}, "no such file"),
    ],
)
def test_mistakes_name_where_they_are(tmp_path, text, environ, flags, said):
    with pytest.raises(UsageError, match=said) as caught:
        load(tmp_path, text, environ, **flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "token", ["", " ", "x", "fifteen-letters", "sixteen letters!", "\u00e9" * 20]
)
def test_a_token_that_anybody_can_guess_is_refused_wherever_it_is_written(tmp_path, token):
    """An empty one, from a variable that was not set, let everybody write."""
    for text, environ, flags in [
        ("", {}, {"token": (token,)}),
        (f'token = "{token}"', {}, {}),
        (f'token = ["{token}"]', {}, {}),
        ("", {"ICN_EDGE_TOKEN": token}, {}),
    ]:
        with pytest.raises(UsageError, match="at least 16 printable") as caught:
            load(tmp_path, text, environ, **flags)
        assert not token.strip() or token not in str(caught.value).replace("16 printable", "")
    assert load(tmp_path, token=("0123456789abc,ef",)).token == ("0123456789abc,ef",)


@pytest.mark.parametrize(
    "key",
    ["alive_interval", "idle_timeout", "send_grace", "upload_ttl", "upstream_timeout",
     "upstream_wait"],
)  # fmt: skip
def test_a_duration_that_would_keep_the_daemon_busy_with_nothing_else_is_refused(tmp_path, key):
    """`alive_interval = 0` flooded those who wait, `upload_ttl = 0` kept house without a pause."""
    for text in ("0", "0s", "0.000001", "99ms"):
        with pytest.raises(UsageError, match=f"{key}: at least 100ms is expected"):
            load(tmp_path, f'{key} = "{text}"')
    assert getattr(load(tmp_path, f'{key} = "100ms"'), key) == 0.1


@pytest.mark.parametrize(
    "key",
    ["negative_ttl", "record_cap", "room_wait", "sibling_wait", "stale_max", "stop_timeout",
     "upstream_retry"],
)  # fmt: skip
def test_a_duration_of_0_that_means_at_once_or_not_at_all_is_taken(tmp_path, key):
    assert getattr(load(tmp_path, f"{key} = 0"), key) == 0


@pytest.mark.parametrize("text", [":4260", "[]:4260", " :4260"])
def test_nobody_listens_everywhere_without_saying_so(tmp_path, text):
    """An empty host bound 0.0.0.0."""
    with pytest.raises(UsageError, match=r"no host: 127.0.0.1:4260 .* 0.0.0.0:4260"):
        load(tmp_path, listen=text)


def test_a_fingerprint_is_read_as_everywhere_else(tmp_path):
    """A trust file and `icn-fetch --trust` took capitals and colons, `publisher` did not."""
    key = "0123456789abcdef" * 4
    colons = ":".join(key[at : at + 2] for at in range(0, 64, 2)).upper()
    assert load(tmp_path, publisher=(f"acme={colons}",)).publisher == (("acme", key),)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"upstream": ("http://127.0.0.1:99999",)}, "port is a number from 1 to 65535"),
        ({"upstream": ("http://[::1]:0/x",)}, "port is a number from 1 to 65535"),
        ({"upstream": ("acme=http://x:y",)}, "port is a number from 1 to 65535"),
        ({"upstream": ("ftp://x",)}, "http:// or https:// is expected: 'ftp://x'"),
        ({"upstream": ("acme=ftp://x/a=b",)}, "http:// or https:// is expected"),
        ({"upstream": ("acme",)}, "http:// or https:// is expected"),
        ({"max_requests": "9" * 5000}, "from 1 to 100000"),
        ({"listen": "x:" + "9" * 5000}, "the port is a number"),
        ({"store": "~no-such-user/x"}, "no such home directory"),
        ({"store": "/a\0b"}, "no NUL"),
    ],
)
def test_mistakes_are_said_in_plain_words(tmp_path, flags, said):
    with pytest.raises(UsageError, match=said):
        load(tmp_path, **flags)


def test_odd_upstreams_that_are_meant(tmp_path):
    given = ("http://[::1]:80/x", "HTTP://a:81/b=c", " acme = https://b ")
    want = (("", "http://[::1]/x"), ("", "http://a:81/b=c"), ("acme", "https://b"))
    assert load(tmp_path, upstream=given).upstream == want


@pytest.mark.parametrize(
    "text", ["capacity = [1]", "capacity = {a = 1}", f"capacity = {'9' * 5000}", "x" + "[" * 5000]
)
def test_odd_toml_is_no_python_text(tmp_path, text):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert not re.search("unhashable|Errno|recursion|digits\\)", str(caught.value))


def test_a_reload_takes_over_what_it_can_and_names_the_rest(tmp_path):
    old = load(tmp_path, listen="127.0.0.1:1", policy="lru")
    new = load(tmp_path, listen="127.0.0.1:2", policy="lfu", capacity="1GB")
    config, left = taken_over(old, new)
    assert left == ("listen", "capacity")
    assert (config.listen, config.capacity, config.policy) == (old.listen, None, "lfu")


def test_a_trust_file_that_is_named_must_be_there(tmp_path):
    """Without it, any publisher's key would be taken."""
    with pytest.raises(UsageError, match="trust_file: no such file"):
        load(tmp_path, trust_file=str(tmp_path / "none.toml"))


def run(*args, **environ):
    command = [sys.executable, "-m", "icnblocks_daemon", *args]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


@pytest.mark.parametrize(
    "args",
    [
        (), ("--store", "/x", "--policy", "nope"), ("--store", "/x", "--strategy", "nope"),
        ("--store", "/x", "--policy", "lru:alpha=1"),
        ("--nope",), ("nope",), ("--config", "/does/not/exist"), ("--store",),
        ("--store", "/x", "--listen", "192.0.2.1:1"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_line_and_exit_code_2(args):
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("icn-edge: ")


def test_check_config_checks_and_does_not_start(tmp_path):
    done = run("--store", str(tmp_path / "s"), "--check-config")
    assert done.returncode == 0
    assert not (tmp_path / "s").exists()


def test_help_is_quick_and_has_every_key():
    began = os.times()
    text = run("--help").stdout
    ended = os.times()  # of the machine's work for it: it may be held up for longer by others
    took = ended.children_user - began.children_user + ended.children_system - began.children_system
    assert took < 2  # 0.1 s on a quiet machine; the next test says why
    for key in keys():
        assert f"--{key.name.replace('_', '-')}" in text


def test_help_names_the_exit_codes_of_a_start():
    text = " ".join((icn_edge.epilog or "").split())
    for code in ("2 wrong settings", "8 store of a newer", "11 storage refused", "13 store in use"):
        assert code in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys, icnblocks_daemon.cli as c\n"
        "try: c.icn_edge.main(['--help'], standalone_mode=False)\nexcept BaseException: pass\n"
        "print([m for m in ('aiohttp', 'numpy', 'cryptography', 'sqlite3', 'prometheus_client')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_key_is_documented_in_operations():
    text = (ROOT / "docs" / "operations.md").read_text()
    for key in keys():
        assert f"`{key.name}`" in text, key.name


def test_addresses():
    assert parse_address("[::1]:80") == Address("::1", 80)
    assert str(parse_address("[::1]:80")) == "[::1]:80"
    for text in ("", "x", "::1:80", "x:70000", "x:-1", "a/b:1", "x:" + "9" * 5000):
        with pytest.raises(ValueError):
            parse_address(text)


def test_settings_of_systemds_directory_that_cannot_be_seen_are_not_taken_for_none(tmp_path):
    """Catches: a directory that only root may enter, where tokens lie for example. The service took
    its settings for missing and ran, as an origin, without an upstream or a capacity."""
    environ = {"CONFIGURATION_DIRECTORY": str(tmp_path)}
    assert config_path(None, {}) is config_path(None, environ) is None
    (tmp_path / "edge.toml").symlink_to(tmp_path / "edge.toml")
    found = config_path(None, {"CONFIGURATION_DIRECTORY": str(tmp_path / "edge.toml")})
    with pytest.raises(UsageError, match="cannot read"):
        load_config(found, {}, {"store": "/s"})


def test_variables_of_a_cluster_are_no_settings(tmp_path):
    """Catches: a Kubernetes service called icn-edge, and no daemon of its namespace starts."""
    url = "tcp://10.96.0.7:4260"
    of_services = {
        "ICN_EDGE_SERVICE_HOST": "10.96.0.7", "ICN_EDGE_SERVICE_PORT": "4260",
        "ICN_EDGE_SERVICE_PORT_HTTP": "4260", "ICN_EDGE_PORT": url, "ICN_EDGE_PORT_4260_TCP": url,
        "ICN_EDGE_PORT_4260_TCP_PROTO": "tcp", "ICN_EDGE_PORT_4260_TCP_ADDR": "10.96.0.7",
        "ICN_EDGE_ROOF_SERVICE_HOST": "10.96.0.8", "ICN_EDGE_ROOF_PORT": url,
    }  # fmt: skip
    assert load(tmp_path, "", of_services) == load(tmp_path)
    assert load(tmp_path, "", {"ICN_EDGE_PORT_FILE": "/p"}).port_file == Path("/p")
    with pytest.raises(UsageError, match="unknown variable ICN_EDGE_PORTS"):
        load(tmp_path, "", {"ICN_EDGE_PORTS": "4260"})

"""Settings: file, then environment; a value that cannot be meant is named with its place."""

import os

import pytest

from icnblocks.client.settings import load_settings, read_toml
from icnblocks.errors import UsageError


def settings(tmp_path, text="", **environ):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_settings({"ICN_CONFIG": str(path), **environ})


def test_the_environment_goes_over_the_file(tmp_path):
    text = 'from = ["http://a", "http://b"]\nconnections = 2\ndurable = true\n'
    found = settings(tmp_path, text, ICN_CONNECTIONS="3", ICN_MODELS=str(tmp_path))
    assert found.sources == ("http://a", "http://b")
    assert (found.connections, found.durable, found.models) == (3, True, tmp_path)


def test_sources_in_the_environment_may_be_separated_by_blanks_or_commas(tmp_path):
    assert settings(tmp_path, ICN_FROM="http://a, http://b").sources == ("http://a", "http://b")


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("sources = 1", {}, "unknown key 'sources'"),
        ("connections = 99", {}, "connections"),
        ('limit_rate = "fast"', {}, "limit_rate"),
        ("limit_rate = 20", {}, "limit_rate"),
        ("", {"ICN_LIMIT_RATE": "64kbit"}, "ICN_LIMIT_RATE"),
        ("priority = 8", {}, "priority"),
        ("", {"ICN_PRIORITY": "-1"}, "ICN_PRIORITY"),
        ("", {"ICN_CONNECTIONS": "many"}, "ICN_CONNECTIONS"),
        ("", {"ICN_DURABLE": "perhaps"}, "ICN_DURABLE"),
        ("from = 3", {}, "from"),
        ("stall_s = -1", {}, "stall_s"),
        ("= nonsense", {}, "config.toml"),
    ],
)
def test_a_bad_value_is_named(tmp_path, text, environ, named):
    with pytest.raises(UsageError, match=named):
        settings(tmp_path, text, **environ)


@pytest.mark.parametrize("value", ["nan", "inf", '"many"', "[]"])
@pytest.mark.parametrize("key", ["connections", "priority", "stall_s"])
def test_what_is_no_number_is_answered_in_words(tmp_path, key, value):
    """Catches: a traceback for `inf`, and what Python says of `int()` and `float()`."""
    with pytest.raises(UsageError, match=r"(a number|seconds) .* (is|are) expected$"):
        settings(tmp_path, f"{key} = {value}")


def test_a_named_trust_file_must_be_there(tmp_path):
    """Catches: a slip in its name, for which publishers bound to a key are met as strangers."""
    absent = str(tmp_path / "trust.toml")
    with pytest.raises(UsageError, match="no such file: "):
        settings(tmp_path, ICN_TRUST_FILE=absent)
    with pytest.raises(UsageError, match="no such file: "):
        settings(tmp_path, f'trust_file = "{absent}"')
    (tmp_path / "trust.toml").touch()
    assert settings(tmp_path, ICN_TRUST_FILE=absent).trust_file == tmp_path / "trust.toml"


def test_a_named_config_file_must_be_there(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_settings({"ICN_CONFIG": str(tmp_path / "absent")})


def test_a_file_that_may_not_be_looked_at_is_said_to_be_it(tmp_path):
    """A directory that is another user's, say: a traceback where a program calls, else "disk"."""
    for path in (tmp_path / ("x" * 300), tmp_path):
        for required in (True, False):
            with pytest.raises(UsageError, match="cannot read"):
                read_toml(path, required=required)


def test_without_a_home_what_needs_one_must_be_named(tmp_path, monkeypatch):
    def nobody(path):
        return path

    monkeypatch.setattr(os.path, "expanduser", nobody)
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="there is no home directory") as caught:
        settings(tmp_path, ICN_KEYS=str(tmp_path))
    assert caught.value.hint == (
        "set HOME, or XDG_DATA_HOME and XDG_CONFIG_HOME,"
        " or ICN_MODELS and ICN_STORE and ICN_KNOWN_PUBLISHERS"
    ), "all at once, not one at a time"
    with pytest.raises(UsageError, match="ICN_STORE"):
        settings(tmp_path, ICN_STORE="~/store")
    with pytest.raises(UsageError, match="ICN_MODELS"):
        load_settings({})
    with monkeypatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        assert settings(tmp_path).store.is_absolute()
    rest = ("MODELS", "STORE", "KEYS", "KNOWN_PUBLISHERS")
    assert settings(tmp_path, **{f"ICN_{key}": str(tmp_path) for key in rest})


def test_an_empty_name_of_a_config_file_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_settings({"ICN_CONFIG": ""}).sources == ()

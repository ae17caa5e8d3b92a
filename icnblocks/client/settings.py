"""What a user sets once: where to ask, where models go, whom to trust.

One small TOML file and environment variables over it; docs/client.md has the table.
This module must not decide anything with the settings; pull and publish do.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import platformdirs

from icnblocks.client.pacing import LEAST_LIMIT_RATE
from icnblocks.errors import StorageError, UsageError
from icnblocks.limits import DEFAULT_PRIORITY, MAX_PRIORITY
from icnblocks.quantities import parse_rate
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

APP: Final = "icnblocks"


@dataclass(frozen=True, slots=True)
class Settings:
    """The client's settings.

    Attributes:
        sources: URLs of edges or origins, asked in this order (`from`, ICN_FROM).
        models: directory under which models are pulled to (`models`, ICN_MODELS).
        store: directory of the indexes: what lies where, records, manifests (`store`, ICN_STORE).
        keys: directory of publisher keys (`keys`, ICN_KEYS).
        trust_file: provisioned TOML file `publisher = "fingerprint"` (ICN_TRUST_FILE).
        known_publishers: keys met before, as `known_hosts` of SSH (ICN_KNOWN_PUBLISHERS).
        trust_first_use: accept the key of an unknown publisher (ICN_TRUST_FIRST_USE).
        ca_file: PEM file with private CAs for https sources (ICN_CA_FILE).
        token: bearer token for publishing (ICN_TOKEN).
        read_token: bearer token that `sources` are shown, for proxies that ask (ICN_READ_TOKEN).
        connections: connections over all sources together, 1 to 16 (ICN_CONNECTIONS).
        stall_s: seconds without a byte after which a source counts as stalled (ICN_STALL_S).
        retry_s: seconds without progress after which a pull gives up (ICN_RETRY_S).
        durable: flush a pull to disk before calling it done (ICN_DURABLE).
        limit_rate: bytes a second that a pull reads at most; None for no limit (ICN_LIMIT_RATE).
        priority: 0 to 7: of what waits at an edge, the larger goes first (ICN_PRIORITY).
    """

    sources: tuple[str, ...]
    models: Path
    store: Path
    keys: Path
    trust_file: Path
    known_publishers: Path
    trust_first_use: bool = False
    ca_file: Path | None = None
    token: str | None = None
    read_token: str | None = None
    connections: int = 4
    stall_s: float = 15.0
    retry_s: float = 60.0
    durable: bool = False
    limit_rate: float | None = None
    priority: int = DEFAULT_PRIORITY


def _sources(value: Any) -> tuple[str, ...]:
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("a URL or a list of URLs is expected")
    return tuple(parts)


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("a path is expected")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _flag(value: Any) -> bool:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "0": False,
        "false": False,
        "no": False,
        "": False,
    }
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false is expected")


def _seconds(value: Any) -> float:
    with suppress(ValueError, TypeError, OverflowError):
        seconds = float(value)
        if 0 < seconds <= 86_400:
            return seconds
    raise ValueError("seconds between 0 and 86400 are expected")


def _whole(value: Any, least: int, most: int) -> int:
    with suppress(ValueError, TypeError, OverflowError):
        if least <= int(value) <= most:
            return int(value)
    raise ValueError(f"a number from {least} to {most} is expected")


def _connections(value: Any) -> int:
    return _whole(value, 1, 16)


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise ValueError("a printable word is expected")
    return value.strip()


def read_limit(value: Any) -> float:
    """A rate limit as people write it: `20Mbit`, `2.5MB/s`; bytes a second.

    Raises:
        ValueError: if it is none, or below LEAST_LIMIT_RATE.
    """
    rate = parse_rate(str(value))
    if rate < LEAST_LIMIT_RATE:
        raise ValueError("the least limit is 160kbit: servers cut off readers that are too slow")
    return rate


def read_priority(value: Any) -> int:
    """A priority, 0 to 7.

    Raises:
        ValueError: if it is none.
    """
    return _whole(value, 0, MAX_PRIORITY)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "sources": _sources,
    "models": _path,
    "store": _path,
    "keys": _path,
    "trust_file": _path,
    "known_publishers": _path,
    "trust_first_use": _flag,
    "ca_file": _path,
    "token": _word,
    "read_token": _word,
    "connections": _connections,
    "stall_s": _seconds,
    "retry_s": _seconds,
    "durable": _flag,
    "limit_rate": read_limit,
    "priority": read_priority,
}
_SPELLED: Final = {"sources": "from"}
"""Keys that people write differently (`from` is a word of Python's)."""


def _of_user(folder: Callable[[str], str]) -> Path:
    """A directory of the user; a relative path where there is no home."""
    try:
        return Path(folder(APP))
    except RuntimeError:
        return Path("~")


def _defaults() -> Settings:
    data = _of_user(platformdirs.user_data_dir)
    config = _of_user(platformdirs.user_config_dir)
    return Settings(
        sources=(),
        models=data / "models",
        store=data / "store",
        keys=config / "keys",
        trust_file=Path(platformdirs.site_config_dir(APP)) / "trust.toml",
        known_publishers=config / "known_publishers",
    )


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """The config file: ICN_CONFIG, else `config.toml` in the user's config directory."""
    named = environ.get("ICN_CONFIG")
    return Path(named) if named else _of_user(platformdirs.user_config_dir) / "config.toml"


def read_toml(path: Path, *, required: bool) -> dict[str, Any]:
    """Read a TOML file; a missing one is empty unless `required`.

    Raises:
        UsageError: if it cannot be read or is not TOML.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if required:
            raise UsageError(f"no such file: {path}") from error
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not data:  # before the parser is loaded
        return {}
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Defaults, then the config file, then the environment.

    Raises:
        UsageError: naming the file or variable and the value that cannot be meant.
    """
    path = config_path(environ)
    named = bool(environ.get("ICN_CONFIG"))
    table = read_toml(path, required=named) if named or path.is_absolute() else {}
    known = {_SPELLED.get(field.name, field.name): field.name for field in fields(Settings)}
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}", hint=f"known: {', '.join(known)}")
    values: dict[str, Any] = {}
    for key, name in known.items():
        variable = f"ICN_{key.upper()}"
        where, raw = f"{path}: {key}", table.get(key)
        if variable in environ:
            where, raw = variable, environ[variable]
        if raw is None:
            continue
        try:
            values[name] = _READERS[name](raw)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{where} = {raw!r}: {error}") from error
    settings = replace(_defaults(), **values)
    if "trust_file" in values:  # else whom it binds to a key would be met as strangers are
        read_toml(settings.trust_file, required=True)
    places = ("models", "store", "keys", "known_publishers")
    # `~` stands for nothing here.
    homeless = [
        f"ICN_{name.upper()}" for name in places if not getattr(settings, name).is_absolute()
    ]
    if homeless:
        raise UsageError(
            "there is no home directory",
            hint=f"set HOME, or XDG_DATA_HOME and XDG_CONFIG_HOME, or {' and '.join(homeless)}",
        )
    return settings


@contextmanager
def opening_store() -> Iterator[None]:
    """Say how another store is chosen, where the one of the settings cannot be made or written."""
    try:
        yield
    except StorageError as error:
        hint = error.hint.replace("another place", "another place for the store with ICN_STORE")
        if hint == error.hint:  # it is damaged, say: another one would not be the thing to do
            raise
        raise StorageError(str(error), hint=hint) from error

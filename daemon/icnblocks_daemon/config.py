"""The daemon's settings: one table of keys, read from TOML, environment and flags in that order.

Each key is a field of Config and carries its documentation, so that `--help`, the errors and
docs/operations.md speak of the same keys (a test compares them). This module must not act on
the settings.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import MISSING, Field, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from icnblocks.errors import UsageError
from icnblocks.limits import MAX_BLOCK_BYTES
from icnblocks.quantities import (
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from icnblocks.values import dataclass
from icnblocks_daemon.addresses import Address, parse_address
from icnblocks_daemon.fib import check_prefix, parse_upstream
from icnblocks_daemon.tokens import check_token

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENV_PREFIX: Final = "ICN_EDGE_"
DEFAULT_PORT: Final = 4260
_OF_A_CLUSTER: Final = re.compile(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_[A-Z]+(_[A-Z]+)?)?)\Z")
"""Kubernetes gives every container such variables of each service; one may be called icn-edge."""
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")
_LEAST_S: Final = 0.1

RELOADED: Final = frozenset({
    "strategy", "token", "token_file", "publisher", "trust_file", "policy", "trace",
    "bundle_window", "send_floor", "send_grace", "alive_interval", "log_level", "log_format",
})  # fmt: skip
"""Keys that SIGHUP takes over; a daemon must be restarted for the others."""


def _size(value: Any) -> int:
    return parse_size(str(value))


def _duration(value: Any) -> float:
    return parse_duration(str(value))


def _lasting(value: Any) -> float:
    """A duration of which too little would leave the daemon busy with nothing else."""
    seconds = _duration(value)
    if seconds < _LEAST_S:
        raise ValueError("at least 100ms is expected")
    return seconds


def _capacity(value: Any) -> int | None:
    if str(value) in {"none", "unlimited"}:
        return None
    size = parse_size(str(value))
    if size < MAX_BLOCK_BYTES:
        raise ValueError(f"at least {format_size(MAX_BLOCK_BYTES)} is expected: a block's size")
    return size


def _address(value: Any) -> Address:
    return parse_address(str(value))


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("a path is expected")
    if "\0" in str(value):
        raise ValueError("a path has no NUL character")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{str(value)[:120]!r}: there is no such home directory") from None
    except FileNotFoundError:
        raise ValueError("the current directory is gone; give an absolute path") from None


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("a printable word is expected")
    return value


def _flag(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false is expected")


def _count(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        text = str(value)
        if (
            not text.isascii()
            or not text.isdigit()
            or len(text) > 9
            or not least <= int(text) <= most
        ):
            raise ValueError(f"a whole number from {least} to {most} is expected")
        return int(text)

    return read


def _choice(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)} is expected")
        return str(value)

    return read


def _words(value: Any) -> tuple[str, ...]:
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("a list of words is expected")
    return tuple(parts)


def _tokens(value: Any) -> tuple[str, ...]:
    """Tokens; an empty text is a wrong one, since it may come from a variable that was not set."""
    parts = value.split() or [value] if isinstance(value, str) else value
    return tuple(check_token(text) for text in _words(parts))


def _upstreams(value: Any) -> tuple[tuple[str, str], ...]:
    return tuple(parse_upstream(text) for text in _words(value))


def _siblings(value: Any) -> tuple[str, ...]:
    found = []
    for text in _words(value):
        prefix, url = parse_upstream(text)
        if prefix:
            raise ValueError(f"{text[:120]!r} is not a URL; a sibling has no prefix")
        found.append(url)
    return tuple(found)


def _limits(value: Any) -> tuple[tuple[str, float], ...]:
    """`[URL=]RATE` pairs; without a URL the rate is for every other upstream."""
    from icnblocks.client.settings import read_limit

    pairs: dict[str, float] = {}
    for text in _words(value):
        url, _, rate = text.rpartition("=")
        place = parse_upstream(url)[1] if url else ""
        if place in pairs:
            raise ValueError(f"two limits for {place or 'all upstreams'}")
        pairs[place] = read_limit(rate)
    return tuple(pairs.items())


def _publishers(value: Any) -> tuple[tuple[str, str], ...]:
    """`PREFIX=FINGERPRINT` pairs."""
    from icnblocks.client.trust import check_fingerprint  # cryptography: --help does without

    pairs = []
    for text in _words(value):
        prefix, equals, key = text.partition("=")
        if not equals:
            raise ValueError(f"{text[:120]!r} is not PREFIX=FINGERPRINT (64 hex digits)")
        pairs.append((check_prefix(prefix.strip("/")), check_fingerprint(key)))
    return tuple(pairs)


def _key(
    default: Any, read: Callable[[Any], Any], metavar: str, doc: str, *, many: bool = False
) -> Any:
    metadata = {"read": read, "metavar": metavar, "doc": doc, "many": many}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. Sizes are bytes, durations seconds."""

    store: Path = _key(
        MISSING, _path, "DIR", "Directory of blocks, records and manifests; made if missing."
    )
    listen: Address = _key(
        Address("127.0.0.1", DEFAULT_PORT), _address, "HOST:PORT",
        "Where to listen; port 0 takes a free one. Beyond loopback only if you say so: `0.0.0.0` or"
        " `[::]` for all addresses.",
    )  # fmt: skip
    upstream: tuple[tuple[str, str], ...] = _key(
        (), _upstreams, "[PREFIX=]URL",
        "Where names under PREFIX (a publisher or publisher/model; none: every name) are pulled"
        " from; several for one prefix are picked from by `strategy`. None at all: this is an"
        " origin.",
        many=True,
    )  # fmt: skip
    strategy: str = _key(
        "fail-over", _word, "SPEC", "How one upstream of several is picked: NAME[:key=value,...]."
    )
    sibling: tuple[str, ...] = _key(
        (), _siblings, "URL",
        "Another edge nearby: what it holds of a model is asked of it before the upstreams.",
        many=True,
    )  # fmt: skip
    sibling_wait: float = _key(
        0.3, _duration, "TIME", "How long a request waits until siblings say what they hold."
    )
    upstream_limit: tuple[tuple[str, float], ...] = _key(
        (), _limits, "[URL=]RATE",
        "Blocks are read from each upstream, or from that of URL, no faster than RATE, e.g."
        " 200Mbit or 25MB/s.",
        many=True,
    )  # fmt: skip
    capacity: int | None = _key(
        None,
        _capacity,
        "SIZE",
        "Byte budget of cached blocks, e.g. 20GB; 16MiB at least; `none`: no limit.",
    )
    policy: str = _key(
        "sharing", _word, "SPEC", "Which cached blocks leave first: NAME[:key=value,...]."
    )
    trace: Path | None = _key(
        None, _path, "FILE",
        "File to which every request for a model is appended, for `icn-sim`; SIGHUP reopens it.",
    )  # fmt: skip
    manifest_capacity: int = _key(
        1024**3, _size, "SIZE", "Byte budget of manifests cached from upstreams."
    )
    pit: bool = _key(
        True, _flag, "BOOL",
        "Fetch a block once however many wait; off fetches it for each (to measure the gain).",
    )  # fmt: skip
    negative_ttl: float = _key(
        5.0,
        _duration,
        "TIME",
        "How long an upstream's `not found` is remembered; 0: not at all.",
    )
    record_cap: float = _key(
        60.0, _duration, "TIME", "Ask upstream for a record anew after its lifetime, at most this."
    )
    stale_max: float = _key(
        7 * 86400.0, _duration, "TIME",
        "How old a record may be served, marked stale, while its upstreams are gone.",
    )  # fmt: skip
    upstream_timeout: float = _key(
        15.0, _lasting, "TIME", "An upstream that sends nothing for so long has stalled."
    )
    upstream_retry: float = _key(
        5.0,
        _duration,
        "TIME",
        "An upstream that fails for so long, without a block between, is given up for a while:"
        " the next one of the route is asked.",
    )
    upstream_wait: float = _key(
        60.0, _lasting, "TIME",
        "A block for which nothing came from upstream for so long is refused (busy, or a loop).",
    )  # fmt: skip
    room_wait: float = _key(
        30.0,
        _duration,
        "TIME",
        "How long a missing block waits for room in the budget while nobody gets any.",
    )
    overflow: int = _key(
        64 * 1024 * 1024, _size, "SIZE",
        "Memory for blocks that the disk would not take: they are passed on without being stored."
        " 0: such blocks are refused.",
    )  # fmt: skip
    ca_file: Path | None = _key(None, _path, "FILE", "PEM file of private CAs for upstreams.")
    upstream_token: str | None = _key(None, check_token, "TOKEN", "Bearer token for upstreams.")
    tls_cert: Path | None = _key(None, _path, "FILE", "PEM certificate chain to serve TLS with.")
    tls_key: Path | None = _key(None, _path, "FILE", "PEM key of the certificate.")
    token: tuple[str, ...] = _key(
        (), _tokens, "TOKEN",
        "Bearer token that allows writing: at least 16 printable ASCII characters without blanks;"
        " better in a token file.",
        many=True,
    )  # fmt: skip
    token_file: Path | None = _key(
        None, _path, "FILE", "File of such tokens, one a line, `#` for comments; SIGHUP rereads."
    )
    publisher: tuple[tuple[str, str], ...] = _key(
        (), _publishers, "PREFIX=FINGERPRINT",
        "Publisher key that may write names under PREFIX from anywhere.", many=True,
    )  # fmt: skip
    trust_file: Path | None = _key(
        None, _path, "FILE",
        'TOML file `publisher = "fingerprint"`: other keys of these are refused; SIGHUP rereads.',
    )  # fmt: skip
    upload_ttl: float = _key(
        86400.0, _lasting, "TIME", "Uploaded blocks that no manifest names are erased after this."
    )
    scrub_rate: int = _key(
        4 * 1024 * 1024, _size, "SIZE",
        "Stored blocks are hashed again at this many bytes a second, round after round; 0: never.",
    )  # fmt: skip
    max_requests: int = _key(
        1024, _count(1, 100_000), "N", "Requests in work at once; more get 429."
    )
    max_client_requests: int = _key(
        256, _count(1, 100_000), "N", "Requests in work at once for one client."
    )
    client_sends: int = _key(
        2, _count(0, 100_000), "N",
        "Blocks on their way at once to one client while others are sent to as well, so"
        " that many connections are no larger share; 0: no limit.",
    )  # fmt: skip
    max_connections: int = _key(
        4096, _count(16, 1_000_000), "N",
        "Connections of clients open at once, also those still in their TLS handshake; for more,"
        " the longest idle ones are closed.",
    )  # fmt: skip
    idle_timeout: float = _key(
        75.0, _lasting, "TIME",
        "A connection on which no whole request comes for so long is closed.",
    )  # fmt: skip
    bundle_window: int = _key(
        64, _count(1, 1024), "N", "Blocks that one bundle may have pending or leased at once."
    )
    send_floor: int = _key(
        16 * 1024, _size, "SIZE", "A reader slower than this many bytes a second is cut off."
    )
    send_grace: float = _key(
        15.0, _lasting, "TIME", "Time allowed for each block on top of the floor rate."
    )
    alive_interval: float = _key(
        5.0, _lasting, "TIME", "A bundle that waits for upstream says so this often."
    )
    neighbours: bool = _key(
        True, _flag, "BOOL",
        "Tell devices that serve each other (`icn-fetch --share`) of each other; off: 403.",
    )  # fmt: skip
    stop_timeout: float = _key(
        20.0, _duration, "TIME", "How long a stop waits for what is being sent."
    )
    log_level: str = _key("info", _choice(*LOG_LEVELS), "LEVEL", "Least level that is logged.")
    log_format: str = _key("text", _choice(*LOG_FORMATS), "FORMAT", "`text` or `json` lines.")
    port_file: Path | None = _key(
        None, _path, "FILE", "File to write the bound port to once requests are answered."
    )


def keys() -> tuple[Field[Any], ...]:
    """The fields of Config, in the order of the documentation."""
    return fields(Config)


def default_text(key: Field[Any]) -> str:
    """The default of a key as a person would write it; empty if there is none."""
    value = key.default
    if value is MISSING or value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    spell = {_duration: format_duration, _lasting: format_duration, _size: format_size}
    return str(spell.get(key.metadata["read"], str)(value))


def taken_over(running: Config, read: Config) -> tuple[Config, tuple[str, ...]]:
    """What SIGHUP makes of newly read settings.

    Returns:
        The running settings with the new values of the keys that can change; and the keys that
        differ and cannot.
    """
    differing = [
        key.name for key in keys() if getattr(running, key.name) != getattr(read, key.name)
    ]
    fresh = {name: getattr(read, name) for name in differing if name in RELOADED}
    return replace(running, **fresh), tuple(name for name in differing if name not in RELOADED)


def load_config(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """Read the file, put the environment and then the flags over it.

    Args:
        path: the TOML file, or None.
        environ: variables `ICN_EDGE_` + the key in capitals; lists are split at blanks.
        flags: values by key; None or () means not given.

    Raises:
        UsageError: one line that names the file, variable or flag and its value.
    """
    found: dict[str, tuple[str, Any]] = {}
    known = {key.name for key in keys()}
    if path is not None:
        for name, value in _read_toml(path).items():
            if name not in known:
                raise UsageError(f"{path}: unknown key {name!r}", hint="see docs/operations.md")
            found[name] = (f"{path}: {name}", value)
    for variable, text in environ.items():
        name = variable.removeprefix(ENV_PREFIX).lower()
        if not variable.startswith(ENV_PREFIX) or name == "config":
            continue
        if _OF_A_CLUSTER.search(variable):
            continue
        if name not in known:
            raise UsageError(f"unknown variable {variable}", hint="see docs/operations.md")
        found[name] = (variable, text)
    for name, value in flags.items():
        if value is not None and value != ():
            found[name] = (f"--{name.replace('_', '-')}", value)
    return _checked(Config(**_values(found)))


def _values(found: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key in keys():
        if key.name not in found:
            continue
        where, raw = found[key.name]
        try:
            values[key.name] = key.metadata["read"](raw)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{where}: {error}") from None
        except UsageError as error:
            raise UsageError(f"{where}: {error}", hint=error.hint) from None
    if "store" not in values:
        raise UsageError("no store directory", hint="name one with --store DIR")
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not TOML: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, a deep nest
        raise UsageError(f"{path} is not TOML that can be meant") from None


def _checked(config: Config) -> Config:
    """What concerns several keys at once."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise UsageError("tls_cert and tls_key go together")
    for name in ("tls_cert", "tls_key", "ca_file", "token_file", "trust_file"):
        path = getattr(config, name)
        if path is not None and not os.path.isfile(path):
            what = "not a file" if os.path.lexists(path) else "no such file"
            raise UsageError(f"{name}: {what}: {path}")
    known = {url for _, url in config.upstream}
    for url in config.sibling:
        if url in known:
            raise UsageError(f"sibling: {url} is an upstream already")
    if config.sibling and not known:
        raise UsageError("sibling: an origin has no siblings", hint="name an upstream")
    known.update(config.sibling)
    for url, _ in config.upstream_limit:
        if url and url not in known:
            raise UsageError(f"upstream_limit: {url} is neither an upstream nor a sibling")
    if config.send_floor < 1:
        raise UsageError("send_floor is at least 1 byte a second")
    return config

"""What can be told to be wrong with the settings before anything is opened, made or bound.

`--check-config`, the start and SIGHUP all ask this, so that they agree. It reads the files that
are named and looks at directories; it must not write, make or listen.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from icnblocks.client.endpoint import ssl_context
from icnblocks.errors import StorageError, UsageError
from icnblocks.store.home import check_may_be_store
from icnblocks_daemon.rules import read_rules
from icnblocks_daemon.trace_log import may_continue

if TYPE_CHECKING:
    from pathlib import Path

    from icnblocks_daemon.config import Config


def preflight(config: Config) -> None:
    """Are the things that the settings name there, and what they should be?

    Raises:
        UsageError: naming the first that is not.
        StorageError: if the store's place cannot be written.
    """
    read_rules(config)
    server_tls(config)
    if config.ca_file is not None:
        try:
            ssl_context(config.ca_file)
        except UsageError as error:
            raise UsageError(f"ca_file: {error}") from None
    check_store(config.store)
    if config.port_file is not None:
        _check_port_file(config.port_file)
    if config.trace is not None:
        _check_trace(config.trace)


def server_tls(config: Config) -> ssl.SSLContext | None:
    """What to serve TLS with; None without a certificate.

    Raises:
        UsageError: if certificate and key cannot be used.
    """
    if config.tls_cert is None or config.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With a password given, OpenSSL does not ask the terminal for that of a locked key.
        context.load_cert_chain(config.tls_cert, config.tls_key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"{config.tls_key} is not the key of the certificate {config.tls_cert}"
        else:
            what = (
                f"{config.tls_cert} and {config.tls_key} are not a PEM certificate chain and its"
                " PEM key without a password"
            )
        raise UsageError(f"tls_cert, tls_key: {what}") from None
    except OSError as error:
        raise UsageError(
            f"tls_cert, tls_key: cannot read {config.tls_cert} or {config.tls_key}:"
            f" {error.strerror}"
        ) from None
    return context


def check_store(path: Path) -> None:
    """May this directory be the store: one of ours, an empty one, or one that can be made?

    Raises:
        UsageError: if it is no directory, or holds something else.
        StorageError: if it cannot be read, written or made.
    """
    folder = next(place for place in (path, *path.parents) if _is_there("store", place))
    if not os.path.isdir(folder):
        raise UsageError(f"store: {folder} is not a directory")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK if folder == path else os.W_OK | os.X_OK):
        what = "cannot read and write" if folder == path else f"cannot make {path}: cannot write"
        raise StorageError(
            f"store: {what} {folder}", hint="see who may write there, or choose another place"
        )
    if folder != path:
        return
    try:
        check_may_be_store(path)
    except OSError as error:
        raise StorageError.of(error, f"store: cannot read {path}") from None
    except UsageError as error:
        raise UsageError(f"store: {error}", hint=error.hint) from None


def _is_there(setting: str, path: Path) -> bool:
    """Is anything at this path, a link without its file too?

    Raises:
        UsageError: if that cannot be told: a start could not use it either.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UsageError(f"{setting}: {str(path)[:120]}: {error.strerror}") from None
    return True


def _check_port_file(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"port_file: no such directory: {path.parent}")
    if _is_there("port_file", path) and not path.is_file():
        raise UsageError(f"port_file: {path} is not a plain file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"port_file: cannot write into {path.parent}")


def _check_trace(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"trace: no such directory: {path.parent}")
    if not _is_there("trace", path):
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageError(f"trace: cannot write into {path.parent}")
        return
    if not path.is_file():
        raise UsageError(f"trace: {path} is not a plain file")
    if not os.access(path, os.R_OK | os.W_OK):
        raise UsageError(f"trace: cannot read and write {path}")
    with path.open("rb") as file:
        if not may_continue(file.fileno()):
            raise UsageError(
                f"trace: {path} is not empty and not a trace of a daemon",
                hint="name a file of its own",
            )

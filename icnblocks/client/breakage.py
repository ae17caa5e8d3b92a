"""What breaks a connection, in the project's words: whose fault it is, and what to do.

This module must not touch sockets. TLS is imported where it is used, so that commands start sooner.
"""

from __future__ import annotations

import socket
from typing import Final

from icnblocks.client.answers import no_http
from icnblocks.client.endpoint import Proxy
from icnblocks.errors import IcnError, SourceError, UntrustedError

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_NOT_NOW: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, ..._HAS_EXPIRED
_NOT_THIS_HOST: Final = frozenset({62, 64})  # ..._HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH


def is_closing(error: BaseException) -> bool:
    """Whether the other side only closed the connection."""
    import ssl

    return isinstance(error, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError)


def no_way(where: str, proxy: Proxy, error: BaseException) -> SourceError:
    """Why a server cannot be reached through a proxy."""
    match error:
        case TimeoutError():
            why = "no answer"
        case socket.gaierror() | ValueError():
            why = "unknown host name"
        case ConnectionResetError() | BrokenPipeError():
            why = "it closed the connection"
        case OSError():
            why = error.strerror or str(error)
        case _:
            why = "it does not speak HTTP"
    told = f"{where} cannot be reached through the proxy {proxy}: {why}"
    return SourceError(told, hint=Proxy.advice)


def explained(where: str, error: BaseException) -> IcnError:
    """What went wrong with a connection, or before there was one."""
    import ssl

    match error:
        case ssl.SSLCertVerificationError():
            return UntrustedError(
                f"the certificate of {where} is not trusted: {error.verify_message}",
                hint=_hint(error.verify_code),
            )
        case TimeoutError():
            return SourceError(f"{where} does not answer, or stalled")
        case ssl.SSLError():
            hint = "does it speak http://?" if error.reason in _NO_TLS else ""
            return SourceError(f"no TLS with {where}: {error.reason or error}", hint=hint)
        case socket.gaierror() | ValueError():  # the latter for labels that are empty or too long
            return SourceError(f"{where} cannot be reached: unknown host name")
        case ConnectionResetError() | BrokenPipeError():
            return SourceError(f"{where} closed the connection")
        case OSError():
            return SourceError(f"{where} cannot be reached: {error.strerror or error}")
        case _:
            return no_http(where, type(error).__name__)


def _hint(verify_code: int) -> str:
    """What to do about a certificate."""
    if verify_code in _NOT_NOW:
        return "check this machine's clock; if it is right, the operator must renew the certificate"
    if verify_code in _NOT_THIS_HOST:
        return "name the source by a host name that its certificate has"
    return "if its CA is your network's own, name the CA file in the settings (ca_file)"

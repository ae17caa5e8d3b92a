"""The one tree of errors: whose fault it is, whether a retry helps, what to do next.

Every class has a stable exit code (docs/client.md has the table) and a stable word (`code`)
that travels in HTTP answers and Nacks. Advice names options as the commands spell them, with the
argument of the Python function in parentheses. This module must not import anything of the
project.
"""

import errno
from enum import StrEnum
from typing import ClassVar, Final, Self


class Fault(StrEnum):
    """Who has to act before the same thing can succeed."""

    USER = "user"
    PUBLISHER = "publisher"
    SOURCE = "source"
    NETWORK = "network"
    MACHINE = "machine"
    PROGRAM = "program"


class IcnError(Exception):
    """Base of all errors that icnblocks raises on purpose.

    Args:
        message: one line: what happened, with the name, path or digest concerned.
        hint: one line: what the user should do next; the class's own hint when empty.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    fault: ClassVar[Fault] = Fault.PROGRAM
    retry: bool = False  # of a class; an error may know better
    advice: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.advice
        if self.hint:  # a traceback shows it too
            self.add_note(f"hint: {self.hint}")


class UsageError(IcnError):
    """A command, name, option or configuration that cannot be meant."""

    code, exit_code, fault = "usage", 2, Fault.USER


class NotFoundError(IcnError):
    """Nobody who was asked knows the name, manifest or block."""

    code, exit_code, fault = "not-found", 4, Fault.USER
    advice = "check the spelling of the name and tag, and that the source is the right one"


class WithdrawnError(NotFoundError):
    """The publisher has withdrawn this tag."""

    code, fault = "withdrawn", Fault.PUBLISHER
    advice = "ask the publisher which tag to use instead"


class TrustError(IcnError):
    """A signature, key, or sequence number that must not be accepted."""

    code, exit_code, fault = "trust", 5, Fault.PUBLISHER
    advice = "compare the fingerprint with the publisher before you go on"


class CorruptError(IcnError):
    """Bytes that do not match their digest."""

    code, exit_code, fault, retry = "corrupt", 6, Fault.SOURCE, True
    advice = "try again with another source; `icn-verify` rechecks what is on disk"


class FormatError(IcnError):
    """Bytes that are not a valid header, manifest, record, frame or message."""

    code, exit_code, fault = "format", 7, Fault.PUBLISHER


class VersionError(FormatError):
    """A format, store or protocol version newer than this program understands."""

    code, exit_code, fault = "version", 8, Fault.USER
    advice = "upgrade icnblocks"


class SourceError(IcnError):
    """A source could not be reached, stalled, was cut off, or broke the protocol."""

    code, exit_code, fault, retry = "source", 9, Fault.NETWORK, True
    advice = "check the source's URL and the network; what arrived is kept, so try again"


class UntrustedError(SourceError):
    """The certificate of a source is not trusted, so nothing was said to it."""

    code, fault, retry = "untrusted", Fault.USER, False


class ForeignError(SourceError):
    """What answers where a source should be does not speak HTTP, or is no icnblocks server."""

    code, fault, retry = "foreign", Fault.USER, False
    advice = "check the URL: is it an icnblocks server?"


class LoopError(SourceError):
    """Daemons ask each other in a circle for what none of them has."""

    code, retry = "loop", False
    advice = "the operators of these daemons must change an `upstream` of theirs"


class IncompleteError(SourceError):
    """Some blocks could not be had from any source; the verified ones are kept."""

    code, exit_code = "incomplete", 10
    advice = "run it again to go on from here, or name another source with --from (sources=)"


_BY_ERRNO: Final = (
    dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space, or choose another place")
    | dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (`ulimit -n`)")
    | dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "see who may read and write there, or choose another place",
    )
    | dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.ELOOP),
        "a file or a broken link is in the way: remove it, or choose another place",
    )
)


class StorageError(IcnError):
    """The disk refused: full, read-only, or failing."""

    code, exit_code, fault, retry = "storage", 11, Fault.MACHINE, True
    advice = "free space, see who may write there, or choose another place; what came is kept"

    @classmethod
    def of(cls, error: OSError, what: str) -> Self:
        """What the system said of `what`, with the hint that is for just that."""
        hint = _BY_ERRNO.get(error.errno or 0)
        text = f"{what}: {error.strerror or error}"
        return cls(text, hint=f"{hint}; what came is kept" if hint else "")


class ChangedError(StorageError):
    """A file that holds blocks in place is no longer what it was when it was indexed."""

    code, exit_code = "changed", 12
    advice = "run `icn-verify` on the directory, or publish or pull it again"


class BusyError(IcnError):
    """Another process holds what this one needs."""

    code, exit_code, fault, retry = "busy", 13, Fault.USER, True
    advice = "wait for the other process, or stop it"


class RefusedError(IcnError):
    """The other side understood and will not do it: not allowed, over a limit."""

    code, exit_code, fault = "refused", 14, Fault.USER
    advice = "ask the operator for a token or for your publisher key to be allowed"


class ConflictError(IcnError):
    """A directory holds files that the user changed; they are not overwritten."""

    code, exit_code, fault = "conflict", 15, Fault.USER
    advice = (
        "use another directory with --to (to=), or --overwrite (overwrite=True) to replace the"
        " changed files"
    )

"""What went wrong, as the program says it last: in words or as JSON, and as an exit status."""

from __future__ import annotations

from clients.display import Display
from clients.errors import (
    ClientError,
    OutcomeUnknownError,
    OutputError,
    ReceiptsNotKeptError,
    RefusedError,
    UsageError,
)
from clients.outcomes import ExitStatus, refusal_text
from clients.words import WORDS
from protocol.errors import LocalError, ProtocolError

__all__ = ["explain", "is_outcome"]


def is_outcome(error: Exception) -> bool:
    """Whether an error tells what became of something; that is said on standard output."""
    return isinstance(
        error, RefusedError | ProtocolError | OutcomeUnknownError | ReceiptsNotKeptError
    )


def explain(error: Exception, display: Display, **more: object) -> ExitStatus:
    """Say what went wrong; return the exit status that tells of it.

    :param more: further members where outcomes are said as JSON.
    """
    match error:
        case UsageError():
            display.warn(f"error: {error}")
            return ExitStatus.USAGE
        case OutcomeUnknownError() | ReceiptsNotKeptError():
            code = error.code if isinstance(error, OutcomeUnknownError) else None
            facts = {"state": "unknown", "code": code, "detail": str(error)}
            display.say_anywhere(f"unknown: {error}", **more, **facts)
            return ExitStatus.UNKNOWN
        case RefusedError():
            _say_refusal(error, display, more)
        case ProtocolError():
            _say_refusal(RefusedError(error.code, error.detail, proven=False), display, more)
        case OutputError(reader_has_gone=True):
            pass  # as usual: who has read enough needs no words
        case ClientError() | LocalError():
            display.warn(f"error: {error}")
        case _:
            display.warn(f"error: {type(error).__name__}: {error} (--debug shows where)")
    return ExitStatus.FAILED


def _say_refusal(error: RefusedError, display: Display, more: dict[str, object]) -> None:
    facts = {
        "state": "refused",
        "code": error.code,
        "detail": error.detail or WORDS[error.code],
        "proven": error.proven,
    }
    display.say_anywhere(refusal_text(error), **more, **facts)

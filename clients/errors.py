"""What can go wrong on a client's side, in words for people.

::

    ClientError                       says what happened and what to do about it
    ├── UsageError                    what was typed, or a file, is not acceptable (exit status 2)
    │   ├── ConfigError               a configuration file; names the file and the key
    │   └── ActionError               a scripted action; names what it breaks
    ├── RelayUnreachableError         no connection in time
    ├── RegistrationRefusedError      the relay will not have this client; carries a Code
    ├── RelayRenamedError             another relay answers at this address than before
    ├── RefusedError                  somebody refused; carries a Code and whether that is proven
    │   └── PeerKeyChangedError       another key than the one that is pinned or configured
    ├── OutcomeUnknownError           no proof of either outcome came in time (exit status 3)
    ├── OutputError                   what there is to say can't be written to standard output
    └── StorageError                  the state directory can't be used
        └── ReceiptsNotKeptError      orders have ended, their receipts aren't safe (exit status 3)

Errors of the key file are :mod:`protocol.errors`' own.
"""

from __future__ import annotations

from pathlib import Path

from protocol.errors import Code
from protocol.keys import format_fingerprint

__all__ = [
    "ActionError",
    "ClientError",
    "ConfigError",
    "OutcomeUnknownError",
    "OutputError",
    "PeerKeyChangedError",
    "ReceiptsNotKeptError",
    "RefusedError",
    "RegistrationRefusedError",
    "RelayRenamedError",
    "RelayUnreachableError",
    "StorageError",
    "UsageError",
]


class ClientError(Exception):
    """The root of what a client raises on purpose; its text is fit to be shown."""


class UsageError(ClientError):
    """What was typed, or what a file holds, is not acceptable."""


class ConfigError(UsageError):
    """A configuration file is not acceptable.

    :param key: the dotted name of the offending key, as ``general.timeout``; empty for the file.
    """

    def __init__(self, path: Path, key: str, problem: str) -> None:
        where = f"{path}: {key}" if key else str(path)
        super().__init__(f"{where}: {problem}")
        self.path = path
        self.key = key


class ActionError(UsageError):
    """A scripted action is not in the grammar."""


class RelayUnreachableError(ClientError):
    """There was no connection to the relay in time."""


class RegistrationRefusedError(ClientError):
    """The relay will not have this client, and trying again can't help."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"the relay refused the registration: {code.value} — {detail}")
        self.code = code
        self.detail = detail


class RelayRenamedError(ClientError):
    """At a known address a relay of another name answered; it was given no proof."""

    def __init__(self, url: str, expected: str, actual: str) -> None:
        super().__init__(
            f"the relay at {url} calls itself {actual!r}, and it was {expected!r} before. If its "
            f"operator renamed it, confirm with: trust --relay-renamed"
        )
        self.url = url
        self.expected = expected
        self.actual = actual


class RefusedError(ClientError):
    """Somebody refused.

    :param proven: the answer was sealed by who was asked; False for the relay's word and for
        refusals that anybody on the way could have made up.
    """

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        proven: bool,
        candidates: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"refused: {code.value}" + (f" — {detail}" if detail else ""))
        self.code = code
        self.detail = detail
        self.proven = proven
        self.candidates = candidates


class PeerKeyChangedError(RefusedError):
    """A bundle carries another identity than the one that is pinned or configured."""

    def __init__(self, peer: str, expected: bytes, actual: bytes, advice: str) -> None:
        detail = (
            f"{peer} is known with the fingerprint {format_fingerprint(expected)}, but the relay "
            f"gave a key with {format_fingerprint(actual)}. {advice}"
        )
        super().__init__(Code.PEER_KEY_CHANGED, detail, proven=False)
        self.peer = peer
        self.expected = expected
        self.actual = actual


class OutcomeUnknownError(ClientError):
    """Whether something happened is not known; sending the same again finds out.

    :param code: the last reason that was heard, from whomever, if any.
    """

    def __init__(self, text: str, code: Code | None = None) -> None:
        super().__init__(text)
        self.code = code


class OutputError(ClientError):
    """What there is to say can't be written to standard output.

    :param cause: what the system said.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"the output can't be written: {cause.strerror}")
        self.reader_has_gone = isinstance(cause, BrokenPipeError)


class StorageError(ClientError):
    """The state directory can't be used, or what it holds is damaged."""


class ReceiptsNotKeptError(StorageError):
    """Orders have ended, and the disk didn't take their receipts: nobody may order them anew."""

    def __init__(self, count: int, cause: BaseException) -> None:
        super().__init__(
            f"{count} order(s) have ended, but the receipts could not be kept: {cause}. They are "
            "still in the outbox; orders --finish gets the same receipts again"
        )

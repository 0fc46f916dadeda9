"""Named errors: the one list of codes on the wire, and the exceptions that carry them.

::

    TellerwireError
    ├── ProtocolError          a peer, or what it sent, is at fault; carries a Code
    │   ├── RelayError         the layer between a client and the relay
    │   ├── EndToEndError      the layer between two clients
    │   └── BankError          the layer between a customer and the bank
    └── LocalError             this side is at fault; never caused by bytes from a peer
        ├── MisuseError        a caller broke the contract of an interface: a bug
        └── KeyFileError       a key file can't be used
            ├── KeyFileFormatError
            └── WrongPassphraseError

Codes drive logic, words never do: ``detail`` is for people.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = [
    "BANK_CODES",
    "END_TO_END_CODES",
    "RELAY_CODES",
    "RETRY",
    "BankError",
    "Code",
    "EndToEndError",
    "KeyFileError",
    "KeyFileFormatError",
    "LocalError",
    "MisuseError",
    "ProtocolError",
    "RelayError",
    "Retry",
    "TellerwireError",
    "WrongPassphraseError",
    "error_for",
]


class Retry(StrEnum):
    """What may be done after an error."""

    NEVER = "never"
    """Sending it again can't help: something about it has to change first."""
    SAME = "same"
    """Send the same bytes again, after a pause."""
    REFETCH = "refetch"
    """Fetch the recipient's keys again (or reopen the session), then send the same order."""
    FINAL = "final"
    """The bank has stored this answer; the same order will be answered so for ever."""
    UNKNOWN = "unknown"
    """It may or may not have happened: send the same bytes again to find out."""


class Code(StrEnum):
    """Every error code of the protocol, layer by layer.

    The bank's codes stand in the order of precedence in which it decides refusals.
    """

    # Between a client and the relay.
    BAD_FRAME = "bad_frame"
    FRAME_TOO_LARGE = "frame_too_large"
    UNSUPPORTED_VERSION = "unsupported_version"
    ORIGIN_REFUSED = "origin_refused"
    REGISTRATION_REQUIRED = "registration_required"
    REGISTRATION_TIMEOUT = "registration_timeout"
    PROOF_REFUSED = "proof_refused"
    ID_TAKEN = "id_taken"
    WEAK_KEY = "weak_key"
    BAD_BUNDLE = "bad_bundle"
    UNKNOWN_RECIPIENT = "unknown_recipient"
    AMBIGUOUS_NAME = "ambiguous_name"
    RECIPIENT_ABSENT = "recipient_absent"
    PEER_GONE = "peer_gone"
    EXPIRED = "expired"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    MAILBOX_FULL = "mailbox_full"
    SLOW_CONSUMER = "slow_consumer"
    DRAINING = "draining"
    REVOKED = "revoked"

    # Between two clients.
    UNKNOWN_SENDER = "unknown_sender"
    UNKNOWN_KEY_ID = "unknown_key_id"
    STALE_TICKET = "stale_ticket"
    NOT_AUTHENTIC = "not_authentic"
    BAD_MESSAGE = "bad_message"
    MESSAGE_EXPIRED = "message_expired"
    CLOCK_SKEW = "clock_skew"
    REPLAYED = "replayed"
    REPLAY_WINDOW_FULL = "replay_window_full"
    DOWNGRADE_REFUSED = "downgrade_refused"
    PEER_KEY_CHANGED = "peer_key_changed"
    UNSUPPORTED_PURPOSE = "unsupported_purpose"

    # The bank, in its order of precedence; then what is transient.
    ORDER_ID_CONFLICT = "order_id_conflict"
    ORDER_EXPIRED = "order_expired"
    KEY_REVOKED = "key_revoked"
    BAD_ORDER = "bad_order"
    BAD_AMOUNT = "bad_amount"
    ACCOUNT_UNAVAILABLE = "account_unavailable"
    PERMISSION_DENIED = "permission_denied"
    DESTINATION_UNKNOWN = "destination_unknown"
    SAME_ACCOUNT = "same_account"
    CURRENCY_MISMATCH = "currency_mismatch"
    ACCOUNT_FROZEN = "account_frozen"
    ACCOUNT_CLOSED = "account_closed"
    LIMIT_EXCEEDED = "limit_exceeded"
    APPROVAL_REQUIRED = "approval_required"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    BUSY = "busy"
    BANK_UNAVAILABLE = "bank_unavailable"
    INTERNAL = "internal"


def _between(first: Code, last: Code) -> tuple[Code, ...]:
    codes = list(Code)
    return tuple(codes[codes.index(first) : codes.index(last) + 1])


RELAY_CODES: Final = _between(Code.BAD_FRAME, Code.REVOKED)
END_TO_END_CODES: Final = _between(Code.UNKNOWN_SENDER, Code.UNSUPPORTED_PURPOSE)
BANK_CODES: Final = _between(Code.ORDER_ID_CONFLICT, Code.INTERNAL)

_SAME: Final = {
    Code.REGISTRATION_REQUIRED,
    Code.REGISTRATION_TIMEOUT,
    Code.RECIPIENT_ABSENT,
    Code.RATE_LIMITED,
    Code.OVERLOADED,
    Code.MAILBOX_FULL,
    Code.SLOW_CONSUMER,
    Code.DRAINING,
    # A clock that is set right makes the same message acceptable.
    Code.CLOCK_SKEW,
    Code.REPLAY_WINDOW_FULL,
    Code.BUSY,
    Code.BANK_UNAVAILABLE,
}
_REFETCH: Final = {Code.UNKNOWN_KEY_ID, Code.STALE_TICKET, Code.PEER_KEY_CHANGED}
_UNKNOWN: Final = {Code.PEER_GONE, Code.EXPIRED, Code.INTERNAL}
# An id conflict, an expired order and a revoked key leave no record: they need none, for the
# id, the expiry and the revocation already make sure that the order never runs later. (Where the
# key is in force and its owner is blocked, the refusal has a receipt, and is final by that.)
_NEVER_AT_THE_BANK: Final = {Code.ORDER_ID_CONFLICT, Code.ORDER_EXPIRED, Code.KEY_REVOKED}


def _retry_class(code: Code) -> Retry:
    if code in _SAME:
        return Retry.SAME
    if code in _REFETCH:
        return Retry.REFETCH
    if code in _UNKNOWN:
        return Retry.UNKNOWN
    if code in BANK_CODES and code not in _NEVER_AT_THE_BANK:
        return Retry.FINAL
    return Retry.NEVER


RETRY: Final[dict[Code, Retry]] = {code: _retry_class(code) for code in Code}
"""The retry class of every code."""


class TellerwireError(Exception):
    """The root of every error that this project raises on purpose."""


class ProtocolError(TellerwireError):
    """A peer, or something it sent, broke the protocol or was refused.

    :param code: what travels on the wire.
    :param detail: words for a person; never drives logic and never holds key material.
    :param retry_after_ms: how long to wait before trying again, where the peer said so.
    """

    def __init__(self, code: Code, detail: str = "", retry_after_ms: int | None = None) -> None:
        super().__init__(f"{code.value}: {detail}" if detail else code.value)
        self.code = code
        self.detail = detail
        self.retry_after_ms = retry_after_ms

    @property
    def retry(self) -> Retry:
        """The retry class of the code."""
        return RETRY[self.code]


class RelayError(ProtocolError):
    """Refused, or broken, between a client and the relay."""


class EndToEndError(ProtocolError):
    """Refused, or broken, between two clients."""


class BankError(ProtocolError):
    """Refused by the bank."""


class LocalError(TellerwireError):
    """This side is at fault, or something on this machine is."""


class MisuseError(LocalError):
    """A caller broke the contract of an interface; a bug, never a peer's doing."""


class KeyFileError(LocalError):
    """A key file can't be used."""


class KeyFileFormatError(KeyFileError):
    """The bytes are no key file of a version and strength that is accepted."""


class WrongPassphraseError(KeyFileError):
    """The passphrase doesn't open the key file, or the file was altered."""


def error_for(code: Code, detail: str = "", retry_after_ms: int | None = None) -> ProtocolError:
    """Return (not raise) the exception of the layer that ``code`` belongs to."""
    kind: type[ProtocolError]
    if code in RELAY_CODES:
        kind = RelayError
    elif code in END_TO_END_CODES:
        kind = EndToEndError
    else:
        kind = BankError
    return kind(code, detail, retry_after_ms)

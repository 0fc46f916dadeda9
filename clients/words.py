"""What every code means, in words for a person: what happened, and what to do about it."""

from __future__ import annotations

from typing import Final

from protocol.errors import Code

__all__ = ["WORDS", "in_words"]

WORDS: Final[dict[Code, str]] = {
    # Between a client and the relay.
    Code.BAD_FRAME: "the relay could not read what this program sent",
    Code.FRAME_TOO_LARGE: "the message is too long for the relay",
    Code.UNSUPPORTED_VERSION: "this program and the relay speak different versions",
    Code.ORIGIN_REFUSED: "the relay does not accept connections from this origin",
    Code.REGISTRATION_REQUIRED: "the relay wants the registration first",
    Code.REGISTRATION_TIMEOUT: "the registration took too long",
    Code.PROOF_REFUSED: "the relay did not accept the proof that the key is held",
    Code.ID_TAKEN: "the id belongs to another key; use that key, or ask the relay's operator",
    Code.WEAK_KEY: "a key is of a kind that is never accepted",
    Code.BAD_BUNDLE: "a key bundle is not valid, has expired, or is older than the one known",
    Code.UNKNOWN_RECIPIENT: "the relay knows nobody by that id or name",
    Code.AMBIGUOUS_NAME: "several people have that name; use the id",
    Code.RECIPIENT_ABSENT: "the recipient is not connected",
    Code.PEER_GONE: "the recipient went away before it confirmed",
    Code.EXPIRED: "it was not delivered in time",
    Code.RATE_LIMITED: "too many messages at once; wait a moment",
    Code.OVERLOADED: "the relay or the recipient has too much to do; wait a moment",
    Code.MAILBOX_FULL: "the recipient's mailbox is full",
    Code.SLOW_CONSUMER: "this program did not read fast enough",
    Code.DRAINING: "the relay is restarting; come back in a moment",
    Code.REVOKED: "the id was blocked by the relay's operator",
    # Between two clients.
    Code.UNKNOWN_SENDER: "the recipient does not know this id; a bank knows only whom it enrolled",
    Code.UNKNOWN_KEY_ID: "it was sealed to a key that the recipient does not hold any more",
    Code.STALE_TICKET: "the session has ended; it has to be opened again",
    Code.NOT_AUTHENTIC: "it could not be opened, or its signature is wrong",
    Code.BAD_MESSAGE: "the message is not well formed",
    Code.MESSAGE_EXPIRED: "the message came too late",
    Code.CLOCK_SKEW: "the clocks are too far apart; set this computer's clock",
    Code.REPLAYED: "another message was sent under the same id before",
    Code.REPLAY_WINDOW_FULL: "the recipient has too many messages to remember; wait a while",
    Code.DOWNGRADE_REFUSED: "a worse kind of encryption was used than both sides offer",
    Code.PEER_KEY_CHANGED: "the key is not the one that is known",
    Code.UNSUPPORTED_PURPOSE: "the recipient does not take messages of this kind",
    # The bank.
    Code.ORDER_ID_CONFLICT: "another order was sent under the same id before; this one never runs",
    Code.ORDER_EXPIRED: "the order came too late, has not run and never will",
    Code.KEY_REVOKED: "the bank accepts nothing under this key: revoked, or its owner blocked",
    Code.BAD_ORDER: "the bank could not understand the order",
    Code.BAD_AMOUNT: "that is no amount for this account's currency",
    Code.ACCOUNT_UNAVAILABLE: "there is no such account, or it is not yours to see",
    Code.PERMISSION_DENIED: "you may see the account, but not do this with it",
    Code.DESTINATION_UNKNOWN: "there is no account to receive it",
    Code.SAME_ACCOUNT: "both accounts are the same",
    Code.CURRENCY_MISMATCH: "the currencies differ",
    Code.ACCOUNT_FROZEN: "an account is frozen",
    Code.ACCOUNT_CLOSED: "an account is closed",
    Code.LIMIT_EXCEEDED: "it is more than the limit for one order",
    Code.APPROVAL_REQUIRED: "somebody else has to approve it first",
    Code.INSUFFICIENT_FUNDS: "there is not enough in the account",
    Code.BUSY: "the bank has too much to do; wait a moment",
    Code.BANK_UNAVAILABLE: "the bank can't work at the moment; try again later",
    Code.INTERNAL: "something went wrong on the other side; it may or may not have happened",
}
"""Words for every code."""


def in_words(code: Code | None, detail: str = "") -> str:
    """Return a code with words: those that came with it, or else the general ones."""
    if code is None:
        return detail or "no reason was given"
    return f"{code.value} — {detail or WORDS[code]}"

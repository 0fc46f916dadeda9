"""From a sealed request to a sealed answer; it knows nothing of how either travels.

Checks run in the published order, the cheapest first: length, suite and key id, the sender, the
seal, the signature, what is inside, the times, the purpose. Whatever fails up to there is answered
with an unsealed refusal, which proves nothing and says as little as possible. What was opened is
answered under its own reply key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from django.db import DatabaseError, connections

from bank.committer import RETRY_AFTER_MS, GroupCommitter
from bank.database_faults import first_words
from bank.database_threads import DatabaseThreads
from bank.enrolled import EnrolledKeys, EnrolledPerson
from bank.errors import BankError, LedgerError, LedgerUnavailableError
from bank.handover import Handover
from bank.incoming import IncomingOrder, OrderOutcome
from bank.queries import answer_query
from protocol import limits
from protocol.banking import (
    ORDER_PURPOSE,
    QUERY_PURPOSE,
    Answer,
    SignedReceipt,
    decode_query,
    encode_answer,
)
from protocol.errors import RETRY, Code, EndToEndError, LocalError, ProtocolError, Retry
from protocol.keys import Prekey
from protocol.sealing import (
    REPLY_NONCE_BYTES,
    Envelope,
    Opened,
    check_times,
    open_sealed,
    refusal_body,
    seal_reply,
    sealed_to,
)

__all__ = ["BankKeys", "Gateway", "SealedRequest"]

logger = structlog.get_logger(__name__)

_NO_RECORD: Final = "no order of yours with this id is recorded"


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A request as it arrived.

    :param sender: the id that the relay says it comes from; the seal proves it or does not.
    """

    id: str
    re: str | None
    sender: str
    body: bytes


class BankKeys(Protocol):
    """The bank's own keys as the gateway needs them."""

    @property
    def client_id(self) -> str:
        """The bank's id."""

    @property
    def fingerprint(self) -> bytes:
        """The bank's fingerprint."""

    @property
    def prekeys(self) -> Sequence[Prekey]:
        """The prekeys that are held, newest first."""

    async def refresh(self) -> bool:
        """Look for prekeys that another process has made; return whether there are new ones.

        :raises LocalError: they can't be read at the moment.
        """


class Gateway:
    """Answers requests.

    :param clock: milliseconds since the epoch.
    """

    def __init__(
        self,
        keys: BankKeys,
        committer: GroupCommitter,
        threads: DatabaseThreads,
        enrolled: EnrolledKeys,
        *,
        clock: Callable[[], int],
        using: str = "default",
    ) -> None:
        self._keys = keys
        self._committer = committer
        self._threads = threads
        self._enrolled = enrolled
        self._clock = clock
        self._using = using
        self._handover: Handover[OrderOutcome] = Handover(
            committer.wake, at_once=connections[using].vendor != "sqlite"
        )

    async def answer(self, request: SealedRequest) -> bytes | None:
        """Return the body of the reply, or ``None`` where nothing may be said.

        Nothing may be said where the outcome of an order is not known; whoever sends the same bytes
        again finds out.
        """
        try:
            person, opened = await self._open(request)
        except ProtocolError as error:
            logger.info("request_refused", sender=request.sender, code=error.code.value)
            return refusal_body(error.code)
        except DatabaseError as error:
            logger.error("sender_lookup_failed", error=first_words(error))
            return refusal_body(Code.BANK_UNAVAILABLE)
        answer = await self._answer_opened(person, opened)
        if answer is None:
            return None
        nonce = os.urandom(REPLY_NONCE_BYTES)
        return seal_reply(opened.reply_key, opened.signed.hash, encode_answer(answer), nonce)

    # --- Opening ---

    async def _open(self, request: SealedRequest) -> tuple[_Signer, Opened]:
        _, key_id = sealed_to(request.body)
        if not self._holds(key_id):
            await self._refresh_keys()
            if not self._holds(key_id):
                raise EndToEndError(Code.UNKNOWN_KEY_ID)
        kept = self._enrolled.kept(request.sender)
        if kept is not None:
            try:
                return self._open_as(kept, request)
            except EndToEndError as error:
                if error.code is not Code.NOT_AUTHENTIC:
                    raise
        # Not in memory, or with a key that was enrolled since.
        person = await self._threads.run(lambda: self._enrolled.read(request.sender))
        if person is None:
            raise EndToEndError(Code.UNKNOWN_SENDER)
        if person == kept:
            raise EndToEndError(Code.NOT_AUTHENTIC)
        return self._open_as(person, request)

    async def _refresh_keys(self) -> None:
        """Look for the prekey among those that another process may have made.

        :raises BankError: ``bank_unavailable`` while they can't be read.
        """
        try:
            await self._keys.refresh()
        except LocalError as error:
            logger.error("keys_unreadable", error=str(error))
            raise BankError(Code.BANK_UNAVAILABLE) from error

    def _holds(self, key_id: bytes) -> bool:
        return any(prekey.public.key_id == key_id for prekey in self._keys.prekeys)

    def _open_as(self, person: EnrolledPerson, request: SealedRequest) -> tuple[_Signer, Opened]:
        """Open with the first of the person's identities that fits.

        A revoked identity is tried, too: its owner learns ``key_revoked`` from the ledger, and the
        receipts of what was recorded before.
        """
        failure = EndToEndError(Code.NOT_AUTHENTIC)
        for key in person.keys:
            envelope = Envelope(
                id=request.id,
                re=request.re,
                sender=person.client_id,
                sender_fingerprint=key.fingerprint,
                recipient=self._keys.client_id,
                recipient_fingerprint=self._keys.fingerprint,
            )
            try:
                opened = open_sealed(
                    request.body,
                    envelope,
                    prekeys=self._keys.prekeys,
                    sender_identity=key.identity_key,
                    sender_suites=key.suites,
                    now=None,
                )
            except EndToEndError as error:
                if error.code is not Code.NOT_AUTHENTIC:
                    raise
                failure = error
            else:
                return _Signer(person.person_id, key.identity_key), opened
        raise failure

    # --- Answering ---

    async def _answer_opened(self, signer: _Signer, opened: Opened) -> Answer | None:
        message_id = opened.inner.id
        try:
            is_order = opened.inner.purpose == ORDER_PURPOSE
            self._check_times(opened, is_order=is_order)
            if is_order:
                return _order_answer(message_id, await self._order(signer, opened))
            if opened.inner.purpose == QUERY_PURPOSE:
                return await self._query(signer, opened)
            raise EndToEndError(Code.UNSUPPORTED_PURPOSE, "the bank takes orders and queries")
        except ProtocolError as error:
            return _refusal(message_id, error.code, error.detail, error.retry_after_ms)
        except (LedgerUnavailableError, DatabaseError) as error:
            logger.warning("bank_unavailable", error=error)
            return _refusal(message_id, Code.BANK_UNAVAILABLE, "", RETRY_AFTER_MS)
        except LedgerError:
            return None

    def _check_times(self, opened: Opened, *, is_order: bool) -> None:
        """Check the times; an order's expiry is the ledger's to decide, by its own clock.

        An order that is recorded is answered with its receipt for ever.
        """
        try:
            check_times(opened.inner, self._clock())
        except EndToEndError as error:
            if not (is_order and error.code is Code.MESSAGE_EXPIRED):
                raise

    async def _order(self, signer: _Signer, opened: Opened) -> OrderOutcome:
        incoming = IncomingOrder.from_message(
            signer.person_id, signer.identity_key, opened.signed, opened.inner
        )
        return await self._handover.wait(self._committer.put(incoming))

    async def _query(self, signer: _Signer, opened: Opened) -> Answer:
        query = decode_query(bytes(opened.inner.content))
        result = await self._threads.run(
            lambda: answer_query(signer.person_id, signer.identity_key, query, using=self._using)
        )
        version, message_id = limits.PROTOCOL_VERSION, opened.inner.id
        if result is None:
            return Answer(version=version, re=message_id, detail=_NO_RECORD)
        if isinstance(result, SignedReceipt):
            return Answer(version=version, re=message_id, receipt=result)
        return Answer(version=version, re=message_id, result=result)


@dataclass(frozen=True, slots=True)
class _Signer:
    """Who signed a request, and with which key."""

    person_id: int
    identity_key: bytes


def _order_answer(message_id: str, outcome: OrderOutcome) -> Answer:
    if outcome.receipt is None and outcome.code is not None:
        after = RETRY_AFTER_MS if outcome.code is Code.BUSY else None
        return _refusal(message_id, outcome.code, outcome.detail, after)
    return Answer(
        version=limits.PROTOCOL_VERSION,
        re=message_id,
        code=outcome.code,
        # Whatever the code alone would say, what has a receipt is stored and never changes.
        retry=None if outcome.code is None else Retry.FINAL,
        receipt=outcome.receipt,
    )


def _refusal(message_id: str, code: Code, detail: str, retry_after_ms: int | None) -> Answer:
    """Return an answer about which nothing is stored, so it can't be called final."""
    retry = RETRY[code]
    return Answer(
        version=limits.PROTOCOL_VERSION,
        re=message_id,
        code=code,
        retry=Retry.NEVER if retry is Retry.FINAL else retry,
        retry_after_ms=retry_after_ms,
        detail=detail[: limits.DETAIL_CHARS_MAX],
    )

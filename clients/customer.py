"""A customer of the bank: orders that run exactly once, and questions.

An order is written to the outbox, flushed to the disk, before it is sent for the first time. It is
sent again with the same id and the same signed bytes until it has ended, and it ends in one of two
ways only: by a receipt that the bank signed, or by an answer that only the bank can have sealed and
that says it never will run. Whatever else is heard, from the relay or unsealed, proves nothing.

So what can be refused here is refused before the order is kept: where the relay gives a key that
isn't the bank's, there is no order that anybody could send later.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from clients.client import Client
from clients.durable_writer import DurableWriter
from clients.errors import (
    ClientError,
    OutcomeUnknownError,
    PeerKeyChangedError,
    ReceiptsNotKeptError,
    RefusedError,
    RegistrationRefusedError,
)
from clients.orders import (
    BankPin,
    OutgoingOrder,
    OutgoingQuery,
    SealedToBank,
    envelope_to,
    key_for,
    meaning_of,
    operation_of,
)
from clients.records import Ending, OrderRecord
from clients.retry import RetryPolicy
from clients.storage import StateDirectory
from protocol import limits
from protocol.banking import (
    ORDER_PURPOSE,
    QUERY_PURPOSE,
    Answer,
    Order,
    Outcome,
    Query,
    Receipt,
    Result,
)
from protocol.bundles import Bundle
from protocol.client_events import Ended
from protocol.client_exchange import Stage
from protocol.encoding import b64u
from protocol.errors import Code
from protocol.sealing import (
    REPLY_KEY_BYTES,
    Envelope,
    compose,
)

__all__ = ["UNFIT_BANK", "BankPin", "Customer", "OrderResult", "OrderState"]

_log = logging.getLogger("tellerwire.customer")

ORDER_LIFETIME_MS: Final = 3_600_000
"""How long an order may still be booked after it was signed."""

ARCHIVE_SECONDS: Final = 0.25
"""How long receipts gather before they are written; until then their orders are in the outbox."""

LATE_REPLIES_PER_SECOND: Final = 1_000
"""So many answers that nobody waits for are looked at: each is looked for on the disk."""

UNFIT_BANK: Final = frozenset(
    {Code.PEER_KEY_CHANGED, Code.BAD_BUNDLE, Code.WEAK_KEY, Code.DOWNGRADE_REFUSED}
)
"""Why nothing is sealed to the keys that there are for the bank; sending again won't help."""


class OrderState(StrEnum):
    """What is known of an order."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The bank refused it and signed that."""
    NEVER = "never"
    """The bank said that it has not run and never will; nothing is recorded there."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class OrderResult:
    """How an order ended, or that this is not known.

    :param code: why it was refused; where the state is unknown, what was heard last (unproven).
    :param file: where the record is: the entry in the outbox, or the receipt, if it doesn't share
        a file with many that ended at the same time (:meth:`StateDirectory.file_of` finds it then).
    """

    order_id: str
    meaning: str
    state: OrderState
    receipt: Receipt | None
    code: Code | None
    detail: str
    file: Path


class Customer:
    """Sends orders and questions to one bank.

    Orders may be under way in any number at the same time.

    :param client: registered, or about to be; its peers must have the bank's fingerprint
        configured.
    """

    def __init__(
        self, client: Client, bank: BankPin, state: StateDirectory, policy: RetryPolicy
    ) -> None:
        self._client = client
        self.bank = bank
        self._state = state
        self._policy = policy
        # A hash over the key; every message needs it, and the identity never changes.
        self._fingerprint = client.key_file.fingerprint
        self._outbox = DurableWriter(state.outbox.add)
        self._archive = DurableWriter(state.archive, ARCHIVE_SECONDS)
        self._unsaved: dict[str, asyncio.Future[None]] = {}
        self._late_since = 0
        self._late_count = 0
        # What the orders ask for that have not ended, by id, once somebody has asked.
        self._unfinished: dict[str, str] | None = None

    # --- Orders ---

    async def submit(
        self,
        order: Order,
        *,
        lifetime_ms: int = ORDER_LIFETIME_MS,
        policy: RetryPolicy | None = None,
    ) -> OrderResult:
        """Sign an order, keep it safe, send it until it has ended or patience has.

        :param lifetime_ms: how long it may still be booked.
        :raises StorageError: it could not be kept, and so was not sent.
        :raises PeerKeyChangedError: the relay gave another key than the configured one; the order
            was neither sent nor kept.
        :raises RefusedError: what the relay gave is no good key of the bank; likewise.
        :raises ClientError: there will be no connection any more; likewise. Once the order is kept
            nothing else that happens to the connection is an error: it leaves the outcome unknown.
        """
        await self.check_bank()
        record = self._sign(order, lifetime_ms)
        outgoing = self._outgoing(record)
        if self._client.protocol.under_way or not self._outbox.put_now(record):
            kept = self._outbox.put(record)
            # The writer's thread goes first: once it waits for the disk, there is time to seal.
            await asyncio.sleep(0)
            bank = self._client.known(self.bank.id)
            if bank is not None:
                outgoing.seal_ahead(bank)
            await kept
        if self._unfinished is not None:
            self._unfinished[record.order_id] = record.meaning
        return await self._send(record, outgoing, policy or self._policy)

    async def check_bank(self) -> None:
        """Make sure, before there is an order, that there is no reason here to seal none.

        What the relay just says, or doesn't, is no such reason: it may say something else later,
        unless it will not have this client any more.

        :raises RefusedError: a code of :data:`UNFIT_BANK`.
        :raises RegistrationRefusedError: there will be no connection any more.
        :raises RelayRenamedError: likewise.
        """
        try:
            bank = self._client.known(self.bank.id)
            if bank is None:
                bank = await self._client.directory.peer(self.bank.id)
            key_for(bank, self._client.key_file)
        except RefusedError as error:
            if error.code in UNFIT_BANK:
                raise
        except ClientError:
            pass  # it is asked again when the order is to be sent
        if (failure := self._client.failure) is not None:
            raise failure

    def unfinished_like(self, order: Order) -> list[str]:
        """Return the ids of the unfinished orders that ask for the same in the same words.

        The outbox is read once: of its own orders this session knows which are unfinished.

        :raises StorageError: the outbox can't be read.
        """
        if self._unfinished is None:
            self._unfinished = {
                record.order_id: record.meaning
                for record in self._state.unfinished()
                if record.order_id not in self._unsaved
            }
        wanted = meaning_of(order)
        return [order_id for order_id, meaning in self._unfinished.items() if meaning == wanted]

    async def finish(self, record: OrderRecord, policy: RetryPolicy | None = None) -> OrderResult:
        """Send an order of the outbox, or one that has ended, again: the same bytes.

        :raises RefusedError: ``peer_key_changed``: it was made for a bank of another key.
        """
        return await self._send(record, self._outgoing(record), policy or self._policy)

    async def repeat(self, record: OrderRecord) -> tuple[OrderResult, bool]:
        """Send an order again that may have ended; say whether the receipt is the one known.

        :raises RefusedError: as :meth:`finish`.
        """
        outgoing = self._outgoing(record)
        result = await self._send(record, outgoing, self._policy)
        return result, outgoing.signed_receipt == record.receipt

    def _outgoing(self, record: OrderRecord) -> OutgoingOrder:
        if (record.bank, record.bank_fingerprint) != (self.bank.id, self.bank.fingerprint.hex()):
            raise RefusedError(
                Code.PEER_KEY_CHANGED,
                f"order {record.order_id} was made for the bank {record.bank} with the fingerprint "
                f"{record.bank_fingerprint}; configure that one to finish it",
                proven=True,
            )
        if record.person_fingerprint != self._fingerprint.hex():
            raise RefusedError(
                Code.NOT_AUTHENTIC,
                f"order {record.order_id} was signed with another key than the one in use",
                proven=True,
            )
        return OutgoingOrder(self._client.key_file, self.bank, record, self._fingerprint)

    def _envelope(self, message_id: str) -> Envelope:
        own = self._client.key_file
        return envelope_to(self.bank, message_id, own.client_id, self._fingerprint)

    def _sign(self, order: Order, lifetime_ms: int) -> OrderRecord:
        own, now = self._client.key_file, self._client.clock()
        order_id = self._client.new_id()
        reply_key = self._client.random_bytes(REPLY_KEY_BYTES)
        signed = compose(
            own.identity,
            self._envelope(order_id),
            purpose=ORDER_PURPOSE,
            content=order,
            issued_at=now,
            expires_at=now + min(lifetime_ms, limits.MESSAGE_LIFETIME_MS_MAX),
            reply_key=reply_key,
        )
        return OrderRecord(
            order_id=order_id,
            person=own.client_id,
            person_fingerprint=self._fingerprint.hex(),
            person_key=b64u(own.identity.public),
            bank=self.bank.id,
            bank_fingerprint=self.bank.fingerprint.hex(),
            operation=operation_of(order),
            meaning=meaning_of(order),
            evidence=b64u(signed.evidence),
            reply_key=b64u(reply_key),
            issued_at=now,
            expires_at=now + min(lifetime_ms, limits.MESSAGE_LIFETIME_MS_MAX),
        )

    async def _send(
        self, record: OrderRecord, outgoing: OutgoingOrder, policy: RetryPolicy
    ) -> OrderResult:
        future = self._client.send(outgoing, policy)
        try:
            ended = await future
        except asyncio.CancelledError:
            self._client.give_up(record.order_id)
            raise
        except PeerKeyChangedError as error:
            # It may have been sent before, by this program or another: that proves nothing.
            ended = Ended(record.order_id, Stage.REFUSED, error.code, error.detail)
        except RegistrationRefusedError as error:
            ended = Ended(record.order_id, Stage.LAPSED, error.code, "")
        except Exception as error:  # noqa: BLE001 - the connection ended; the order may have run
            _log.debug("order %s was left under way", record.order_id, exc_info=error)
            ended = Ended(record.order_id, Stage.LAPSED, None, str(error))
        return self._conclude(record, outgoing, ended)

    def _conclude(self, record: OrderRecord, outgoing: OutgoingOrder, ended: Ended) -> OrderResult:
        bundle = outgoing.bundle.signed if outgoing.bundle is not None else None
        no, receipt = outgoing.certain_no, outgoing.receipt
        if receipt is not None:
            self._save(record, receipt=outgoing.signed_receipt, bank_bundle=bundle)
            accepted = receipt.outcome is Outcome.ACCEPTED
            state = OrderState.ACCEPTED if accepted else OrderState.REFUSED
            code, detail = receipt.code, receipt.detail
        elif no is not None and no.code is not None:
            ending = Ending(no.code, no.detail, self._client.clock())
            self._save(record, ending=ending, bank_bundle=bundle)
            state, code, detail = OrderState.NEVER, no.code, no.detail
        else:
            state, code = OrderState.UNKNOWN, ended.code
            detail = ended.detail or outgoing.detail
        if state is OrderState.UNKNOWN:
            file = self._state.file_of(record.order_id)
        else:
            if self._unfinished is not None:
                self._unfinished.pop(record.order_id, None)
            file = self._state.receipts.own_file(record.order_id)
        return OrderResult(record.order_id, record.meaning, state, receipt, code, detail, file)

    def _save(self, record: OrderRecord, **changes: object) -> None:
        """Move the order to the receipts, in the background.

        Nothing is lost if this never happens: the order is still in the outbox, and the bank gives
        the same answer again.
        """
        if record.has_ended:
            return
        saved = self._archive.put(msgspec.structs.replace(record, **changes))
        self._unsaved[record.order_id] = saved
        saved.add_done_callback(partial(self._note_saved, record.order_id))

    def _note_saved(self, order_id: str, saved: asyncio.Future[None]) -> None:
        if not saved.cancelled() and saved.exception() is None:
            self._unsaved.pop(order_id, None)

    async def flush(self) -> None:
        """Wait until every receipt is safe on the disk, and leave the outbox to who comes next.

        :raises ReceiptsNotKeptError: one could not be written; its order stays in the outbox.
        """
        await self._archive.flush()
        await asyncio.to_thread(self._state.outbox.rest)
        unsaved, self._unsaved = self._unsaved, {}
        failures = [error for saved in unsaved.values() if (error := saved.exception()) is not None]
        if failures:
            raise ReceiptsNotKeptError(len(failures), failures[0])

    # --- Answers that come when nobody waits for them any more ---

    def take_late_reply(
        self, order_id: str, body: bytes, bank: Bundle | None
    ) -> OrderResult | None:
        """Use a reply to an order of the outbox that is not under way: it may end it.

        Of a flood most are left alone: what such an answer would have ended stays in the outbox.

        :return: how the order ended; None where it didn't, or had ended before.
        :raises RefusedError: as :meth:`finish`.
        """
        now = self._client.connection.steady()
        if now - self._late_since >= 1_000:
            self._late_since, self._late_count = now, 0
        self._late_count += 1
        if self._late_count > LATE_REPLIES_PER_SECOND:
            return None
        record = self._state.order(order_id)
        if record is None or record.has_ended or order_id in self._unsaved or bank is None:
            return None
        outgoing = self._outgoing(record)
        outgoing.bundle = bank
        outgoing.judge(body)
        if outgoing.receipt is None and outgoing.certain_no is None:
            return None
        return self._conclude(record, outgoing, Ended(order_id, Stage.ANSWERED, None, ""))

    # --- Questions ---

    async def ask(self, query: Query, policy: RetryPolicy | None = None) -> Result:
        """Ask the bank something.

        :raises RefusedError: as the bank refused.
        :raises OutcomeUnknownError: no answer that only the bank can have made.
        """
        result = (await self._ask(query, policy or self._policy)).result
        if result is None:
            raise OutcomeUnknownError("the bank's answer holds nothing")
        return result

    async def _ask(self, query: Query, policy: RetryPolicy) -> Answer:
        own, now = self._client.key_file, self._client.clock()
        message_id = self._client.new_id()
        reply_key = self._client.random_bytes(REPLY_KEY_BYTES)
        expires_at = now + policy.patience_ms
        signed = compose(
            own.identity,
            self._envelope(message_id),
            purpose=QUERY_PURPOSE,
            content=query,
            issued_at=now,
            expires_at=expires_at,
            reply_key=reply_key,
        )
        outgoing = OutgoingQuery(
            own,
            self.bank,
            self._envelope(message_id),
            signed=signed,
            reply_key=reply_key,
            expires_at=expires_at,
        )
        future = self._client.send(outgoing, policy)
        try:
            ended = await future
        except asyncio.CancelledError:
            self._client.give_up(message_id)
            raise
        if outgoing.answer is None:
            raise _no_answer(outgoing, ended)
        if outgoing.answer.code is not None:
            raise RefusedError(outgoing.answer.code, outgoing.answer.detail, proven=True)
        return outgoing.answer


def _no_answer(outgoing: SealedToBank, ended: Ended) -> OutcomeUnknownError | RefusedError:
    if ended.stage is Stage.REFUSED and ended.code is not None:
        return RefusedError(ended.code, ended.detail, proven=False)
    heard = f"; the last thing heard was {ended.code.value} (not proven)" if ended.code else ""
    where = {
        Stage.QUEUED: "it waits in the bank's mailbox: the bank is not there",
        Stage.DELIVERED: "the relay says that the bank has it",
    }.get(outgoing.stage, "nothing is known of it")
    return OutcomeUnknownError(f"the bank did not answer in time: {where}{heard}", ended.code)

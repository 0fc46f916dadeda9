"""The gateway: what is opened, what is refused without being opened, and what is said about it."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from django.db import DatabaseError
from django.db.models import JSONField, Value
from django.utils import timezone

from bank.committer import GroupCommitter
from bank.database_threads import DatabaseThreads
from bank.enrolled import EnrolledKeys
from bank.errors import BankSetupError, LedgerUnavailableError, OutcomeUnknownError
from bank.gateway import Gateway, SealedRequest
from bank.incoming import IncomingOrder, OrderOutcome
from bank.ledger import book
from bank.models import Person, PersonStatus
from protocol.banking import (
    ORDER_PURPOSE,
    QUERY_PURPOSE,
    TEXT_PURPOSE,
    AccountsQuery,
    AccountsResult,
    Answer,
    BalanceQuery,
    OrderStatusQuery,
    TextMessage,
    decode_answer,
    open_receipt,
)
from protocol.bundles import make_bundle
from protocol.errors import Code, Retry
from protocol.keys import EncryptionKey, IdentityKey, Prekey, Suite, fingerprint
from protocol.sealing import (
    Envelope,
    SignedMessage,
    UnsealedRefusalError,
    compose,
    open_reply,
    seal,
)
from tests.bank.orders import (
    BANK,
    BANK_ID,
    DAY_MS,
    SmallBank,
    balances,
    new_order_id,
    now_ms,
    small_bank,
    transfer,
)
from tests.bank.parties import VALID_FROM_MS, VALID_TO_MS, identity_of
from tests.bank.unchanged import nothing_changed
from tests.databases import TestDatabases


class FixedKeys:
    """The bank's keys without a file; refreshing brings what is in ``coming``."""

    client_id = BANK_ID
    fingerprint = BANK.fingerprint

    def __init__(self) -> None:
        self.prekeys: Sequence[Prekey] = [_prekey(Suite.CLASSIC, 1)]
        self.coming: Sequence[Prekey] = []
        self.unreadable = False

    async def refresh(self) -> bool:
        if self.unreadable:
            raise BankSetupError("the key file can't be read")
        self.prekeys = [*self.coming, *self.prekeys]
        return bool(self.coming)


def _prekey(suite: Suite, number: int) -> Prekey:
    return Prekey(suite, hashlib.sha256(f"bank {suite} {number}".encode()).digest(), 0)


@dataclasses.dataclass
class Desk:
    """A gateway with everything behind it."""

    bank: SmallBank
    keys: FixedKeys
    gateway: Gateway

    def send(self, request: SealedRequest) -> bytes | None:
        return asyncio.run(self.gateway.answer(request))


@pytest.fixture
def failures() -> list[Exception]:
    """What booking raises before it works, the last one first."""
    return []


@pytest.fixture
def desk(fresh_databases: TestDatabases, failures: list[Exception]) -> Iterator[Desk]:
    def book_or_fail(batch: Sequence[IncomingOrder]) -> list[OrderOutcome]:
        if failures:
            raise failures.pop()
        return book(batch, BANK)

    keys = FixedKeys()
    committer = GroupCommitter(book_or_fail, batch_orders_max=100, queue_orders_max=100)
    threads = DatabaseThreads(2)
    bank = small_bank()
    yield Desk(bank, keys, Gateway(keys, committer, threads, EnrolledKeys(), clock=now_ms))
    committer.close()
    threads.close()


@dataclasses.dataclass
class Message:
    """A sealed message of a customer, who can read the answer."""

    signed: SignedMessage
    reply_key: bytes
    request: SealedRequest

    def read(self, body: bytes | None) -> Answer:
        assert body is not None
        return decode_answer(open_reply(body, self.reply_key, self.signed.hash))


def message(
    content: msgspec.Struct,
    *,
    purpose: str = ORDER_PURPOSE,
    client_id: str = "ada",
    identity: IdentityKey | None = None,
    key: EncryptionKey | None = None,
    issued_at: int | None = None,
    lifetime_ms: int = DAY_MS,
) -> Message:
    signer = identity or identity_of(client_id)
    envelope = Envelope(
        id=new_order_id(),
        re=None,
        sender=client_id,
        sender_fingerprint=fingerprint(client_id, signer.public),
        recipient=BANK_ID,
        recipient_fingerprint=BANK.fingerprint,
    )
    reply_key = hashlib.sha256(envelope.id.encode()).digest()
    issued = now_ms() if issued_at is None else issued_at
    signed = compose(
        signer,
        envelope,
        purpose=purpose,
        content=content,
        issued_at=issued,
        expires_at=issued + lifetime_ms,
        reply_key=reply_key,
    )
    body = seal(signed, reply_key, envelope, key or _prekey(Suite.CLASSIC, 1).public)
    return Message(signed, reply_key, SealedRequest(envelope.id, None, client_id, body))


ORDER = transfer("account1", "account2", 100)


def unsealed(desk: Desk, request: SealedRequest) -> Code:
    """The code of an unsealed refusal, which must have changed nothing."""
    with nothing_changed():
        body = desk.send(request)
    assert body is not None
    with pytest.raises(UnsealedRefusalError) as caught:
        open_reply(body, bytes(32), bytes(32))
    return caught.value.code


# --- Orders -------------------------------------------------------------------------------------


def test_an_order_is_booked_and_answered_with_its_receipt(desk: Desk) -> None:
    order = message(ORDER)
    answer = order.read(desk.send(order.request))
    assert (answer.re, answer.code, answer.retry) == (order.request.id, None, None)
    assert answer.receipt is not None
    assert open_receipt(answer.receipt, BANK.key.public).order_id == order.request.id
    assert balances(["account1"]) == {"account1": 900}


def test_the_same_bytes_again_get_the_same_receipt_under_another_nonce(desk: Desk) -> None:
    order = message(ORDER)
    first, second = desk.send(order.request), desk.send(order.request)
    assert first != second
    assert order.read(first) == order.read(second)
    assert balances(["account1"]) == {"account1": 900}


def test_a_refusal_is_final_and_has_a_receipt(desk: Desk) -> None:
    order = message(transfer("account2", "account3", 5000))
    answer = order.read(desk.send(order.request))
    assert (answer.code, answer.retry) == (Code.INSUFFICIENT_FUNDS, Retry.FINAL)
    assert answer.receipt is not None


def test_an_expired_order_is_refused_by_the_ledger_unless_it_is_recorded(desk: Desk) -> None:
    late = message(ORDER, issued_at=now_ms() - 2 * DAY_MS)
    with nothing_changed():
        answer = late.read(desk.send(late.request))
    assert (answer.code, answer.retry, answer.receipt) == (Code.ORDER_EXPIRED, Retry.NEVER, None)
    recorded = message(ORDER)
    first = recorded.read(desk.send(recorded.request))
    desk.gateway._clock = lambda: now_ms() + 2 * DAY_MS
    assert recorded.read(desk.send(recorded.request)) == first


def test_where_the_outcome_is_unknown_the_bank_says_nothing(
    desk: Desk, failures: list[Exception]
) -> None:
    failures.append(OutcomeUnknownError())
    order = message(ORDER)
    assert desk.send(order.request) is None
    assert order.read(desk.send(order.request)).code is None


def test_without_its_database_the_bank_is_unavailable_and_records_nothing(
    desk: Desk, failures: list[Exception]
) -> None:
    failures.append(LedgerUnavailableError())
    order = message(ORDER)
    with nothing_changed():
        answer = order.read(desk.send(order.request))
    assert (answer.code, answer.retry) == (Code.BANK_UNAVAILABLE, Retry.SAME)
    assert answer.retry_after_ms
    assert order.read(desk.send(order.request)).code is None


# --- Queries ------------------------------------------------------------------------------------


def query(content: msgspec.Struct, *, issued_at: int | None = None) -> Message:
    return message(content, purpose=QUERY_PURPOSE, issued_at=issued_at)


def test_a_query_is_answered(desk: Desk) -> None:
    asked = query(AccountsQuery())
    answer = asked.read(desk.send(asked.request))
    assert isinstance(answer.result, AccountsResult)
    assert [line.account for line in answer.result.accounts] == ["account1", "account2"]


def test_a_refused_query_is_not_called_final(desk: Desk) -> None:
    asked = query(BalanceQuery("account3"))
    answer = asked.read(desk.send(asked.request))
    assert (answer.code, answer.retry) == (Code.ACCOUNT_UNAVAILABLE, Retry.NEVER)


def test_the_status_of_an_order_is_its_receipt_or_nothing(desk: Desk) -> None:
    order = message(ORDER)
    asked = query(OrderStatusQuery(order.request.id))
    answer = asked.read(desk.send(asked.request))
    assert (answer.code, answer.receipt, answer.result) == (None, None, None)
    assert "no order" in answer.detail
    booked = order.read(desk.send(order.request))
    again = query(OrderStatusQuery(order.request.id))
    assert again.read(desk.send(again.request)).receipt == booked.receipt


def test_a_query_that_says_nothing_is_a_bad_message(desk: Desk) -> None:
    asked = query(TextMessage("hello"))
    with nothing_changed():
        assert asked.read(desk.send(asked.request)).code is Code.BAD_MESSAGE


def test_an_expired_query_and_one_from_the_future_are_refused(desk: Desk) -> None:
    for issued_at, code in (
        (now_ms() - 2 * DAY_MS, Code.MESSAGE_EXPIRED),
        (now_ms() + 300_000, Code.CLOCK_SKEW),
    ):
        asked = query(AccountsQuery(), issued_at=issued_at)
        assert asked.read(desk.send(asked.request)).code is code


def test_an_order_from_the_future_is_refused_without_a_record(desk: Desk) -> None:
    order = message(ORDER, issued_at=now_ms() + 300_000)
    with nothing_changed():
        assert order.read(desk.send(order.request)).code is Code.CLOCK_SKEW


def test_other_purposes_are_not_the_banks(desk: Desk) -> None:
    text = message(TextMessage("hello"), purpose=TEXT_PURPOSE)
    with nothing_changed():
        assert text.read(desk.send(text.request)).code is Code.UNSUPPORTED_PURPOSE


# --- What can't be opened -----------------------------------------------------------------------


def test_a_stranger_is_told_so(desk: Desk) -> None:
    assert unsealed(desk, message(ORDER, client_id="mallory").request) is Code.UNKNOWN_SENDER


def test_another_key_in_a_customers_name_is_not_authentic(desk: Desk) -> None:
    forged = message(ORDER, identity=identity_of("ada", 2))
    assert unsealed(desk, forged.request) is Code.NOT_AUTHENTIC


def test_somebody_elses_message_in_a_customers_name_is_not_authentic(desk: Desk) -> None:
    """What the original allowed: it was enough to claim somebody's id."""
    request = message(ORDER, client_id="ben").request
    claimed = dataclasses.replace(request, sender="ada")
    assert unsealed(desk, claimed) is Code.NOT_AUTHENTIC


@pytest.mark.parametrize("position", [0, 1, 9, 60, -1])
def test_an_altered_message_is_never_opened(desk: Desk, position: int) -> None:
    request = message(ORDER).request
    body = bytearray(request.body)
    body[position] ^= 0x40
    altered = dataclasses.replace(request, body=bytes(body))
    assert unsealed(desk, altered) in {Code.NOT_AUTHENTIC, Code.UNKNOWN_KEY_ID}


def test_another_id_outside_than_inside_is_not_authentic(desk: Desk) -> None:
    renamed = dataclasses.replace(message(ORDER).request, id=new_order_id())
    assert unsealed(desk, renamed) is Code.NOT_AUTHENTIC


@pytest.mark.parametrize("body", [b"", b"\x02", b"\x02" * 9, b"\x07" * 400, b"\x02" * 90_000])
def test_noise_is_refused_by_name(desk: Desk, body: bytes) -> None:
    noise = SealedRequest(new_order_id(), None, "ada", body)
    assert unsealed(desk, noise) in {Code.NOT_AUTHENTIC, Code.UNKNOWN_KEY_ID}


def test_a_worse_suite_than_both_offer_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a bundle offers is kept for some seconds; here it is read anew each time.
    monkeypatch.setattr("bank.enrolled.KEPT_SECONDS", -1.0)
    hybrid = _prekey(Suite.HYBRID, 1)
    desk.keys.prekeys = [hybrid, *desk.keys.prekeys]
    # Ada's enrolled bundle offers the classic suite alone, so that is the best of both.
    order = message(ORDER)
    assert order.read(desk.send(order.request)).code is None
    rotate_key(desk.bank.ada, identity_of("ada"), [hybrid.public, *classic_keys()])
    assert unsealed(desk, message(ORDER).request) is Code.DOWNGRADE_REFUSED
    good = message(ORDER, key=hybrid.public)
    assert good.read(desk.send(good.request)).code is None


# --- Keys that change ---------------------------------------------------------------------------


def test_prekeys_of_another_process_are_looked_for(desk: Desk) -> None:
    new = _prekey(Suite.CLASSIC, 2)
    order = message(ORDER, key=new.public)
    assert unsealed(desk, order.request) is Code.UNKNOWN_KEY_ID
    desk.keys.coming = [new]
    assert order.read(desk.send(order.request)).code is None


def test_while_the_key_file_can_not_be_read_the_bank_is_unavailable(desk: Desk) -> None:
    new = _prekey(Suite.CLASSIC, 2)
    order = message(ORDER, key=new.public)
    desk.keys.unreadable = True
    assert unsealed(desk, order.request) is Code.BANK_UNAVAILABLE
    known = message(ORDER)
    assert known.read(desk.send(known.request)).code is None
    desk.keys.unreadable, desk.keys.coming = False, [new]
    assert order.read(desk.send(order.request)).code is None


@pytest.mark.parametrize(
    "broken",
    [{}, [], None, {"bundle": "x", "signature": "y", "previous_signature": None}],
    ids=str,
)
def test_a_bundle_that_was_broken_costs_one_key_and_no_answer(desk: Desk, broken: object) -> None:
    rotate_key(desk.bank.ada, identity_of("ada", 2), classic_keys())
    desk.bank.ada.keys.filter(generation=2).update(bundle=Value(broken, JSONField()))
    assert unsealed(desk, message(ORDER, identity=identity_of("ada", 2)).request) is (
        Code.NOT_AUTHENTIC
    )
    old = message(ORDER)
    assert old.read(desk.send(old.request)).code is Code.KEY_REVOKED
    desk.bank.ben.keys.update(bundle=Value(broken, JSONField()))
    assert unsealed(desk, message(ORDER, client_id="ben").request) is Code.UNKNOWN_SENDER


def test_a_key_revoked_after_it_was_kept_in_memory_gives_no_more_orders(desk: Desk) -> None:
    recorded = message(ORDER)
    first = recorded.read(desk.send(recorded.request))
    desk.bank.ada.keys.update(revoked_at=timezone.now(), revocation_reason="stolen")
    with nothing_changed():
        order = message(ORDER)
        answer = order.read(desk.send(order.request))
        assert (answer.code, answer.retry, answer.receipt) == (
            Code.KEY_REVOKED,
            Retry.NEVER,
            None,
        )
        asked = query(AccountsQuery())
        assert asked.read(desk.send(asked.request)).code is Code.KEY_REVOKED
        # What was recorded is answered as before.
        assert recorded.read(desk.send(recorded.request)) == first


def test_a_blocked_person_gets_a_receipt_that_stays_after_the_release(desk: Desk) -> None:
    persons = Person.objects.filter(pk=desk.bank.ada.pk)
    persons.update(status=PersonStatus.BLOCKED)
    order = message(ORDER)
    answer = order.read(desk.send(order.request))
    assert (answer.code, answer.retry) == (Code.KEY_REVOKED, Retry.FINAL)
    assert answer.receipt is not None
    persons.update(status=PersonStatus.ACTIVE)
    assert order.read(desk.send(order.request)) == answer
    assert balances(["account1"]) == {"account1": 1000}


def test_a_key_enrolled_after_the_old_one_was_kept_counts_at_once(desk: Desk) -> None:
    first = message(ORDER)
    assert first.read(desk.send(first.request)).code is None
    rotate_key(desk.bank.ada, identity_of("ada", 2), classic_keys())
    order = message(ORDER, identity=identity_of("ada", 2))
    assert order.read(desk.send(order.request)).code is None


def classic_keys() -> list[EncryptionKey]:
    return [_prekey(Suite.CLASSIC, 7).public]


def rotate_key(person: Person, identity: IdentityKey, keys: list[EncryptionKey]) -> None:
    """End the key in force and enrol another bundle."""
    person.keys.update(revoked_at=timezone.now(), revocation_reason="replaced")
    signed = make_bundle(
        identity,
        client_id=person.client_id,
        first_name=person.first_name,
        last_name=person.last_name,
        generation=2,
        encryption_keys=keys,
        valid_from=VALID_FROM_MS,
        valid_to=VALID_TO_MS,
    )
    person.keys.create(
        identity_key=identity.public,
        fingerprint=fingerprint(person.client_id, identity.public).hex(),
        bundle=msgspec.to_builtins(signed),
        generation=2,
    )


def test_when_senders_can_not_be_looked_up_the_bank_is_unavailable(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(EnrolledKeys, "read", fail)
    assert unsealed(desk, message(ORDER).request) is Code.BANK_UNAVAILABLE

"""The mailbox in the database: order, quota, time to live, once each."""

from __future__ import annotations

import dataclasses

import pytest
from django.core.exceptions import ValidationError

from protocol.errors import Code
from protocol.frames import Kind, State
from relay import mailbox
from relay.limits import RelayLimits
from relay.mailbox import Batch, Outcome, Settled, Store
from relay.messages import Ended, Message
from relay.models import Client, Mail, StoredStatus, Worker
from tests.relay.peer import new_id

pytestmark = pytest.mark.django_db(databases=["default", "relay"])

NOW = 1_800_000_000_000
LIMITS = dataclasses.replace(
    RelayLimits.from_settings(), mailbox_messages_max=3, mailbox_bytes_max=100
)


@pytest.fixture(autouse=True)
def _ben() -> None:
    for client_id in ("ben", "Eve"):
        Client.objects.create(
            client_id=client_id, identity_key=bytes(32), fingerprint=client_id, bundle={}
        )


def message(to: str = "ben", body: str = "body", **members: object) -> Message:
    position = members.pop("position", Mail.objects.count())
    given = {
        "id": new_id(),
        "sender": "Ada",
        "recipient": to,
        "kind": Kind.REQUEST,
        "re": None,
        "body": body,
        "accepted_at": NOW,
        "expires_at": NOW + 1_000,
        "position": position,
        **members,
    }
    return Message(**given)  # type: ignore[arg-type] # members of several types


def store(*messages: Message) -> list[Outcome]:
    stores = [Store(one) for one in messages]
    mailbox.apply(Batch(stores=stores), LIMITS, NOW)
    assert all(bool(one.row) == (one.outcome is Outcome.STORED) for one in stores)
    return [one.outcome for one in stores]


def page(count: int = 10, exclude: set[int] | None = None, claim: str = "") -> list[Message]:
    return mailbox.page("ben", exclude=exclude or set(), count=count, claim=claim, now=NOW)


def settle(*messages: Message) -> list[Settled]:
    settled = mailbox.apply(Batch(settled=list(messages)), LIMITS, NOW)
    return [settled[one] for one in messages]


def test_a_message_comes_out_as_it_went_in() -> None:
    first = message(kind=Kind.REPLY, re=new_id(), attempt=1)
    assert store(first) == [Outcome.STORED]
    (out,) = page()
    for name in Message.__slots__:
        if name not in ("row", "origin"):
            assert getattr(out, name) == getattr(first, name), name
    assert out.row is not None


def test_messages_come_in_the_order_of_their_positions() -> None:
    late, early, middle = message(position=9), message(position=1), message(position=5)
    store(late)
    store(early, middle)
    assert [one.id for one in page()] == [early.id, middle.id, late.id]
    assert [one.id for one in page(count=1)] == [early.id]


def test_every_page_counts_as_an_attempt() -> None:
    store(message())
    assert [page()[0].attempt for _ in range(3)] == [0, 1, 2]


def test_what_is_on_its_way_is_left_out() -> None:
    store(message(), message())
    first, second = page()
    assert first.row is not None
    assert [one.id for one in page(exclude={first.row})] == [second.id]


def test_acknowledged_means_deleted_and_told() -> None:
    sent = message()
    store(sent)
    assert settle(sent) == [Settled.DELETED]
    assert not Mail.objects.exists()
    assert mailbox.statuses("ada") == [Ended("ada", sent.id, "ben", Kind.REQUEST, State.DELIVERED)]
    # Another connection, or process, acknowledges the same later: nothing is told twice.
    mailbox.apply(Batch(known=[("ada", sent.id)]), LIMITS, NOW)
    assert settle(sent) == [Settled.ABSENT]
    assert mailbox.statuses("ada") == []


def test_what_was_replaced_since_it_was_handed_out_stays() -> None:
    sent = message()
    store(sent)
    (out,) = page()
    store(message(id=sent.id, body="newer"))
    assert settle(out) == [Settled.RENEWED]
    assert mailbox.statuses("ada") == [Ended("ada", sent.id, "ben", Kind.REQUEST, State.DELIVERED)]
    (again,) = page()
    assert (again.body, again.attempt) == ("newer", 1)
    # The same bytes once more replace nothing.
    store(message(id=sent.id, body="newer", expires_at=NOW + 5_000))
    # Two deliveries of it, one before and one after it was replaced, are acknowledged together.
    assert settle(out, again) == [Settled.RENEWED, Settled.DELETED]
    assert not Mail.objects.exists()


def test_what_was_sent_again_after_it_had_expired_is_no_longer_what_was_handed_out() -> None:
    sent = message()
    store(sent)
    (out,) = page()
    assert len(mailbox.expire(sent.expires_at)) == 1
    store(message(id=sent.id, body="newer", position=sent.position + 1))
    assert settle(out) == [Settled.RENEWED]
    assert [one.body for one in page()] == ["newer"]


def test_what_comes_back_replaces_nothing_that_was_sent_after_it() -> None:
    sent_id = new_id()
    first, second, third = (
        message(id=sent_id, body=body, position=place)
        for place, body in enumerate(("first", "second", "third"))
    )
    store(first)
    store(third)
    second.attempt = 1
    assert store(second) == [Outcome.STORED]
    assert [one.body for one in page()] == ["third"]


def test_of_a_reply_only_a_failure_is_told() -> None:
    answered, lost = (
        message(kind=Kind.REPLY),
        message(kind=Kind.REPLY, accepted_at=NOW - 1, expires_at=NOW),
    )
    store(answered, lost)
    settle(answered)
    assert mailbox.statuses("ada") == []
    mailbox.expire(NOW)
    assert [one.state for one in mailbox.statuses("ada")] == [State.EXPIRED]


def test_the_same_message_is_stored_once() -> None:
    sent = message()
    assert store(sent, message(id=sent.id, body="newer")) == [Outcome.STORED, Outcome.STORED]
    assert store(sent) == [Outcome.STORED]
    assert Mail.objects.count() == 1
    # Sent again after the recipient's keys were fetched again: the newer seal wins.
    again = message(body="sealed to a newer key", id=sent.id, expires_at=NOW + 5_000)
    assert store(again) == [Outcome.STORED]
    row = Mail.objects.get()
    assert (row.body, row.size, row.expires_at) == (again.body, len(again.body), NOW + 5_000)


def test_ids_are_the_senders_own() -> None:
    sent = message()
    store(sent, message(id=sent.id, sender="Eve"), message(to="eve", id=sent.id))
    assert Mail.objects.count() == 3


def test_the_quota_counts_messages() -> None:
    assert store(*(message() for _ in range(4))) == [Outcome.STORED] * 3 + [Outcome.MAILBOX_FULL]
    assert store(message()) == [Outcome.MAILBOX_FULL]
    assert store(message(to="eve")) == [Outcome.STORED]
    assert Mail.objects.filter(recipient_key="ben").count() == 3


def test_the_quota_counts_bytes() -> None:
    assert store(message(body="x" * 60)) == [Outcome.STORED]
    assert store(message(body="x" * 41), message(body="x" * 40)) == [
        Outcome.MAILBOX_FULL,
        Outcome.STORED,
    ]


def test_the_quota_counts_what_is_sent_again() -> None:
    sent = message(body="x" * 10)
    assert store(sent, message(body="x" * 80)) == [Outcome.STORED] * 2
    longer, fitting = (message(id=sent.id, body="y" * size, position=9) for size in (21, 20))
    assert store(longer) == [Outcome.MAILBOX_FULL]
    assert page(count=1)[0].body == "x" * 10
    assert store(fitting, message(body="z")) == [Outcome.STORED, Outcome.MAILBOX_FULL]


def test_unknown_absent_and_blocked_recipients() -> None:
    assert store(message(to="nobody")) == [Outcome.UNKNOWN_RECIPIENT]
    assert store(message(to="nobody", expires_at=NOW)) == [Outcome.UNKNOWN_RECIPIENT]
    assert store(message(expires_at=NOW)) == [Outcome.RECIPIENT_ABSENT]
    Client.objects.filter(id_key="ben").update(status=Client.Status.BLOCKED)
    assert store(message()) == [Outcome.UNKNOWN_RECIPIENT]
    assert not Mail.objects.exists()


def test_what_has_expired_is_neither_delivered_nor_kept() -> None:
    old, young = message(expires_at=NOW + 1), message(expires_at=NOW + 2)
    store(old, young)
    assert [one.id for one in mailbox.page("ben", exclude=(), count=9, claim="", now=NOW + 1)] == [
        young.id
    ]
    (ended,) = mailbox.expire(NOW + 1)
    assert (ended.id, ended.state, ended.code) == (old.id, State.EXPIRED, Code.EXPIRED)
    assert mailbox.statuses("ada") == [ended]
    assert mailbox.expire(NOW + 1) == []
    assert [str(row.message_id) for row in Mail.objects.all()] == [young.id]


def test_a_service_hands_out_what_no_other_process_does() -> None:
    for name in ("one", "other"):
        Worker.objects.create(name=name, lease_until=0)
    store(message(), message())
    first = page(count=1, claim="one")
    second = page(claim="other")
    assert len({one.id for one in first + second}) == 2
    assert page(claim="third") == []
    assert len(page(claim="one")) == 1  # its own it may hand out again
    Worker.objects.filter(name="one").delete()
    mailbox.free_claims()
    assert [one.id for one in page(claim="third")] == [first[0].id]
    row = second[0].row
    assert row is not None
    mailbox.apply(Batch(unclaimed=[row]), LIMITS, NOW)
    assert [one.id for one in page(claim="fourth")] == [second[0].id]


def test_statuses_replace_each_other_and_are_bounded() -> None:
    sent = message()
    for state in (State.FAILED, State.DELIVERED):
        mailbox.apply(Batch(ended=[sent.ended(state)]), LIMITS, NOW)
    assert [one.state for one in mailbox.statuses("ada")] == [State.DELIVERED]
    for _ in range(5):
        mailbox.apply(Batch(ended=[message().ended(State.DELIVERED)]), LIMITS, NOW)
    mailbox.apply(Batch(ended=[message(sender="Eve").ended(State.DELIVERED)]), LIMITS, NOW)
    newest = [one.id for one in mailbox.statuses("ada")][-2:]
    mailbox.trim_statuses(2, NOW)
    assert [one.id for one in mailbox.statuses("ada")] == newest
    assert len(mailbox.statuses("eve")) == 1
    mailbox.trim_statuses(2, NOW + mailbox.STATUS_LIFETIME_MS + 1)
    assert not StoredStatus.objects.exists()


def test_who_has_something_waiting() -> None:
    store(message())
    mailbox.apply(Batch(ended=[message().ended(State.FAILED, Code.PEER_GONE)]), LIMITS, NOW)
    many = [f"client-{number}" for number in range(1_200)]
    assert mailbox.with_mail(["ben", "eve", *many]) == {"ben"}
    assert mailbox.with_statuses([*many, "ada"]) == {"ada"}
    assert mailbox.with_mail([]) == set()


def test_a_batch_that_fails_leaves_nothing() -> None:
    broken = message()
    broken.id = "no id"
    with pytest.raises(ValidationError, match="not a valid UUID"):
        mailbox.apply(Batch(stores=[Store(message()), Store(broken)]), LIMITS, NOW)
    assert not Mail.objects.exists()


def test_a_repr_shows_no_body() -> None:
    assert "secret" not in repr(message(body="secret"))
    store(message(body="secret"))
    assert "secret" not in f"{Mail.objects.get()!r} {Mail.objects.get()}"

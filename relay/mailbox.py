"""The durable mailbox: messages for the absent, and statuses for senders who went away.

Store, page, acknowledge, delete: a message leaves only when its recipient has acknowledged it or
its time to live is over. The functions here run in the database thread; what is to be written is
collected by `relay/mailbox_writer.py` while the last batch commits.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from django.db import transaction
from django.db.models import Count, F, QuerySet, Sum

from protocol import limits as wire_limits
from protocol.errors import Code
from protocol.frames import Kind, State
from relay.database import ALIAS
from relay.limits import RelayLimits
from relay.messages import Ended, Message, MessageKey
from relay.models import Client, Mail, StoredStatus, Worker

__all__ = [
    "Batch",
    "Outcome",
    "Settled",
    "Store",
    "apply",
    "expire",
    "free_claims",
    "page",
    "statuses",
    "trim_statuses",
    "waiting",
    "with_mail",
    "with_statuses",
]

PAGE_MESSAGES_MAX: Final = 64
STATUS_PAGE_MAX: Final = 200
EXPIRE_MESSAGES_MAX: Final = 500
KEYS_IN_QUERY_MAX: Final = 500
STATUS_LIFETIME_MS: Final = wire_limits.TTL_MS_MAX


class Outcome(Enum):
    """What became of an attempt to store a message."""

    STORED = auto()
    UNKNOWN_RECIPIENT = auto()
    RECIPIENT_ABSENT = auto()
    MAILBOX_FULL = auto()
    FAILED = auto()


class Settled(Enum):
    """What became of an acknowledged message's row."""

    DELETED = auto()
    RENEWED = auto()
    """The sender has replaced the body meanwhile: it stays, to be delivered once more."""
    ABSENT = auto()
    """Another process was faster, or the database failed."""


@dataclass(slots=True)
class Store:
    """A message to be stored, and what became of that."""

    message: Message
    outcome: Outcome = Outcome.FAILED
    row: int = 0


@dataclass(slots=True)
class Batch:
    """What one transaction writes; the parts are written in the order of the fields."""

    stores: list[Store] = field(default_factory=list)
    settled: list[Message] = field(default_factory=list)
    """Messages from the mailbox that were acknowledged."""
    ended: list[Ended] = field(default_factory=list)
    """Statuses to keep until their senders acknowledge them."""
    known: list[tuple[str, str]] = field(default_factory=list)
    """Statuses, by sender and id, that their senders acknowledged."""
    unclaimed: list[int] = field(default_factory=list)
    """Rows that this process no longer hands to a service."""


def apply(batch: Batch, limits: RelayLimits, now: int) -> dict[Message, Settled]:
    """Write a batch in one transaction.

    :returns: what became of the messages that were to be settled.
    """
    with transaction.atomic(using=ALIAS):
        if batch.stores:
            _store(batch.stores, limits)
        settled = _settle(batch.settled, now) if batch.settled else {}
        if batch.ended:
            _keep_statuses(batch.ended, now)
        for sender_key, message_id in batch.known:
            StoredStatus.objects.using(ALIAS).filter(
                sender_key=sender_key, message_id=message_id
            ).delete()
        if batch.unclaimed:
            Mail.objects.using(ALIAS).filter(pk__in=batch.unclaimed).update(claim="")
    return settled


def page(
    recipient_key: str, *, exclude: Iterable[int], count: int, claim: str, now: int
) -> list[Message]:
    """Return the oldest messages that wait for a recipient, and count the attempt.

    :param exclude: rows that are on their way already.
    :param claim: the process that hands them to a service, so that no other one hands the same to
        its own connection; empty for a person, who gets each message on every connection.
    """
    with transaction.atomic(using=ALIAS):
        rows = Mail.objects.using(ALIAS).filter(recipient_key=recipient_key, expires_at__gt=now)
        rows = rows.exclude(pk__in=list(exclude)).order_by("position", "pk")
        if claim:
            rows = rows.filter(claim__in=["", claim]).select_for_update(skip_locked=True)
        found = list(rows[: min(count, PAGE_MESSAGES_MAX)])
        if found:
            chosen = Mail.objects.using(ALIAS).filter(pk__in=[row.pk for row in found])
            chosen.update(attempts=F("attempts") + 1, claim=claim)
    return [_message(row) for row in found]


def waiting(recipient_key: str) -> int:
    """Return how many messages wait for a recipient."""
    return Mail.objects.using(ALIAS).filter(recipient_key=recipient_key).count()


def statuses(sender_key: str) -> list[Ended]:
    """Return the oldest statuses that a sender has not acknowledged yet."""
    rows = StoredStatus.objects.using(ALIAS).filter(sender_key=sender_key).order_by("pk")
    return [
        Ended(
            sender_key=row.sender_key,
            id=str(row.message_id),
            recipient=row.recipient,
            kind=Kind.REQUEST,
            state=State(row.state),
            code=Code(row.code) if row.code else None,
        )
        for row in rows[:STATUS_PAGE_MAX]
    ]


def expire(now: int) -> list[Ended]:
    """Delete messages whose time to live is over, keep that for their senders, and return it."""
    with transaction.atomic(using=ALIAS):
        over = Mail.objects.using(ALIAS).filter(expires_at__lte=now).order_by("pk")
        rows = list(over.select_for_update(skip_locked=True)[:EXPIRE_MESSAGES_MAX])
        if not rows:
            return []
        ended = [_message(row).ended(State.EXPIRED, Code.EXPIRED) for row in rows]
        Mail.objects.using(ALIAS).filter(pk__in=[row.pk for row in rows]).delete()
        _keep_statuses(ended, now)
    return ended


def trim_statuses(statuses_max: int, now: int) -> None:
    """Give up statuses that nobody asked for in a month, and the oldest of who has too many."""
    kept = StoredStatus.objects.using(ALIAS)
    kept.filter(created_at__lt=now - STATUS_LIFETIME_MS).delete()
    crowded = kept.values("sender_key").annotate(count=Count("pk")).filter(count__gt=statuses_max)
    for sender_key in list(crowded.values_list("sender_key", flat=True)):
        own = kept.filter(sender_key=sender_key).order_by("-pk")
        first_kept = own.values_list("pk", flat=True)[statuses_max - 1]
        kept.filter(sender_key=sender_key, pk__lt=first_kept).delete()


def with_mail(keys: Sequence[str]) -> set[str]:
    """Return which of these recipients have messages waiting."""
    found: set[str] = set()
    for part in _parts(keys):
        rows = Mail.objects.using(ALIAS).filter(recipient_key__in=part).order_by()
        found.update(rows.values_list("recipient_key", flat=True).distinct())
    return found


def with_statuses(keys: Sequence[str]) -> set[str]:
    """Return which of these senders have statuses waiting."""
    found: set[str] = set()
    for part in _parts(keys):
        rows = StoredStatus.objects.using(ALIAS).filter(sender_key__in=part).order_by()
        found.update(rows.values_list("sender_key", flat=True).distinct())
    return found


def free_claims() -> None:
    """Let others hand out what a process claimed that is dead by now."""
    alive = Worker.objects.using(ALIAS).values("name")
    claimed = Mail.objects.using(ALIAS).exclude(claim="")
    claimed.exclude(claim__in=alive).update(claim="")


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), KEYS_IN_QUERY_MAX):
        yield keys[start : start + KEYS_IN_QUERY_MAX]


# --- Inside the transaction -----------------------------------------------------------------


def _store(stores: list[Store], limits: RelayLimits) -> None:
    keys = {store.message.recipient_key for store in stores}
    known = set(
        Client.objects.using(ALIAS)
        .filter(id_key__in=keys, status=Client.Status.ACTIVE, identity_key__isnull=False)
        .values_list("id_key", flat=True)
    )
    here = _stored_already(stores)
    usage = _usage(keys)
    placed: list[tuple[Store, Mail]] = []
    fresh: list[Mail] = []
    for store in stores:
        message = store.message
        row = here.get(message.key)
        count, size = usage.get(message.recipient_key, (0, 0))
        grows_by = _growth(row, message)
        if message.recipient_key not in known:
            store.outcome = Outcome.UNKNOWN_RECIPIENT
        elif message.is_immediate:
            store.outcome = Outcome.RECIPIENT_ABSENT
        elif (row is None and count >= limits.mailbox_messages_max) or (
            grows_by > 0 and size + grows_by > limits.mailbox_bytes_max
        ):
            store.outcome = Outcome.MAILBOX_FULL
        else:
            if row is None:
                here[message.key] = row = _row(message)
                fresh.append(row)
                count += 1
            else:
                _renew(row, message)
            usage[message.recipient_key] = (count, size + grows_by)
            placed.append((store, row))
    Mail.objects.using(ALIAS).bulk_create(fresh)
    for store, row in placed:
        store.outcome, store.row = Outcome.STORED, row.pk


def _stored_already(stores: list[Store]) -> dict[MessageKey, Mail]:
    keys = {store.message.recipient_key for store in stores}
    ids = {store.message.id for store in stores}
    rows = Mail.objects.using(ALIAS).filter(recipient_key__in=keys, message_id__in=ids)
    # Locked, as whoever acknowledges one of them may delete it just now.
    rows = rows.order_by("pk").select_for_update(of=("self",))
    return {(row.recipient_key, row.sender_key, str(row.message_id)): row for row in rows}


def _usage(keys: set[str]) -> dict[str, tuple[int, int]]:
    rows = Mail.objects.using(ALIAS).filter(recipient_key__in=keys).order_by()
    totals = rows.values("recipient_key").annotate(count=Count("pk"), total=Sum("size"))
    return {row["recipient_key"]: (row["count"], row["total"]) for row in totals}


def _growth(row: Mail | None, message: Message) -> int:
    """Return how much more a mailbox holds with a message that may be there already."""
    if row is None:
        return len(message.body)
    return len(message.body) - row.size if _is_replaced_by(row, message) else 0


def _is_replaced_by(row: Mail, message: Message) -> bool:
    return row.body != message.body and _revision(row) <= message.revision


def _renew(row: Mail, message: Message) -> None:
    """Take over what the sender sent again under the same id: it may be sealed to a newer key.

    What comes back from a connection that ended replaces nothing that was sent after it.
    """
    if row.body == message.body and row.expires_at >= message.expires_at:
        return
    if _is_replaced_by(row, message):
        row.body, row.size, row.revision = message.body, len(message.body), message.revision
    row.expires_at = max(row.expires_at, message.expires_at)
    if row.pk is not None:  # else it is new in this very batch
        row.save(using=ALIAS, update_fields=["body", "size", "revision", "expires_at"])


def _revision(row: Mail) -> int:
    """Return the place of what brought the body; rows of an older version may not say."""
    return max(row.revision, row.position)


def _row(message: Message) -> Mail:
    return Mail(
        recipient_key=message.recipient_key,
        recipient=message.recipient,
        sender_key=message.sender_key,
        sender=message.sender,
        message_id=uuid.UUID(message.id),
        kind=message.kind.value,
        re=uuid.UUID(message.re) if message.re else None,
        body=message.body,
        size=len(message.body),
        accepted_at=message.accepted_at,
        expires_at=message.expires_at,
        position=message.position,
        revision=message.revision,
        attempts=message.attempt,
    )


def _message(row: Mail) -> Message:
    return Message(
        id=str(row.message_id),
        sender=row.sender,
        recipient=row.recipient,
        kind=Kind(row.kind),
        re=str(row.re) if row.re else None,
        body=row.body,
        accepted_at=row.accepted_at,
        expires_at=row.expires_at,
        position=row.position,
        attempt=row.attempts,
        row=row.pk,
        revision=_revision(row),
    )


def _settle(messages: list[Message], now: int) -> dict[Message, Settled]:
    """Delete what was acknowledged, but for what its sender has replaced since it was handed out.

    That may be another row by now, if the one that was handed out has expired meanwhile. Either way
    the sender is told of the delivery.
    """
    wanted = {message.key for message in messages}
    rows: QuerySet[Mail] = Mail.objects.using(ALIAS).filter(
        recipient_key__in={key[0] for key in wanted}, message_id__in={key[2] for key in wanted}
    )
    rows = rows.order_by("pk").select_for_update(of=("self",))
    found = {
        (row.recipient_key, row.sender_key, str(row.message_id)): (row.pk, _revision(row))
        for row in rows.defer("body")
    }
    settled = {message: _what_became_of(message, found) for message in messages}
    gone = [found[one.key][0] for one, became in settled.items() if became is Settled.DELETED]
    Mail.objects.using(ALIAS).filter(pk__in=gone).delete()
    told = (one for one, became in settled.items() if became is not Settled.ABSENT)
    _keep_statuses([message.ended(State.DELIVERED) for message in told], now)
    return settled


def _what_became_of(message: Message, found: dict[MessageKey, tuple[int, int]]) -> Settled:
    if message.key not in found:
        return Settled.ABSENT
    _, revision = found[message.key]
    return Settled.RENEWED if message.revision < revision else Settled.DELETED


def _keep_statuses(ended: Iterable[Ended], now: int) -> None:
    rows = {
        (one.sender_key, one.id): StoredStatus(
            sender_key=one.sender_key,
            message_id=uuid.UUID(one.id),
            recipient=one.recipient,
            state=one.state.value,
            code=one.code.value if one.code else "",
            created_at=now,
        )
        for one in ended
        if one.is_told
    }
    StoredStatus.objects.using(ALIAS).bulk_create(
        rows.values(),
        update_conflicts=True,
        unique_fields=["sender_key", "message_id"],
        update_fields=["recipient", "state", "code", "created_at"],
    )

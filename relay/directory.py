"""Who is known: ids, the keys that they belong to, and the names under which they are found.

Every function here reads or writes the database and runs in the database thread.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from protocol import limits
from protocol.bundles import Bundle, SignedBundle, check_succession, open_bundle
from protocol.errors import Code, RelayError
from protocol.frames import Role
from protocol.identifiers import CLIENT_ID_PATTERN, is_name_query, name_key, name_keys
from relay.conf import relay_settings
from relay.database import ALIAS
from relay.limits import pinned_fingerprints
from relay.models import Client, Mail, StoredStatus

__all__ = [
    "AmbiguousNameError",
    "enrol",
    "find",
    "not_entitled",
    "publish",
    "register",
    "release",
    "set_blocked",
]


class AmbiguousNameError(RelayError):
    """Several clients have the name; ``candidates`` are their ids."""

    def __init__(self, candidates: list[str]) -> None:
        super().__init__(Code.AMBIGUOUS_NAME, "several clients have this name; use an id")
        self.candidates = candidates


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client that may come in."""

    client_id: str
    id_key: str


def register(bundle: Bundle, role: Role) -> Admitted:
    """Bind the id to the bundle's key, or find it bound to it already, and keep the bundle.

    :raises RelayError: ``revoked``, ``id_taken``, ``proof_refused`` or ``bad_bundle``; nothing is
        changed then.
    """
    with transaction.atomic(using=ALIAS):
        client = _bind(bundle)
        if role is Role.SERVICE and not client.may_be_service:
            raise RelayError(Code.PROOF_REFUSED, f"{client.client_id} is not a service here")
    return Admitted(client.client_id, client.id_key)


def enrol(bundle: Bundle, *, may_be_service: bool | None = None) -> Client:
    """Bind an id to its key on the operator's word, also where registration is closed.

    :raises RelayError: ``id_taken`` or ``bad_bundle``.
    """
    with transaction.atomic(using=ALIAS):
        client = _lock(bundle.id)
        if client is None:
            client = _new(bundle.id)
        _keep(client, bundle)
        if may_be_service is not None:
            client.may_be_service = may_be_service
        client.save()
    return client


def publish(id_key: str, bundle: Bundle, holder: bytes) -> None:
    """Keep a client's next bundle.

    :param holder: the identity key of who publishes it. The bundle alone shows nobody's right to
        the id: its successor's is for everybody to look up.
    :raises RelayError: ``revoked``, ``id_taken`` or ``bad_bundle``; nothing is changed then.
    """
    with transaction.atomic(using=ALIAS):
        client = _lock(id_key)
        if client is None or client.status == Client.Status.BLOCKED or not _is_held(client, holder):
            raise RelayError(Code.REVOKED, f"{bundle.id} is not registered any more")
        _keep(client, bundle)
        client.save()


def find(query: str) -> list[SignedBundle]:
    """Return the bundle of the client with this id, or of the only one with this name.

    :raises RelayError: ``unknown_recipient``; or :class:`AmbiguousNameError` with the candidates.
    """
    known = Client.objects.using(ALIAS).filter(
        status=Client.Status.ACTIVE, identity_key__isnull=False
    )
    if is_name_query(query):
        key = _digest(name_key(query))
        by_name = known.filter(Q(name_digest=key) | Q(reversed_name_digest=key))
        clients = list(by_name.order_by("id_key")[: limits.CANDIDATES_MAX])
    elif re.match(CLIENT_ID_PATTERN, query):
        clients = list(known.filter(id_key=query.lower()))
    else:
        clients = []
    if not clients:
        raise RelayError(Code.UNKNOWN_RECIPIENT, "nobody is known by this id or name")
    if len(clients) > 1:
        raise AmbiguousNameError([client.client_id for client in clients])
    return [_signed(clients[0])]


def set_blocked(clients: list[Client], *, blocked: bool) -> None:
    """Block clients or let them in again."""
    status = Client.Status.BLOCKED if blocked else Client.Status.ACTIVE
    Client.objects.using(ALIAS).filter(pk__in=[client.pk for client in clients]).update(
        status=status
    )


def release(client: Client) -> None:
    """Take the key off an id: the next key that registers it takes it.

    What waits in the mailbox was sealed to the old key, so it goes: nobody could open it, and it
    would tell the next holder who wrote to the last one. The statuses go for the same reason.
    """
    with transaction.atomic(using=ALIAS):
        row = Client.objects.using(ALIAS).select_for_update().get(pk=client.pk)
        row.identity_key = row.bundle = None
        row.fingerprint = row.pin = row.first_name = row.last_name = ""
        row.name_digest = row.reversed_name_digest = ""
        row.generation = 0
        row.save()
        Mail.objects.using(ALIAS).filter(recipient_key=row.id_key).delete()
        StoredStatus.objects.using(ALIAS).filter(sender_key=row.id_key).delete()


def not_entitled(holders: set[tuple[str, bytes]]) -> set[tuple[str, bytes]]:
    """Return which of these may not be here: blocked, released, gone, or replaced by another key.

    :param holders: clients by their key in the database, each with the identity key that it proved.
    """
    active = Client.objects.using(ALIAS).filter(
        id_key__in={key for key, _ in holders},
        status=Client.Status.ACTIVE,
        identity_key__isnull=False,
    )
    return holders - {
        (key, bytes(identity))
        for key, identity in active.values_list("id_key", "identity_key")
        if identity is not None
    }


# --- Binding --------------------------------------------------------------------------------


def _lock(client_id: str) -> Client | None:
    # Two registrations of one id take turns, so that a generation never falls back.
    rows = Client.objects.using(ALIAS).select_for_update().filter(id_key=client_id.lower())
    return rows.first()


def _new(client_id: str) -> Client:
    services = {service.lower() for service in relay_settings.SERVICE_IDS}
    return Client(
        client_id=client_id,
        id_key=client_id.lower(),
        may_be_service=client_id.lower() in services,
    )


def _bind(bundle: Bundle, *, tries_left: int = 1) -> Client:
    client = _lock(bundle.id)
    if client is None:
        if relay_settings.REGISTRATION != "open" and not _is_pinned(bundle):
            raise RelayError(Code.PROOF_REFUSED, "only clients that the operator enrolled come in")
        client = _new(bundle.id)
    if client.status == Client.Status.BLOCKED:
        raise RelayError(Code.REVOKED, f"{bundle.id} is blocked here; ask the operator")
    _keep(client, bundle)
    client.last_seen = timezone.now()
    try:
        with transaction.atomic(using=ALIAS):
            client.save(using=ALIAS)
    except IntegrityError as error:
        if tries_left:  # another process has let somebody in, who may be the same
            return _bind(bundle, tries_left=tries_left - 1)
        raise RelayError(Code.ID_TAKEN, f"{bundle.id} was taken a moment ago") from error
    return client


def _is_held(client: Client, holder: bytes) -> bool:
    """Return whether the id is this key's, and nobody has replaced it."""
    return client.identity_key is not None and bytes(client.identity_key) == holder


def _is_pinned(bundle: Bundle) -> bool:
    """Return whether the operator has named this id and this key in the settings."""
    return pinned_fingerprints().get(bundle.id.lower()) == bundle.fingerprint


def _keep(client: Client, bundle: Bundle) -> None:
    """Put the bundle into the row, if the id is this key's or is nobody's."""
    _check_owner(client, bundle)
    client.client_id = bundle.id
    client.identity_key = bundle.identity_key
    client.fingerprint = bundle.fingerprint.hex()
    signed = bundle.signed
    client.bundle = {
        "bundle": signed.bundle,
        "signature": signed.signature,
        "previous_signature": signed.previous_signature,
    }
    client.generation = bundle.generation
    client.first_name, client.last_name = bundle.first_name, bundle.last_name
    keys = name_keys(bundle.first_name, bundle.last_name)
    client.name_digest, client.reversed_name_digest = (_digest(key) for key in keys)


def _signed(client: Client) -> SignedBundle:
    return msgspec.convert(client.bundle, SignedBundle)


def _digest(key: str) -> str:
    """Return a name's key in a fixed length; compatibility forms can make it 18 times as long."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()


def _check_owner(client: Client, bundle: Bundle) -> None:
    pin = pinned_fingerprints().get(client.id_key)
    if pin is not None and client.pin != pin.hex():
        # Whoever was first before the id was pinned has no right to it.
        if bundle.fingerprint != pin:
            raise RelayError(Code.ID_TAKEN, f"{bundle.id} is kept for another key")
        client.pin = pin.hex()
        if client.fingerprint != pin.hex():
            return
    if client.bundle is None:
        return
    old = open_bundle(_signed(client))
    if old.id != bundle.id:
        raise RelayError(Code.ID_TAKEN, f"{old.id} differs from {bundle.id} in case alone")
    check_succession(old, bundle)

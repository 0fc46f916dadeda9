"""Whose signature is tried under which keys: enrolled keys, kept for a while.

What is kept only decides which keys a message is opened with. Whether a key is in force is read
again in the transaction that books or answers, so a revocation counts at once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from bank.models import PersonKey
from protocol.bundles import SignedBundle, open_bundle
from protocol.errors import ProtocolError
from protocol.keys import Suite

__all__ = ["EnrolledKey", "EnrolledKeys", "EnrolledPerson"]

KEPT_SECONDS: Final = 10.0
PERSONS_MAX: Final = 50_000
IDENTITIES_MAX: Final = 3
"""How many identities of one person are tried: opening takes time, and anybody can ask for it."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EnrolledKey:
    """An identity that a person has or had, with the suites that its newest bundle offers."""

    identity_key: bytes
    fingerprint: bytes
    suites: tuple[Suite, ...]


@dataclass(frozen=True, slots=True)
class EnrolledPerson:
    """A person with enrolled identities, the newest first; the others may be revoked."""

    person_id: int
    client_id: str
    keys: tuple[EnrolledKey, ...]


class EnrolledKeys:
    """Finds persons by client id; may be used by several threads."""

    def __init__(
        self, *, using: str = "default", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._using = using
        self._monotonic = monotonic
        self._kept: OrderedDict[str, tuple[float, EnrolledPerson]] = OrderedDict()
        self._lock = threading.Lock()

    def kept(self, client_id: str) -> EnrolledPerson | None:
        """Return a person from memory, without the database."""
        with self._lock:
            entry = self._kept.get(client_id)
            if entry is None or entry[0] < self._monotonic():
                return None
            return entry[1]

    def read(self, client_id: str) -> EnrolledPerson | None:
        """Return a person from the database; ``None`` for one who was never enrolled.

        A row whose bundle can't be read is left out: it keeps neither the person's other keys nor
        anybody else from being served, and ``verify_ledger`` names it.
        """
        rows = list(
            PersonKey.objects.using(self._using)
            .filter(person__client_id=client_id)
            .order_by("-pk")
            .values_list("pk", "person_id", "identity_key", "fingerprint", "bundle")
        )
        keys: dict[bytes, EnrolledKey] = {}
        for row, _, identity_key, fingerprint, bundle in rows:
            identity = bytes(identity_key)
            if identity in keys or len(keys) == IDENTITIES_MAX:
                continue
            suites = _suites_of(bundle)
            if suites is None:
                logger.error("bundle_unreadable", row=row, person=client_id)
                continue
            keys[identity] = EnrolledKey(identity, bytes.fromhex(fingerprint), suites)
        if not keys:
            return None
        person = EnrolledPerson(rows[0][1], client_id, tuple(keys.values()))
        self._keep(person)
        return person

    def _keep(self, person: EnrolledPerson) -> None:
        with self._lock:
            self._kept[person.client_id] = (self._monotonic() + KEPT_SECONDS, person)
            self._kept.move_to_end(person.client_id)
            while len(self._kept) > PERSONS_MAX:
                self._kept.popitem(last=False)


def _suites_of(bundle: object) -> tuple[Suite, ...] | None:
    """Return the suites that a stored bundle offers; ``None`` where it was broken since."""
    try:
        return open_bundle(msgspec.convert(bundle, SignedBundle)).suites
    except (msgspec.ValidationError, ProtocolError):
        return None

"""The first two connections of one client, at two processes of the relay at the same moment."""

from __future__ import annotations

import threading

import pytest
from django.db import connections, transaction

from protocol.errors import Code, RelayError
from protocol.frames import Role
from relay import directory
from relay.models import Client
from tests.databases import TestDatabases
from tests.races.threads import PATIENCE_SECONDS, wait_until_somebody_waits_for_a_lock
from tests.relay.peer import Identity, identity


def register_and_wait(who: Identity, done: threading.Event) -> None:
    try:
        with transaction.atomic(using="relay"):
            directory.register(who.bundle, Role.PERSON)
            done.set()
            wait_until_somebody_waits_for_a_lock()
    finally:
        connections.close_all()


@pytest.mark.parametrize("is_same_key", [True, False])
def test_who_comes_twice_at_once_comes_in_twice(
    postgres_databases: TestDatabases, *, is_same_key: bool
) -> None:
    first, done = identity("ada"), threading.Event()
    registering = threading.Thread(target=register_and_wait, args=(first, done))
    registering.start()
    assert done.wait(PATIENCE_SECONDS)
    if is_same_key:
        directory.register(first.bundle, Role.PERSON)
    else:
        with pytest.raises(RelayError) as caught:
            directory.register(identity("ada").bundle, Role.PERSON)
        assert caught.value.code is Code.ID_TAKEN
    registering.join(PATIENCE_SECONDS)
    assert bytes(Client.objects.get().identity_key or b"") == first.bundle.identity_key

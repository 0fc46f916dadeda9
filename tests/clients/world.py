"""A relay, a bank and people, for tests of clients."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from clients.customer import BankPin, OrderResult
from clients.retry import RetryPolicy
from clients.service import ServiceClient
from clients.session import Session, Setup, connect
from clients.storage import StateDirectory, StoredMessage
from protocol.errors import Code
from protocol.keyfile import KeyFile, new_key_file
from tests.clients.fake_bank import FakeBank
from tests.clients.fake_relay import FakeRelay, now_ms


@functools.cache
def keys_of(client_id: str, name: str = "Test, Tess") -> KeyFile:
    """Keys are the same for all tests of a session: making them is what takes time."""
    last, first = name.split(", ")
    return new_key_file(client_id, first, last, now=now_ms(), random_bytes=os.urandom)


BANK = keys_of("bank", "Bank, Demo")
ADA = keys_of("ada", "Ärlig, Ada")
BEN = keys_of("ben", "Beispiel, Ben")
PATIENT = RetryPolicy(tries=20, try_ms=250)


@dataclass
class Person:
    """A connected person, and what it was shown."""

    session: Session
    messages: list[StoredMessage]
    refused: list[tuple[str, Code, str]]
    late: list[OrderResult]

    @property
    def state(self) -> StateDirectory:
        return self.session.state


class World:
    """A relay with a bank and as many people as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.relay = FakeRelay()
        self.bank = FakeBank(BANK, {"ada": ADA.bundle, "ben": BEN.bundle})
        self.pin: BankPin | None = BankPin("bank", BANK.fingerprint)

    def setup(self, keys: KeyFile, policy: RetryPolicy = PATIENT) -> Setup:
        return Setup(keys, self.relay.url, self.pin, self.folder / keys.client_id, policy)

    @contextlib.asynccontextmanager
    async def open_bank(self) -> AsyncIterator[ServiceClient]:
        async with ServiceClient(self.bank.keys, self.relay.url, self.bank.handle) as service:
            await service.wait_ready(5)
            yield service

    @contextlib.asynccontextmanager
    async def person(
        self, keys: KeyFile = ADA, policy: RetryPolicy = PATIENT
    ) -> AsyncIterator[Person]:
        messages: list[StoredMessage] = []
        refused: list[tuple[str, Code, str]] = []
        late: list[OrderResult] = []
        async with connect(
            self.setup(keys, policy),
            on_message=messages.append,
            on_refused=lambda *what: refused.append(what),
            on_late_end=late.append,
        ) as session:
            yield Person(session, messages, refused, late)

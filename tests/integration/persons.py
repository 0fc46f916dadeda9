"""Persons as they really are: the client library, its state on disk, at a real relay."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from clients.customer import BankPin, Customer
from clients.retry import RetryPolicy
from clients.session import Session, Setup, connect
from clients.storage import StateDirectory, StoredMessage
from protocol.errors import Code
from protocol.keyfile import KeyFile

PATIENT = RetryPolicy(tries=40, try_ms=500)
HASTY = RetryPolicy(tries=2, try_ms=300)


@dataclass
class Person:
    """A connected person, what was shown, and what was refused."""

    session: Session
    messages: list[StoredMessage]
    refused: list[tuple[str, Code, str]]

    @property
    def customer(self) -> Customer:
        return self.session.customer

    @property
    def state(self) -> StateDirectory:
        return self.session.state

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.messages]


@contextlib.asynccontextmanager
async def person(
    relay_url: str,
    key_file: KeyFile,
    folder: Path,
    bank: BankPin | None = None,
    policy: RetryPolicy = PATIENT,
) -> AsyncIterator[Person]:
    """Be connected for as long as the block lasts; the state stays in ``folder``."""
    messages: list[StoredMessage] = []
    refused: list[tuple[str, Code, str]] = []
    async with connect(
        Setup(key_file, relay_url, bank, folder / key_file.client_id, policy),
        on_message=messages.append,
        on_refused=lambda *what: refused.append(what),
    ) as session:
        yield Person(session, messages, refused)

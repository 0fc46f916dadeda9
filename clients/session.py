"""One person's client, put together: keys, state, connection, bank and messages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from clients.client import Client
from clients.customer import BankPin, Customer, OrderResult
from clients.errors import RefusedError, StorageError, UsageError
from clients.memory import PinsOnDisk
from clients.messages import Messenger
from clients.peers import Peers
from clients.retry import RetryPolicy
from clients.storage import StateDirectory, StoredMessage
from protocol.bundles import Bundle
from protocol.encoding import unb64u
from protocol.errors import Code
from protocol.frames import Deliver
from protocol.keyfile import KeyFile

__all__ = ["NO_FINGERPRINT", "Session", "Setup", "connect"]

_log = logging.getLogger("tellerwire.session")

NO_FINGERPRINT: Final = (
    "the bank's fingerprint is not configured, and is never taken from the relay: ask the bank for "
    "it, then put it into the configuration (bank.fingerprint) or give it with --bank-fingerprint "
    "or TELLERWIRE_BANK_FINGERPRINT"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that is needed to be somebody somewhere."""

    key_file: KeyFile
    relay_url: str
    bank: BankPin | None
    state_path: Path
    policy: RetryPolicy


@dataclass(slots=True)
class Session:
    """A person who is connected."""

    setup: Setup
    client: Client
    peers: Peers
    state: StateDirectory
    messenger: Messenger
    _customer: Customer | None

    @property
    def customer(self) -> Customer:
        """The person as a customer of the bank.

        :raises UsageError: no bank's fingerprint is configured.
        """
        if self._customer is None:
            raise UsageError(NO_FINGERPRINT)
        return self._customer

    async def bank_bundle(self) -> Bundle:
        """Return the bank's bundle, checked against the configured fingerprint."""
        return await self.client.directory.peer(self.customer.bank.id)


def peers_of(setup: Setup, state: StateDirectory) -> Peers:
    """Return the keys to go by: the pins on disk, and the bank's configured fingerprint."""
    configured = {setup.bank.id: setup.bank.fingerprint} if setup.bank is not None else {}
    return Peers(PinsOnDisk(state), configured)


@contextlib.asynccontextmanager
async def connect(
    setup: Setup,
    *,
    on_message: Callable[[StoredMessage], None],
    on_refused: Callable[[str, Code, str], None],
    on_late_end: Callable[[OrderResult], None] = lambda _: None,
    wait_seconds: float | None = None,
) -> AsyncIterator[Session]:
    """Be connected for as long as the block lasts; what is unfinished afterwards is on disk.

    :param on_late_end: called with how an order of an earlier session ended, when the bank's answer
        comes now.
    :param wait_seconds: how long to wait for the registration; by default all tries together.
    :raises RelayUnreachableError: the relay can't be reached in time.
    :raises RegistrationRefusedError: the relay will not have this client.
    """
    state = StateDirectory(setup.state_path)
    peers = peers_of(setup, state)
    messenger = Messenger(state, on_message=on_message, on_refused=on_refused)
    client = Client(
        setup.key_file,
        setup.relay_url,
        peers=peers,
        on_incoming=messenger.receive,
    )
    customer: Customer | None = None
    if setup.bank is not None:
        bank = setup.bank
        customer = Customer(client, bank, state, setup.policy)
        client.on_stray_reply = partial(_take_late, customer, client, bank, on_late_end)
    messenger.start(client)
    client.start()
    try:
        patience = setup.policy.patience_ms / 1_000
        await client.wait_ready(wait_seconds if wait_seconds is not None else patience)
        yield Session(setup, client, peers, state, messenger, customer)
    finally:
        await messenger.stop()
        await client.close()
        if customer is not None:
            await asyncio.shield(customer.flush())


def _take_late(
    customer: Customer,
    client: Client,
    bank: BankPin,
    on_late_end: Callable[[OrderResult], None],
    deliver: Deliver,
) -> None:
    """A reply that nobody waits for: perhaps to an order of an earlier run."""
    if deliver.sender != bank.id or deliver.re is None:
        return
    try:
        known = client.peers.known(bank.id, client.clock())
        result = customer.take_late_reply(deliver.re, unb64u(deliver.body), known)
    except (ValueError, RefusedError):
        return  # an order that was made for a bank of another key isn't ended by this one
    except StorageError as error:
        # Whoever may have sent it, it ends no connection: orders are under way over it.
        _log.warning("an answer of the bank can't be used: %s", error)
        return
    if result is not None:
        on_late_end(result)

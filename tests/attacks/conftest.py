"""A real relay and a real bank, with somebody hostile on both sides of the relay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.customer import BankPin
from clients.retry import RetryPolicy
from tests.attacks.middleman import Middleman
from tests.databases import TestDatabases
from tests.integration.chain import Chain, running_chain
from tests.integration.persons import PATIENT, Person, person
from tests.integration.processes import start_server
from tests.integration.signer import Signer, signer


@dataclass(frozen=True)
class Scene:
    """Everything that runs, and the two places where frames can be tampered with."""

    chain: Chain
    before_customers: Middleman
    """Between the customers and the relay."""
    before_bank: Middleman
    """Between the relay and the bank."""
    folder: Path

    @property
    def pin(self) -> BankPin:
        bank = self.chain.customers.bank
        return BankPin(bank.client_id, bank.fingerprint)

    def person(
        self, client_id: str, policy: RetryPolicy = PATIENT
    ) -> AbstractAsyncContextManager[Person]:
        """A customer with the real client library."""
        key_file = self.chain.customers[client_id]
        return person(self.before_customers.url, key_file, self.folder, self.pin, policy)

    def signer(self, client_id: str) -> AbstractAsyncContextManager[Signer]:
        """A customer whose messages the test makes by hand, straight at the relay."""
        customers = self.chain.customers
        return signer(self.chain.relay_url, customers[client_id], customers.bank.bundle)


@dataclass(frozen=True)
class Stage:
    """What the tests of a module share; each gets a scene with a folder of its own."""

    chain: Chain
    before_customers: Middleman
    before_bank: Middleman


@pytest.fixture(scope="module")
def stage(
    module_databases: TestDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    relay = start_server(module_databases.environment, folder)
    try:
        with (
            Middleman(relay.relay_url) as before_customers,
            Middleman(relay.relay_url) as before_bank,
            running_chain(
                module_databases, folder, relay=relay, bank_relay_url=before_bank.url
            ) as chain,
        ):
            yield Stage(chain, before_customers, before_bank)
    finally:
        relay.stop()


@pytest.fixture
def scene(stage: Stage, tmp_path: Path) -> Scene:
    return Scene(stage.chain, stage.before_customers, stage.before_bank, tmp_path)


@pytest.fixture
async def ada(scene: Scene) -> AsyncIterator[Person]:
    async with scene.person("ada") as ada:
        yield ada

"""The whole chain for a test module: databases, a relay process, a bank process, customers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.databases import TestDatabases
from tests.integration.customers import BANK_ID, Customers, fill_bank, write_bank_key
from tests.integration.processes import (
    POLL_SECONDS,
    READY_SECONDS_MAX,
    ROOT,
    RunningServer,
    start_server,
)

BANK_SETTINGS_MODULE = "tests.integration.bank_settings"


@dataclass
class Chain:
    """Everything that runs, and the keys of everybody in it."""

    databases: TestDatabases
    folder: Path
    customers: Customers
    relay: RunningServer
    bank: subprocess.Popen[bytes]

    @property
    def relay_url(self) -> str:
        """Where customers connect."""
        return self.relay.relay_url

    @property
    def is_alive(self) -> bool:
        """Whether both processes run."""
        return self.relay.is_alive and self.bank.poll() is None

    def bank_log(self) -> str:
        """What the bank has printed so far."""
        return (self.folder / "bank.log").read_text(encoding="utf-8", errors="replace")


@contextmanager
def running_chain(
    databases: TestDatabases,
    folder: Path,
    *,
    bank: Mapping[str, Any] | None = None,
    bank_relay_url: str | None = None,
    relay: RunningServer | None = None,
) -> Iterator[Chain]:
    """Fill the databases, start relay and bank, and stop what was started.

    :param bank: settings of the bank that take the place of the usual ones.
    :param bank_relay_url: where the bank connects, if not straight to the relay.
    :param relay: a relay that runs already on the same databases.
    """
    customers = fill_bank()
    with ExitStack() as stack:
        if relay is None:
            relay = start_server(databases.environment, folder)
            stack.callback(relay.stop)
        environment = {
            **databases.environment,
            **write_bank_key(customers.bank, folder),
            "TELLERWIRE_BANK_RELAY_URL": bank_relay_url or relay.relay_url,
        }
        if bank is not None:
            environment["DJANGO_SETTINGS_MODULE"] = BANK_SETTINGS_MODULE
            environment["TELLERWIRE_TEST_BANK"] = json.dumps(bank)
        process = _start_bank(environment, folder)
        stack.callback(_stop_bank, process)
        yield Chain(databases, folder, customers, relay, process)


def _start_bank(environment: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    log = folder / "bank.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "runbank"],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + READY_SECONDS_MAX
    while f"bank ready: {BANK_ID}" not in log.read_text(encoding="utf-8", errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            _stop_bank(process)
            raise AssertionError(f"the bank does not start:\n{log.read_text(encoding='utf-8')}")
        time.sleep(POLL_SECONDS)
    return process


def _stop_bank(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

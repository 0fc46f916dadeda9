"""A relay, a bank and people as real processes, on the demo's data and a test's own databases.

Every process is started in the background with its output in a file, is known by its own process
id, and is stopped by it when the installation's context is left, however the test ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import pytest
from django.conf import settings
from django.core.management import call_command

from bank.key_settings import now_ms
from bank.keyring import Keyring
from bank.verification import verify_ledger
from bankproject.demo import installation as demo
from bankproject.demo.processes import clean_environment, http_answers
from clients.config import BANK_ID
from clients.customer import BankPin
from protocol.encoding import unb64u
from protocol.keyfile import KeyFile, decrypt_key_file, read_key_file_header
from tests.cheap_keys import CHEAPEST
from tests.databases import TestDatabases

ROOT: Final = Path(__file__).resolve().parent.parent
READY_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 30.0
COMMAND_SECONDS_MAX: Final = 60.0
POLL_SECONDS: Final = 0.01
ADA: Final = "demo-ada"
BEN: Final = "demo-ben"

ServerKind = Literal["uvicorn", "daphne"]
SERVER_KINDS: Final[list[ServerKind]] = (
    ["uvicorn", "daphne"] if settings.TEST_DATABASE == "sqlite" else ["uvicorn"]
)
"""Those under which a server's own behaviour is tested: its sockets know nothing of databases.

daphne serves development, which is on SQLite.
"""


class RunningProgram:
    """One process of the project, and what it has printed."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def text(self) -> str:
        """Return what it printed so far, errors included."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], bool], meaning: str) -> None:
        """Wait until something is true of this process; it must not end before that."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not condition():
            assert self.is_alive, f"{self.name} ended, no {meaning}:\n{self.text()}"
            assert time.monotonic() < deadline, f"{self.name}: no {meaning}:\n{self.text()}"
            time.sleep(POLL_SECONDS)

    def wait_for_text(self, text: str) -> None:
        """Wait until it has printed something."""
        self.wait_for(lambda: text in self.text(), repr(text))

    def wait(self, seconds: float = STOP_SECONDS_MAX) -> int:
        """Wait for its end and return its exit status."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), and return at once."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to end, by force where it doesn't obey, and return its exit status."""
        if self.is_alive:
            self.terminate()
            try:
                return self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode


class Installation:
    """The demo bank on a test's databases, with a server on one port for as long as it is used."""

    def __init__(
        self, databases: TestDatabases, folder: Path, *, with_demo_bank: bool = True
    ) -> None:
        """Copy the demo's keys and configurations, and load its bank into the databases."""
        folder.mkdir(parents=True, exist_ok=True)
        self.place = demo.prepare(folder)
        self.folder = folder
        self.port = self.place.port
        self.environment = {
            **self.place.environment(),
            **databases.environment,
            "PYTHONPATH": str(ROOT),
            "TELLERWIRE_DATA_DIR": str(folder),
        }
        self._running: list[RunningProgram] = []
        self._started = 0
        # A bank renews keys as old as the demo's when it starts, and pays the passphrase's full
        # price for that and for every start afterwards. Here it finds newer ones, made cheaply.
        key_file = self.place.folder / "bank.key"
        Keyring(key_file, demo.PASSPHRASE, clock=now_ms, cost=CHEAPEST).rotate_if_due()
        if with_demo_bank:
            call_command("loaddata", "fixtures/demo_bank.json", verbosity=0)

    # --- What everybody knows ---

    @property
    def relay_url(self) -> str:
        """Where the relay answers."""
        return self.place.relay

    @property
    def bank(self) -> BankPin:
        """The bank as a customer has it configured."""
        header = read_key_file_header((self.folder / "bank.key").read_bytes())
        return BankPin(BANK_ID, unb64u(header.fingerprint))

    def keys_of(self, person: str) -> KeyFile:
        """Return a person's opened key file."""
        return decrypt_key_file((self.folder / f"{person}.key").read_bytes(), demo.PASSPHRASE)

    def state_of(self, person: str) -> Path:
        """Where a person's program keeps its state."""
        return self.folder / "state" / person

    # --- Processes ---

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        stdin: int = subprocess.DEVNULL,
    ) -> RunningProgram:
        """Start ``python ARGUMENTS`` in the background and return at once."""
        self._started += 1
        log = self.folder / f"{self._started:02d}-{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**self.environment, **(environment or {})},
                cwd=ROOT,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        program = RunningProgram(name, process, log)
        self._running.append(program)
        return program

    def start_server(
        self,
        kind: ServerKind = "uvicorn",
        environment: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        wait: bool = True,
    ) -> RunningProgram:
        """Start the relay's server: uvicorn as in production, or daphne as in development."""
        chosen = self.port if port is None else port
        arguments = {
            "uvicorn": ["-m", "bankproject.serve", "--port", str(chosen)],
            "daphne": ["manage.py", "runserver", "--noreload", f"127.0.0.1:{chosen}"],
        }[kind]
        server = self.start(kind, arguments, environment)
        if wait:
            server.wait_for(lambda: http_answers(chosen, "/healthz"), "answer to /healthz")
        return server

    def start_bank(
        self, name: str = "bank", *, relay: str | None = None, wait: bool = True
    ) -> RunningProgram:
        """Start the bank, as one more process under its id."""
        arguments = ["manage.py", "runbank", "--relay", relay or self.relay_url]
        bank = self.start(name, arguments, {"TELLERWIRE_ROLES": "bank"})  # as in a deployment
        if wait:
            bank.wait_for_text("bank ready")
        return bank

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` to its end; its output includes its errors."""
        return subprocess.run(
            [sys.executable, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            env={**self.environment, **(environment or {})},
            cwd=ROOT,
            timeout=COMMAND_SECONDS_MAX,
        )

    def person(self, person: str, command: str, *arguments: str) -> str:
        """Run a command of a person's program that has to succeed, and return its output."""
        config = str(self.place.config(person))
        finished = self.run("-m", "clients.person", command, "--config", config, *arguments)
        assert finished.returncode == 0, finished.stdout
        return finished.stdout

    def verify_ledger(self) -> None:
        """Let the bank check its books; they have to be in order."""
        assert [str(problem) for problem in verify_ledger(BANK_ID)] == []

    def stop(self) -> None:
        """Stop every process that still runs, the last one first."""
        for program in reversed(self._running):
            if program.is_alive:
                program.terminate()
        for program in reversed(self._running):
            program.stop()


@contextmanager
def installed(
    databases: TestDatabases, folder: Path, *, with_demo_bank: bool = True
) -> Iterator[Installation]:
    """Give an installation, and stop its processes at the end."""
    installation = Installation(databases, folder, with_demo_bank=with_demo_bank)
    try:
        yield installation
    finally:
        installation.stop()


@pytest.fixture
def installation(fresh_databases: TestDatabases, tmp_path: Path) -> Iterator[Installation]:
    """The demo bank on this test's databases; nothing runs yet."""
    with installed(fresh_databases, tmp_path / "installation") as ready:
        yield ready


def outside_environment() -> dict[str, str]:
    """Return the environment of somebody who has just opened a terminal."""
    return clean_environment() | {"PYTHONPATH": os.fspath(ROOT), "PYTHONUTF8": "1"}

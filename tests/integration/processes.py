"""Server processes for tests: uvicorn or daphne on a free loopback port, stopped by their id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from tests.databases import TestDatabases
from tests.servers import LOOPBACK, free_port

ROOT: Final = Path(__file__).resolve().parent.parent.parent
READY_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 20.0
POLL_SECONDS: Final = 0.02
START_ATTEMPTS_MAX: Final = 3
RELAY_SETTINGS_MODULE: Final = "tests.integration.relay_settings"

Kind = Literal["uvicorn", "daphne", "plain uvicorn"]
"""The second and third are not as in production: daphne serves development, and uvicorn without
`bankproject/serve.py` lacks the bounds of `bankproject/bounded_websocket.py`."""
Start = Callable[..., "RunningServer"]


class RunningServer:
    """A server process that answers; everything that it logs is in ``log``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def relay_url(self) -> str:
        """Where its relay answers."""
        return f"ws://{LOOPBACK}:{self.port}/relay"

    @property
    def url(self) -> str:
        """Where it answers HTTP."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @property
    def memory_bytes(self) -> int:
        """How much memory of the machine the process occupies now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def open_files(self) -> int:
        """How many files and sockets the process has open now."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    @property
    def relay_connections(self) -> int:
        """How many connections its relay has."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        values = [
            one.split()[1] for one in lines if one.startswith("tellerwire_relay_connections ")
        ]
        return int(float(values[0])) if values else 0

    def text(self) -> str:
        """Return what it logged so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), and return at once."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        return self.process.wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """End it, by force where it doesn't obey."""
        if self.process.poll() is not None:
            return
        self.terminate()
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.kill()


def start_server(
    environment: Mapping[str, str],
    folder: Path,
    *,
    kind: Kind = "uvicorn",
    relay: Mapping[str, Any] | None = None,
) -> RunningServer:
    """Start a server and return once it answers.

    It plays the relay alone, as in a deployment, unless its environment names other roles.

    :param environment: added to this process's; see ``fresh_databases.environment``.
    :param folder: where its log is written.
    :param relay: settings of the relay that take the place of the usual ones.
    """
    variables = {
        **os.environ,
        "TELLERWIRE_ROLES": "relay",
        **environment,
        "PYTHONPATH": str(ROOT),
    }
    if relay is not None:
        variables["DJANGO_SETTINGS_MODULE"] = RELAY_SETTINGS_MODULE
        variables["TELLERWIRE_TEST_RELAY"] = json.dumps(relay)
    for _ in range(START_ATTEMPTS_MAX):
        port = free_port()
        log = folder / f"{kind}-{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(kind, port),
                env=variables,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        server = RunningServer(process, port, log)
        if _wait_until_ready(server):
            return server
        server.stop()
    raise AssertionError(f"{kind} does not start:\n{server.text()}")


@contextmanager
def servers(environment: Mapping[str, str], folder: Path) -> Iterator[Start]:
    """Give a function that starts servers, and stop them all at the end."""
    with ExitStack() as stack:

        def start(
            *,
            kind: Kind = "uvicorn",
            relay: Mapping[str, Any] | None = None,
            extra: Mapping[str, str] | None = None,
        ) -> RunningServer:
            server = start_server({**environment, **(extra or {})}, folder, kind=kind, relay=relay)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def start(fresh_databases: TestDatabases, tmp_path: Path) -> Iterator[Start]:
    """Start servers on this test's databases: `start(kind=, relay=, extra=)`."""
    with servers(fresh_databases.environment, tmp_path) as starter:
        yield starter


def _command(kind: Kind, port: int) -> list[str]:
    if kind == "uvicorn":
        return [sys.executable, "-m", "bankproject.serve", "--host", LOOPBACK, "--port", str(port)]
    application = "bankproject.asgi:application"
    if kind == "plain uvicorn":
        options = ["--host", LOOPBACK, "--port", str(port), "--ws", "websockets-sansio"]
        return [sys.executable, "-m", "uvicorn", application, "--lifespan", "off", *options]
    return [sys.executable, "-m", "daphne", "-b", LOOPBACK, "-p", str(port), application]


def _wait_until_ready(server: RunningServer) -> bool:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline and server.is_alive:
        try:
            with urllib.request.urlopen(f"{server.url}/healthz", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(POLL_SECONDS)
    return False

"""`make demo` as a newcomer runs it, and `make run`, which stays."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import pytest
from rich.console import Console

from bankproject.demo.__main__ import _stay
from bankproject.demo.installation import HOME, Installation, prepare, start_relay
from bankproject.demo.processes import DemoError, Programs, interruption_deferred, require_port
from tests.installation import POLL_SECONDS, ROOT, outside_environment
from tests.servers import LOOPBACK

DEMO = [sys.executable, "-m", "bankproject.demo"]
SECONDS_MAX = 150.0
STAY_SECONDS_MAX = 60.0


@pytest.fixture
def terminal(tmp_path: Path) -> dict[str, str]:
    """The environment of a newcomer, whose temporary files can be counted afterwards."""
    temporary = tmp_path / "temporary [files]"
    temporary.mkdir()
    return outside_environment() | {"TMPDIR": str(temporary), "HOME": str(tmp_path)}


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that were told about a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if os.fsencode(folder) in environment and process.name != str(os.getpid()):
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def assert_nothing_left(terminal: dict[str, str]) -> None:
    temporary = Path(terminal["TMPDIR"])
    assert list(temporary.iterdir()) == []
    assert processes_in(temporary) == []


def test_the_demo_plays_the_scenario_and_leaves_nothing(
    terminal: dict[str, str], tmp_path: Path
) -> None:
    """Databases that its environment names are somebody's real ones: it must not touch them."""
    precious = tmp_path / "precious.sqlite3"
    precious.write_bytes(b"somebody's data")
    finished = subprocess.run(
        DEMO,
        env=terminal
        | {
            "TELLERWIRE_DATABASE_URL": f"sqlite:///{precious}",
            "TELLERWIRE_RELAY_DATABASE_URL": f"sqlite:///{precious}",
            "TELLERWIRE_DATA_DIR": str(tmp_path / "no-such-folder"),
            "TELLERWIRE_STATE": str(tmp_path / "no-such-state"),
            "TELLERWIRE_BANK_KEY_FILE": str(precious),
            "DJANGO_SETTINGS_MODULE": "bankproject.settings.production",
        },
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS_MAX,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stderr == ""
    said = finished.stdout
    for account, balance in {"account1": 900, "account2": 1000, "account3": 1000}.items():
        assert re.search(rf"^ *{account} +{balance} *$", said, re.MULTILINE), said
    assert said.rstrip().endswith("account1 900, account2 1000, account3 1000")
    for words in (
        "permission_denied",
        "insufficient_funds",
        "the same receipt, byte for byte",
        "answered by demo-ben (Hello Ben, here is Ada.)",
        "answered by demo-ada (Hello Ada, here is Ben.)",
        "message from Beispiel, Ben (demo-ben)",
        "message from Ärlig, Ada (demo-ada)",
        "The ledger is in order",
    ):
        assert words in said, said
    assert "Traceback" not in said
    assert_nothing_left(terminal)
    assert precious.read_bytes() == b"somebody's data"
    assert not (tmp_path / "no-such-folder").exists()
    assert not (tmp_path / "no-such-state").exists()


@contextmanager
def running_demo(
    terminal: dict[str, str], *arguments: str, python: str = sys.executable
) -> Iterator[subprocess.Popen[str]]:
    """Start the demonstration in a session of its own, as a terminal would."""
    with subprocess.Popen(
        [python, *DEMO[1:], *arguments],
        env=terminal | {"PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    ) as demo:
        try:
            yield demo
        finally:
            if demo.poll() is None:
                demo.terminate()
                demo.wait(SECONDS_MAX)


def read_until(demo: subprocess.Popen[str], text: str) -> str:
    """Return what it has printed once a text is in it."""
    assert demo.stdout is not None
    said = ""
    deadline = time.monotonic() + SECONDS_MAX
    while text not in said:
        line = demo.stdout.readline()
        assert line, said
        assert time.monotonic() < deadline, said
        said += line
    return said


def shell(said: str, *commands: str) -> str:
    """Type into another terminal what the demonstration says that one can type."""
    export = next(line.strip() for line in said.splitlines() if line.strip().startswith("export"))
    finished = subprocess.run(
        ["/bin/sh", "-ec", "\n".join([export, *commands])],
        env=outside_environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=SECONDS_MAX,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def test_it_stays_until_ctrl_c(terminal: dict[str, str], tmp_path: Path) -> None:
    """What it says that one can type can be pasted, whatever is in the paths."""
    python = tmp_path / "an environment" / Path(sys.executable).relative_to(sys.prefix)
    (tmp_path / "an environment").symlink_to(sys.prefix)
    with running_demo(terminal, "--stay", python=str(python)) as demo:
        said = read_until(demo, "try her next order.")
        admin = re.search(r"Admin +(\S+) +user (\S+), password (\S+)", said)
        assert admin is not None, said
        with urllib.request.urlopen(admin[1], timeout=30) as page:
            assert page.status == 200
        assert re.search(r"Relay +ws://127\.0\.0\.1:\d+/relay", said)
        typed = [line.strip() for line in said.splitlines() if "clients.person" in line]
        accounts, transfer = typed[0], typed[1]
        assert "1000" in shell(said, accounts)
        answer = shell(said, f"{transfer} --yes")
        assert "account2: 975" in answer, answer
        message = next(line for line in typed if " send " in line)
        assert message.startswith(f"'{python}' -m clients.person send "), message
        answer = shell(said, message)
        assert "queued: it waits in the mailbox of demo-ben (Beispiel, Ben)" in answer, answer
        # Ctrl-C in a terminal reaches everything that was started there.
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(SECONDS_MAX) == 0, demo.stdout.read() if demo.stdout else ""
    assert_nothing_left(terminal)


def test_what_stays_ends_in_order_when_it_is_terminated(terminal: dict[str, str]) -> None:
    with running_demo(terminal, "--stay") as demo:
        read_until(demo, "try her next order.")
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(SECONDS_MAX) == 0, demo.stdout.read() if demo.stdout else ""
    assert_nothing_left(terminal)


def test_what_stays_ends_when_one_of_its_programs_does(tmp_path: Path) -> None:
    ready = "import time; print('ready', flush=True)"
    stays = f"{ready}; time.sleep({SECONDS_MAX})"
    ends = f"{ready}; time.sleep(0.3); exit('the disk is full')"
    with Programs(tmp_path, {}, HOME) as programs:
        server = programs.start("server", ["-c", stays], lambda output: "ready" in output)
        programs.start("bank", ["-c", ends], lambda output: "ready" in output)
        with pytest.raises(DemoError, match=r"\Abank ended with 1:\nready\nthe disk is full\Z"):
            _stay(programs, Installation(tmp_path, 1, "password"), Console(file=StringIO()))
        assert server.process.poll() is None
    assert server.process.poll() is not None


def test_a_demo_that_is_terminated_leaves_nothing(terminal: dict[str, str]) -> None:
    with running_demo(terminal) as demo:
        read_until(demo, "The relay starts")
        while len(processes_in(Path(terminal["TMPDIR"]))) < 2:
            time.sleep(POLL_SECONDS)
        demo.terminate()
        assert demo.wait(SECONDS_MAX) == 1
        assert demo.stdout is not None
        assert "Stopped." in demo.stdout.read()
    assert_nothing_left(terminal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_until_a_started_process_is_known(number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    try:
        with interruption_deferred():
            signal.raise_signal(number)
            assert heard == []
        assert heard == [number]
        signal.raise_signal(number)
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


def test_a_port_that_is_taken_is_said_so(terminal: dict[str, str]) -> None:
    with (
        socket.create_server((LOOPBACK, 0)) as taken,
        running_demo(terminal, "--port", str(taken.getsockname()[1])) as demo,
    ):
        assert demo.wait(SECONDS_MAX) == 1
        assert demo.stdout is not None
        said = demo.stdout.read()
        port = taken.getsockname()[1]
    assert said == f"\nThe demonstration failed: port {port} is in use\n"
    assert_nothing_left(terminal)


class Answering(BaseHTTPRequestHandler):
    """Answers every question as a relay answers those about its health."""

    def do_GET(self) -> None:
        """Say that everything is well."""
        self.send_response(HTTPStatus.OK)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of it."""


def test_a_relay_that_takes_the_port_meanwhile_is_not_taken_for_the_own(tmp_path: Path) -> None:
    place = prepare(tmp_path)
    with (
        ThreadingHTTPServer((LOOPBACK, place.port), Answering) as foreign,
        Programs(tmp_path, place.environment(), HOME) as programs,
    ):
        Thread(target=foreign.serve_forever, args=(POLL_SECONDS,)).start()
        try:
            with pytest.raises(DemoError, match=rf"\Aport {place.port} is in use\Z"):
                start_relay(programs, place)
        finally:
            foreign.shutdown()


def test_a_port_that_nobody_may_take_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(socket, "create_server", Mock(side_effect=forbidden))
    with pytest.raises(DemoError, match=r"\Aport 80 can't be used: Permission denied\Z"):
        require_port(80)

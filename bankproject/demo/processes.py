"""Starting the demonstration's programs, waiting until they are ready, and stopping them."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Never, Self

__all__ = [
    "DemoError",
    "Program",
    "Programs",
    "clean_environment",
    "free_port",
    "http_answers",
    "port_in_use",
    "require_port",
    "wait_until",
]

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 25.0
COMMAND_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 0.5
LOG_LINES_SHOWN: Final = 15


class DemoError(Exception):
    """The demonstration can't go on; the message says why, for a person."""


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require_port(port: int) -> None:
    """Make sure that a server can listen on a port of the loopback address.

    :raises DemoError: another program listens there, or this one may not.
    """
    try:
        # Listening as the server will, whom connections that have just ended don't hinder either.
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(port) from error
        raise DemoError(f"port {port} can't be used: {error.strerror}") from error


def port_in_use(port: int) -> DemoError:
    """Return the error that says that another program listens on a port."""
    return DemoError(f"port {port} is in use")


def http_answers(port: int, path: str) -> bool:
    """Return whether ``path`` on that port of the loopback address answers 200 at once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], seconds: float, meaning: str) -> None:
    """Wait until ``condition`` holds.

    :raises DemoError: it did not come true in time; ``meaning`` says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"waited {seconds:.0f} seconds for {meaning}")
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def interruption_deferred() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the end of the block, where they do what they did before.

    An interruption in the middle of starting a process would leave it running: it has been made
    already, but nobody knows it yet who could stop it. (Blocking the signals would not do: the
    new process would inherit that.)
    """
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in held[:1]:
            signal.raise_signal(first)


def stop(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and end it if it doesn't."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Program:
    """A program that runs beside the demonstration, its output in a file."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def output(self) -> str:
        """Return what the program has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, ready: Callable[[str], bool], seconds: float, meaning: str) -> None:
        """Wait until ``ready(its output)`` holds.

        :raises DemoError: the program ended instead, or the time did.
        """
        wait_until(lambda: self._is_ready(lambda: ready(self.output())), seconds, meaning)

    def _is_ready(self, ready: Callable[[], bool]) -> bool:
        self.must_run()
        return ready()

    def must_run(self) -> None:
        """Make sure that the program has not ended.

        :raises DemoError: it has; the message has the last lines that it printed.
        """
        if self.process.poll() is not None:
            tail = "\n".join(self.output().splitlines()[-LOG_LINES_SHOWN:])
            raise DemoError(f"{self.name} ended with {self.process.returncode}:\n{tail}")

    def stop(self) -> None:
        """Ask the program to end, and end it if it doesn't."""
        stop(self.process)


class Programs:
    """Every program of one demonstration; leaving the context stops them, the last one first."""

    def __init__(self, folder: Path, environment: Mapping[str, str], home: Path) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._home = home
        self._running: list[subprocess.Popen[str]] = []
        self._in_background: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._running:
            stop(self._running[-1])
            self._running.pop()

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        ready: Callable[[str], bool],
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start ``python ARGUMENTS`` in the background and wait until ``ready(its output)``.

        :param environment: what only this program has in its environment.
        :raises DemoError: it ended instead, or was not ready in time.
        """
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = self._spawn(arguments, output, subprocess.STDOUT, environment)
        program = Program(name, process, log)
        program.wait_for(ready, READY_SECONDS, name)
        self._in_background.append(program)
        return program

    def watch(self) -> Never:
        """Wait for ever, as long as every program runs that was started in the background.

        :raises DemoError: one has ended; the message says which.
        """
        while True:
            for program in self._in_background:
                program.must_run()
            time.sleep(WATCH_SECONDS)

    def _spawn(
        self,
        arguments: Sequence[str],
        stdout: IO[bytes] | int,
        stderr: int,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        with interruption_deferred():
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                env={**self._environment, **(environment or {})},
                cwd=self._home,
            )
            self._running.append(process)
        return process

    def run(
        self, arguments: Sequence[str], *, expected: Sequence[int] = (0,)
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` to its end and return its output, errors included.

        :raises DemoError: it ended otherwise than expected.
        """
        shown = " ".join(arguments)
        process = self._spawn(arguments, subprocess.PIPE, subprocess.PIPE)
        try:
            said, complained = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"`{shown}` did not end in {COMMAND_SECONDS:.0f} seconds") from error
        self._running.remove(process)
        if process.returncode not in expected:
            raise DemoError(
                f"`{shown}` ended with {process.returncode}, expected "
                f"{' or '.join(map(str, expected))}:\n{said}{complained}"
            )
        return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without anything that could point at other data."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TELLERWIRE_") and name != "DJANGO_SETTINGS_MODULE"
    }

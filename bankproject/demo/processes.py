"""Starting the demonstration's programs, waiting until they are ready, and stopping them."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

__all__ = [
    "DemoError",
    "Program",
    "Programs",
    "clean_environment",
    "free_port",
    "http_answers",
    "wait_until",
]

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 25.0
COMMAND_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.05
LOG_LINES_SHOWN: Final = 15


class DemoError(Exception):
    """The demonstration can't go on; the message says why, for a person."""


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


class Program:
    """A program that runs beside the demonstration, its output in a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
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
        if self.process.poll() is not None:
            tail = "\n".join(self.output().splitlines()[-LOG_LINES_SHOWN:])
            raise DemoError(f"{self.name} ended with {self.process.returncode}:\n{tail}")
        return ready()

    def stop(self) -> None:
        """Ask the program to end, and end it if it doesn't."""
        if self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Programs:
    """Every program of one demonstration; leaving the context stops them, the last one first."""

    def __init__(self, folder: Path, environment: Mapping[str, str], home: Path) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._home = home
        self._running: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._running:
            self._running.pop().stop()

    def start(self, name: str, arguments: Sequence[str], ready: Callable[[str], bool]) -> Program:
        """Start ``python ARGUMENTS`` in the background and wait until ``ready(its output)``."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._home,
            )
        program = Program(name, process, log)
        self._running.append(program)
        program.wait_for(ready, READY_SECONDS, name)
        return program

    def run(
        self, arguments: Sequence[str], *, expected: Sequence[int] = (0,)
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` to its end and return its output, errors included.

        :raises DemoError: it ended otherwise than expected.
        """
        finished = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=self._environment,
            cwd=self._home,
            timeout=COMMAND_SECONDS,
        )
        if finished.returncode not in expected:
            shown = " ".join(str(argument) for argument in arguments)
            raise DemoError(
                f"`{shown}` ended with {finished.returncode}, expected "
                f"{' or '.join(map(str, expected))}:\n{finished.stdout}{finished.stderr}"
            )
        return finished


def clean_environment() -> dict[str, str]:
    """Return this process's environment without anything that could point at other data."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TELLERWIRE_") and name != "DJANGO_SETTINGS_MODULE"
    }

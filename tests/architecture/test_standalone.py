"""In a fresh interpreter: what a program really loads, through everything that it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.architecture.imports import ROOT, python_files
from tests.architecture.rules import CLOSED_TO_RELAY

REPORT = "import sys; sys.stdout.write('\\n'.join(sys.modules))"


def _modules_of(package: str) -> list[str]:
    names = (".".join(path.with_suffix("").parts) for path in python_files(package))
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def _run(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _loaded_by(setup: str, modules: Sequence[str], **environment: str) -> set[str]:
    script = f"{setup}\nimport {', '.join(modules)}\n{REPORT}"
    completed = _run(["-c", script], **environment)
    assert completed.returncode == 0, completed.stderr
    return set(completed.stdout.split("\n"))


def _within(loaded: set[str], *packages: str) -> set[str]:
    return {name for name in loaded for package in packages if f"{name}.".startswith(f"{package}.")}


@pytest.mark.parametrize("package", ["clients", "protocol"])
def test_clients_and_protocol_load_neither_django_nor_a_server(package: str) -> None:
    loaded = _loaded_by("", _modules_of(package))

    assert not _within(loaded, "django", "channels", "asgiref", "relay", "bank", "bankproject")


@pytest.mark.parametrize("program", [["-m", "clients.person"], ["clients/person.py"]])
def test_the_person_program_starts_without_django(program: list[str]) -> None:
    completed = _run(["-X", "importtime", *program, "--help"])

    assert completed.returncode == 0, completed.stderr[-2000:]
    assert "transfer" in completed.stdout
    loaded = {line.rpartition("|")[2].strip() for line in completed.stderr.splitlines()}
    assert _within(loaded, "websockets", "protocol")
    assert not _within(loaded, "django", "channels", "relay", "bank", "bankproject")


def test_the_relay_loads_nothing_that_could_open_a_message() -> None:
    loaded = _loaded_by(
        "import django; django.setup()",
        [name for name in _modules_of("relay") if ".migrations" not in name],
        DJANGO_SETTINGS_MODULE="bankproject.settings.test",
        TELLERWIRE_ROLES="relay",
    )

    assert _within(loaded, "relay", "protocol")
    assert not _within(loaded, *CLOSED_TO_RELAY, "bank", "clients")


def test_the_bank_loads_no_relay() -> None:
    loaded = _loaded_by(
        "import django; django.setup()",
        [name for name in _modules_of("bank") if ".migrations" not in name],
        DJANGO_SETTINGS_MODULE="bankproject.settings.test",
        TELLERWIRE_TEST_DATABASE="sqlite",
        TELLERWIRE_ROLES="bank",
    )

    assert not _within(loaded, "relay", "channels")
    assert not _within(loaded, "psycopg"), "a fifth of a command's start, for nothing on SQLite"

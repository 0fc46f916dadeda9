"""A whole Tellerwire in one folder: databases, keys, configurations, relay and bank."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bankproject.demo.processes import (
    DemoError,
    Programs,
    clean_environment,
    free_port,
    http_answers,
    port_in_use,
    require_port,
)

__all__ = [
    "HOME",
    "PASSPHRASE",
    "Installation",
    "fill_databases",
    "introduce",
    "prepare",
    "start_bank",
    "start_relay",
]

HOME: Final = Path(__file__).resolve().parent.parent.parent
FIXTURES: Final = HOME / "fixtures"
PASSPHRASE: Final = "demo"
OPERATOR: Final = "operator"
_LISTENS: Final = "Uvicorn running on"
"""What the server logs, as information, once it has its port."""
_ADDRESS_IN_USE: Final = os.strerror(errno.EADDRINUSE).lower()
"""What the server says of a port that another program has."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where everything of one demonstration is."""

    folder: Path
    port: int
    operator_password: str

    @property
    def web(self) -> str:
        """The address of the relay's and the bank's web server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def relay(self) -> str:
        """The address that clients connect to."""
        return f"ws://127.0.0.1:{self.port}/relay"

    def config(self, person: str) -> Path:
        """Return the configuration file of one of the demo's persons."""
        return self.folder / f"{person}.json"

    def environment(self) -> dict[str, str]:
        """Return the environment in which every program of this installation runs."""
        return clean_environment() | {
            "DJANGO_SETTINGS_MODULE": "bankproject.settings.development",
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            "PYTHONIOENCODING": "utf-8",
            "COLUMNS": "100",
            "TELLERWIRE_DATA_DIR": str(self.folder),
            "TELLERWIRE_DEBUG": "false",
            "TELLERWIRE_LOG_LEVEL": "WARNING",
            "TELLERWIRE_BANK_KEY_FILE": str(self.folder / "bank.key"),
            "TELLERWIRE_BANK_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "TELLERWIRE_BANK_RELAY_URL": self.relay,
            "TELLERWIRE_PASSPHRASE": PASSPHRASE,
            "TELLERWIRE_STATE": str(self.folder / "state"),
        }


def prepare(folder: Path, port: int | None = None) -> Installation:
    """Copy the demo's keys and configurations into ``folder`` and point them at ``port``.

    The keys are copied because programs rotate what is in them.

    :raises DemoError: the server could not listen on ``port``; nothing was done.
    """
    if port is not None:
        require_port(port)
    chosen = port if port is not None else free_port()
    for source in sorted((FIXTURES / "demo").iterdir()):
        if source.suffix in {".key", ".json"}:
            shutil.copyfile(source, folder / source.name)
            (folder / source.name).chmod(0o600)
    (folder / "passphrase").write_text(PASSPHRASE + "\n", encoding="utf-8")
    for config in folder.glob("demo-*.json"):
        contents = json.loads(config.read_text(encoding="utf-8"))
        contents["server"] = {"ip": "127.0.0.1", "port": str(chosen)}
        config.write_text(json.dumps(contents, ensure_ascii=False, indent=2), encoding="utf-8")
    return Installation(folder, chosen, secrets.token_urlsafe(9))


def fill_databases(programs: Programs, operator_password: str | None = None) -> None:
    """Make both databases and load the demo bank, opening balances included.

    :param operator_password: lets the operator log in to the admin.
    """
    operator = () if operator_password is None else (OPERATOR, operator_password)
    programs.run(["-m", "bankproject.demo.databases", *operator])


def start_relay(programs: Programs, installation: Installation) -> None:
    """Start the server: the relay and the operators' pages.

    :raises DemoError: it does not run; where another program has taken its port since it was
        chosen, the message says so.
    """
    try:
        programs.start(
            "server",
            ["-m", "bankproject.serve", "--port", str(installation.port)],
            # Another relay on this port would answer as well, so the server itself has to say first
            # that the port is its own.
            lambda output: _LISTENS in output and http_answers(installation.port, "/healthz"),
            {"TELLERWIRE_LOG_LEVEL": "INFO"},
        )
    except DemoError as error:
        if _ADDRESS_IN_USE in str(error):
            raise port_in_use(installation.port) from error
        raise


def start_bank(programs: Programs) -> None:
    """Start the bank, a client of the relay like any other."""
    programs.start("bank", ["manage.py", "runbank"], lambda output: "bank ready" in output)


def introduce(programs: Programs, installation: Installation, person: str) -> None:
    """Let a person's program come and go once: the relay keeps mail for those whom it knows."""
    config = str(installation.config(person))
    programs.run(["-m", "clients.person", "listen", "--seconds", "0", "--config", config])

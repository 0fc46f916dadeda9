"""What happens in the demonstration, step by step, and what has to come out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bankproject.demo.installation import Installation
from bankproject.demo.processes import DemoError, Program, Programs
from bankproject.demo.transcript import Transcript

__all__ = ["EXPECTED", "play"]

ADA: Final = "demo-ada"
BEN: Final = "demo-ben"
EXPECTED: Final = {"account1": "900", "account2": "1000", "account3": "1000"}
_REFUSED: Final = 1
SCRIPT_SECONDS: Final = 55.0
_SCRIPTS: Final = (
    ("Ada", ADA, ("action 1/3", "action 2/3", "action 3/3", "message from")),
    ("Ben", BEN, ("action 1/1", "message from")),
)
"""Who runs a script, and what its output has to tell before it may end."""


@dataclass(frozen=True, slots=True)
class _Stage:
    programs: Programs
    installation: Installation
    transcript: Transcript

    def person(self, person: str, *command: str, expected: int = 0) -> str:
        """Run the person's program and return what it printed."""
        config = str(self.installation.config(person))
        arguments = ["-m", "clients.person", *command[:1], "--config", config, *command[1:]]
        finished = self.programs.run(arguments, expected=(expected,))
        return finished.stdout

    def script(self, person: str) -> Program:
        """Start a person's scripted actions, the original's way of using the system."""
        config = str(self.installation.config(person))
        arguments = ["-m", "clients.person", "run", config]
        return self.programs.start(person, arguments, lambda output: "connected to" in output)


def play(programs: Programs, installation: Installation, transcript: Transcript) -> None:
    """Play every step.

    :raises DemoError: something did not come out as it has to.
    """
    stage = _Stage(programs, installation, transcript)
    _scripts(stage)
    _refusals(stage)
    _again(stage)
    _balances(stage)
    _verification(stage)


def _scripts(stage: _Stage) -> None:
    stage.transcript.step(
        "Ada and Ben run their scripts",
        "They greet each other, Ada by id and Ben by name; Ada moves the club's money.",
    )
    scripts = [(name, stage.script(person), done) for name, person, done in _SCRIPTS]
    for name, script, done in scripts:
        script.wait_for(
            partial(_tells, done),
            SCRIPT_SECONDS,
            f"{name}'s actions, and the other's greeting",
        )
    for name, script, _ in scripts:
        # The configuration lets them stay for a minute; everything that they came for is done.
        script.stop()
        stage.transcript.said(name, script.output())
        if script.process.returncode != 0:
            raise DemoError(f"{name}'s script ended with {script.process.returncode}")


def _tells(words: Sequence[str], output: str) -> bool:
    return all(word in output for word in words)


def _refusals(stage: _Stage) -> None:
    stage.transcript.step(
        "Ben tries to transfer the club's money", "At the club he may withdraw, not transfer."
    )
    denied = stage.person(BEN, "transfer", "--yes", "account1", "account3", "10", expected=_REFUSED)
    stage.transcript.said("Ben", _must_name(denied, "permission_denied"))
    stage.transcript.step(
        "Ada tries to spend more than there is", "Her account has no credit limit."
    )
    overdraft = stage.person(
        ADA, "transfer", "--yes", "account2", "account3", "5000", expected=_REFUSED
    )
    stage.transcript.said("Ada", _must_name(overdraft, "insufficient_funds"))


def _again(stage: _Stage) -> None:
    stage.transcript.step(
        "Ada sends her first transfer a second time, byte for byte",
        "The bank answers with the receipt that it gave before, and books nothing.",
    )
    finished = json.loads(stage.person(ADA, "orders", "--all", "--json"))
    first = next(order for order in finished if order["operation"] == "transfer")
    before = _receipt(Path(first["file"]))
    stage.transcript.said("Ada", stage.person(ADA, "orders", "--again", first["order_id"]))
    if _receipt(Path(first["file"])) != before:
        raise DemoError("the second receipt differs from the first")
    stage.transcript.said("Ada", stage.person(ADA, "verify", first["file"]))


def _balances(stage: _Stage) -> None:
    stage.transcript.step("The balances", "As the bank answers each of its customers.")
    found: dict[str, str] = {}
    for person in (ADA, BEN):
        for account in json.loads(stage.person(person, "accounts", "--json"))["accounts"]:
            found[account["account"]] = str(account["balance"])
    stage.transcript.balances(found)
    if found != EXPECTED:
        raise DemoError(f"the balances are {found}, and should be {EXPECTED}")


def _verification(stage: _Stage) -> None:
    stage.transcript.step(
        "The bank checks its own books", "manage.py verify_ledger: every entry, order and receipt."
    )
    stage.transcript.said("Bank", stage.programs.run(["manage.py", "verify_ledger"]).stdout)


def _receipt(file: Path) -> object:
    return json.loads(file.read_text(encoding="utf-8"))["receipt"]


def _must_name(output: str, code: str) -> str:
    if code not in output:
        raise DemoError(f"the refusal should name {code}:\n{output}")
    return output

"""The person's program: a script that can't begin says of each action that it was not done."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol import frames
from protocol.errors import Code, Retry
from tests.clients.typist import BackgroundWorld, Run, write_config
from tests.clients.world import ADA

ACTIONS = ("SEND [ben] Hello", "SEND [bank] SUB [account1] [1]")


def lines_of(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("action")]


def refuse_registration(background: BackgroundWorld, config: Path, state: Path) -> str:
    background.world.relay.refuse_registration = frames.Error(
        Code.REVOKED, Retry.NEVER, detail="blocked"
    )
    return "the relay refused the registration: revoked — blocked"


def give_another_key(background: BackgroundWorld, config: Path, state: Path) -> str:
    (config.parent / "ada.key").write_text("no key")
    return "ada.key: "


def damage_pins(background: BackgroundWorld, config: Path, state: Path) -> str:
    state.mkdir(parents=True)
    (state / "pins.json").write_text("damaged")
    return "pins.json is damaged"


def damage_inbox(background: BackgroundWorld, config: Path, state: Path) -> str:
    (state / "inbox").mkdir(parents=True)
    (state / "inbox" / "0.json").write_text("damaged")
    return "0.json is damaged"


@pytest.mark.parametrize(
    "spoil", [refuse_registration, give_another_key, damage_pins, damage_inbox]
)
def test_script_that_cant_begin_has_a_line_for_each_action(
    run: Run, background: BackgroundWorld, tmp_path: Path, spoil: object
) -> None:
    config = write_config(tmp_path, background.world, ADA, ACTIONS)
    assert callable(spoil)
    why = spoil(background, config, tmp_path / "state" / "ada")
    ended = run("run", config, "--once")
    assert ended.status == 1
    first, second = lines_of(ended.out)
    assert first.startswith("action 1/2 not done: ")
    assert second.startswith("action 2/2 not done: ")
    assert why in first
    assert why in second
    assert ended.err.startswith("error: ")
    assert why in ended.err
    assert background.world.bank.seen == []

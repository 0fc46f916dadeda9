"""The person's program at a real terminal: money moves after a yes, and after nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import person
from protocol.keys import format_fingerprint
from tests.clients.fake_relay import until
from tests.clients.typist import PASSPHRASE, BackgroundWorld, Run, Typed
from tests.clients.world import BANK

TRANSFER = ("transfer", "account1", "account2", "100", "--config")
CTRL_C, CTRL_D = "\x03", "\x04"
SECONDS = 20


class Terminal:
    """A terminal with a program in it, and somebody who looks and types."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def wait_for(self, words: str) -> None:
        """Read until the program has said this; it fails if the program ends before."""
        while words not in self.seen:
            more = self._read()
            assert more, self.seen
            self.seen += more

    def wait_for_end(self) -> int:
        while more := self._read():
            self.seen += more
        return self.process.wait(SECONDS)

    def _read(self) -> str:
        try:
            return os.read(self._screen, 65_536).decode()
        except OSError:  # how a terminal says that nobody is in it any more
            return ""


@contextlib.contextmanager
def terminal(folder: Path, *words: str, out: Path | None = None) -> Iterator[Terminal]:
    """Start the program in a terminal of its own, so that Ctrl-C is what it is there.

    :param out: a file that gets standard output.
    """
    screen, inside = os.openpty()
    environment = {"TELLERWIRE_PASSPHRASE": PASSPHRASE, "TELLERWIRE_STATE": str(folder / "state")}
    # Its own session with this terminal, as a shell in a window has.
    enter = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    enter += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    with contextlib.ExitStack() as opened:
        process = subprocess.Popen(
            [sys.executable, "-c", enter, person.__file__, *words],
            stdin=inside,
            stdout=inside if out is None else opened.enter_context(out.open("wb")),
            stderr=inside,
            env=environment,
        )
    os.close(inside)
    try:
        yield Terminal(process, screen)
    finally:
        process.kill()
        process.wait(SECONDS)
        os.close(screen)


def answered(folder: Path, config: Path, keys: str) -> tuple[int, str]:
    with terminal(folder, *TRANSFER, str(config)) as window:
        window.wait_for("Do it? [y/N]: ")
        window.type(keys)
        return window.wait_for_end(), window.seen


def test_without_a_terminal_and_without_yes_nothing_moves(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    refused = run(*TRANSFER, config)
    assert refused.status == 2
    assert "--yes" in refused.err
    assert background.world.bank.seen == []


def test_a_yes_moves_money(background: BackgroundWorld, config: Path, tmp_path: Path) -> None:
    status, seen = answered(tmp_path, config, "y\n")
    assert status == 0
    assert "ok: transfer 100" in seen
    assert "Bank, Demo (bank)" in seen
    assert format_fingerprint(BANK.fingerprint) in seen
    assert background.world.bank.booked == 1


@pytest.mark.parametrize(("keys", "status"), [("y\n", 0), ("n\n", 1), (CTRL_C, 1)])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_question_is_asked_where_somebody_reads_it(
    background: BackgroundWorld,
    config: Path,
    tmp_path: Path,
    keys: str,
    status: int,
    more: tuple[str, ...],
) -> None:
    assert background.world.bank.booked == 0
    out = tmp_path / "out"
    with terminal(tmp_path, *TRANSFER, str(config), *more, out=out) as window:
        window.wait_for("Do it? [y/N]: ")
        window.type(keys)
        assert window.wait_for_end() == status
    said = out.read_text(encoding="utf-8")
    if status:
        assert window.seen.endswith("nothing was sent\r\n")
        assert said == ""
    elif more:
        assert json.loads(said)["state"] == "accepted"
    else:
        assert said.startswith("ok: transfer 100")


@pytest.mark.parametrize("keys", ["n\n", "\n", "yy\n", CTRL_D, CTRL_C])
def test_anything_else_ends_the_program_and_moves_nothing(
    background: BackgroundWorld, config: Path, tmp_path: Path, keys: str
) -> None:
    status, seen = answered(tmp_path, config, keys)
    assert status == 1
    assert seen.endswith("\r\nnothing was sent\r\n")
    assert "Traceback" not in seen
    assert background.world.bank.seen == []


def test_ctrl_c_after_the_yes_leaves_the_outcome_open(
    run: Run, background: BackgroundWorld, config: Path, tmp_path: Path
) -> None:
    bank = background.world.bank
    bank.silent_times = 999
    with terminal(tmp_path, *TRANSFER, str(config)) as window:
        window.wait_for("Do it? [y/N]: ")
        window.type("y\n")
        background.run(until(lambda: bool(bank.seen), seconds=SECONDS))
        window.type(CTRL_C)
        assert window.wait_for_end() == 3
        assert "orders --finish" in window.seen
    bank.silent_times = 0
    # Whoever gives the same order again is told of this one before the yes.
    with terminal(tmp_path, *TRANSFER, str(config)) as window:
        window.wait_for("Do it? [y/N]: ")
        assert "an order with the same content is unfinished: " in window.seen
        window.type("n\n")
        assert window.wait_for_end() == 1
    assert run("orders", "--finish", "--config", config).status == 0
    assert bank.booked == 1


def test_a_negative_amount_is_an_amount_and_not_an_option(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    ordered: Typed = run("transfer", "account1", "account2", "-5", "--yes", "--config", config)
    assert "transfer -5 from account1" in ordered.out
    assert background.world.bank.seen != []
    misspelt = run("transfer", "account1", "account2", "-5", "--yess", "--config", config)
    assert misspelt.status == 2
    assert "--yess" in misspelt.err


def test_tables_lose_nothing_where_there_is_no_terminal(
    run: Run, background: BackgroundWorld, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert background.world.bank.booked == 0
    run(*TRANSFER, config, "--yes")
    monkeypatch.setenv("COLUMNS", "40")
    [order] = run("orders", "--all", "--json", "--config", config).json
    listed = run("orders", "--all", "--config", config)
    assert order["order_id"] in listed.out
    assert "transfer 100 from account1 to account2" in listed.out
    assert len(listed.out.splitlines()) == 2

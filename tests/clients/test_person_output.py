"""What the person's program prints, wherever it is printed to."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clients import person
from clients.display import Display, date_text, printable, time_text
from clients.storage import StateDirectory
from protocol import limits
from tests.clients.test_messages import say
from tests.clients.typist import PASSPHRASE, BackgroundWorld, Run, write_config
from tests.clients.world import ADA, BEN

SECONDS = 30


def printed(folder: Path, encoding: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program with an output that speaks only this encoding."""
    return subprocess.run(
        [sys.executable, person.__file__, *words],
        env={
            "TELLERWIRE_PASSPHRASE": PASSPHRASE,
            "TELLERWIRE_STATE": str(folder / "state"),
            "PYTHONIOENCODING": encoding,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_output_without_unicode_gets_every_line(
    background: BackgroundWorld, config: Path, tmp_path: Path, encoding: str
) -> None:
    order = ("transfer", "account1", "account2", "100", "--yes", "--config", str(config))
    done = printed(tmp_path, encoding, *order)
    assert (done.returncode, done.stderr) == (0, b"")
    said = done.stdout.decode(encoding)
    assert said.startswith("ok: transfer 100 from account1 to account2")
    assert "now account1: 900 TWC" in said
    assert background.world.bank.booked == 1
    refused = printed(tmp_path, encoding, "balance", "nobodys", "--config", str(config))
    assert refused.returncode == 1
    assert refused.stdout.decode(encoding).startswith("refused: account_unavailable")
    assert b"Traceback" not in refused.stderr


def test_closed_inputs_and_outputs_change_nothing(
    background: BackgroundWorld, config: Path, tmp_path: Path
) -> None:
    order = f"transfer account1 account2 100 --config {config}"
    environment = {"TELLERWIRE_PASSPHRASE": PASSPHRASE, "TELLERWIRE_STATE": str(tmp_path / "state")}

    def status(words: str) -> int:
        command = f"exec {sys.executable} {person.__file__} {words}"
        return subprocess.run(
            ["/bin/sh", "-c", command], env=environment, timeout=SECONDS, check=False
        ).returncode

    assert status(f"{order} <&- >&- 2>&-") == 2
    assert background.world.bank.seen == []
    assert status(f"{order} --yes <&- >&- 2>&-") == 0
    assert background.world.bank.booked == 1


def printed_nowhere(folder: Path, output: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program with an output that takes nothing: a full disk, or a reader who has gone."""
    end = {"full": "> /dev/full", "gone": "| true"}[output]
    # The first program of a pipe tells its status, and begins when the other one has ended.
    command = f"sleep 0.2; {shlex.join([sys.executable, person.__file__, *words])}"
    return subprocess.run(
        ["/bin/bash", "-c", f"({command}) {end}; exit ${{PIPESTATUS[0]}}"],
        env={
            "PATH": os.environ["PATH"],
            "TELLERWIRE_PASSPHRASE": PASSPHRASE,
            "TELLERWIRE_STATE": str(folder / "state"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


OUTPUTS = pytest.mark.parametrize(("output", "words"), [("full", "No space left"), ("gone", "")])


@OUTPUTS
def test_a_message_that_cant_be_shown_waits(
    run: Run, background: BackgroundWorld, tmp_path: Path, output: str, words: str
) -> None:
    for_ada = write_config(tmp_path, background.world, ADA)
    for_ben = write_config(tmp_path, background.world, BEN)
    run("listen", "--seconds", "0", "--config", for_ben)
    for text in ("first", "second"):
        assert run("send", "ben", text, "--config", for_ada).status == 0
    run("balance", "account1", "--config", for_ben)
    listen = ("listen", "--seconds", "20", "--config", str(for_ben))
    lost = printed_nowhere(tmp_path, output, *listen)
    assert lost.returncode == 1
    assert words in lost.stderr.decode()
    assert "Error" not in lost.stderr.decode()
    heard = run("listen", "--seconds", "0", "--config", for_ben).out
    assert [line.split("): ")[1] for line in heard.splitlines()] == ["first", "second"]


@OUTPUTS
def test_a_message_that_comes_and_cant_be_shown_waits(
    background: BackgroundWorld, tmp_path: Path, output: str, words: str
) -> None:
    config = str(write_config(tmp_path, background.world, BEN))

    async def greet() -> None:
        async with background.world.person(ADA) as ada:
            async with asyncio.timeout(SECONDS):
                while not background.world.relay.sessions["ben"]:
                    await asyncio.sleep(0.05)
            await say(ada, "ben", "Are you there?")

    greeting = background.begin(greet())
    lost = printed_nowhere(tmp_path, output, "listen", "--seconds", "20", "--config", config)
    greeting.cancel()
    assert lost.returncode == 1
    assert words in lost.stderr.decode()
    assert "Error" not in lost.stderr.decode()
    [message] = StateDirectory(tmp_path / "state" / "ben").waiting_messages()
    assert message.text == "Are you there?"


@pytest.mark.parametrize(
    ("output", "words", "more"), [("full", "No space left", ()), ("gone", "", ("--json",))]
)
def test_an_order_ends_as_it_has_ended_also_where_that_cant_be_said(
    run: Run,
    background: BackgroundWorld,
    config: Path,
    tmp_path: Path,
    *,
    output: str,
    words: str,
    more: tuple[str, ...],
) -> None:
    bank = background.world.bank
    order = ("transfer", "account1", "account2", "100", "--yes", "--config", str(config), *more)
    booked = printed_nowhere(tmp_path, output, *order)
    assert (booked.returncode, bank.booked) == (0, 1)
    assert words in booked.stderr.decode()
    assert "ok: transfer 100 from account1 to account2" in booked.stderr.decode()
    [done] = run("orders", "--all", "--json", "--config", config).json
    again = ("orders", "--again", done["order_id"], "--config", str(config), *more)
    assert printed_nowhere(tmp_path, output, *again).returncode == 0
    bank.silent_times = 999
    silent = printed_nowhere(tmp_path, output, *order, "--tries", "1", "--timeout", "0.1")
    assert silent.returncode == 3
    bank.silent_times = 0
    finished = printed_nowhere(tmp_path, output, "orders", "--finish", "--config", str(config))
    assert (finished.returncode, bank.booked) == (0, 2)
    refused = ("withdraw", "account1", "5000", "--yes", "--config", str(config), *more)
    assert printed_nowhere(tmp_path, output, *refused).returncode == 1
    assert bank.booked == 2


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_is_json_in_every_encoding(config: Path, tmp_path: Path, encoding: str) -> None:
    shown = printed(tmp_path, encoding, "show", "--json", "--config", str(config))
    assert shown.returncode == 0
    assert json.loads(shown.stdout.decode(encoding))["name"] == "Ärlig, Ada"


def test_json_hides_nothing_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["Ärlig 😀", "a\u202eb", "\x9b2J", "one\ntwo", "\U000e0041", "\u2028", "\x7f"]
    Display().json(texts)
    said = capsys.readouterr().out
    assert json.loads(said) == texts
    assert "Ärlig 😀" in said
    assert printable(said.replace("\n", "")) == said.replace("\n", "")


@pytest.mark.parametrize(
    "words", [("statement", "account1"), ("orders", "--all"), ("--help",), ("transfer", "--help")]
)
def test_tables_and_help_that_cant_be_written_are_said_to_be_so(
    run: Run, background: BackgroundWorld, config: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    background.world.bank.entries = 3
    run("withdraw", "account1", "1", "--yes", "--config", config)
    with_config = words if "--help" in words else (*words, "--config", str(config))
    lost = printed_nowhere(tmp_path, "full", *with_config)
    assert lost.returncode == 1
    said = lost.stderr.decode()
    assert said == "error: the output can't be written: No space left on device\n"


def test_a_table_too_wide_for_its_terminal_is_a_block_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [("account", False), ("owner", False), ("amount TWC", True)]
    rows = [("account1", "Ärlig, Ada\x1b", "1000"), ("account2", "Beispiel, Ben", "7")]
    # As wide as is needed for columns that can be read.
    display = Display()
    monkeypatch.setattr(display._out, "_width", 36)
    display.table(columns, rows)
    assert capsys.readouterr().out.split()[:3] == ["account", "owner", "amount"]
    monkeypatch.setattr(display._out, "_width", 35)
    display.table(columns, rows)
    assert capsys.readouterr().out == (
        "account:    account1\n"
        "owner:      Ärlig, Ada\\x1b\n"
        "amount TWC: 1000\n"
        "\n"
        "account:    account2\n"
        "owner:      Beispiel, Ben\n"
        "amount TWC: 7\n"
    )
    display.table(columns, [])
    assert "account" in capsys.readouterr().out


@pytest.mark.parametrize("zone", ["UTC+11", "UTC-13"])
def test_a_value_date_is_the_same_day_wherever_it_is_read(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", zone)
        time.tzset()
        assert date_text(1_700_006_400_000) == "2023-11-15"
    time.tzset()


@pytest.mark.parametrize("text", [time_text, date_text])
def test_a_time_beyond_the_calendar_is_told_as_the_number_that_it_is(
    text: Callable[[int], str],
) -> None:
    assert text(limits.MILLISECONDS_MAX) == f"{limits.MILLISECONDS_MAX} ms since 1970"

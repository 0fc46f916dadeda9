"""What the person's program prints, wherever it is printed to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clients import person
from tests.clients.typist import PASSPHRASE, BackgroundWorld

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


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_is_json_in_every_encoding(config: Path, tmp_path: Path, encoding: str) -> None:
    shown = printed(tmp_path, encoding, "show", "--json", "--config", str(config))
    assert shown.returncode == 0
    assert json.loads(shown.stdout.decode(encoding))["name"] == "Ärlig, Ada"

"""The person's program: a script that is stopped says of each action what became of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clients import person
from protocol import frames
from tests.clients.fake_relay import Session, until
from tests.clients.typist import PASSPHRASE, BackgroundWorld, Run, write_config
from tests.clients.world import ADA


def begun(tmp_path: Path, *words: object) -> subprocess.Popen[str]:
    """Start the program beside the test."""
    return subprocess.Popen(
        [sys.executable, person.__file__, *map(str, words)],
        env={
            "TELLERWIRE_PASSPHRASE": PASSPHRASE,
            "TELLERWIRE_STATE": str(tmp_path / "state"),
            "PYTHONUNBUFFERED": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_script_that_is_stopped_says_so_of_each_action(
    background: BackgroundWorld, tmp_path: Path, number: signal.Signals
) -> None:
    world = background.world
    world.bank.silent_times = 999
    actions = ("SEND [bank] SUB [account1] [1]", "SEND [bank] SUB [account1] [2]")
    config = write_config(tmp_path, world, ADA, actions, duration=60, timeout=20)
    process = begun(tmp_path, "run", config)
    background.run(until(lambda: bool(world.bank.seen), seconds=20))
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert [line for line in out.splitlines() if line.startswith("action")] == [
        "action 1/2 unknown: the program was stopped before the bank answered; find out with: "
        "orders --finish",
        "action 2/2 not done: the program was stopped",
    ]


def test_script_that_is_stopped_while_it_waits_for_somebody_says_so(
    background: BackgroundWorld, tmp_path: Path
) -> None:
    world = background.world
    actions = ("SEND [nobody] Hello",)
    config = write_config(tmp_path, world, ADA, actions, duration=60, timeout=20)
    process = begun(tmp_path, "run", config)
    background.run(
        until(lambda: any(isinstance(one, frames.Lookup) for one in world.relay.received), 20)
    )
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    stopped = "action 1/1 failed: nothing was sent: the program was stopped before nobody was there"
    assert stopped in out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_script_that_is_stopped_before_it_is_connected_says_what_was_not_done(
    config: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        contents = json.loads(config.read_text(encoding="utf-8"))
        contents |= {
            "server": {"ip": "127.0.0.1", "port": silent.getsockname()[1]},
            "actions": ["SEND [ben] Hello", "SEND [bank] SUB [account1] [1]"],
            "general": {"duration": 60, "retries": 5, "timeout": 20},
        }
        config.write_text(json.dumps(contents), encoding="utf-8")
        process = begun(tmp_path, "run", config)
        silent.settimeout(20)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(number)
            out, _ = process.communicate(timeout=20)
    assert process.returncode == status
    assert out.splitlines() == [
        "action 1/2 not done: the program was stopped",
        "action 2/2 not done: the program was stopped",
    ]


@pytest.mark.parametrize("words", [("run",), ("transfer", "account1", "account2", "1", "--yes")])
def test_order_that_is_stopped_before_the_banks_key_is_known_was_not_sent(
    run: Run,
    background: BackgroundWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    world = background.world
    actions = ("SEND [bank] SUB [account1] [1]",)
    config = write_config(tmp_path, world, ADA, actions, duration=60, timeout=20)
    asked = []

    async def take(session: Session, frame: frames.ClientFrame) -> None:
        asked.append(frame)

    monkeypatch.setattr(world.relay, "_take", take)
    process = begun(tmp_path, *words, "--config", config)
    background.run(until(lambda: bool(asked), 20))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "not done: the program was stopped" in out or "nothing was sent" in out
    assert "unknown" not in out
    assert run("orders", "--config", config).out == "no unfinished orders\n"


def test_relay_that_answers_no_look_up_keeps_no_script_beyond_its_time(
    run: Run, background: BackgroundWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = background.world
    actions = ("SEND [ben] Hello", "SEND [ben] Goodbye")
    config = write_config(tmp_path, world, ADA, actions, duration=1, timeout=20)

    async def take(session: Session, frame: frames.ClientFrame) -> None:
        assert isinstance(frame, frames.Lookup)

    monkeypatch.setattr(world.relay, "_take", take)
    began = time.monotonic()
    ended = run("run", config)
    assert time.monotonic() - began < 5
    assert ended.status == 1
    over = "the time that general.duration gives was over"
    assert [line for line in ended.out.splitlines() if line.startswith("action")] == [
        f"action 1/2 failed: nothing was sent: {over} before ben was there",
        f"action 2/2 not done: {over}",
    ]


def test_program_that_is_stopped_while_it_begins_says_nothing(tmp_path: Path) -> None:
    stop = "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(20)"
    (tmp_path / "typer.py").write_text(stop)
    environment = {"PYTHONPATH": str(tmp_path)}
    words = [sys.executable, person.__file__, "accounts"]
    stopped = subprocess.run(words, env=environment, capture_output=True, timeout=20, check=False)
    # As shells tell it, 130.
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (-signal.SIGINT, b"", b"")

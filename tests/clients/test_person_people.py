"""The person's program: messages, trust, scripts."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clients import person
from clients.customer import Customer, OrderResult
from clients.display import Display
from clients.errors import OutputError
from clients.memory import PinsOnDisk
from clients.messages import Messenger
from clients.retry import RetryPolicy
from clients.storage import StateDirectory
from protocol import frames
from protocol.banking import Withdraw
from protocol.bundles import Bundle
from protocol.errors import Code
from protocol.keys import format_fingerprint
from tests.clients.test_messages import other_identity, say
from tests.clients.typist import PASSPHRASE, BackgroundWorld, Run, write_config
from tests.clients.world import ADA, BEN, keys_of


def test_send_and_listen(run: Run, background: BackgroundWorld, tmp_path: Path) -> None:
    world = background.world
    for_ada = write_config(tmp_path, world, ADA)
    for_ben = write_config(tmp_path, world, BEN)
    assert run("listen", "--seconds", "0", "--config", for_ben).status == 0
    queued = run("send", "Beispiel, Ben", "Hello\x1b[31m Ben", "--config", for_ada)
    assert (queued.status, queued.out.split(":")[0]) == (0, "queued")
    # A short command takes the message in and keeps it; listen shows it.
    kept = run("balance", "account1", "--config", for_ben)
    assert kept.status == 0
    heard = run("listen", "--seconds", "0.2", "--config", for_ben)
    assert "message from Ärlig, Ada (ada): Hello\\x1b[31m Ben" in heard.out
    assert "\x1b[31m" not in heard.out
    assert run("listen", "--seconds", "0", "--config", for_ben).out == ""
    nobody = run("send", "nobody", "Hello", "--config", for_ada)
    assert (nobody.status, "unknown_recipient" in nobody.out) == (1, True)
    assert StateDirectory(tmp_path / "state" / "ben").waiting_messages() == []


def test_who_nobody_can_be_is_wrong_usage_at_once(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    for words in (
        ("send", "", "Hello"),
        ("send", "x" * 209, "Hello"),
        ("send", "Test, " + "x" * 203, "Hello"),
        ("send", "nobody here", "Hello"),
        ("trust", "", "--yes"),
        ("trust", "x" * 209, "--yes"),
        ("trust", "Beispiel, Ben", "--yes"),
    ):
        refused = run(*words, "--config", config)
        assert refused.status == 2, words
        assert re.match("error: .*is no client id|error: nobody has a name of more", refused.err)
    assert [type(frame) for frame in background.world.relay.received] == [frames.Register]


def test_people_are_told_of_with_their_fingerprints_once(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    for_ada = write_config(tmp_path, background.world, ADA)
    for_ben = write_config(tmp_path, background.world, BEN)
    run("listen", "--seconds", "0", "--config", for_ben)

    def said(*words: object) -> list[str]:
        lines = run(*words).err.splitlines()
        return [line for line in lines if line.startswith("new to you: ")]

    ada, ben = (format_fingerprint(keys.fingerprint) for keys in (ADA, BEN))
    assert said("send", "ben", "Hello", "--config", for_ada) == [
        f"new to you: Beispiel, Ben (ben), fingerprint {ben}"
    ]
    assert said("send", "ben", "Hello again", "--config", for_ada) == []
    # Whichever command takes the message in; the bank's fingerprint is configured, not learned.
    told = said("balance", "account1", "--config", for_ben)
    told += said("listen", "--seconds", "1", "--config", for_ben)
    assert told == [f"new to you: Ärlig, Ada (ada), fingerprint {ada}"]


def test_trust_shows_both_fingerprints_and_confirms(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    world = background.world
    config = write_config(tmp_path, world, ADA)
    run("listen", "--seconds", "0", "--config", write_config(tmp_path, world, BEN))
    assert run("send", "ben", "Hello", "--config", config).status == 0
    assert "was known before" in run("trust", "ben", "--config", config).out
    stranger = other_identity(BEN, signed_by=None)
    world.relay.bundles["ben"] = stranger.signed_bundle
    unconfirmed = run("trust", "ben", "--config", config)
    assert unconfirmed.status == 2
    for keys in (BEN, stranger):
        assert format_fingerprint(keys.fingerprint) in unconfirmed.out
    assert "safety number" in unconfirmed.out
    assert "was known before" not in unconfirmed.out
    assert run("trust", "ben", "--yes", "--config", config).status == 0
    assert run("send", "ben", "Hello you", "--config", config).status == 0
    assert run("trust", "ben", "--block", "--config", config).status == 0
    assert run("trust", "ben", "--unblock", "--config", config).status == 0
    both = run("trust", "ben", "--block", "--unblock", "--config", config)
    assert (both.status, both.err) == (2, "error: either --block or --unblock\n")
    kept = run("trust", "nobody", "--keep", "--yes", "--config", config)
    assert (kept.status, "none to keep" in kept.err) == (2, True)
    both = run("trust", "ben", "--keep", "--block", "--config", config)
    assert (both.status, both.err) == (2, "error: either --keep or --block\n")
    assert run("trust", "ben", "--keep", "--config", config).status == 0
    assert run("trust", "bank", "--config", config).status == 2
    assert run("trust", "--config", config).status == 2


def test_an_id_is_one_in_whatever_case_it_is_typed(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    world = background.world
    config = write_config(tmp_path, world, ADA)
    run("listen", "--seconds", "0", "--config", write_config(tmp_path, world, BEN))
    trusted = run("trust", "BEN", "--yes", "--config", config)
    assert "Beispiel, Ben (ben) is trusted with this key from now on" in trusted.out
    assert run("send", "BEN", "Hello", "--config", config).status == 0
    assert "the key is the one that was known before" in run("trust", "Ben", "--config", config).out
    assert run("trust", "BEN", "--block", "--config", config).out == "ben is blocked\n"
    assert run("trust", "BANK", "--config", config).status == 2
    assert PinsOnDisk(StateDirectory(tmp_path / "state" / "ada")).pin("BEN") is None
    # A relay can't put somebody of another case in the place of a known person.
    world.relay.substitutes["ben"] = [keys_of("BEN", "Beispiel, Ben").signed_bundle]
    refused = run("trust", "BEN", "--yes", "--config", config)
    assert (refused.status, "bad_bundle" in refused.out) == (1, True)
    assert "BEN, who is known here as ben" in refused.out


def test_renamed_relay_has_to_be_confirmed(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    assert run("balance", "account1", "--config", config).status == 0
    background.world.relay.name = "renamed"
    refused = run("balance", "account1", "--config", config)
    assert refused.status == 1
    assert "trust --relay-renamed" in refused.err
    assert run("trust", "--relay-renamed", "--config", config).status == 0
    assert run("balance", "account1", "--config", config).status == 0


def test_script_runs_in_order_with_a_line_for_each_action(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    world = background.world
    run("listen", "--seconds", "0", "--config", write_config(tmp_path, world, BEN))
    config = write_config(
        tmp_path,
        world,
        ADA,
        (
            "SEND [ben] Hello Ben",
            "SEND [bank] ADD [account1] [account2] [100]",
            "SEND [bank] SUB [account2] [100]",
        ),
    )
    done = run("run", config, "--once")
    lines = [line for line in done.out.splitlines() if line.startswith("action ")]
    assert done.status == 0
    assert [line.split(":")[0] for line in lines] == [
        "action 2/3 ok",
        "action 3/3 ok",
        "action 1/3 queued",
    ]
    assert world.bank.balances["account1"] == 900
    as_json = run("run", config, "--once", "--json-lines")
    events = [json.loads(line) for line in as_json.out.splitlines()]
    assert [event["ok"] for event in events if event["event"] == "action"] == [True] * 3


def test_one_failing_action_doesnt_stop_the_next(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path,
        background.world,
        ADA,
        (
            "SEND [bank] SUB [account1] [5000]",
            "SEND [nobody] Hello",
            "SEND [bank] SUB [account1] [100]",
        ),
        timeout=0.1,
        retries=2,
    )
    done = run("run", config, "--once")
    assert done.status == 1
    assert "action 1/3 refused: insufficient_funds" in done.out
    assert "action 2/3 refused: unknown_recipient" in done.out
    waiting = "waiting up to 1 s for nobody, whom the relay doesn't know yet (action 2/3)"
    assert done.err.splitlines().count(waiting) == 1
    assert "action 3/3 ok: withdraw 100" in done.out


def test_a_script_waits_for_a_recipient_who_registers_later(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    world = background.world
    config = write_config(
        tmp_path, world, ADA, ("SEND [ben] first", "SEND [ben] second"), retries=40
    )

    async def appear() -> list[str]:
        async with asyncio.timeout(10):
            while not any(getattr(frame, "query", "") == "ben" for frame in world.relay.received):
                await asyncio.sleep(0.01)
            async with world.person(BEN) as ben:
                while len(ben.messages) < 2:
                    await asyncio.sleep(0.01)
                return [message.text for message in ben.messages]

    appearing = background.begin(appear())
    done = run("run", config)
    assert appearing.result(10) == ["first", "second"]
    assert done.status == 0
    assert re.search(r"waiting up to \d s for ben, whom the relay doesn't know", done.err)
    assert "action 2/2 waits" not in done.err
    assert done.out.count("action ") == 2


def test_script_ends_with_its_duration_and_says_what_is_unfinished(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    background.world.bank.silent_times = 999
    config = write_config(
        tmp_path,
        background.world,
        ADA,
        ("SEND [bank] SUB [account1] [1]", "SEND [bank] SUB [account1] [2]"),
        duration=0.8,
        retries=100,
    )
    done = run("run", config)
    assert done.status == 1
    assert "action 1/2 unknown" in done.out
    assert "action 2/2 not done: the time that general.duration gives was over" in done.out
    assert len(run("orders", "--json", "--config", config).json) == 1


def test_whatever_goes_wrong_with_an_action_gets_a_line_and_the_next_is_tried(
    run: Run, background: BackgroundWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("listen", "--seconds", "0", "--config", write_config(tmp_path, background.world, BEN))
    actions = (
        # As JSON it has six times as many characters, which is more than a message may have.
        "SEND [ben] " + "\x01" * 16_000,
        "SEND [ben] Hello Ben",
        "SEND [bank] SUB [account1] [1]",
        "SEND [bank] SUB [account1] [2]",
    )
    config = write_config(tmp_path, background.world, ADA, actions)
    submit, send = Customer.submit, Messenger.send

    async def half_broken(customer: Customer, order: Withdraw, **more: Any) -> OrderResult:
        if order.amount == "1":
            raise ZeroDivisionError("oh")
        return await submit(customer, order, **more)

    def half_broken_send(messenger: Messenger, to: Bundle, text: str, policy: RetryPolicy) -> Any:
        if text == "Hello Ben":
            raise ZeroDivisionError("no")
        return send(messenger, to, text, policy)

    monkeypatch.setattr(Customer, "submit", half_broken)
    monkeypatch.setattr(Messenger, "send", half_broken_send)
    done = run("run", config, "--once")
    assert done.status == 1
    assert "Error" not in done.out + done.err
    lines = [line for line in done.out.splitlines() if line.startswith("action ")]
    assert [line[:33] for line in lines] == [
        "action 1/4 failed: a message has ",
        "action 2/4 failed: something went",
        "action 3/4 unknown: something wen",
        "action 4/4 ok: withdraw 2 from ac",
    ]
    assert lines[2].endswith("find out with: orders --finish")


def test_script_begins_nothing_more_when_its_lines_cant_be_written(
    run: Run, background: BackgroundWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = tuple(f"SEND [bank] SUB [account1] [{amount}]" for amount in (1, 2, 4))
    config = write_config(tmp_path, background.world, ADA, actions)

    def full(display: Display, text: str) -> None:
        if "action 2/3" in text:
            raise OutputError(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(Display, "write", full)
    done = run("run", config, "--once")
    assert done.status == 1
    assert "No space left on device; action 2/3 ok: withdraw 2" in done.err
    assert background.world.bank.balances["account1"] == 1000 - 1 - 2


def test_script_stays_for_its_duration_and_takes_messages(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    config = write_config(tmp_path, background.world, BEN, duration=1.5)

    async def greet() -> None:
        async with background.world.person(ADA) as ada:
            for _ in range(100):
                if background.world.relay.sessions["ben"]:
                    break
                await asyncio.sleep(0.05)
            await say(ada, "ben", "Are you there?")

    greeting = background.begin(greet())
    done = run("run", config)
    greeting.result(10)
    assert done.status == 0
    assert "message from Ärlig, Ada (ada): Are you there?" in done.out


def test_nothing_is_sent_of_a_script_with_a_wrong_action(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path,
        background.world,
        ADA,
        ("SEND [bank] SUB [account1] [100]", "SEND [bank] MUL [account1] [2]"),
    )
    refused = run("run", config, "--once")
    assert refused.status == 2
    assert "actions[2]" in refused.err
    assert background.world.relay.received[1:] == []


def test_script_without_a_configuration_is_wrong_usage(run: Run) -> None:
    assert run("run").status == 2
    assert run("run", "/nowhere.json").status == 2


def test_script_without_a_relay_says_what_was_not_done(run: Run, config: Path) -> None:
    contents = json.loads(config.read_text(encoding="utf-8"))
    contents |= {
        "server": {"ip": "127.0.0.1", "port": 1},
        "actions": ["SEND [ben] Hello", "SEND [bank] SUB [account1] [1]"],
        "general": {"duration": 0.3, "retries": 5, "timeout": 0.5},
    }
    config.write_text(json.dumps(contents), encoding="utf-8")
    done = run("run", config)
    assert done.status == 1
    assert [line.split(":")[0] for line in done.out.splitlines()] == [
        "action 1/2 not done",
        "action 2/2 not done",
    ]
    assert re.search(r"no connection to the relay at \S+ within 0\.\d seconds", done.err)
    assert "not done: there was no connection to the relay within general.duration" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_listening_ends_in_good_order_when_it_is_asked_to(
    background: BackgroundWorld, config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    environment = {
        "TELLERWIRE_PASSPHRASE": PASSPHRASE,
        "TELLERWIRE_STATE": str(tmp_path / "state"),
        "PYTHONUNBUFFERED": "1",
    }
    program = Path(person.__file__)
    process = subprocess.Popen(
        [sys.executable, program, "listen", "--config", config],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "listening as Ärlig, Ada" in process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
    assert background.world.relay.registrations == 2


def test_script_keeps_no_order_for_a_bank_with_another_key(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    actions = ("SEND [bank] SUB [account1] [1]",)
    config = write_config(tmp_path, background.world, ADA, actions)
    foreign = other_identity(keys_of("bank", "Bank, Demo"), signed_by=None).signed_bundle
    background.world.relay.substitutes["bank"] = [foreign]
    done = run("run", config, "--once")
    assert (done.status, "action 1/1 refused: peer_key_changed" in done.out) == (1, True)
    assert run("orders", "--config", config).out == "no unfinished orders\n"


def test_orders_of_a_script_without_the_banks_fingerprint_are_refused_before_anything_is_sent(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    actions = ("SEND [ben] Hello", "SEND [bank] SUB [account1] [1]")
    config = write_config(tmp_path, background.world, ADA, actions)
    contents = json.loads(config.read_text(encoding="utf-8"))
    del contents["bank"]
    config.write_text(json.dumps(contents), encoding="utf-8")
    refused = run("run", config, "--once")
    assert (refused.status, "fingerprint is not configured" in refused.err) == (2, True)
    assert [line.split(" not done")[0] for line in refused.out.splitlines()] == [
        "action 1/2",
        "action 2/2",
    ]
    assert background.world.relay.registrations == 1


def test_orders_that_are_addressed_by_the_banks_name_are_told_to_use_its_id(
    run: Run, background: BackgroundWorld, tmp_path: Path
) -> None:
    actions = ("SEND [Bank, Demo] SUB [account1] [1]",)
    config = write_config(tmp_path, background.world, ADA, actions)
    refused = run("run", config, "--once")
    assert refused.status == 1
    assert "action 1/1 refused: unsupported_purpose" in refused.out
    assert "Orders are addressed to the bank's id: `SEND [bank] …`" in refused.out
    assert background.world.relay.sent() == []
    # A bank that isn't the configured one says what it doesn't take, and no more.
    contents = json.loads(config.read_text(encoding="utf-8"))
    contents["bank"]["id"] = "other-bank"
    config.write_text(json.dumps(contents), encoding="utf-8")
    background.world.bank.transient = [Code.UNSUPPORTED_PURPOSE]
    refused = run("run", config, "--once")
    assert "action 1/1 refused: unsupported_purpose" in refused.out
    assert "Orders are addressed to the bank's id: `SEND [other-bank] …`" in refused.out

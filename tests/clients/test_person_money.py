"""The person's program: money, receipts, unfinished orders."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clients import person
from clients.commands import money
from clients.commands.connected import talk
from clients.errors import StorageError
from clients.receipts import Receipts
from clients.records import OrderRecord
from protocol import limits
from protocol.encoding import b64u, unb64u
from protocol.errors import Code
from protocol.keys import format_fingerprint
from tests.clients.fake_relay import until
from tests.clients.test_messages import other_identity
from tests.clients.typist import PASSPHRASE, BackgroundWorld, Run, Typed, write_key
from tests.clients.world import ADA, BANK, BEN


@pytest.mark.usefixtures("background")
def test_transfer_receipt_and_verification(run: Run, config: Path, tmp_path: Path) -> None:
    done = run("transfer", "account1", "account2", "100", "--yes", "--config", config)
    assert done.status == 0
    assert done.out.startswith("ok: transfer 100 from account1 to account2 — now account1: 900 TWC")
    [receipt] = (tmp_path / "state" / "ada" / "receipts").glob("*.json")
    assert str(receipt) in done.out
    checked = run("verify", receipt, "--config", config)
    assert checked.status == 0
    assert "genuine: signed by Bank, Demo (bank)" in checked.out
    assert "transfer 100 from account1 to account2" in checked.out
    assert "signed by ada" in checked.out
    assert format_fingerprint(ADA.fingerprint) in checked.out
    by_option = run("verify", receipt, "--bank-fingerprint", BANK.fingerprint.hex(), "--json")
    assert by_option.json["outcome"] == "accepted"


@pytest.mark.usefixtures("background")
def test_money_that_moved_is_not_said_to_have_failed_where_its_receipt_is_not_kept(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Receipts, records: Sequence[OrderRecord]) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Receipts, "keep", full)
        done = run("transfer", "account1", "account2", "100", "--yes", "--config", config)
    assert done.status == 3
    assert "have ended, but the receipts could not be kept: the disk is full" in done.out
    assert "orders --finish" in done.out
    finished = run("orders", "--finish", "--config", config)
    assert finished.status == 0
    assert "ok: transfer 100 from account1 to account2 — now account1: 900 TWC" in finished.out


@pytest.mark.usefixtures("background")
def test_edited_receipts_are_not_genuine(run: Run, config: Path, tmp_path: Path) -> None:
    run("transfer", "account1", "account2", "100", "--yes", "--config", config)
    [receipt] = (tmp_path / "state" / "ada" / "receipts").glob("*.json")
    good = json.loads(receipt.read_text())

    def verified(**changes: object) -> Typed:
        edited = tmp_path / "edited.json"
        edited.write_text(json.dumps(good | changes))
        return run("verify", edited, "--config", config)

    assert verified().status == 0
    raw = unb64u(good["receipt"]["receipt"])
    more = b64u(raw.replace(b'"amount":100', b'"amount":900'))
    other_evidence = b64u(unb64u(good["evidence"]).replace(b'"100"', b'"900"'))
    for changes in (
        {"receipt": good["receipt"] | {"receipt": more}},
        {"receipt": good["receipt"] | {"signature": b64u(bytes(64))}},
        {"evidence": other_evidence},
        {"order_id": good["order_id"][:-1] + ("0" if good["order_id"][-1] != "0" else "1")},
        {"person": "ben"},
        {"person_key": b64u(BEN.identity.public)},
        {"person_key": "no key"},
        {"person_fingerprint": BEN.fingerprint.hex()},
        {
            "bank_bundle": json.loads(
                json.dumps(
                    {
                        "bundle": BEN.signed_bundle.bundle,
                        "signature": BEN.signed_bundle.signature,
                        "previous_signature": None,
                    }
                )
            )
        },
        {"bank_fingerprint": BEN.fingerprint.hex()},
        {"receipt": None},
    ):
        result = verified(**changes)
        assert result.status == 1, changes
        assert "not_authentic" in result.out
    damaged = verified(extra=1)
    assert (damaged.status, "damaged" in damaged.err) == (1, True)
    # The words beside the evidence prove nothing, and are not repeated.
    assert "1000000" not in verified(meaning="transfer 1000000").out
    wrong_bank = run("verify", receipt, "--bank-fingerprint", "00" * 16)
    assert (wrong_bank.status, "another fingerprint" in wrong_bank.out) == (1, True)
    assert run("verify", receipt).status == 2


def test_refusals_are_said_in_words_with_their_code(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    refused = run("withdraw", "account1", "5000", "--yes", "--config", config)
    assert refused.status == 1
    assert refused.out.startswith("refused: insufficient_funds — account1 has 1000")
    unavailable = run("balance", "nobodys", "--config", config)
    assert unavailable.status == 1
    assert "account_unavailable" in unavailable.out
    assert background.world.bank.booked == 0


def test_wrong_accounts_and_amounts_are_named_before_anything_is_sent(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    for words in (
        ("transfer", "acc ount", "account2", "100"),
        ("transfer", "account1", "account2", ""),
        ("deposit", "", "1"),
        ("withdraw", "account1", "1" * (limits.AMOUNT_CHARS_MAX + 1)),
        ("transfer", "account1", "account2", "1", "--memo", "x" * 141),
        ("transfer", "account1", "account2", "1", "--currency", "eur"),
        ("withdraw", "account1", "1", "--currency", "EU"),
        ("deposit", "account1", "1", "--currency", "E" * 13),
    ):
        result = run(*words, "--yes", "--config", config)
        assert result.status == 2
        assert result.err.startswith("error: ")
    assert background.world.bank.seen == []
    assert run("statement", "account1", "--before", 2**53, "--config", config).status == 2
    in_twc = ("withdraw", "account1", "1", "--currency", "TWC", "--yes", "--config", config)
    assert run(*in_twc).status == 0


@pytest.mark.usefixtures("background")
def test_balance_and_accounts(run: Run, config: Path) -> None:
    assert run("balance", "account1", "--config", config).out == "account1: 1000 TWC, open\n"
    assert (
        run("balance", "account1", "--json", "--config", config).json["balance"]["balance"] == 1000
    )
    assert run("accounts", "--json", "--config", config).json["accounts"] == []


@pytest.mark.usefixtures("background")
def test_statement_as_table_json_and_csv(
    run: Run, config: Path, background: BackgroundWorld
) -> None:
    background.world.bank.entries = 250
    table = run("statement", "account1", "--limit", "3", "--config", config)
    assert "--before 248" in table.out
    newest = run("statement", "account1", "--limit", "3", "--json", "--config", config)
    assert [entry["sequence"] for entry in newest.json["entries"]] == [250, 249, 248]
    older = run(
        "statement", "account1", "--limit", "120", "--before", "248", "--json", "--config", config
    )
    assert [entry["sequence"] for entry in older.json["entries"]] == list(range(247, 127, -1))
    everything = run("statement", "account1", "--all", "--csv", "--config", config)
    rows = list(csv.DictReader(io.StringIO(everything.out)))
    assert [int(row["sequence"]) for row in rows] == list(range(250, 0, -1))
    assert rows[0]["memo"] == "'=1+1"
    assert run("statement", "account1", "--csv", "--json", "--config", config).status == 2


def test_csv_keeps_every_character_but_gives_a_terminal_none_that_it_would_obey(
    run: Run, background: BackgroundWorld, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background.world.bank.entries = 1
    background.world.bank.memo = "rent\x1b[2J\u202e\0\n"
    statement = ("statement", "account1", "--csv", "--config", config)
    in_a_file = run(*statement)
    [row] = csv.DictReader(io.StringIO(in_a_file.out, newline=""))
    assert row["memo"] == background.world.bank.memo
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    at_a_terminal = run(*statement).out
    assert "rent\\x1b[2J\\u202e\\x00\\n," in at_a_terminal
    assert not set(background.world.bank.memo[4:]) & set(at_a_terminal) - set("[2J\n")


def test_unknown_outcome_is_said_kept_and_found_out(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    bank = background.world.bank
    bank.silent_times = 99
    words = ("transfer", "account1", "account2", "100", "--yes", "--config", config)
    unknown = run(*words, "--tries", "2", "--timeout", "0.1")
    assert unknown.status == 3
    assert "orders --finish" in unknown.out
    listed = run("orders", "--json", "--config", config)
    assert [order["outcome"] for order in listed.json] == ["unknown"]
    assert "transfer 100 from account1" in run("orders", "--config", config).out
    checked = run("verify", listed.json[0]["file"], "--config", config)
    assert (checked.status, "is a log of the outbox" in checked.err) == (2, True)
    bank.silent_times = 0
    finished = run("orders", "--finish", "--config", config)
    assert finished.status == 0
    assert "ok: transfer 100" in finished.out
    assert run("orders", "--finish", "--config", config).out == "no unfinished orders\n"
    assert bank.booked == 1
    [order] = run("orders", "--all", "--json", "--config", config).json
    assert (order["operation"], order["outcome"]) == ("transfer", "accepted")
    before = Path(order["file"]).read_bytes()
    again = run("orders", "--again", order["order_id"], "--config", config)
    assert again.status == 0
    assert "the same receipt, byte for byte" in again.out
    assert Path(order["file"]).read_bytes() == before
    assert bank.booked == 1
    assert run("orders", "--again", "0" * 8, "--config", config).status == 2


def test_command_that_takes_a_late_answer_says_how_the_order_ended(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    world = background.world
    hasty = ("--config", config, "--yes", "--tries", "1", "--timeout", "0.1")
    for amount, outcome in ((100, "accepted"), (5000, "refused: insufficient_funds")):
        # The bank's answer comes when the person is away.
        world.bank.silent_times = 1
        meaning = f"transfer {amount} from account1 to account2"
        assert run("transfer", "account1", "account2", amount, *hasty).status == 3
        background.run(world.relay.drop("bank"))
        background.run(until(lambda: bool(world.relay.mailbox["ada"])))
        listed = run("balance", "account1", "--config", config)
        assert listed.status == 0
        [line] = [each for each in listed.err.splitlines() if "ended meanwhile" in each]
        assert line.startswith("order ")
        assert f"({meaning}) ended meanwhile: {outcome}" in line
    assert run("orders", "--finish", "--config", config).out == "no unfinished orders\n"


@pytest.mark.usefixtures("background")
def test_order_that_is_given_again_names_the_unfinished_one(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    words = ("transfer", "account1", "account2", "100", "--config", config, "--yes")
    background.world.bank.silent_times = 1
    first = run(*words, "--tries", "1", "--timeout", "0.1")
    assert (first.status, first.err) == (3, "")
    [order] = run("orders", "--json", "--config", config).json
    named = f"an order with the same content is unfinished: {order['order_id']}; `orders --finish`"
    assert named in run(*words).err
    other = run("transfer", "account1", "account2", "101", "--config", config, "--yes")
    assert (other.status, other.err) == (0, "")
    actions = ["SEND [bank] ADD [account1] [account2] [100]"]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"actions": actions}))
    script = run("run", config, "--once")
    assert (script.status, f"action 1/1: {named}" in script.err) == (0, True)


def test_finishing_as_json_is_a_list_of_what_became_of_each(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    finish = ("orders", "--finish", "--json", "--config", config)
    assert run(*finish).json == []
    bank = background.world.bank
    bank.silent_times = 99
    hasty = ("--config", config, "--yes", "--tries", "1", "--timeout", "0.1")
    for amount in (100, 5000):
        assert run("withdraw", "account1", amount, *hasty).status == 3
    unknown = run(*finish, "--tries", "1", "--timeout", "0.1")
    assert (unknown.status, [each["state"] for each in unknown.json]) == (3, ["unknown"] * 2)
    bank.silent_times = 0
    finished = run(*finish)
    assert finished.status == 0
    assert [(each["state"], each["code"]) for each in finished.json] == [
        ("accepted", None),
        ("refused", "insufficient_funds"),
    ]
    assert finished.json[0]["receipt"]["outcome"] == "accepted"
    assert run(*finish).json == []
    both = run(*finish, "--again", finished.json[0]["order_id"])
    assert (both.status, both.err) == (2, "error: either --finish or --again\n")


def test_finishing_tells_of_orders_for_another_bank(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    background.world.bank.silent_times = 99
    hasty = ("--config", config, "--yes", "--tries", "1", "--timeout", "0.1")
    assert run("withdraw", "account1", "1", *hasty).status == 3
    other = ("--bank-fingerprint", BEN.fingerprint.hex(), "--config", config)
    told = run("orders", "--finish", *other)
    assert (told.status, "unknown: peer_key_changed" in told.out) == (3, True)
    [listed] = run("orders", "--finish", "--json", *other).json
    assert (listed["state"], listed["code"]) == ("unknown", "peer_key_changed")


def test_bank_that_gives_another_receipt_is_told_of(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    run("transfer", "account1", "account2", "100", "--yes", "--config", config)
    background.world.bank.receipts.clear()
    [order] = run("orders", "--all", "--json", "--config", config).json
    again = run("orders", "--again", order["order_id"], "--config", config)
    assert again.status == 1
    assert "another receipt" in again.err


def test_changed_bank_is_refused_in_words(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    background.world.relay.substitutes["bank"] = [
        other_identity(BANK, signed_by=BANK.identity).signed_bundle
    ]
    refused = run("transfer", "account1", "account2", "1", "--yes", "--config", config)
    assert refused.status == 1
    assert "refused: peer_key_changed" in refused.out
    assert "nothing was sent" in refused.err
    assert background.world.bank.seen == []
    # Once the right key is there, nothing is left that would move the money a second time.
    del background.world.relay.substitutes["bank"]
    assert run("orders", "--finish", "--config", config).out == "no unfinished orders\n"
    assert run("transfer", "account1", "account2", "1", "--yes", "--config", config).status == 0
    assert background.world.bank.booked == 1


def test_bank_that_changes_after_the_order_was_sent_leaves_it_unknown(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    world = background.world
    run("balance", "account1", "--config", config)
    world.bank.silent_times = 1
    foreign = other_identity(BANK, signed_by=BANK.identity).signed_bundle
    world.relay.substitutes["bank"] = [foreign]
    unknown = run("transfer", "account1", "account2", "1", "--yes", "--config", config)
    assert (unknown.status, "unknown: transfer 1" in unknown.out) == (3, True)
    assert "peer_key_changed" in unknown.out
    assert "orders --finish" in unknown.out
    del world.relay.substitutes["bank"]
    assert "ok: transfer 1" in run("orders", "--finish", "--config", config).out
    assert world.bank.booked == 1


def test_without_fingerprint_no_bank(run: Run, background: BackgroundWorld, tmp_path: Path) -> None:
    key = write_key(tmp_path / "ada.key", ADA)
    result = run("balance", "account1", "--key", key, "--relay", background.world.relay.url)
    assert result.status == 2
    assert "fingerprint is not configured" in result.err


def test_relay_that_isnt_there_is_said(run: Run, tmp_path: Path, config: Path) -> None:
    result = run(
        "balance",
        "account1",
        "--config",
        config,
        "--relay",
        "ws://127.0.0.1:1/relay",
        "--tries",
        "1",
        "--timeout",
        "0.1",
    )
    assert result.status == 1
    assert "no connection to the relay" in result.err


def test_refused_registration_is_said(
    run: Run, background: BackgroundWorld, config: Path, tmp_path: Path
) -> None:
    background.world.relay.bundles["ada"] = other_identity(ADA, signed_by=None).signed_bundle
    result = run("balance", "account1", "--config", config)
    assert result.status == 1
    assert Code.ID_TAKEN.value in result.err


def test_refusals_and_silence_are_json_where_json_is_wanted(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    def told(*words: str) -> tuple[int, str, str | None]:
        typed = run(*words, "--json", "--config", config)
        facts = typed.json
        assert facts["detail"]
        return typed.status, facts["state"], facts["code"]

    for asked in (("balance", "nobodys"), ("statement", "nobodys")):
        assert told(*asked) == (1, "refused", "account_unavailable")
    assert told("send", "nobody", "Hello") == (1, "refused", "unknown_recipient")
    background.world.bank.silent_times = 99
    hasty = ("--tries", "1", "--timeout", "0.1")
    assert told("accounts", *hasty) == (3, "unknown", None)
    background.world.relay.substitutes["bank"] = [
        other_identity(BANK, signed_by=None).signed_bundle
    ]
    Path(config.parent / "state" / "ada" / "pins.json").unlink()
    order = ("transfer", "account1", "account2", "1", "--yes")
    assert told(*order) == (1, "refused", "peer_key_changed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_order_interrupted_by_a_person_is_not_lost(
    run: Run, background: BackgroundWorld, config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    bank = background.world.bank
    bank.silent_times = 999
    words = ["transfer", "account1", "account2", "100", "--yes", "--config", str(config)]
    process = subprocess.Popen(
        [sys.executable, person.__file__, *words],
        env={"TELLERWIRE_PASSPHRASE": PASSPHRASE, "TELLERWIRE_STATE": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        text=True,
    )
    background.run(until(lambda: bool(bank.seen), seconds=20))
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 3
    assert out.startswith("unknown: stopped")
    assert "orders --finish" in out
    bank.silent_times = 0
    assert run("orders", "--finish", "--config", config).status == 0
    assert bank.booked == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_question_that_is_stopped_ends_with_a_status_of_its_own(
    background: BackgroundWorld,
    config: Path,
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    background.world.bank.silent_times = 999
    process = subprocess.Popen(
        [sys.executable, person.__file__, "balance", "account1", "--config", str(config)],
        env={"TELLERWIRE_PASSPHRASE": PASSPHRASE, "TELLERWIRE_STATE": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        text=True,
    )
    background.run(until(lambda: bool(background.world.relay.sent()), seconds=20))
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (status, "")


def test_killed_program_leaves_an_order_that_another_one_finishes(
    run: Run, background: BackgroundWorld, config: Path, tmp_path: Path
) -> None:
    bank = background.world.bank
    bank.silent_times = 999
    words = ["transfer", "account1", "account2", "100", "--yes", "--config", str(config)]
    process = subprocess.Popen(
        [sys.executable, person.__file__, *words],
        env={"TELLERWIRE_PASSPHRASE": PASSPHRASE, "TELLERWIRE_STATE": str(tmp_path / "state")},
    )
    background.run(until(lambda: bool(bank.seen), seconds=20))
    process.kill()
    process.wait(20)
    bank.silent_times = 0
    finished = run("orders", "--finish", "--config", config)
    assert (finished.status, "ok: transfer 100" in finished.out) == (0, True)
    assert bank.booked == 1
    assert len({evidence for _, evidence in bank.seen}) == 1


def test_order_that_has_ended_is_told_of_where_the_program_is_stopped_after_it(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk_and_be_stopped(*arguments: Any) -> None:
        talk(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(money, "talk", talk_and_be_stopped)
    ended = run("withdraw", "account1", "1", "--yes", "--config", config)
    assert ended.status == 0
    assert ended.out.startswith("ok: withdraw 1 from account1")

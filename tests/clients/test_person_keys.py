"""The person's program: keys, passphrases, the program itself."""

from __future__ import annotations

import getpass
import json
import os
import re
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clients import person
from clients.commands.options import open_key
from clients.connection import system_clock
from clients.files import locked, put_private
from protocol.keyfile import KeyFile, decrypt_key_file, rotate_prekeys
from protocol.keys import format_fingerprint
from tests.cheap_keys import encrypt_cheaply
from tests.clients.test_config import RSA_KEY
from tests.clients.typist import (
    PASSPHRASE,
    BackgroundWorld,
    Run,
    Typed,
    write_key,
)
from tests.clients.world import ADA, BEN


@pytest.fixture(autouse=True)
def cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.commands.keys.encrypt_key_file", encrypt_cheaply)


def test_keygen_show_and_bundle(run: Run, tmp_path: Path) -> None:
    key = tmp_path / "new.key"
    made = run("keygen", "new", "Neu, Nina", "--out", key)
    assert made.status == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    keys = decrypt_key_file(key.read_bytes(), PASSPHRASE)
    assert format_fingerprint(keys.fingerprint) in made.out
    shown = run("show", "--key", key, "--json")
    assert shown.json["fingerprint"] == format_fingerprint(keys.fingerprint)
    bundle = run("show", "--key", key, "--bundle")
    assert set(bundle.json) == {"bundle", "signature", "previous_signature"}
    assert bundle.json["bundle"] == keys.signed_bundle.bundle
    out = tmp_path / "bundle.json"
    assert run("show", "--key", key, "--out", out).status == 0
    compared = run("show", "--key", key, "--with", out)
    assert "safety number" in compared.out
    assert run("show", "--key", key, "--with", keys.fingerprint.hex()).out == compared.out


def test_keygen_never_overwrites_and_warns_of_weak_passphrases(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "new.key"
    key.write_text("precious")
    again = run("keygen", "new", "Neu, Nina", "--out", key)
    assert (again.status, key.read_text()) == (2, "precious")
    monkeypatch.setenv("TELLERWIRE_PASSPHRASE", "short")
    weak = run("keygen", "new", "Neu, Nina", "--out", tmp_path / "weak.key")
    assert weak.status == 0
    assert "weak" in weak.err
    monkeypatch.setenv("TELLERWIRE_PASSPHRASE", "")
    assert run("keygen", "new", "Neu, Nina", "--out", tmp_path / "none.key").status == 2


@pytest.mark.parametrize(("client_id", "name"), [("a b", "Neu, Nina"), ("new", "Nina Neu")])
def test_keygen_says_what_an_id_and_a_name_look_like(run: Run, client_id: str, name: str) -> None:
    made = run("keygen", client_id, name)
    assert made.status == 2
    assert made.err.startswith("error: ")


def test_the_public_key_of_a_configuration_has_to_fit(
    run: Run, config: Path, tmp_path: Path
) -> None:
    contents = json.loads(config.read_text(encoding="utf-8"))
    bundle = tmp_path / "bundle.json"
    assert run("show", "--config", config, "--out", bundle).status == 0

    def shown(public: str) -> Typed:
        contents["person"]["keys"]["public"] = public
        config.write_text(json.dumps(contents), encoding="utf-8")
        return run("show", "--config", config)

    for good in (format_fingerprint(ADA.fingerprint), ADA.fingerprint.hex(), bundle.name):
        assert (shown(good).status, shown(good).err) == (0, "")
    for bad in (format_fingerprint(BEN.fingerprint), "nowhere.json", config.name, "z\0z"):
        refused = shown(bad)
        assert refused.status == 2
        assert f"{config}: person.keys.public: " in refused.err
    # What the original's files held is of no use, but no reason to stop either.
    old = shown("MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEA" + "x" * 690)
    assert old.status == 0
    assert "warning" in old.err
    assert format_fingerprint(ADA.fingerprint) in old.err


def test_wrong_passphrase_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write_key(tmp_path / "ada.key", ADA)
    monkeypatch.setenv("TELLERWIRE_PASSPHRASE", "wrong")
    shown = run("show", "--key", key)
    assert shown.status == 1
    assert "passphrase" in shown.err
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\nmore")
    assert run("show", "--key", key, "--passphrase-file", file).status == 0
    monkeypatch.delenv("TELLERWIRE_PASSPHRASE")
    assert run("show", "--key", key).status == 2


def test_text_that_isnt_unicode_is_named_and_no_file_is_blamed(
    run: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, name in (
        (("send", "ben", "\udcff"), "text"),
        (("send", "\udcff", "hi"), "to"),
        (("keygen", "new", "Neu, \ud800", "--out", tmp_path / "no.key"), "name"),
        (("balance", "\udcff"), "account"),
        (("transfer", "a", "b", "1", "--yes", "--memo", "\udcff"), "memo"),
        (("balance", "account1", "--relay", "ws://\udcff/"), "relay"),
        (("show", "--with", "\udcff"), "compare"),
    ):
        refused = run(*words, "--config", config)
        assert refused.status == 2, words
        assert re.match(rf"error: {name}: character \d+ is not Unicode$", refused.err), refused.err
    new = tmp_path / "new"
    new.write_bytes(b"\xff")
    monkeypatch.setenv("TELLERWIRE_PASSPHRASE", "\udcff")
    refusals: tuple[tuple[tuple[str | Path, ...], str], ...] = (
        (("show",), "the passphrase in TELLERWIRE_PASSPHRASE is not Unicode"),
        (("show", "--passphrase-file", new), f"the passphrase file {new} is no text in UTF-8"),
        (
            ("keygen", "new", "Neu, Nina", "--out", tmp_path / "no.key"),
            "the passphrase in TELLERWIRE_PASSPHRASE is not Unicode",
        ),
    )
    for command, problem in refusals:
        refused = run(*command, "--config", config)
        assert (refused.status, refused.err) == (2, f"error: {problem}\n")
    assert not (tmp_path / "no.key").exists()


def test_a_typed_passphrase_that_isnt_unicode_is_no_reason_for_other_words(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TELLERWIRE_PASSPHRASE")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda _: b"\xff".decode("utf-8"))
    refused = run("show", "--config", config)
    assert (refused.status, refused.err) == (2, "error: the passphrase is not Unicode\n")


def test_a_file_may_have_a_name_that_isnt_unicode(run: Run, tmp_path: Path) -> None:
    key = write_key(tmp_path / "ada\udcff.key", ADA)
    out = tmp_path / "bundle\udcff.json"
    shown = run("show", "--key", key, "--out", out)
    assert shown.status == 0
    assert "bundle\\udcff.json" in shown.out
    assert out.exists()


def test_a_bundle_that_cant_be_written_is_said(run: Run, config: Path) -> None:
    shown = run("show", "--config", config, "--out", "/nowhere/at/all")
    assert shown.status == 2
    assert shown.err == "error: /nowhere/at/all can't be written: No such file or directory\n"


def test_what_is_no_key_file_is_named(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.key"
    wrong.write_text("-----BEGIN RSA PRIVATE KEY-----")
    shown = run("show", "--key", wrong)
    assert shown.status == 1
    assert "wrong.key" in shown.err
    assert run("show", "--key", tmp_path / "none.key").status == 2
    assert run("show").status == 2


VERIFY = f"verify --bank-fingerprint {'0' * 32}"


@pytest.mark.parametrize("command", ["show --key", "passwd --key", "show --config", "run", VERIFY])
def test_a_file_without_an_end_is_not_read_to_its_end(run: Run, command: str) -> None:
    shown = run(*command.split(), "/dev/zero")
    assert shown.status != 0
    assert shown.err.startswith("error: /dev/zero")
    assert "too long" in shown.err


def test_a_passphrase_without_an_end_is_none(run: Run, config: Path) -> None:
    shown = run("show", "--config", config, "--passphrase-file", "/dev/zero")
    assert (shown.status, "too long" in shown.err) == (2, True)


def test_passwd_changes_the_passphrase(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write_key(tmp_path / "ada.key", ADA)
    new = tmp_path / "new"
    new.write_text("another passphrase entirely")
    assert run("passwd", "--key", key, "--new-passphrase-file", new).status == 0
    assert run("show", "--key", key).status == 1
    monkeypatch.setenv("TELLERWIRE_PASSPHRASE", "another passphrase entirely")
    assert run("show", "--key", key).status == 0


def test_rotate_raises_the_generation_and_tells_the_relay(
    run: Run, background: BackgroundWorld, config: Path
) -> None:
    rotated = run("rotate", "--config", config)
    assert rotated.status == 0
    assert "the relay has them" in rotated.out
    keys = decrypt_key_file((config.parent / "ada.key").read_bytes(), PASSPHRASE)
    assert keys.bundle.generation > ADA.bundle.generation
    assert keys.fingerprint == ADA.fingerprint
    assert background.world.relay.bundles["ada"] == keys.signed_bundle
    assert run("rotate", "--config", config, "--offline").status == 0


@pytest.mark.parametrize("command", ["rotate", "passwd"])
def test_what_another_program_put_into_the_key_file_meanwhile_is_not_lost(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    path = write_key(tmp_path / "ada.key", ADA)
    (tmp_path / "new").write_text("another passphrase entirely")
    theirs = rotate_prekeys(
        ADA, now=system_clock(), random_bytes=os.urandom, period_ms=10**9, valid_for_ms=10**10
    )

    def open_slowly(*options: Any) -> object:
        opened = open_key(*options)
        put_private(path, encrypt_cheaply(theirs, PASSPHRASE, os.urandom))
        return opened

    monkeypatch.setattr("clients.commands.keys.open_key", open_slowly)
    options = ["--offline"] if command == "rotate" else ["--new-passphrase-file", tmp_path / "new"]
    assert run(command, *options, "--key", path).status == 0
    passphrase = PASSPHRASE if command == "rotate" else "another passphrase entirely"
    kept = decrypt_key_file(path.read_bytes(), passphrase)
    assert key_ids(theirs) <= key_ids(kept)


def key_ids(key_file: KeyFile) -> set[bytes]:
    return {prekey.public.key_id for prekey in key_file.prekeys}


def test_a_key_file_that_another_program_replaces_is_waited_for(run: Run, tmp_path: Path) -> None:
    path = write_key(tmp_path / "ada.key", ADA)
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / "ada.key.lock"):
            rotating = pool.submit(run, "rotate", "--offline", "--key", path)
            with pytest.raises(TimeoutError):
                rotating.result(1)
        assert rotating.result(10).status == 0


def test_help_teaches(run: Run) -> None:
    top = run("--help")
    assert top.status == 0
    for name in ("keygen", "transfer", "verify", "Exit status"):
        assert name in top.out
    for command in ("keygen", "show", "run", "send", "listen", "transfer", "orders", "verify"):
        assert "Example" in run(command, "--help").out


def test_unknown_commands_and_options_are_wrong_usage(run: Run) -> None:
    assert run("fly").status == 2
    assert run("balance", "account1", "--what").status == 2


def test_unexpected_errors_are_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(person, "app", broken)
    failed = run("accounts")
    assert failed.status == 1
    assert "ZeroDivisionError: oh (--debug shows where)" in failed.err


@pytest.mark.usefixtures("background")
def test_key_file_of_the_old_system_is_named_with_what_to_do(
    run: Run, config: Path, tmp_path: Path
) -> None:
    key = tmp_path / "ada.key"
    key.write_text(RSA_KEY, encoding="ascii")
    refused = run("show", "--config", config)
    assert refused.status == 2
    assert refused.err.startswith(f"error: {config}: person.keys.private: the file {key} holds")
    assert "keygen" in refused.err


@pytest.mark.parametrize("text", ["zz", "x" * 5_000])
def test_who_is_neither_a_fingerprint_nor_a_file_is_nobody(
    run: Run, tmp_path: Path, text: str
) -> None:
    key = write_key(tmp_path / "ada.key", ADA)
    refused = run("show", "--key", key, "--with", text)
    assert refused.status == 2
    assert refused.err == f"error: {text!r} is neither a fingerprint nor a file\n"


def test_folder_for_state_that_nobody_has_is_named(run: Run, config: Path) -> None:
    refused = run("orders", "--config", config, "--state", "~nobody-of-that-name/x")
    assert (refused.status, "--state FOLDER" in refused.err) == (2, True)


@pytest.mark.parametrize("order_id", ["../pins", "x" * 300, ""])
def test_what_is_no_orders_id_is_named(run: Run, config: Path, order_id: str) -> None:
    refused = run("orders", "--again", order_id, "--config", config)
    assert (refused.status, f"{order_id!r} is no order's id" in refused.err) == (2, True)

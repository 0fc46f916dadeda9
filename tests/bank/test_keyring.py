"""The bank's key file: opened, rotated by one of several processes, never half written."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bank.errors import BankSetupError
from bank.keyring import PREKEY_PERIOD_MS, Keyring, read_passphrase, write_key_file
from protocol.keyfile import Cost, decrypt_key_file, encrypt_key_file, new_key_file

CHEAP = Cost(memory_kib=19 * 1024, passes=1, lanes=1)
BORN_MS = 1_767_225_600_000


class Clock:
    def __init__(self) -> None:
        self.now = BORN_MS

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bank.key"
    made = new_key_file("bank", "The", "Bank", now=BORN_MS, random_bytes=os.urandom)
    write_key_file(path, encrypt_key_file(made, "secret", os.urandom, CHEAP))
    return path


@pytest.fixture
def open_keyring(path: Path, clock: Clock) -> Callable[[], Keyring]:
    return lambda: Keyring(path, "secret", clock=clock, cost=CHEAP)


def key_ids(keyring: Keyring) -> list[bytes]:
    return [prekey.public.key_id for prekey in keyring.prekeys]


def test_it_opens_and_signs_in_the_banks_name(open_keyring: Callable[[], Keyring]) -> None:
    keyring = open_keyring()
    assert keyring.client_id == keyring.identity.bank_id == "bank"
    assert keyring.identity.fingerprint == keyring.fingerprint


def test_prekeys_are_left_alone_until_it_is_time(
    open_keyring: Callable[[], Keyring], clock: Clock, path: Path
) -> None:
    keyring, before = open_keyring(), path.read_bytes()
    clock.now += PREKEY_PERIOD_MS - 1
    assert keyring.rotate_if_due() is False
    assert path.read_bytes() == before


def test_rotation_makes_new_prekeys_and_keeps_the_old_for_two_periods(
    open_keyring: Callable[[], Keyring], clock: Clock, path: Path
) -> None:
    keyring = open_keyring()
    first = key_ids(keyring)
    clock.now += PREKEY_PERIOD_MS
    assert keyring.rotate_if_due() is True
    assert keyring.key_file.bundle.generation == clock.now
    assert set(first) < set(key_ids(keyring))
    assert decrypt_key_file(path.read_bytes(), "secret").bundle == keyring.key_file.bundle
    assert path.stat().st_mode & 0o777 == 0o600
    clock.now += 2 * PREKEY_PERIOD_MS
    keyring.rotate_if_due()
    assert not set(first) & set(key_ids(keyring))


def test_of_several_processes_one_rotates_and_the_others_take_it_over(
    open_keyring: Callable[[], Keyring], clock: Clock
) -> None:
    keyrings = [open_keyring() for _ in range(4)]
    clock.now += PREKEY_PERIOD_MS
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(Keyring.rotate_if_due, keyrings))
    assert {keyring.key_file.bundle.generation for keyring in keyrings} == {clock.now}
    assert len({tuple(key_ids(keyring)) for keyring in keyrings}) == 1


def test_an_older_copy_of_the_file_rises_above_what_came_after_it(
    open_keyring: Callable[[], Keyring], clock: Clock, path: Path
) -> None:
    copy = path.read_bytes()
    lost = open_keyring()
    for _ in range(3):
        clock.now += PREKEY_PERIOD_MS
        lost.rotate_if_due()
    write_key_file(path, copy)
    clock.now += 1
    restored, other = open_keyring(), open_keyring()
    restored.rotate_unless_changed()
    assert restored.key_file.bundle.generation > lost.key_file.bundle.generation
    # Whoever comes second takes over what the first has made.
    other.rotate_unless_changed()
    assert other.key_file.bundle == restored.key_file.bundle


def test_refreshing_reads_the_file_only_where_it_changed(
    open_keyring: Callable[[], Keyring], clock: Clock
) -> None:
    one, other = open_keyring(), open_keyring()
    assert asyncio.run(other.refresh()) is False
    clock.now += PREKEY_PERIOD_MS
    one.rotate_if_due()
    assert asyncio.run(other.refresh()) is True
    assert key_ids(other) == key_ids(one)


def test_another_identity_in_the_file_is_never_taken_over(
    open_keyring: Callable[[], Keyring], path: Path
) -> None:
    keyring = open_keyring()
    other = new_key_file("bank", "The", "Bank", now=BORN_MS, random_bytes=os.urandom)
    write_key_file(path, encrypt_key_file(other, "secret", os.urandom, CHEAP))
    with pytest.raises(BankSetupError, match="another identity; restart the bank"):
        keyring.reload()
    assert keyring.key_file.fingerprint != other.fingerprint


def test_what_is_wrong_is_said_in_words(path: Path, clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(BankSetupError, match="the passphrase does not open"):
        Keyring(path, "wrong", clock=clock)
    with pytest.raises(BankSetupError, match=r"there is no key file .*`manage.py init_bank`"):
        Keyring(tmp_path / "missing.key", "secret", clock=clock)
    (tmp_path / "noise.key").write_text("noise")
    with pytest.raises(BankSetupError, match="this is no key file"):
        Keyring(tmp_path / "noise.key", "secret", clock=clock)


def test_a_lock_that_can_not_be_taken_is_said_in_words(
    open_keyring: Callable[[], Keyring], path: Path
) -> None:
    path.with_name("bank.key.lock").mkdir()
    with pytest.raises(BankSetupError, match=r"the lock .*bank\.key\.lock .* can't be taken: Is a"):
        open_keyring().rotate_if_due()


def test_a_key_file_that_can_not_be_replaced_is_said_in_words(
    open_keyring: Callable[[], Keyring], clock: Clock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = open_keyring()
    clock.now += PREKEY_PERIOD_MS

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(BankSetupError, match="can't be replaced: Read-only file system"):
        keyring.rotate_if_due()
    assert keyring.key_file.bundle.generation == 1


def test_a_passphrase_file_is_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("grün und blau\nnot this\n", encoding="utf-8")
    assert read_passphrase(file) == "grün und blau"
    file.write_text("\n")
    with pytest.raises(BankSetupError, match="is empty"):
        read_passphrase(file)
    with pytest.raises(BankSetupError, match="can't be read"):
        read_passphrase(tmp_path / "missing")


def test_a_write_that_fails_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_key_file(path, b"new")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["bank.key"]

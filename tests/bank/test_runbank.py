"""The bank's program: its prekeys are renewed and published while it runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bank.keyring import PREKEY_PERIOD_MS, Keyring, write_key_file
from bank.management.commands import runbank
from clients.errors import RefusedError
from protocol.errors import Code
from protocol.keyfile import Cost, KeyFile, encrypt_key_file, new_key_file

CHEAP = Cost(memory_kib=19 * 1024, passes=1, lanes=1)
BORN_MS = 1_767_225_600_000
RENEWED_MS = BORN_MS + PREKEY_PERIOD_MS  # which is the new generation, too
SECONDS = 10


class FakeService:
    """Stands for the connection to the relay."""

    def __init__(self, key_file: KeyFile, failures: int = 0) -> None:
        self.key_file = key_file
        self.published: list[int] = []
        self.failures = failures

    async def publish(self, key_file: KeyFile) -> int:
        if key_file.bundle.generation < self.key_file.bundle.generation:
            raise RefusedError(Code.BAD_BUNDLE, proven=False)
        if self.failures:
            self.failures -= 1
            raise RefusedError(Code.OVERLOADED, proven=False)
        self.key_file = key_file
        self.published.append(key_file.bundle.generation)
        return key_file.bundle.generation


@pytest.fixture
def keyrings(tmp_path: Path) -> Callable[[], Keyring]:
    """Keyrings of several processes on one key file, whose prekeys are a day old."""
    path = tmp_path / "bank.key"
    made = new_key_file("bank", "The", "Bank", now=BORN_MS, random_bytes=os.urandom)
    write_key_file(path, encrypt_key_file(made, "secret", os.urandom, CHEAP))
    return lambda: Keyring(path, "secret", clock=lambda: RENEWED_MS, cost=CHEAP)


async def keep_keys_until(
    service: FakeService, keyring: Keyring, condition: Callable[[], bool]
) -> None:
    task = asyncio.create_task(runbank._keep_keys(service, keyring))  # type: ignore[arg-type]  # a fake
    try:
        async with asyncio.timeout(SECONDS):
            while not condition():
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _check_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runbank, "KEYS_CHECK_SECONDS", 0.01)


async def test_new_prekeys_are_published_once(keyrings: Callable[[], Keyring]) -> None:
    keyring = keyrings()
    service = FakeService(keyring.key_file)
    await keep_keys_until(service, keyring, lambda: bool(service.published))
    assert service.published == [RENEWED_MS]
    assert service.key_file is keyring.key_file


async def test_a_process_takes_over_what_another_one_made(
    keyrings: Callable[[], Keyring],
) -> None:
    one, other = keyrings(), keyrings()
    service = FakeService(other.key_file)
    one.rotate_if_due()
    await keep_keys_until(service, other, lambda: bool(service.published))
    assert service.published == [RENEWED_MS]
    assert service.key_file.bundle == one.key_file.bundle


async def test_a_publication_that_fails_is_tried_again(keyrings: Callable[[], Keyring]) -> None:
    keyring = keyrings()
    service = FakeService(keyring.key_file, failures=3)
    await keep_keys_until(service, keyring, lambda: bool(service.published))
    assert (service.failures, service.published) == (0, [RENEWED_MS])


async def test_a_backup_in_the_place_of_the_file_gets_newer_keys_at_once(tmp_path: Path) -> None:
    path, now = tmp_path / "bank.key", BORN_MS
    made = new_key_file("bank", "The", "Bank", now=BORN_MS, random_bytes=os.urandom)
    backup = encrypt_key_file(made, "secret", os.urandom, CHEAP)
    write_key_file(path, backup)
    keyring = Keyring(path, "secret", clock=lambda: now, cost=CHEAP)
    now += 1_000
    keyring.rotate_unless_changed()
    service = FakeService(keyring.key_file)
    write_key_file(path, backup)
    now += 1_000  # so that its prekeys are not due for long
    await keep_keys_until(service, keyring, lambda: bool(service.published))
    assert service.published == [now]
    assert service.key_file is keyring.key_file

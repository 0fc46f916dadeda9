"""Fixtures for tests of clients."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from clients import person
from tests.clients.typist import PASSPHRASE, BackgroundWorld, Run, Typed, write_config
from tests.clients.world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A relay that runs; the bank and the people are opened by the test."""
    made = World(tmp_path)
    async with made.relay:
        yield made


@pytest.fixture
def background(tmp_path: Path) -> Iterator[BackgroundWorld]:
    made = BackgroundWorld(tmp_path / "world")
    with made:
        yield made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Type a command; standard input is no terminal."""
    monkeypatch.setenv("TELLERWIRE_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("TELLERWIRE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("CONFIG", "KEY", "RELAY", "BANK_FINGERPRINT"):
        monkeypatch.delenv(f"TELLERWIRE_{name}", raising=False)

    def typed(*words: object) -> Typed:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["person", *(str(word) for word in words)])
        try:
            status = int(person.main())
        except SystemExit as end:
            status = int(end.code or 0)
        found = capsys.readouterr()
        assert "Traceback" not in found.err + found.out
        return Typed(status, found.out, found.err)

    return typed


@pytest.fixture
def config(background: BackgroundWorld, tmp_path: Path) -> Path:
    """Ada's configuration."""
    return write_config(tmp_path, background.world)

"""What tests of the person's program share: a world beside it, and somebody who types."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from protocol.keyfile import Cost, KeyFile, encrypt_key_file
from protocol.keys import format_fingerprint
from tests.clients.world import ADA, BANK, World

T = TypeVar("T")
CHEAP = Cost(memory_kib=19 * 1024, passes=1, lanes=1)
PASSPHRASE = "correct horse battery"


class BackgroundWorld:
    """A relay and a bank in a thread of their own, as the program's own loop needs the main one."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._leave = asyncio.Event()
        self._served: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> World:
        self._thread.start()
        ready = threading.Event()

        async def serve() -> None:
            async with self.world.relay, self.world.open_bank():
                ready.set()
                await self._leave.wait()

        self._served = asyncio.run_coroutine_threadsafe(serve(), self._loop)
        assert ready.wait(10)
        return self.world

    def __exit__(self, *_: object) -> None:
        assert self._served is not None
        self._loop.call_soon_threadsafe(self._leave.set)
        self._served.result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do something beside the program."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin something beside the program."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


@dataclass
class Typed:
    """What came of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Typed]


def write_key(path: Path, keys: KeyFile) -> Path:
    path.write_bytes(encrypt_key_file(keys, PASSPHRASE, os.urandom, CHEAP))
    return path


def write_config(
    folder: Path,
    world: World,
    keys: KeyFile = ADA,
    actions: tuple[str, ...] = (),
    **general: object,
) -> Path:
    """Write a configuration of the original's form beside a key file."""
    write_key(folder / f"{keys.client_id}.key", keys)
    path = folder / f"{keys.client_id}.json"
    contents = {
        "person": {
            "id": keys.client_id,
            "name": keys.bundle.name,
            "keys": {"private": f"{keys.client_id}.key"},
        },
        "general": {"duration": "5", "retries": "5", "timeout": "0.5"} | general,
        "server": {"ip": "127.0.0.1", "port": str(world.relay.port)},
        "bank": {"id": "bank", "fingerprint": format_fingerprint(BANK.fingerprint)},
        "actions": list(actions),
    }
    path.write_text(json.dumps(contents), encoding="utf-8")
    return path

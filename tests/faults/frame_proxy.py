"""A way to the relay on which a test can lose frames."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, Final

import msgspec
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol import limits
from tests.servers import LOOPBACK

__all__ = ["Direction", "frame_proxy"]

SUBPROTOCOLS: Final = [Subprotocol(limits.SUBPROTOCOL)]


class Direction(Enum):
    """Where a frame is going."""

    TO_RELAY = auto()
    FROM_RELAY = auto()


Passes = Callable[[Direction, dict[str, Any]], bool]


class _Proxy:
    def __init__(self, relay_url: str, passes: Passes) -> None:
        self._relay_url = relay_url
        self._passes = passes

    async def handle(self, client: ServerConnection) -> None:
        try:
            async with connect(
                self._relay_url, subprotocols=SUBPROTOCOLS, compression=None, proxy=None
            ) as relay:
                ways = [
                    asyncio.create_task(self._carry(Direction.TO_RELAY, client, relay)),
                    asyncio.create_task(self._carry(Direction.FROM_RELAY, relay, client)),
                ]
                _, other = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for task in other:
                    task.cancel()
        except OSError:
            return  # the relay is not there: the client sees its connection closed

    async def _carry(self, direction: Direction, source: Any, target: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in source:
                if self._passes(direction, msgspec.json.decode(message)):
                    await target.send(message)


@contextlib.contextmanager
def frame_proxy(relay_url: str, passes: Passes) -> Iterator[str]:
    """Give the address of a proxy to the relay, which runs in a thread of its own.

    :param passes: called in that thread for every frame; False loses it.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="frame-proxy", daemon=True)
    thread.start()

    async def start() -> Any:
        proxy = _Proxy(relay_url, passes)
        return await serve(proxy.handle, LOOPBACK, 0, subprotocols=SUBPROTOCOLS, compression=None)

    async def stop(server: Any) -> None:
        server.close()
        await server.wait_closed()

    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        port = next(iter(server.sockets)).getsockname()[1]
        try:
            yield f"ws://{LOOPBACK}:{port}/relay"
        finally:
            asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

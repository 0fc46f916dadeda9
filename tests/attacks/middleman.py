"""A hostile relay: it stands between clients and the real relay, and does as a script says.

It runs in a thread of its own, so that a module's bank can be connected through it for as long as
the module's tests last. A script gets each frame and returns what goes on in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol import limits
from protocol.frames import (
    ClientFrame,
    Register,
    RelayFrame,
    decode_client_frame,
    decode_relay_frame,
    encode,
)

START_SECONDS = 10.0
FRAME_BYTES_MAX = 2**20

Upward = Callable[[ClientFrame], Sequence[ClientFrame]]
Downward = Callable[[RelayFrame], Sequence[RelayFrame]]


def pass_on(frame: Any) -> list[Any]:
    """The script of an honest relay."""
    return [frame]


def changed(frame: Any, **members: Any) -> Any:
    """The frame with some members changed."""
    return msgspec.structs.replace(frame, **members)


@dataclass(eq=False)
class _Line:
    """One client's connection, and the one that is kept for it at the real relay."""

    client: ServerConnection
    relay: ClientConnection
    client_id: str = ""


class Middleman:
    """Use it as a context manager; clients connect to ``url``.

    :param relay_url: of the real relay.
    """

    def __init__(self, relay_url: str) -> None:
        self._relay_url = relay_url
        self.upward: Upward = pass_on
        """From a client to the relay."""
        self.downward: Downward = pass_on
        """From the relay to a client."""
        self._lines: set[_Line] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._port: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, name="middleman", daemon=True)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self._port.result(START_SECONDS)}/relay"

    def __enter__(self) -> Self:
        self._thread.start()
        self._port.result(START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)
        self._loop.close()

    @contextlib.contextmanager
    def hostile(self, *, upward: Upward = pass_on, downward: Downward = pass_on) -> Iterator[None]:
        """Follow these scripts for a while, then be honest again."""
        self.upward, self.downward = upward, downward
        try:
            yield
        finally:
            self.upward, self.downward = pass_on, pass_on

    def give(self, client_id: str, *frames: RelayFrame) -> None:
        """Send frames to a client as if the relay had, past every script."""
        self.give_soon(client_id, *frames).result(START_SECONDS)

    def give_soon(self, client_id: str, *frames: RelayFrame) -> Future[None]:
        """The same, from within a script."""
        return asyncio.run_coroutine_threadsafe(self._give(client_id, frames), self._loop)

    def hang_up(self, client_id: str) -> None:
        """Break a client's connection; the client makes a new one."""

        async def close() -> None:
            for line in [line for line in self._lines if line.client_id == client_id]:
                await line.relay.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(START_SECONDS)

    async def _give(self, client_id: str, frames: Sequence[RelayFrame]) -> None:
        lines = [line for line in self._lines if line.client_id == client_id]
        assert lines, f"{client_id} is not connected"
        for line in lines:
            for frame in frames:
                await line.client.send(encode(frame))

    # --- In its own thread ---

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server: Server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol(limits.SUBPROTOCOL)],
            compression=None,
            max_size=FRAME_BYTES_MAX,
        )
        self._port.set_result(next(iter(server.sockets)).getsockname()[1])
        await self._stop.wait()
        server.close()
        await server.wait_closed()

    async def _handle(self, client: ServerConnection) -> None:
        async with connect(
            self._relay_url,
            subprotocols=[Subprotocol(limits.SUBPROTOCOL)],
            compression=None,
            max_size=FRAME_BYTES_MAX,
            proxy=None,
        ) as relay:
            line = _Line(client, relay)
            self._lines.add(line)
            try:
                await asyncio.gather(self._carry_up(line), self._carry_down(line))
            finally:
                self._lines.discard(line)

    async def _carry_up(self, line: _Line) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in line.client:
                frame = decode_client_frame(text)
                if isinstance(frame, Register):
                    line.client_id = frame.id
                for following in self.upward(frame):
                    await line.relay.send(encode(following))
        await line.relay.close()

    async def _carry_down(self, line: _Line) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in line.relay:
                for following in self.downward(decode_relay_frame(text)):
                    await line.client.send(encode(following))
        await line.client.close(line.relay.close_code or 1000, line.relay.close_reason or "")

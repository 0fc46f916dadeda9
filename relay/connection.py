"""One client's WebSocket: the state machine, its outbox, and nothing else.

What the client asks for goes to the exchange; what others have for it comes by ``offer`` and
``status``, which never wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from protocol.errors import Code
from protocol.frames import RelayFrame, Role, Send, State, Status, encode
from protocol.relay_events import CloseReason
from protocol.relay_protocol import Phase, RelayConnection
from relay.limits import RelayLimits
from relay.messages import Ended, Message
from relay.metrics import counters
from relay.outbox import HeldBytes, Outbox
from relay.peer_socket import PeerSocket

if TYPE_CHECKING:  # presence holds connections
    from relay.presence import LocalClient

__all__ = ["Connection"]

GOING_AWAY = 1001
FRAME_OVERHEAD_CHARS = 512


class Connection:
    """A connection of this process, registered or not yet."""

    __slots__ = (
        "_abort_timer",
        "_ended",
        "_held",
        "_task",
        "aborted",
        "client",
        "heard_at",
        "id",
        "identity_key",
        "limits",
        "machine",
        "opened_at",
        "outbox",
        "socket",
    )

    def __init__(
        self,
        connection_id: str,
        *,
        relay_name: str,
        nonce: bytes,
        limits: RelayLimits,
        held: HeldBytes,
        now: int,
    ) -> None:
        self.id = connection_id
        self.limits = limits
        self._held = held
        self.machine: RelayConnection[Message] = RelayConnection(
            relay_name=relay_name, nonce=nonce, bounds=limits.bounds(Role.PERSON)
        )
        self.outbox = Outbox(frames_max=limits.outbox_frames_max, bytes_max=limits.outbox_bytes_max)
        self.client: LocalClient | None = None
        self.identity_key = b""
        """The key whose possession was proven at the registration."""
        self.opened_at = now
        self.heard_at = now
        self.aborted = False
        self.socket: PeerSocket | None = None
        self._ended = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        self._abort_timer: asyncio.TimerHandle | None = None

    @property
    def role(self) -> Role | None:
        """The role in which it registered."""
        return self.machine.role

    @property
    def is_open(self) -> bool:
        """Whether it is registered, and can still be told something."""
        return self.machine.phase in (Phase.REGISTERED, Phase.DRAINING)

    # What others have for this client.

    def offer(self, message: Message, now: int) -> bool:
        """Deliver a message if the client's window and the outbox have room for it."""
        size = len(message.body)
        if not self._held.has_room(size) or not self.outbox.has_room(size + FRAME_OVERHEAD_CHARS):
            return False
        if not self.machine.deliver(message.frame(), message, now):
            return False
        self._held.add(size)
        message.holders += 1
        counters.delivered += 1
        self.flush()
        return True

    def let_go(self, message: Message) -> None:
        """A message that was delivered here is acknowledged, or is given back."""
        self._held.add(-len(message.body))
        message.holders -= 1

    def status(self, ended: Ended, *, stored: bool) -> None:
        """Tell the client what became of its message."""
        frame = Status(id=ended.id, to=ended.recipient, state=ended.state, code=ended.code)
        self.machine.status(frame, stored=stored)
        self.flush()

    def queued(self, message: Message) -> None:
        """Tell the client that its message is stored durably."""
        self.machine.send(Status(id=message.id, to=message.recipient, state=State.QUEUED))
        self.flush()

    def send(self, frame: RelayFrame) -> None:
        """Send an answer."""
        self.machine.send(frame)
        self.flush()

    def refuse(
        self,
        code: Code,
        *,
        answers: str | None = None,
        detail: str = "",
        retry_after_ms: int | None = None,
        candidates: Iterable[str] = (),
    ) -> None:
        """Refuse one frame."""
        counters.refused(code)
        self.machine.refuse(
            code,
            answers=answers,
            detail=detail,
            retry_after_ms=retry_after_ms,
            candidates=list(candidates),
        )
        self.flush()

    def refuse_send(self, frame: Send, code: Code, detail: str = "") -> None:
        """Refuse a `send`."""
        self.refuse(code, answers=frame.id, detail=detail)

    # Ending it.

    def fail(self, code: Code, detail: str = "", retry_after_ms: int | None = None) -> None:
        """End the connection with an error that the client is told."""
        if self.machine.phase is not Phase.CLOSED:
            counters.refused(code)
        self.machine.fail(code, detail, retry_after_ms)
        self.flush()

    def fail_slow(self, detail: str) -> None:
        """End the connection of a client that doesn't keep up; what it hasn't read is dropped."""
        if self.machine.phase is Phase.CLOSED:
            return
        counters.refused(Code.SLOW_CONSUMER)
        self.machine.frames_to_send()
        self.machine.fail(Code.SLOW_CONSUMER, detail)
        reason = self.machine.close_reason or CloseReason(GOING_AWAY, "")
        self._close(reason, [encode(frame) for frame in self.machine.frames_to_send()])

    def drop_flooded(self) -> None:
        """End the connection of a client that made the server write more than it keeps for one.

        What the server writes by itself, as answers to pings, goes past the outbox. The socket is
        dropped at once: while it is there, the client could go on.
        """
        if self.socket is not None and self.socket.unread_bytes() > self.limits.outbox_bytes_max:
            self.fail_slow("more waits for this client than the relay keeps")
            self.socket.drop()

    def leave(self, reason: str) -> None:
        """End the connection without an error, as one that nobody uses."""
        self.machine.lost()
        self._close(CloseReason(GOING_AWAY, reason))

    def drain(self, reconnect_after_ms: int) -> None:
        """Ask the client to go and come back."""
        if self.machine.phase is Phase.REGISTERED:
            self.machine.drain(reconnect_after_ms)
            self.flush()

    async def written(self) -> None:
        """Return once everything is written, or the client had its time to read it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), self.limits.close_seconds)

    def flush(self) -> None:
        """Hand to the outbox what the state machine has to send."""
        for frame in self.machine.frames_to_send():
            if not self.outbox.put(encode(frame)):
                self.fail_slow("more waits for this client than the relay keeps")
                return
        reason = self.machine.close_reason
        if reason is not None:
            self._close(reason)

    def attach(self, task: asyncio.Task[object] | None, socket: PeerSocket) -> None:
        """Learn which task runs this connection, and where, to end it where its client doesn't."""
        self._task = task
        self.socket = socket
        self.outbox.write_now = socket.write_now

    def detach(self) -> None:
        """The task ends by itself."""
        self._ended.set()
        self._task = None
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None

    def _close(self, reason: CloseReason, last: list[str] | None = None) -> None:
        self.outbox.close(reason, last)
        if self._abort_timer is None and self._task is not None:
            loop = asyncio.get_running_loop()
            self._abort_timer = loop.call_later(self.limits.close_seconds, self._abort)

    def _abort(self) -> None:
        if self._task is not None and not self._task.done():
            self.aborted = True
            self._task.cancel()

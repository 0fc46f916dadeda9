"""One client kept connected: registration, reader and writer, reconnection, drain.

The state machine (:class:`protocol.client_protocol.ClientProtocol`) decides; this module moves its
frames, keeps its alarms and hands every other event to the owner.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from clients.errors import ClientError, RegistrationRefusedError, RelayRenamedError
from clients.retry import CONNECT_JITTER, FullJitter
from clients.transport import Transport, TransportClosedError, open_transport
from protocol import limits
from protocol.client_events import (
    Draining,
    Event,
    Events,
    Phase,
    Registered,
    RegistrationRefused,
    RelayRenamed,
    Transmit,
)
from protocol.client_protocol import ClientProtocol
from protocol.errors import RETRY, RelayError, Retry
from protocol.frames import Ack, Challenge, ClientFrame, Welcome, decode_relay_frame, encode

__all__ = ["Clock", "Connection", "system_clock"]

Clock = Callable[[], int]
"""What time it is, milliseconds since the epoch."""

REGISTRATION_SECONDS: Final = 10.0
DRAIN_SECONDS: Final = 2.0
"""How long what is under way may take to end when the relay goes away."""
STEADY_SECONDS: Final = 5.0
"""A connection that lasted this long was a good one: the next pause begins small again."""
OUTGOING_FRAMES_MAX: Final = 8_192
RESUME_MS_MAX: Final = 60_000
"""How long a relay may keep a client away: what answers at its address next may be another one."""
ACK_SECONDS: Final = 0.02
"""How long an acknowledgement waits at the most for other frames to go with."""
ACKS_MAX: Final = 32
"""So many acknowledgements don't wait any longer: the relay's window fills up."""

_log = logging.getLogger("tellerwire.client")


def system_clock() -> int:
    """Return the system's time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _steady_clock() -> Clock:
    """Return a clock that begins at the system's time, and that nobody can set back.

    For waiting: whoever set the system's clock back by an hour would otherwise make everything that
    waits wait for an hour more. What is signed has the system's time.
    """
    began = time.time_ns() - time.monotonic_ns()
    return lambda: (time.monotonic_ns() + began) // 1_000_000


class Connection:
    """Keeps one client registered at one relay until it is told to stop.

    :param on_event: gets every event that is not about the connection itself, and
        :class:`Registered`; it must not block.
    :param clock: the system's, which is compared with the relay's.
    """

    def __init__(
        self,
        protocol: ClientProtocol,
        url: str,
        on_event: Callable[[Event], None],
        *,
        clock: Clock = system_clock,
        jitter: FullJitter = CONNECT_JITTER,
    ) -> None:
        self._protocol = protocol
        self._url = url
        self._on_event = on_event
        self._clock = clock
        self.steady = _steady_clock()
        """The clock by which everything waits, here and in the state machine."""
        self._jitter = jitter
        self._outgoing: deque[str] = deque()
        self._acks: deque[str] = deque()
        self._ack_timer: asyncio.TimerHandle | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()
        self._fatal: ClientError | None = None
        self._resume_after_ms = 0
        self._transport: Transport | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at: int | None = None
        self._closing: asyncio.Future[None] | None = None
        self._over: asyncio.Future[None] | None = None
        self.ready = asyncio.Event()
        self.connections_made = 0
        self.last_problem = ""
        self._problem = ""
        self.welcome: Welcome | None = None

    # --- What the owner does ---

    async def run(self) -> None:
        """Stay connected until :meth:`stop`.

        :raises RegistrationRefusedError: the relay will not have this client.
        :raises RelayRenamedError: another relay answers at this address.
        """
        try:
            await self._stay_connected()
        finally:
            for timer in (self._alarm, self._ack_timer):
                if timer is not None:
                    timer.cancel()

    async def _stay_connected(self) -> None:
        attempts = 0
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            began = loop.time()
            try:
                await self._serve_one_connection()
            except TransportClosedError as error:
                self.last_problem = error.reason
                _log.info("connection to %s lost: %s", self._url, error.reason)
            if self._problem:
                self.last_problem = self._problem
            if self._fatal is not None:
                raise self._fatal
            attempts = 0 if loop.time() - began > STEADY_SECONDS else attempts + 1
            await self._pause(max(self._jitter.pause_ms(attempts), self._resume_after_ms))

    def stop(self) -> None:
        """Leave, once what is in the writer's hands has been written."""
        self._stop.set()

    def apply(self, events: Events) -> None:
        """Carry out what the state machine wants."""
        for event in events:
            if isinstance(event, Transmit):
                self._enqueue(event.frame)
            else:
                self._take(event)
        self._set_alarm()

    @property
    def congested(self) -> bool:
        """Whether so much waits to be written that nothing new should be begun."""
        return len(self._outgoing) >= OUTGOING_FRAMES_MAX // 2

    # --- Events about the connection ---

    def _take(self, event: Event) -> None:
        match event:
            case RegistrationRefused():
                error = event.error
                self._resume_after_ms = min(error.retry_after_ms or 0, RESUME_MS_MAX)
                self._problem = f"{error.code.value} {error.detail}".strip()
                if RETRY[error.code] is not Retry.SAME:
                    self._fatal = RegistrationRefusedError(error.code, error.detail)
            case RelayRenamed():
                self._fatal = RelayRenamedError(self._url, event.expected, event.actual)
            case Draining():
                self._resume_after_ms = min(event.after_ms, RESUME_MS_MAX)
                if self._drain_timer is None:  # said without end it is said once
                    loop = asyncio.get_running_loop()
                    self._drain_timer = loop.call_later(
                        DRAIN_SECONDS, self._hang_up, self._transport
                    )
            case Registered():
                self.welcome = event.welcome
                self.connections_made += 1
                self.ready.set()
                self._on_event(event)
            case _:
                self._on_event(event)

    def hang_up(self) -> None:
        """Break the connection and make a new one: what was not acknowledged comes again."""
        self._hang_up(self._transport)

    def _hang_up(self, transport: Transport | None) -> None:
        if transport is not None and transport is self._transport:
            self._closing = asyncio.ensure_future(transport.close())

    # --- One connection ---

    async def _serve_one_connection(self) -> None:
        self._resume_after_ms, self._problem = 0, ""
        transport = await open_transport(self._url, self._write)
        self._transport = transport
        self._outgoing.clear()
        self._acks.clear()
        loop = asyncio.get_running_loop()
        over = self._over = loop.create_future()
        self._protocol.connected(os.urandom(limits.NONCE_BYTES))
        watchdog = loop.call_later(REGISTRATION_SECONDS, self._check_registered, transport)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            transport.listen(self._receive)
            await asyncio.wait(
                {over, transport.closed, stopping}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            watchdog.cancel()
            if self._drain_timer is not None:
                self._drain_timer.cancel()
                self._drain_timer = None
            stopping.cancel()
            self.ready.clear()
            self._transport = None
            # What waits is handed over: it is written if the relay still reads.
            for frame in (*self._outgoing, *self._acks):
                transport.write(frame)
            await transport.close()
            self._protocol.disconnected(self.steady())
            self._set_alarm()
        if over.done():
            over.result()
        elif not self._stop.is_set():
            raise TransportClosedError(transport.close_reason)

    def _check_registered(self, transport: Transport) -> None:
        if not self.ready.is_set():
            self._problem = "the relay did not complete the registration in time"
            self._hang_up(transport)

    def _receive(self, data: bytes) -> None:
        """Take one frame of the relay; whatever goes wrong ends the connection."""
        over = self._over
        if over is None or over.done():
            return
        try:
            frame = decode_relay_frame(data)
            if isinstance(frame, Challenge):
                self._check_clock(frame.time)
            self.apply(self._protocol.receive(frame, self.steady()))
        except RelayError as error:
            reason = f"the relay broke the protocol: {error}"
            over.set_exception(TransportClosedError(reason))
        except Exception as error:  # a bug: whoever runs the connection hears of it
            over.set_exception(error)
            raise
        else:
            if self._protocol.phase is Phase.CLOSED:
                over.set_result(None)

    def _check_clock(self, relay_time: int) -> None:
        apart = abs(relay_time - self._clock())
        if apart > limits.CLOCK_TOLERANCE_MS:
            _log.warning("this clock and the relay's are %d seconds apart", apart // 1_000)

    def _enqueue(self, frame: ClientFrame) -> None:
        if self._transport is None:
            return
        if len(self._outgoing) + len(self._acks) >= OUTGOING_FRAMES_MAX:
            # The relay doesn't read: whatever is lost here is sent again on the next connection.
            self._hang_up(self._transport)
        elif isinstance(frame, Ack):
            # By itself it would wake the relay, which takes longer than all that it does then.
            self._acks.append(encode(frame))
            if len(self._acks) >= ACKS_MAX:
                self._write()
            elif self._ack_timer is None:
                loop = asyncio.get_running_loop()
                self._ack_timer = loop.call_later(ACK_SECONDS, self._end_ack_wait)
        else:
            self._outgoing.append(encode(frame))
            self._write()

    def write_acks(self) -> None:
        """Write the acknowledgements that wait: their senders are told a little sooner."""
        self._write()

    def _end_ack_wait(self) -> None:
        self._ack_timer = None
        self._write()

    def _write(self) -> None:
        """Write what waits, for as long as the relay reads; nobody waits for acknowledgements."""
        transport = self._transport
        while transport is not None and not transport.is_congested:
            if self._outgoing:
                transport.write(self._outgoing.popleft())
            elif self._acks:
                transport.write(self._acks.popleft())
            else:
                return

    async def _pause(self, pause_ms: int) -> None:
        try:
            async with asyncio.timeout(pause_ms / 1_000):
                await self._stop.wait()
        except TimeoutError:
            return

    # --- Time ---

    def _set_alarm(self) -> None:
        wanted = self._protocol.next_alarm
        if wanted is None or (self._alarm_at is not None and self._alarm_at <= wanted):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(0, wanted - self.steady()) / 1_000
        self._alarm_at = wanted
        self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm, self._alarm_at = None, None
        self.apply(self._protocol.tick(self.steady()))

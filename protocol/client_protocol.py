"""A client's side of one relay as a state machine: no socket, no clock, no randomness.

Feed it the frames that arrive (:meth:`ClientProtocol.receive`), say when the connection comes and
goes (:meth:`~ClientProtocol.connected`, :meth:`~ClientProtocol.disconnected`) and what time it is;
it returns events. The caller carries out each event: :class:`Transmit` is a frame to be sent,
:class:`Due` asks for the body of a message that must go out now (so that a retry can be sealed to
the recipient's newest key), :class:`ReplyArrived` asks the caller to open a reply and to say with
:meth:`~ClientProtocol.answered`, :meth:`~ClientProtocol.again` or :meth:`~ClientProtocol.refused`
what it was worth.

There are two tables. ``ACCEPTED`` (:mod:`protocol.client_events`) says which frames belong to which
phase of a connection; another one is the relay's fault, raises ``bad_frame`` and changes nothing.
``STAGES`` (:mod:`protocol.client_exchange`) says how a message that was sent moves on; what that
table doesn't list is a word out of place, which is counted and ignored.

A message keeps its id over every try, connection and restart. The relay's word never proves an
effect: a message ends as answered only by the caller's decision about a reply.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol import frames, limits
from protocol.bundles import Bundle
from protocol.client_events import (
    ACCEPTED,
    CallEnded,
    Counters,
    Draining,
    Due,
    Ended,
    Events,
    Incoming,
    Phase,
    Progress,
    Registered,
    RegistrationRefused,
    RelayRenamed,
    RelayTrouble,
    ReplyArrived,
    StrayReply,
    Transmit,
)
from protocol.client_exchange import Alarms, Exchange, Happening, Stage
from protocol.encoding import b64u
from protocol.errors import RETRY, Code, MisuseError, RelayError, Retry
from protocol.keys import IdentityKey
from protocol.registration import make_proof

__all__ = ["ClientProtocol"]

ENDED_REMEMBERED_MAX: Final = 4_096
"""How many ended messages are remembered, to know a late word about them from a stray one."""


@dataclass(slots=True)
class _Call:
    frame: frames.Lookup | frames.Publish
    lapses_at: int
    tries_made: int = 0


class ClientProtocol:
    """One client's side: the connection's phase, the messages under way, the calls to the relay.

    ``expected_relay`` may be set to the name that the relay must have; None takes any.

    :param pause_ms: how long to wait after that many tries (the caller's jitter).
    """

    def __init__(
        self,
        identity: IdentityKey,
        bundle: Bundle,
        role: frames.Role,
        pause_ms: Callable[[int], int],
    ) -> None:
        self._identity = identity
        self.bundle = bundle
        self._role = role
        self.expected_relay: str | None = None
        self._pause_ms = pause_ms
        self._nonce = b""
        self._relay = ""
        self.phase = Phase.CLOSED
        self.counters = Counters()
        self._exchanges: dict[str, Exchange] = {}
        self._calls: dict[str, _Call] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._alarms = Alarms()

    # --- The connection ---

    def use(self, identity: IdentityKey, bundle: Bundle) -> None:
        """Register with this bundle from the next connection on (after a rotation)."""
        self._identity, self.bundle = identity, bundle

    def connected(self, nonce: bytes) -> None:
        """A connection is open. :param nonce: 32 random bytes, new for every connection."""
        if self.phase is not Phase.CLOSED or len(nonce) != limits.NONCE_BYTES:
            raise MisuseError(f"no new connection in phase {self.phase}, or a nonce of wrong size")
        self._nonce, self.phase = nonce, Phase.CONNECTING

    def disconnected(self, now: int) -> None:
        """The connection is gone: whatever was on its way has to be sent again."""
        self.phase = Phase.CLOSED
        for exchange in self._exchanges.values():
            if exchange.stage is not Stage.DUE and exchange.stage is not Stage.WAITING:
                exchange.tries_left += 1  # the try ended by no fault of the recipient
            if exchange.advance(Happening.BREAK):
                exchange.status_may_be_kept = True
                self._wake(exchange, now)

    def receive(self, frame: frames.RelayFrame, now: int) -> Events:
        """Take in one frame.

        :param now: milliseconds since the epoch.
        :raises RelayError: ``bad_frame`` for a frame that is out of place; nothing has changed.
        """
        if type(frame) not in ACCEPTED[self.phase]:
            name = type(frame).__name__.lower()
            raise RelayError(Code.BAD_FRAME, f"`{name}` is out of place while {self.phase}")
        match frame:
            case frames.Deliver():
                return self._receive_deliver(frame)
            case frames.Status():
                return self._receive_status(frame, now)
            case frames.Challenge():
                return self._receive_challenge(frame)
            case frames.Welcome():
                return self._receive_welcome(frame, now)
            case frames.Found() | frames.Published():
                return self._end_call(frame.id, frame)
            case frames.Error():
                return self._receive_error(frame, now)
            case frames.Drain():
                self.phase = Phase.DRAINING
                return [Draining(frame.reconnect_after_ms)]

    def _receive_challenge(self, frame: frames.Challenge) -> Events:
        if limits.PROTOCOL_VERSION not in frame.versions:
            self.phase = Phase.CLOSED
            detail = f"the relay speaks versions {frame.versions}"
            refusal = frames.Error(Code.UNSUPPORTED_VERSION, Retry.NEVER, detail=detail)
            return [RegistrationRefused(refusal)]
        if self.expected_relay not in (None, frame.relay):
            # No proof for a relay of another name: it could be passed on to the relay so named.
            self.phase = Phase.CLOSED
            return [RelayRenamed(self.expected_relay or "", frame.relay)]
        proof = make_proof(
            self._identity,
            self.bundle,
            relay_name=frame.relay,
            relay_nonce=frames.decode_nonce(frame.nonce),
            client_nonce=self._nonce,
            role=self._role.value,
        )
        self._relay, self.phase = frame.relay, Phase.REGISTERING
        register = frames.Register(
            id=self.bundle.id,
            bundle=self.bundle.signed,
            nonce=b64u(self._nonce),
            version=limits.PROTOCOL_VERSION,
            role=self._role,
            proof=b64u(proof),
        )
        return [Transmit(register)]

    def _receive_welcome(self, frame: frames.Welcome, now: int) -> Events:
        self.phase = Phase.READY
        events: Events = [Registered(frame, self._relay)]
        events.extend(Transmit(call.frame) for call in self._calls.values())
        for exchange in list(self._exchanges.values()):
            if exchange.stage is Stage.WAITING and exchange.paused_until <= now:
                events.extend(self._ask(exchange, now))
        return events

    # --- Messages: what the caller says ---

    def begin(
        self,
        message_id: str,
        to: str,
        kind: frames.Kind,
        *,
        tries: int,
        try_ms: int,
        lapses_at: int,
        now: int,
    ) -> Events:
        """Take charge of a message (not of a reply, which is sent once: see :meth:`reply`).

        :param tries: how often it is sent at the most, breaks of the connection not counted.
        :param try_ms: how long a try waits for an answer.
        :param lapses_at: when to give up in any case, milliseconds since the epoch.
        """
        if message_id in self._exchanges or kind is frames.Kind.REPLY or tries < 1 or try_ms < 1:
            raise MisuseError(f"message {message_id} is under way, or can't be")
        wants_reply = kind is frames.Kind.REQUEST
        exchange = Exchange(message_id, to, wants_reply, tries, try_ms, lapses_at)
        self._exchanges[message_id] = exchange
        self._ended.pop(message_id, None)
        if self.phase is Phase.READY:
            return self._ask(exchange, now)
        self._wake(exchange, now)
        return []

    def dispatch(self, message_id: str, body: str, ttl_ms: int, now: int) -> Events:
        """Answer a :class:`Due` with the message's body, base64url.

        :return: nothing where the message ended or the connection broke meanwhile.
        """
        exchange = self._exchanges.get(message_id)
        if exchange is None or self.phase is not Phase.READY:
            return []
        if not exchange.advance(Happening.SEND):
            return []
        exchange.tries_left -= 1
        exchange.tries_made += 1
        exchange.refetch = False
        self._wake(exchange, now + exchange.try_ms)
        kind = frames.Kind.REQUEST if exchange.wants_reply else frames.Kind.NOTICE
        return [Transmit(frames.Send(message_id, exchange.to, kind, ttl_ms, body))]

    def reply(self, reply_id: str, to: str, re: str, body: str, ttl_ms: int) -> Events:
        """Answer a request; nothing where that can't be sent: the request will come again."""
        if self.phase is not Phase.READY:
            return []
        kind = frames.Kind.REPLY
        return [Transmit(frames.Send(reply_id, to, kind, ttl_ms, body, re))]

    def ack(self, deliver: frames.Deliver) -> Events:
        """Tell the relay that a delivered message is safe here; nothing without a connection."""
        if self.phase not in (Phase.READY, Phase.DRAINING):
            return []
        return [Transmit(frames.Ack(deliver.id, deliver.sender))]

    def answered(self, message_id: str) -> Events:
        """The reply was good: the message has ended."""
        return self._end(message_id, Happening.ANSWER, None, "")

    def refused(self, message_id: str, code: Code, detail: str = "") -> Events:
        """Sending the same again can't help: the message has ended."""
        return self._end(message_id, Happening.REFUSE, code, detail)

    def lapse(self, message_id: str) -> Events:
        """Stop trying; what became of the message stays unknown."""
        return self._end(message_id, Happening.LAPSE, None, "")

    def again(
        self,
        message_id: str,
        now: int,
        *,
        code: Code | None = None,
        after_ms: int | None = None,
        refetch: bool = False,
    ) -> Events:
        """Send the message once more after a pause, or let it lapse if no try is left."""
        exchange = self._exchanges.get(message_id)
        if exchange is None or not exchange.advance(Happening.AGAIN):
            return []
        exchange.code = code or exchange.code
        exchange.refetch = exchange.refetch or refetch
        if exchange.tries_left < 1:
            return self._end(message_id, Happening.LAPSE, exchange.code, "")
        pause = max(self._pause_ms(exchange.tries_made), after_ms or 0)
        exchange.paused_until = now + pause
        self._wake(exchange, exchange.paused_until)
        return [Progress(message_id, exchange.stage, exchange.code)]

    def stage_of(self, message_id: str) -> Stage | None:
        """Where a message is; None once it has ended."""
        exchange = self._exchanges.get(message_id)
        return exchange.stage if exchange else None

    @property
    def under_way(self) -> int:
        """How many messages have not ended."""
        return len(self._exchanges)

    # --- Messages: what the relay says ---

    def _receive_deliver(self, frame: frames.Deliver) -> Events:
        if frame.kind is not frames.Kind.REPLY:
            return [Incoming(frame)]
        exchange = self._exchanges.get(frame.re or "")
        if exchange is not None and exchange.to == frame.sender and exchange.wants_reply:
            return [ReplyArrived(frame)]
        if frame.re in self._ended:
            self.counters.late_replies += 1
        else:
            self.counters.unknown_replies += 1
        return [StrayReply(frame)]

    def _receive_status(self, frame: frames.Status, now: int) -> Events:
        exchange = self._exchanges.get(frame.id)
        ack: Events = [Transmit(frames.Ack(frame.id))] if self._wants_ack(frame, exchange) else []
        if exchange is None or exchange.to != frame.to:
            if frame.id not in self._ended:
                self.counters.unknown_statuses += 1
            return ack
        if frame.state in (frames.State.EXPIRED, frames.State.FAILED):
            code = frame.code or (
                Code.EXPIRED if frame.state is frames.State.EXPIRED else Code.INTERNAL
            )
            return ack + self._lost(exchange, code, "", None, now)
        queued = frame.state is frames.State.QUEUED
        if not exchange.advance(Happening.QUEUE if queued else Happening.DELIVER):
            self.counters.statuses_out_of_place += 1
            return ack
        exchange.status_may_be_kept = exchange.status_may_be_kept or queued
        if not queued and not exchange.wants_reply:
            return ack + self._end(frame.id, Happening.ANSWER, None, "")
        if queued:
            # It is safe where it is until its time to live ends: no try is running.
            self._wake(exchange, exchange.lapses_at)
        else:
            self._wake(exchange, now + exchange.try_ms)
        return [*ack, Progress(frame.id, exchange.stage, frame.code)]

    def _wants_ack(self, frame: frames.Status, exchange: Exchange | None) -> bool:
        """Whether the relay keeps this status until it is acknowledged.

        It keeps those of messages that were in a mailbox, because the sender may have been away,
        and those that it could not tell because the sender was.
        """
        if frame.state is frames.State.QUEUED:
            return False
        if exchange is not None:
            return exchange.status_may_be_kept or exchange.stage is Stage.WAITING
        return frame.id not in self._ended

    def _lost(
        self, exchange: Exchange, code: Code, detail: str, after_ms: int | None, now: int
    ) -> Events:
        """The relay gave the message up: try again, or end it where that can't help."""
        exchange.code = code
        retry = RETRY[code]
        if retry in (Retry.NEVER, Retry.FINAL):
            return self._end(exchange.id, Happening.REFUSE, code, detail)
        return self.again(exchange.id, now, code=code, after_ms=after_ms, refetch=True)

    def _receive_error(self, frame: frames.Error, now: int) -> Events:
        if self.phase in (Phase.CONNECTING, Phase.REGISTERING):
            self.phase = Phase.CLOSED
            return [RegistrationRefused(frame)]
        if frame.id is not None and frame.id in self._exchanges:
            exchange = self._exchanges[frame.id]
            if RETRY[frame.code] is Retry.NEVER:
                return self._end(
                    frame.id, Happening.REFUSE, frame.code, frame.detail, tuple(frame.candidates)
                )
            return self._lost(exchange, frame.code, frame.detail, frame.retry_after_ms, now)
        if frame.id is not None and frame.id in self._calls:
            return self._call_refused(frame.id, frame, now)
        return [RelayTrouble(frame)]

    # --- Calls: what only the relay answers ---

    def call(self, frame: frames.Lookup | frames.Publish, *, lapses_at: int, now: int) -> Events:
        """Ask the relay something; it is asked again on every new connection until it answers."""
        if frame.id in self._calls:
            raise MisuseError(f"call {frame.id} is under way")
        self._calls[frame.id] = _Call(frame, lapses_at)
        self._alarms.set(frame.id, lapses_at)
        return [Transmit(frame)] if self.phase is Phase.READY else []

    def _end_call(
        self, call_id: str, result: frames.Found | frames.Published | frames.Error | None
    ) -> Events:
        if self._calls.pop(call_id, None) is None:
            self.counters.unknown_calls += 1
            return []
        self._alarms.clear(call_id)
        return [CallEnded(call_id, result)]

    def _call_refused(self, call_id: str, error: frames.Error, now: int) -> Events:
        call = self._calls[call_id]
        call.tries_made += 1
        again_at = now + max(self._pause_ms(call.tries_made), error.retry_after_ms or 0)
        if RETRY[error.code] is not Retry.SAME or again_at >= call.lapses_at:
            return self._end_call(call_id, error)
        self._alarms.set(call_id, again_at)
        return []

    # --- Time ---

    @property
    def next_alarm(self) -> int | None:
        """When :meth:`tick` has something to do, milliseconds since the epoch; None for never."""
        return self._alarms.next

    def tick(self, now: int) -> Events:
        """Do what has become due by ``now``."""
        events: Events = []
        for name in self._alarms.ring(now):
            exchange, call = self._exchanges.get(name), self._calls.get(name)
            if exchange is not None:
                events.extend(self._woken(exchange, now))
            elif call is not None and now >= call.lapses_at:
                events.extend(self._end_call(name, None))
            elif call is not None:
                self._alarms.set(name, call.lapses_at)
                if self.phase is Phase.READY:
                    events.append(Transmit(call.frame))
        return events

    def _woken(self, exchange: Exchange, now: int) -> Events:
        if now >= exchange.lapses_at:
            return self._end(exchange.id, Happening.LAPSE, exchange.code, "")
        if exchange.stage is Stage.WAITING and self.phase is Phase.READY:
            return self._ask(exchange, now)
        if exchange.stage in (Stage.SENT, Stage.DELIVERED):
            # Whether the silence is the recipient's or the relay's, a new try also asks for keys.
            return self.again(exchange.id, now, refetch=True)
        self._wake(exchange, exchange.lapses_at)
        return []

    def _ask(self, exchange: Exchange, now: int) -> Events:
        if now >= exchange.lapses_at:
            return self._end(exchange.id, Happening.LAPSE, exchange.code, "")
        exchange.advance(Happening.ASK)
        self._wake(exchange, exchange.lapses_at)
        return [Due(exchange.id, exchange.tries_made + 1, exchange.refetch)]

    def _end(
        self,
        message_id: str,
        happening: Happening,
        code: Code | None,
        detail: str,
        candidates: tuple[str, ...] = (),
    ) -> Events:
        exchange = self._exchanges.get(message_id)
        if exchange is None or not exchange.advance(happening):
            return []
        del self._exchanges[message_id]
        self._alarms.clear(message_id)
        if not exchange.status_may_be_kept:
            # Of all others a status may still come that the relay keeps until it is acknowledged.
            self._ended[message_id] = None
            if len(self._ended) > ENDED_REMEMBERED_MAX:
                self._ended.popitem(last=False)
        return [Ended(message_id, exchange.stage, code or exchange.code, detail, candidates)]

    def _wake(self, exchange: Exchange, when: int) -> None:
        self._alarms.set(exchange.id, min(when, exchange.lapses_at))

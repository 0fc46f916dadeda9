"""The relay's side of one connection, without I/O.

Text frames and the time go in; at most one event for each frame comes out, and frames to send
collect in :meth:`RelayConnection.frames_to_send`. Whoever runs it does what an event asks for and
reports back; whatever a peer sends, nothing but :class:`~protocol.errors.MisuseError` (for a caller
who breaks the contract) is ever raised.

The theory: a connection is CHALLENGED until a client has proven its key. The proof is checked here;
whether the id is free only the directory knows, so the connection is REGISTERING until the
caller says :meth:`~RelayConnection.accept` or :meth:`~RelayConnection.fail`. A REGISTERED client
may do everything. DRAINING, it may still acknowledge, so that what was delivered ends well, but
starts nothing new. CLOSED is final: what arrives is ignored, and ``close_reason`` says what to
close the WebSocket with once the frames to send are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, Final, Generic, TypeVar

from protocol import limits
from protocol.bundles import Bundle, SignedBundle, open_bundle
from protocol.encoding import b64u, unb64u
from protocol.errors import RETRY, Code, MisuseError, RelayError
from protocol.frames import (
    Ack,
    Challenge,
    ClientFrame,
    Deliver,
    Drain,
    Error,
    Limits,
    Lookup,
    Publish,
    Register,
    RelayFrame,
    Role,
    Send,
    Status,
    Welcome,
    decode_client_frame,
    decode_nonce,
)
from protocol.registration import check_proof
from protocol.relay_events import (
    CLOSE_CODE,
    CloseReason,
    ConnectionBounds,
    Delivery,
    Event,
    LookupRequested,
    MessageAcked,
    PublishRequested,
    RegistrationRequested,
    SendRequested,
    StatusAcked,
    TokenBucket,
)

__all__ = ["Phase", "RelayConnection"]

T = TypeVar("T")


class Phase(Enum):
    """Where a connection stands."""

    CHALLENGED = auto()
    REGISTERING = auto()
    REGISTERED = auto()
    DRAINING = auto()
    CLOSED = auto()


class _Step(Enum):
    """What moves a connection from one phase to another."""

    PROVEN = auto()
    ACCEPTED = auto()
    DRAINED = auto()
    FAILED = auto()


_PHASES: Final = {
    (Phase.CHALLENGED, _Step.PROVEN): Phase.REGISTERING,
    (Phase.CHALLENGED, _Step.FAILED): Phase.CLOSED,
    (Phase.REGISTERING, _Step.ACCEPTED): Phase.REGISTERED,
    (Phase.REGISTERING, _Step.FAILED): Phase.CLOSED,
    (Phase.REGISTERED, _Step.DRAINED): Phase.DRAINING,
    (Phase.REGISTERED, _Step.FAILED): Phase.CLOSED,
    (Phase.DRAINING, _Step.FAILED): Phase.CLOSED,
}
"""Every step that is legal; any other raises and changes nothing."""


class RelayConnection(Generic[T]):
    """One client's connection as the relay sees it.

    ``T`` is what the caller wants back when a delivered message is acknowledged or given back.
    """

    __slots__ = (
        "_bad_frames",
        "_bounds",
        "_bucket",
        "_in_flight",
        "_in_flight_bytes",
        "_nonce",
        "_out",
        "_relay_name",
        "_statuses",
        "bundle",
        "close_reason",
        "ignored_acks",
        "phase",
        "role",
    )

    def __init__(self, *, relay_name: str, nonce: bytes, bounds: ConnectionBounds) -> None:
        """:param nonce: 32 random bytes, never used before."""
        if len(nonce) != limits.NONCE_BYTES:
            raise MisuseError("a nonce has 32 bytes")
        self._relay_name = relay_name
        self._nonce = nonce
        self._bounds = bounds
        self._bucket: TokenBucket | None = None
        self._in_flight: dict[tuple[str, str], Delivery[T]] = {}
        self._in_flight_bytes = 0
        self._statuses: set[str] = set()
        self._out: list[RelayFrame] = []
        self._bad_frames = 0
        self.phase = Phase.CHALLENGED
        self.bundle: Bundle | None = None
        self.role: Role | None = None
        self.close_reason: CloseReason | None = None
        self.ignored_acks = 0
        """Acknowledgements of what was not waiting for one: counted, never an error."""

    # Out.

    def frames_to_send(self) -> list[RelayFrame]:
        """Return the frames that collected since the last call, in the order to send them."""
        out, self._out = self._out, []
        return out

    def challenge(self, now: int) -> None:
        """Say the relay's first word."""
        self._expect(Phase.CHALLENGED)
        self._out.append(
            Challenge(
                relay=self._relay_name,
                nonce=b64u(self._nonce),
                time=now,
                versions=[limits.PROTOCOL_VERSION],
            )
        )

    def accept(
        self,
        *,
        connection: str,
        bounds: ConnectionBounds,
        terms: Limits,
        waiting: int,
        now: int,
    ) -> None:
        """Let the client in, after :class:`RegistrationRequested`.

        :param connection: the id of this connection, a UUID of version 7.
        :param bounds: what is enforced from now on; it depends on the role.
        :param terms: what the client is told of them.
        :param waiting: how many messages wait in its mailbox.
        """
        self._step(_Step.ACCEPTED)
        self._bounds = bounds
        self._bucket = TokenBucket(bounds.sends_per_second, bounds.sends_burst, now)
        self._out.append(Welcome(connection=connection, limits=terms, waiting=waiting, time=now))

    def send(self, frame: RelayFrame) -> None:
        """Send an answer; on a closed connection it is dropped, for nobody would read it."""
        if self.phase is not Phase.CLOSED:
            self._out.append(frame)

    def status(self, frame: Status, *, stored: bool) -> None:
        """Tell what became of one of the client's messages.

        :param stored: whether the status is kept until the client acknowledges it. One that was
            told already, and not acknowledged yet, is not told again on the same connection.
        """
        if self.phase is Phase.CLOSED or (stored and frame.id in self._statuses):
            return
        if stored:
            self._statuses.add(frame.id)
        self._out.append(frame)

    @property
    def statuses_unacked(self) -> int:
        """How many stored statuses wait for the client's `ack`."""
        return len(self._statuses)

    def refuse(
        self,
        code: Code,
        *,
        answers: str | None = None,
        detail: str = "",
        retry_after_ms: int | None = None,
        candidates: list[str] | None = None,
    ) -> None:
        """Refuse one frame (``answers`` is its id); the connection lives on."""
        self.send(
            Error(
                code=code,
                retry=RETRY[code],
                retry_after_ms=retry_after_ms,
                id=answers,
                detail=detail[: limits.DETAIL_CHARS_MAX],
                candidates=candidates or [],
            )
        )

    def fail(self, code: Code, detail: str = "", retry_after_ms: int | None = None) -> None:
        """End the connection with an error; on a closed one nothing happens."""
        if self.phase is Phase.CLOSED:
            return
        self.refuse(code, detail=detail, retry_after_ms=retry_after_ms)
        self._step(_Step.FAILED)
        self.close_reason = CloseReason(CLOSE_CODE, code.value)

    def lost(self) -> None:
        """The WebSocket is gone, or is closed without an error."""
        if self.phase is not Phase.CLOSED:
            self._step(_Step.FAILED)

    def drain(self, reconnect_after_ms: int) -> None:
        """Ask the client to go and come back; it may still acknowledge what it has."""
        self._step(_Step.DRAINED)
        self._out.append(Drain(reconnect_after_ms=reconnect_after_ms))

    # Deliveries.

    @property
    def unacked(self) -> int:
        """How many delivered messages wait for the client's `ack`."""
        return len(self._in_flight)

    @property
    def room(self) -> int:
        """How many more messages fit the window; their bytes may stop it earlier."""
        if self.phase is not Phase.REGISTERED:
            return 0
        if self._in_flight_bytes >= self._bounds.in_flight_bytes_max:
            return 0
        return self._bounds.in_flight_max - len(self._in_flight)

    @property
    def oldest_unacked_since(self) -> int | None:
        """When the message was delivered that waits longest for its `ack`."""
        for delivery in self._in_flight.values():
            return delivery.since
        return None

    def deliver(self, frame: Deliver, token: T, now: int) -> bool:
        """Deliver a message; return False, and change nothing, where the window has no room.

        There is none either for a message whose sender and id are those of one that still waits for
        its `ack`: the acknowledgement could not say which of the two it means.
        """
        key = (frame.sender, frame.id)
        size = len(frame.body)
        in_flight = self._in_flight
        if self.phase is not Phase.REGISTERED or len(in_flight) >= self._bounds.in_flight_max:
            return False
        if in_flight and (
            self._in_flight_bytes + size > self._bounds.in_flight_bytes_max or key in in_flight
        ):
            return False
        in_flight[key] = Delivery(token, size, now)
        self._in_flight_bytes += size
        self._out.append(frame)
        return True

    def awaits_ack(self, sender: str, message_id: str) -> bool:
        """Return whether a message with this sender and id is delivered and not acknowledged."""
        return (sender, message_id) in self._in_flight

    def give_back(self) -> Iterator[T]:
        """Yield the tokens of all messages that were not acknowledged, oldest first.

        For a closed connection: its deliveries are somebody else's now.
        """
        self._expect(Phase.CLOSED)
        in_flight, self._in_flight = self._in_flight, {}
        self._in_flight_bytes = 0
        for delivery in in_flight.values():
            yield delivery.token

    # In.

    def receive(self, text: str, now: int) -> Event | None:
        """Take one text message from the WebSocket and return what it asks for, if anything.

        :param now: milliseconds since the epoch.
        """
        if self.phase is Phase.CLOSED:
            return None
        try:
            frame = decode_client_frame(text)
        except RelayError as error:
            if error.code is Code.FRAME_TOO_LARGE:
                self.fail(error.code, error.detail)
            else:
                self._bad_frame(error.code, error.detail)
            return None
        return _REACTIONS[self.phase][type(frame)](self, frame, now)

    def receive_binary(self) -> None:
        """Take one binary message: there are none in this protocol."""
        self._bad_frame(Code.BAD_FRAME, "frames are text messages")

    def _bad_frame(self, code: Code, detail: str) -> None:
        self._bad_frames += 1
        if self._bad_frames >= self._bounds.bad_frames_max:
            self.fail(code, f"{detail}; that was one too many"[: limits.DETAIL_CHARS_MAX])
        else:
            self.refuse(code, detail=detail)

    def _on_register(self, frame: Register, now: int) -> Event | None:
        try:
            bundle = self._check_registration(frame, now)
        except RelayError as error:
            if error.code is Code.BAD_FRAME:
                self._bad_frame(error.code, error.detail)
            else:
                self.fail(error.code, error.detail)
            return None
        self.bundle = bundle
        self.role = frame.role
        self._step(_Step.PROVEN)
        return RegistrationRequested(bundle, frame.role)

    def _check_registration(self, frame: Register, now: int) -> Bundle:
        if frame.version != limits.PROTOCOL_VERSION:
            raise RelayError(
                Code.UNSUPPORTED_VERSION, f"version {frame.version} is not spoken here"
            )
        client_nonce = decode_nonce(frame.nonce)
        bundle = open_bundle(frame.bundle, now)
        try:
            proof = unb64u(frame.proof)
        except ValueError as error:
            raise RelayError(Code.PROOF_REFUSED, str(error)) from error
        check_proof(
            proof,
            bundle,
            relay_name=self._relay_name,
            relay_nonce=self._nonce,
            client_nonce=client_nonce,
            claimed_id=frame.id,
            version=frame.version,
            role=frame.role.value,
        )
        return bundle

    def _on_unregistered(self, frame: ClientFrame, now: int) -> None:
        self._bad_frame(Code.REGISTRATION_REQUIRED, "register first")

    def _on_second_register(self, frame: Register, now: int) -> None:
        self._bad_frame(Code.BAD_FRAME, "this connection is registered already")

    def _on_send(self, frame: Send, now: int) -> Event | None:
        return SendRequested(frame) if self._admit(frame.id, now) else None

    def _on_lookup(self, frame: Lookup, now: int) -> Event | None:
        return LookupRequested(frame.id, frame.query) if self._admit(frame.id, now) else None

    def _on_publish(self, frame: Publish, now: int) -> Event | None:
        if not self._admit(frame.id, now):
            return None
        bundle = self._open_published(frame.id, frame.bundle, now)
        return PublishRequested(frame.id, bundle) if bundle is not None else None

    def _open_published(self, answers: str, signed: SignedBundle, now: int) -> Bundle | None:
        try:
            bundle = open_bundle(signed, now)
        except RelayError as error:
            self.refuse(error.code, answers=answers, detail=error.detail)
            return None
        own = self.bundle
        if own is None or bundle.id != own.id:
            self.refuse(Code.BAD_BUNDLE, answers=answers, detail="the bundle is another id's")
            return None
        return bundle

    def _on_draining(self, frame: Send | Lookup | Publish, now: int) -> None:
        self.refuse(Code.DRAINING, answers=frame.id, detail="the relay goes away; come back later")

    def _on_ack(self, frame: Ack, now: int) -> Event | None:
        if frame.sender is None:
            if frame.id in self._statuses:
                self._statuses.discard(frame.id)
                return StatusAcked(frame.id)
        else:
            delivery = self._in_flight.pop((frame.sender, frame.id), None)
            if delivery is not None:
                self._in_flight_bytes -= delivery.size
                return MessageAcked(delivery.token)
        self.ignored_acks += 1
        return None

    def _admit(self, answers: str, now: int) -> bool:
        assert self._bucket is not None  # it is made with the step to REGISTERED
        wait_ms = self._bucket.take(now)
        if wait_ms:
            self.refuse(Code.RATE_LIMITED, answers=answers, retry_after_ms=wait_ms)
        return not wait_ms

    # Phases.

    def _step(self, step: _Step) -> None:
        following = _PHASES.get((self.phase, step))
        if following is None:
            raise MisuseError(f"{step.name} is no step from {self.phase.name}")
        self.phase = following

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise MisuseError(f"the connection is {self.phase.name}, not {phase.name}")


_Reaction = Callable[[RelayConnection[Any], Any, int], Event | None]

_UNREGISTERED: Final[dict[type, _Reaction]] = dict.fromkeys(
    (Register, Send, Ack, Lookup, Publish), RelayConnection._on_unregistered
)
_REACTIONS: Final[dict[Phase, dict[type, _Reaction]]] = {
    Phase.CHALLENGED: {**_UNREGISTERED, Register: RelayConnection._on_register},
    Phase.REGISTERING: _UNREGISTERED,
    Phase.REGISTERED: {
        Register: RelayConnection._on_second_register,
        Send: RelayConnection._on_send,
        Ack: RelayConnection._on_ack,
        Lookup: RelayConnection._on_lookup,
        Publish: RelayConnection._on_publish,
    },
    Phase.DRAINING: {
        Register: RelayConnection._on_second_register,
        Send: RelayConnection._on_draining,
        Ack: RelayConnection._on_ack,
        Lookup: RelayConnection._on_draining,
        Publish: RelayConnection._on_draining,
    },
}
"""What each frame of a client does in each phase."""

"""The relay's side of a connection: phases and bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.bundles import SignedBundle
from protocol.encoding import b64u
from protocol.errors import Code, MisuseError
from protocol.frames import (
    Ack,
    Lookup,
    Publish,
    Role,
    State,
    Status,
    Welcome,
    encode,
)
from protocol.keys import IdentityKey
from protocol.relay_events import (
    CLOSE_CODE,
    CloseReason,
    LookupRequested,
    MessageAcked,
    PublishRequested,
    RegistrationRequested,
    SendRequested,
    StatusAcked,
    TokenBucket,
)
from protocol.relay_protocol import Phase, RelayConnection
from tests.protocol.relay_side import (
    BOUNDS,
    BUNDLE,
    DAY_MS,
    IN_PHASE,
    NOW,
    RELAY,
    TERMS,
    Connection,
    bundle_of,
    challenged,
    closed,
    deliver,
    message_id,
    only_error,
    phase_of,
    registered,
    registering,
    registration,
    send,
)

# --- Coming in ------------------------------------------------------------------------------


def test_registration_goes_through_all_phases() -> None:
    connection = challenged()
    event = connection.receive(encode(registration()), NOW)
    assert event == RegistrationRequested(BUNDLE, Role.PERSON)
    assert connection.phase is Phase.REGISTERING
    assert connection.frames_to_send() == []
    connection.accept(connection=message_id(0), bounds=BOUNDS, terms=TERMS, waiting=4, now=NOW)
    assert phase_of(connection) is Phase.REGISTERED
    assert connection.frames_to_send() == [
        Welcome(connection=message_id(0), limits=TERMS, waiting=4, time=NOW)
    ]
    assert (connection.bundle, connection.role) == (BUNDLE, Role.PERSON)


def test_the_directory_may_refuse() -> None:
    connection = registering()
    connection.fail(Code.ID_TAKEN, "it is another's")
    error = only_error(connection)
    assert (error.code, error.detail) == (Code.ID_TAKEN, "it is another's")
    assert connection.close_reason == CloseReason(CLOSE_CODE, "id_taken")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 2}, Code.UNSUPPORTED_VERSION),
        ({"role": Role.SERVICE}, Code.PROOF_REFUSED),
        ({"nonce": b64u(bytes(32))}, Code.PROOF_REFUSED),
        ({"proof": b64u(bytes(64))}, Code.PROOF_REFUSED),
        ({"proof": "!" * 86}, Code.PROOF_REFUSED),
        ({"id": "ben"}, Code.BAD_BUNDLE),
        ({"bundle": SignedBundle("AAAA", b64u(bytes(64)))}, Code.BAD_BUNDLE),
        ({"bundle": bundle_of("ada", IdentityKey(b"\x02" * 32)).signed}, Code.PROOF_REFUSED),
    ],
)
def test_a_wrong_registration_is_fatal(changes: dict[str, Any], code: Code) -> None:
    connection = challenged()
    assert connection.receive(encode(registration(**changes)), NOW) is None
    assert only_error(connection).code is code
    assert connection.phase is Phase.CLOSED
    assert connection.close_reason == CloseReason(CLOSE_CODE, code.value)


def test_a_bundle_that_has_expired_is_refused() -> None:
    connection = challenged()
    assert connection.receive(encode(registration()), NOW + 2 * DAY_MS) is None
    assert only_error(connection).code is Code.BAD_BUNDLE


def test_a_nonce_that_is_none_counts_as_a_bad_frame() -> None:
    connection = challenged()
    assert connection.receive(encode(registration(nonce="!" * 43)), NOW) is None
    assert only_error(connection).code is Code.BAD_FRAME
    assert phase_of(connection) is Phase.CHALLENGED
    assert connection.receive(encode(registration()), NOW) is not None


@pytest.mark.parametrize("phase", [Phase.CHALLENGED, Phase.REGISTERING])
def test_nothing_else_comes_before_the_registration(phase: Phase) -> None:
    connection = IN_PHASE[phase]()
    for frame in (send(), Ack(id=message_id(1))):
        assert connection.receive(encode(frame), NOW) is None
        assert only_error(connection).code is Code.REGISTRATION_REQUIRED
    assert connection.receive(encode(send()), NOW) is None
    assert only_error(connection).code is Code.REGISTRATION_REQUIRED
    assert connection.phase is Phase.CLOSED


def test_registering_twice_is_a_bad_frame() -> None:
    connection = registered()
    assert connection.receive(encode(registration()), NOW) is None
    assert only_error(connection).code is Code.BAD_FRAME
    assert connection.phase is Phase.REGISTERED


# --- What a registered client may do --------------------------------------------------------


def test_what_is_asked_for_becomes_an_event() -> None:
    connection = registered()
    newer = bundle_of("ada", generation=2)
    assert connection.receive(encode(send()), NOW) == SendRequested(send())
    lookup = Lookup(id=message_id(2), query="Test, Ada")
    assert connection.receive(encode(lookup), NOW) == LookupRequested(message_id(2), "Test, Ada")
    publish = Publish(id=message_id(3), bundle=newer.signed)
    assert connection.receive(encode(publish), NOW) == PublishRequested(message_id(3), newer)
    assert connection.frames_to_send() == []


def test_a_published_bundle_is_ones_own() -> None:
    connection = registered()
    for number, signed in enumerate((bundle_of("ben").signed, SignedBundle("AAAA", "AAAA"))):
        frame = Publish(id=message_id(number), bundle=signed)
        assert connection.receive(encode(frame), NOW) is None
        error = only_error(connection)
        assert (error.code, error.id) == (Code.BAD_BUNDLE, message_id(number))
    assert connection.phase is Phase.REGISTERED


def test_the_rate_is_bounded_and_says_when_to_come_back() -> None:
    connection = registered()
    for number in range(5):
        assert connection.receive(encode(send(number)), NOW) is not None
    assert connection.receive(encode(send(5)), NOW) is None
    error = only_error(connection)
    assert (error.code, error.id, error.retry_after_ms) == (
        Code.RATE_LIMITED,
        message_id(5),
        100,
    )
    assert connection.receive(encode(send(5)), NOW + 99) is None
    connection.frames_to_send()
    assert connection.receive(encode(send(5)), NOW + 100) is not None


def test_draining_acknowledges_and_starts_nothing() -> None:
    connection = registered()
    assert connection.deliver(deliver(), "token", NOW)
    connection.drain(500)
    connection.frames_to_send()
    newer = bundle_of("ada", generation=2).signed
    for frame in (
        send(2),
        Lookup(id=message_id(3), query="ada"),
        Publish(id=message_id(4), bundle=newer),
    ):
        assert connection.receive(encode(frame), NOW) is None
        error = only_error(connection)
        assert (error.code, error.id) == (Code.DRAINING, frame.id)
    assert not connection.deliver(deliver(5), "late", NOW)
    assert connection.room == 0
    ack = Ack(id=message_id(1), sender="ben")
    assert connection.receive(encode(ack), NOW) == MessageAcked("token")


# --- Deliveries and statuses ----------------------------------------------------------------


def test_the_window_has_room_for_so_many_messages() -> None:
    assert registered().oldest_unacked_since is None
    connection = registered()
    for number in range(3):
        assert connection.deliver(deliver(number), f"token {number}", NOW + number)
    assert (connection.unacked, connection.room) == (3, 0)
    assert connection.oldest_unacked_since == NOW
    assert not connection.deliver(deliver(3), "no room", NOW)
    assert len(connection.frames_to_send()) == 3
    ack = Ack(id=message_id(0), sender="ben")
    assert connection.receive(encode(ack), NOW) == MessageAcked("token 0")
    assert connection.oldest_unacked_since == NOW + 1
    assert connection.deliver(deliver(3), "token 3", NOW)


def test_the_window_has_room_for_so_many_bytes_but_always_for_one() -> None:
    connection = registered()
    assert connection.deliver(deliver(1, body="A" * 200), "large", NOW)
    assert connection.room == 0
    assert not connection.deliver(deliver(2, body="A"), "small", NOW)
    connection.receive(encode(Ack(id=message_id(1), sender="ben")), NOW)
    assert connection.deliver(deliver(2, body="A" * 60), "small", NOW)
    assert not connection.deliver(deliver(3, body="A" * 60), "another", NOW)


def test_two_messages_that_an_ack_could_not_tell_apart_are_not_out_together() -> None:
    connection = registered()
    assert connection.deliver(deliver(1), "first", NOW)
    assert not connection.deliver(deliver(1), "again", NOW)
    assert connection.deliver(deliver(1, sender="eve"), "another sender", NOW)


def test_acks_of_what_is_not_out_are_counted_and_ignored() -> None:
    connection = registered()
    connection.deliver(deliver(1), "token", NOW)
    connection.frames_to_send()
    for ack in (
        Ack(id=message_id(2), sender="ben"),
        Ack(id=message_id(1), sender="eve"),
        Ack(id=message_id(1)),
    ):
        assert connection.receive(encode(ack), NOW) is None
    assert connection.ignored_acks == 3
    assert connection.unacked == 1
    assert connection.frames_to_send() == []


def test_a_stored_status_is_told_once_and_acknowledged_once() -> None:
    connection = registered()
    status = Status(id=message_id(1), to="ben", state=State.DELIVERED)
    connection.status(status, stored=True)
    connection.status(status, stored=True)
    assert connection.frames_to_send() == [status]
    assert connection.statuses_unacked == 1
    ack = encode(Ack(id=message_id(1)))
    assert connection.receive(ack, NOW) == StatusAcked(message_id(1))
    assert connection.receive(ack, NOW) is None
    connection.status(status, stored=False)
    connection.status(status, stored=False)
    assert len(connection.frames_to_send()) == 2


def test_a_closed_connection_gives_back_what_was_not_acknowledged() -> None:
    connection = registered()
    for number in range(3):
        connection.deliver(deliver(number), f"token {number}", NOW)
    connection.receive(encode(Ack(id=message_id(1), sender="ben")), NOW)
    with pytest.raises(MisuseError):
        list(connection.give_back())
    connection.lost()
    assert list(connection.give_back()) == ["token 0", "token 2"]
    assert list(connection.give_back()) == []


# --- Bad input ------------------------------------------------------------------------------


def test_bad_frames_are_counted() -> None:
    connection = registered()
    for _ in range(2):
        assert connection.receive("nonsense", NOW) is None
        assert only_error(connection).code is Code.BAD_FRAME
        assert phase_of(connection) is Phase.REGISTERED
    connection.receive_binary()
    assert only_error(connection).code is Code.BAD_FRAME
    assert connection.close_reason == CloseReason(CLOSE_CODE, "bad_frame")


def test_a_frame_that_is_too_large_is_fatal_at_once() -> None:
    connection = registered()
    assert connection.receive("x" * (limits.FRAME_BYTES_MAX + 1), NOW) is None
    assert only_error(connection).code is Code.FRAME_TOO_LARGE
    assert connection.phase is Phase.CLOSED


def test_a_closed_connection_takes_and_sends_nothing() -> None:
    connection = closed()
    for frame in (send(), registration(), Ack(id=message_id(1), sender="ben")):
        assert connection.receive(encode(frame), NOW) is None
    connection.receive_binary()
    connection.refuse(Code.OVERLOADED)
    connection.fail(Code.SLOW_CONSUMER)
    connection.status(Status(id=message_id(1), to="ben", state=State.DELIVERED), stored=True)
    assert not connection.deliver(deliver(), "token", NOW)
    assert connection.frames_to_send() == []
    assert connection.close_reason == CloseReason(CLOSE_CODE, "revoked")


STEPS: dict[str, Callable[[Connection], object]] = {
    "accept": lambda one: one.accept(
        connection=message_id(0), bounds=BOUNDS, terms=TERMS, waiting=0, now=NOW
    ),
    "drain": lambda one: one.drain(1),
    "challenge": lambda one: one.challenge(NOW),
    "give_back": lambda one: list(one.give_back()),
}
LEGAL = {
    ("accept", Phase.REGISTERING),
    ("drain", Phase.REGISTERED),
    ("challenge", Phase.CHALLENGED),
    ("give_back", Phase.CLOSED),
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("step", STEPS)
def test_an_illegal_step_raises_and_changes_nothing(step: str, phase: Phase) -> None:
    connection = IN_PHASE[phase]()
    if (step, phase) in LEGAL:
        STEPS[step](connection)
        return
    with pytest.raises(MisuseError):
        STEPS[step](connection)
    assert connection.phase is phase
    assert connection.frames_to_send() == []


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_ends_when_the_socket_does(phase: Phase) -> None:
    connection = IN_PHASE[phase]()
    connection.lost()
    assert connection.phase is Phase.CLOSED
    assert connection.frames_to_send() == []


def test_misuse_is_named() -> None:
    with pytest.raises(MisuseError):
        RelayConnection(relay_name=RELAY, nonce=b"short", bounds=BOUNDS)
    for per_second, burst in ((0, 1), (1, 0)):
        with pytest.raises(MisuseError):
            TokenBucket(per_second, burst, NOW)


@given(
    rate=st.integers(1, 10_000),
    burst=st.integers(1, 100),
    pauses=st.lists(st.integers(-1_000, 5_000), max_size=200),
)
def test_a_bucket_never_lets_more_through_than_its_rate(
    rate: int, burst: int, pauses: list[int]
) -> None:
    bucket = TokenBucket(rate, burst, NOW)
    now, taken, elapsed = NOW, 0, 0
    for pause in pauses:
        now += pause
        elapsed += max(0, pause)
        wait_ms = bucket.take(now)
        taken += not wait_ms
        assert wait_ms >= 0
        assert wait_ms <= 1_000 / rate + 1
    assert taken <= burst + elapsed * rate / 1_000 + 1e-6

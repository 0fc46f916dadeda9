"""A client's side without I/O: correlation, deadlines, retries, and words out of place."""

from __future__ import annotations

import os

import pytest

from protocol import frames, limits
from protocol.client_events import (
    ACCEPTED,
    CallEnded,
    Draining,
    Due,
    Ended,
    Event,
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
from protocol.client_exchange import Stage
from protocol.client_protocol import ClientProtocol
from protocol.encoding import b64u, unb64u
from protocol.errors import Code, MisuseError, RelayError, Retry
from protocol.frames import Kind, Role, State
from protocol.identifiers import uuid7
from protocol.keyfile import new_key_file
from protocol.registration import check_proof

NOW = 1_800_000_000_000
KEYS = new_key_file("ada", "Ada", "Test", now=NOW, random_bytes=os.urandom)
NONCE = bytes(range(32))
TERMS = frames.Limits(131_072, 81_920, limits.TTL_MS_MAX, 64, 100, 1_000, 60)


def new_id(number: int) -> str:
    return uuid7(NOW, number.to_bytes(10, "big"))


ONE, TWO = new_id(1), new_id(2)


def challenge(relay: str = "relay", versions: tuple[int, ...] = (1,)) -> frames.Challenge:
    return frames.Challenge(relay, b64u(NONCE), NOW, list(versions))


def welcome() -> frames.Welcome:
    return frames.Welcome(new_id(99), TERMS, 0, NOW)


def make(pause_ms: int = 100) -> ClientProtocol:
    return ClientProtocol(KEYS.identity, KEYS.bundle, Role.PERSON, lambda _: pause_ms)


def ready(protocol: ClientProtocol, now: int = NOW) -> list[Event]:
    protocol.connected(NONCE)
    protocol.receive(challenge(), now)
    return protocol.receive(welcome(), now)


def begin(
    protocol: ClientProtocol, message_id: str = ONE, kind: Kind = Kind.REQUEST, tries: int = 2
) -> list[Event]:
    return protocol.begin(
        message_id, "bank", kind, tries=tries, try_ms=1_000, lapses_at=NOW + 60_000, now=NOW
    )


def sent(protocol: ClientProtocol, message_id: str = ONE, now: int = NOW) -> frames.Send:
    [event] = protocol.dispatch(message_id, "AAAA", 5_000, now)
    assert isinstance(event, Transmit)
    assert isinstance(event.frame, frames.Send)
    return event.frame


def status(state: State, code: Code | None = None, to: str = "bank") -> frames.Status:
    return frames.Status(ONE, to, state, code)


def reply(re: str = ONE, sender: str = "bank") -> frames.Deliver:
    return frames.Deliver(new_id(50), sender, Kind.REPLY, 1, NOW, "AAAA", re)


def under_way(tries: int = 2, kind: Kind = Kind.REQUEST) -> ClientProtocol:
    protocol = make()
    ready(protocol)
    begin(protocol, tries=tries, kind=kind)
    sent(protocol)
    return protocol


# --- Registration ---


def test_challenge_is_answered_with_a_proof_for_this_relay_and_connection() -> None:
    protocol = make()
    protocol.connected(b"n" * 32)
    [event] = protocol.receive(challenge("relay one"), NOW)
    assert isinstance(event, Transmit)
    assert isinstance(event.frame, frames.Register)
    register = event.frame
    assert unb64u(register.nonce) == b"n" * 32
    check_proof(
        unb64u(register.proof),
        KEYS.bundle,
        relay_name="relay one",
        relay_nonce=NONCE,
        client_nonce=b"n" * 32,
        claimed_id="ada",
        version=1,
        role="person",
    )
    [registered] = protocol.receive(welcome(), NOW)
    assert isinstance(registered, Registered)
    assert registered.relay == "relay one"
    assert protocol.phase is Phase.READY


def test_relay_of_another_name_gets_no_proof() -> None:
    protocol = make()
    protocol.expected_relay = "relay one"
    protocol.connected(NONCE)
    assert protocol.receive(challenge("relay two"), NOW) == [RelayRenamed("relay one", "relay two")]
    assert protocol.phase is Phase.CLOSED


def test_relay_of_another_version_gets_no_proof() -> None:
    protocol = make()
    protocol.connected(NONCE)
    [event] = protocol.receive(challenge(versions=(2, 3)), NOW)
    assert isinstance(event, RegistrationRefused)
    assert event.error.code is Code.UNSUPPORTED_VERSION


def test_refused_registration_is_told_and_closes() -> None:
    protocol = make()
    protocol.connected(NONCE)
    protocol.receive(challenge(), NOW)
    error = frames.Error(Code.ID_TAKEN, Retry.NEVER)
    assert protocol.receive(error, NOW) == [RegistrationRefused(error)]
    assert protocol.phase is Phase.CLOSED


@pytest.mark.parametrize("phase", list(Phase))
def test_frames_out_of_place_are_refused_and_change_nothing(phase: Phase) -> None:
    samples: dict[type, frames.RelayFrame] = {
        frames.Challenge: challenge(),
        frames.Welcome: welcome(),
        frames.Deliver: reply(),
        frames.Status: status(State.DELIVERED),
        frames.Found: frames.Found(ONE, "bank", []),
        frames.Published: frames.Published(ONE, 1),
        frames.Error: frames.Error(Code.BUSY, Retry.SAME),
        frames.Drain: frames.Drain(10),
    }
    for kind, frame in samples.items():
        protocol = make()
        protocol.phase = phase
        if kind in ACCEPTED[phase]:
            continue
        with pytest.raises(RelayError, match="out of place") as caught:
            protocol.receive(frame, NOW)
        assert caught.value.code is Code.BAD_FRAME
        assert protocol.phase is phase


def test_connecting_twice_is_misuse() -> None:
    protocol = make()
    protocol.connected(NONCE)
    with pytest.raises(MisuseError):
        protocol.connected(NONCE)


def test_rotated_bundle_is_used_from_the_next_connection_on() -> None:
    protocol = make()
    other = new_key_file("ada", "Ada", "Other", now=NOW, random_bytes=os.urandom)
    protocol.use(other.identity, other.bundle)
    protocol.connected(NONCE)
    [event] = protocol.receive(challenge(), NOW)
    assert isinstance(event, Transmit)
    assert isinstance(event.frame, frames.Register)
    assert event.frame.bundle == other.signed_bundle


# --- A message's life ---


def test_message_before_the_connection_is_due_after_it() -> None:
    protocol = make()
    assert begin(protocol) == []
    events = ready(protocol)
    assert events[1:] == [Due(ONE, 1, refetch=False)]
    frame = sent(protocol)
    assert (frame.id, frame.to, frame.kind, frame.ttl_ms) == (ONE, "bank", Kind.REQUEST, 5_000)


def test_reply_of_the_recipient_arrives_and_ends_it() -> None:
    protocol = under_way()
    deliver = reply()
    assert protocol.receive(deliver, NOW) == [ReplyArrived(deliver)]
    assert protocol.stage_of(ONE) is Stage.SENT
    assert protocol.answered(ONE) == [Ended(ONE, Stage.ANSWERED, None, "")]
    assert protocol.stage_of(ONE) is None
    assert protocol.answered(ONE) == []


def test_reply_of_somebody_else_is_a_stray_one() -> None:
    protocol = under_way()
    deliver = reply(sender="mallory")
    assert protocol.receive(deliver, NOW) == [StrayReply(deliver)]
    assert protocol.counters.unknown_replies == 1
    assert protocol.stage_of(ONE) is Stage.SENT


def test_reply_to_nothing_is_counted_and_harmless() -> None:
    protocol = under_way()
    deliver = reply(re=TWO)
    assert protocol.receive(deliver, NOW) == [StrayReply(deliver)]
    assert protocol.counters.unknown_replies == 1


def test_late_reply_is_counted_as_such() -> None:
    protocol = under_way()
    protocol.answered(ONE)
    protocol.receive(reply(), NOW)
    assert (protocol.counters.late_replies, protocol.counters.unknown_replies) == (1, 0)


def test_silence_leads_to_the_next_try_with_the_same_id_and_fresh_keys() -> None:
    protocol = under_way()
    assert protocol.next_alarm == NOW + 1_000
    assert protocol.tick(NOW + 999) == []
    [progress] = protocol.tick(NOW + 1_000)
    assert progress == Progress(ONE, Stage.WAITING, None)
    assert protocol.next_alarm == NOW + 1_100
    assert protocol.tick(NOW + 1_100) == [Due(ONE, 2, refetch=True)]
    assert sent(protocol, now=NOW + 1_100).id == ONE
    assert protocol.tick(NOW + 2_100) == [Ended(ONE, Stage.LAPSED, None, "")]
    assert protocol.next_alarm is None


def test_broken_connection_costs_no_try() -> None:
    protocol = under_way(tries=1)
    for attempt in (2, 3, 4):
        protocol.disconnected(NOW)
        assert protocol.stage_of(ONE) is Stage.WAITING
        assert ready(protocol)[1:] == [Due(ONE, attempt, refetch=False)]
        sent(protocol)
    assert protocol.tick(NOW + 1_000) == [Ended(ONE, Stage.LAPSED, None, "")]


def test_pause_outlasts_a_broken_connection() -> None:
    protocol = under_way()
    protocol.again(ONE, NOW, after_ms=5_000)
    protocol.disconnected(NOW)
    assert ready(protocol)[1:] == []
    assert protocol.tick(NOW + 4_999) == []
    assert [type(event) for event in protocol.tick(NOW + 5_000)] == [Due]


def test_time_runs_out_without_a_connection() -> None:
    protocol = make()
    begin(protocol)
    assert protocol.tick(NOW + 60_000) == [Ended(ONE, Stage.LAPSED, None, "")]


def test_queued_message_is_not_sent_again_until_it_is_lost() -> None:
    protocol = under_way()
    assert protocol.receive(status(State.QUEUED), NOW) == [Progress(ONE, Stage.QUEUED, None)]
    assert protocol.tick(NOW + 30_000) == []
    events = protocol.receive(status(State.EXPIRED), NOW)
    assert events == [
        Transmit(frames.Ack(ONE)),
        Progress(ONE, Stage.WAITING, Code.EXPIRED),
    ]
    assert protocol.tick(NOW + 100) == [Due(ONE, 2, refetch=True)]


@pytest.mark.parametrize("code", [Code.PEER_GONE, Code.EXPIRED, Code.OVERLOADED])
def test_failed_delivery_means_send_again(code: Code) -> None:
    protocol = under_way()
    protocol.receive(status(State.FAILED, code), NOW)
    assert protocol.stage_of(ONE) is Stage.WAITING


def test_notice_ends_when_it_is_delivered() -> None:
    protocol = under_way(kind=Kind.NOTICE)
    events = protocol.receive(status(State.DELIVERED), NOW)
    assert events == [Ended(ONE, Stage.ANSWERED, None, "")]


def test_request_that_was_delivered_is_not_answered() -> None:
    protocol = under_way()
    events = protocol.receive(status(State.DELIVERED), NOW)
    assert events == [Progress(ONE, Stage.DELIVERED, None)]
    assert protocol.stage_of(ONE) is Stage.DELIVERED


def test_words_out_of_place_are_counted() -> None:
    protocol = under_way()
    protocol.receive(status(State.DELIVERED), NOW)
    assert protocol.receive(status(State.QUEUED), NOW) == []
    assert protocol.receive(status(State.DELIVERED), NOW) == []
    assert protocol.counters.statuses_out_of_place == 2
    assert protocol.stage_of(ONE) is Stage.DELIVERED


def test_status_for_another_recipient_is_ignored() -> None:
    protocol = under_way()
    protocol.receive(status(State.EXPIRED, to="mallory"), NOW)
    assert protocol.stage_of(ONE) is Stage.SENT
    assert protocol.counters.unknown_statuses == 1


def test_stored_statuses_of_earlier_runs_are_acknowledged() -> None:
    protocol = make()
    ready(protocol)
    assert protocol.receive(status(State.DELIVERED), NOW) == [Transmit(frames.Ack(ONE))]


def test_status_that_was_never_stored_is_not_acknowledged() -> None:
    protocol = under_way()
    protocol.answered(ONE)
    assert protocol.receive(status(State.DELIVERED), NOW) == []


def test_status_stored_while_queued_is_acknowledged_after_the_end() -> None:
    protocol = under_way()
    protocol.receive(status(State.QUEUED), NOW)
    protocol.answered(ONE)
    assert protocol.receive(status(State.DELIVERED), NOW) == [Transmit(frames.Ack(ONE))]


def test_status_stored_while_away_is_acknowledged_after_the_end() -> None:
    protocol = under_way()
    protocol.disconnected(NOW)
    ready(protocol)
    sent(protocol)
    protocol.answered(ONE)
    assert protocol.receive(status(State.DELIVERED), NOW) == [Transmit(frames.Ack(ONE))]


def test_error_that_never_can_help_ends_the_sending() -> None:
    protocol = under_way()
    error = frames.Error(
        Code.AMBIGUOUS_NAME, Retry.NEVER, id=ONE, detail="two", candidates=["a", "b"]
    )
    assert protocol.receive(error, NOW) == [
        Ended(ONE, Stage.REFUSED, Code.AMBIGUOUS_NAME, "two", ("a", "b"))
    ]


def test_retry_after_is_honoured() -> None:
    protocol = under_way()
    error = frames.Error(Code.RATE_LIMITED, Retry.SAME, retry_after_ms=700, id=ONE)
    assert protocol.receive(error, NOW) == [Progress(ONE, Stage.WAITING, Code.RATE_LIMITED)]
    assert protocol.next_alarm == NOW + 700


def test_error_that_belongs_to_nothing_is_only_told() -> None:
    protocol = under_way()
    error = frames.Error(Code.BAD_FRAME, Retry.NEVER, id=TWO)
    assert protocol.receive(error, NOW) == [RelayTrouble(error)]
    assert protocol.stage_of(ONE) is Stage.SENT


def test_retry_class_on_the_wire_is_not_believed() -> None:
    protocol = under_way()
    error = frames.Error(Code.OVERLOADED, Retry.NEVER, id=ONE)
    assert protocol.receive(error, NOW) == [Progress(ONE, Stage.WAITING, Code.OVERLOADED)]


def test_draining_relay_gets_nothing_new() -> None:
    protocol = under_way()
    assert protocol.receive(frames.Drain(300), NOW) == [Draining(300)]
    assert begin(protocol, TWO) == []
    assert protocol.reply(new_id(3), "ben", TWO, "AAAA", 1) == []
    assert protocol.receive(reply(), NOW) == [ReplyArrived(reply())]
    deliver = reply()
    assert protocol.ack(deliver) == [Transmit(frames.Ack(deliver.id, "bank"))]
    protocol.answered(ONE)
    protocol.disconnected(NOW)
    assert ready(protocol)[1:] == [Due(TWO, 1, refetch=False)]


def test_dispatch_after_the_end_sends_nothing() -> None:
    protocol = make()
    ready(protocol)
    begin(protocol)
    protocol.lapse(ONE)
    assert protocol.dispatch(ONE, "AAAA", 1, NOW) == []


def test_requests_and_notices_of_others_are_handed_on() -> None:
    protocol = make()
    ready(protocol)
    deliver = frames.Deliver(ONE, "ben", Kind.REQUEST, 1, NOW, "AAAA")
    assert protocol.receive(deliver, NOW) == [Incoming(deliver)]
    [answer] = protocol.reply(TWO, "ben", ONE, "AAAA", 1_000)
    assert isinstance(answer, Transmit)
    assert answer.frame == frames.Send(TWO, "ben", Kind.REPLY, 1_000, "AAAA", ONE)


@pytest.mark.parametrize(
    ("kind", "tries"), [(Kind.REPLY, 1), (Kind.REQUEST, 0)], ids=["reply", "no try"]
)
def test_what_cant_be_begun_is_misuse(kind: Kind, tries: int) -> None:
    with pytest.raises(MisuseError):
        begin(make(), kind=kind, tries=tries)


def test_same_message_twice_is_misuse() -> None:
    protocol = under_way()
    with pytest.raises(MisuseError):
        begin(protocol)


# --- Calls ---


def test_lookup_is_answered_once() -> None:
    protocol = make()
    ready(protocol)
    call = frames.Lookup(ONE, "bank")
    assert protocol.call(call, lapses_at=NOW + 100, now=NOW) == [Transmit(call)]
    found = frames.Found(ONE, "bank", [])
    assert protocol.receive(found, NOW) == [CallEnded(ONE, found)]
    assert protocol.receive(found, NOW) == []
    assert protocol.counters.unknown_calls == 1
    assert protocol.next_alarm is None


def test_lookup_is_asked_again_after_a_break_and_lapses() -> None:
    protocol = make()
    call = frames.Lookup(ONE, "bank")
    assert protocol.call(call, lapses_at=NOW + 100, now=NOW) == []
    assert ready(protocol)[1:] == [Transmit(call)]
    assert protocol.tick(NOW + 100) == [CallEnded(ONE, None)]


def test_busy_relay_is_asked_again_after_a_pause() -> None:
    protocol = make(pause_ms=10)
    ready(protocol)
    call = frames.Lookup(ONE, "bank")
    protocol.call(call, lapses_at=NOW + 10_000, now=NOW)
    busy = frames.Error(Code.RATE_LIMITED, Retry.SAME, retry_after_ms=50, id=ONE)
    assert protocol.receive(busy, NOW) == []
    assert protocol.tick(NOW + 49) == []
    assert protocol.tick(NOW + 50) == [Transmit(call)]


def test_refused_publication_ends_the_call() -> None:
    protocol = make()
    ready(protocol)
    protocol.call(frames.Publish(ONE, KEYS.signed_bundle), lapses_at=NOW + 10_000, now=NOW)
    error = frames.Error(Code.BAD_BUNDLE, Retry.NEVER, id=ONE)
    assert protocol.receive(error, NOW) == [CallEnded(ONE, error)]

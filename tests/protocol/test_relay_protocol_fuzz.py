"""The relay's side of a connection: whatever a peer may send, in whatever order."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol import limits
from protocol.errors import Code, RelayError
from protocol.frames import (
    Ack,
    ClientFrame,
    Lookup,
    Publish,
    RelayFrame,
    decode_client_frame,
    encode,
)
from protocol.relay_events import (
    CLOSE_CODE,
    LookupRequested,
    MessageAcked,
    PublishRequested,
    SendRequested,
)
from protocol.relay_protocol import Phase, RelayConnection
from tests.protocol.relay_side import (
    BOUNDS,
    BUNDLE,
    NONCE,
    NOW,
    RELAY,
    TERMS,
    Connection,
    deliver,
    message_id,
    registration,
    send,
)

# --- Whatever a peer may send ---------------------------------------------------------------

ids = st.integers(0, 5).map(message_id)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=15,
)
frame_types = st.sampled_from(
    ["register", "send", "ack", "lookup", "publish", "welcome", "challenge", "deliver", ""]
)
member_names = st.sampled_from(
    ["id", "to", "kind", "ttl_ms", "body", "re", "from", "query", "bundle", "nonce", "proof"]
)
near_frames = st.builds(
    lambda kind, members: json.dumps({"type": kind, **members}),
    frame_types,
    st.dictionaries(member_names, json_values | ids, max_size=8),
)
mutated_frames = st.builds(
    lambda text, at, with_: text[: at % (len(text) + 1)] + with_ + text[at % (len(text) + 1) + 1 :],
    st.sampled_from(
        [
            encode(frame)
            for frame in (
                registration(),
                send(),
                Ack(id=message_id(1), sender="ben"),
                Lookup(id=message_id(1), query="Test, Ada"),
                Publish(id=message_id(1), bundle=BUNDLE.signed),
            )
        ]
    ),
    st.integers(0, 5_000),
    st.text(max_size=3),
)
garbage = st.text(max_size=200) | near_frames | mutated_frames | json_values.map(json.dumps)


def decoded(text: str | bytes) -> ClientFrame | Code:
    try:
        return decode_client_frame(text)
    except RelayError as error:
        return error.code


@given(garbage)
@settings(max_examples=400)
def test_the_codec_raises_nothing_but_its_named_errors(text: str) -> None:
    frame = decoded(text)
    if isinstance(frame, Code):
        assert frame is Code.BAD_FRAME
    else:
        assert decode_client_frame(encode(frame)) == frame


@given(st.binary(max_size=300))
def test_the_codec_takes_any_bytes(raw: bytes) -> None:
    assert decoded(raw)


client_frames: st.SearchStrategy[ClientFrame] = st.one_of(
    st.builds(send, st.integers(0, 5)),
    st.builds(Ack, id=ids, sender=st.sampled_from(["ben", "eve", None])),
    st.builds(Lookup, id=ids, query=st.text(min_size=1, max_size=20)),
    st.builds(Publish, id=ids, bundle=st.just(BUNDLE.signed)),
    st.just(registration()),
    st.just(registration(version=9)),
)


class AnyPeer(RuleBasedStateMachine):
    """Any order of frames, good and bad, against any order of what the relay does meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.connection: Connection = RelayConnection(relay_name=RELAY, nonce=NONCE, bounds=BOUNDS)
        self.connection.challenge(NOW)
        self.drained()
        self.now = NOW
        self.out: dict[tuple[str, str], str] = {}
        self.given_back: list[str] = []
        self.deliveries = 0

    def drained(self) -> list[RelayFrame]:
        frames = self.connection.frames_to_send()
        for frame in frames:
            assert len(encode(frame)) <= limits.FRAME_BYTES_MAX
        return frames

    @rule(frame=client_frames)
    def well_formed(self, frame: ClientFrame) -> None:
        phase = self.connection.phase
        event = self.connection.receive(encode(frame), self.now)
        if isinstance(event, MessageAcked):
            assert isinstance(frame, Ack)
            assert frame.sender is not None
            assert self.out.pop((frame.sender, frame.id)) == event.token
        if event is not None:
            assert phase is not Phase.CLOSED
        if isinstance(event, SendRequested | LookupRequested | PublishRequested):
            assert phase is Phase.REGISTERED
        self.drained()

    @rule(text=garbage)
    def malformed(self, text: str) -> None:
        event = self.connection.receive(text, self.now)
        if isinstance(event, MessageAcked):
            self.out = {key: token for key, token in self.out.items() if token != event.token}
        self.drained()

    @rule(ms=st.integers(-100, 2_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @precondition(lambda self: self.connection.phase is Phase.REGISTERING)
    @rule(lets_in=st.booleans())
    def the_directory_answers(self, lets_in: bool) -> None:
        if lets_in:
            self.connection.accept(
                connection=message_id(0), bounds=BOUNDS, terms=TERMS, waiting=0, now=self.now
            )
        else:
            self.connection.fail(Code.ID_TAKEN)
        self.drained()

    @rule(number=st.integers(0, 5), sender=st.sampled_from(["ben", "eve"]))
    def a_message_comes(self, number: int, sender: str) -> None:
        frame = deliver(number, sender)
        self.deliveries += 1
        token = f"delivery {self.deliveries}"
        if self.connection.deliver(frame, token, self.now):
            assert self.connection.phase is Phase.REGISTERED
            assert (sender, frame.id) not in self.out
            self.out[sender, frame.id] = token
            assert self.drained() == [frame]
        else:
            assert self.drained() == []

    @precondition(lambda self: self.connection.phase is Phase.REGISTERED)
    @rule()
    def the_server_goes_away(self) -> None:
        self.connection.drain(1)
        self.drained()

    @rule()
    def a_limit_is_passed(self) -> None:
        self.connection.fail(Code.SLOW_CONSUMER)
        self.drained()

    @precondition(lambda self: self.connection.phase is Phase.CLOSED)
    @rule()
    def it_is_cleaned_up(self) -> None:
        assert list(self.connection.give_back()) == list(self.out.values())
        self.out = {}

    @invariant()
    def the_window_is_kept(self) -> None:
        assert self.connection.unacked == len(self.out) <= BOUNDS.in_flight_max

    @invariant()
    def an_error_closes_with_its_code(self) -> None:
        reason = self.connection.close_reason
        if reason is not None:
            assert self.connection.phase is Phase.CLOSED
            assert reason.code == CLOSE_CODE
            assert Code(reason.reason)


TestAnyPeer = AnyPeer.TestCase
TestAnyPeer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

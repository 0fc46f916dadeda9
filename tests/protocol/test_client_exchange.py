"""The life of one message as a table, and what any relay can make of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import frames
from protocol.client_events import ACCEPTED, Due, Ended, Event
from protocol.client_exchange import ENDS, STAGES, Alarms, Exchange, Happening, Stage
from protocol.errors import RETRY, Code, RelayError
from protocol.frames import State
from tests.protocol.test_client_protocol import (
    NOW,
    ONE,
    TWO,
    begin,
    challenge,
    make,
    new_id,
    ready,
    reply,
    welcome,
)


def test_every_live_stage_can_end_and_no_end_can_be_left() -> None:
    for stage in Stage:
        for happening in (Happening.ANSWER, Happening.REFUSE, Happening.LAPSE):
            assert ((stage, happening) in STAGES) is (stage not in ENDS)
    assert not [stage for stage, _ in STAGES if stage in ENDS]


@given(st.lists(st.sampled_from(Happening), max_size=30))
def test_exchange_moves_by_the_table_only(happenings: list[Happening]) -> None:
    exchange = Exchange("id", "to", True, 1, 1, 1)
    for happening in happenings:
        before = exchange.stage
        moved = exchange.advance(happening)
        assert moved is ((before, happening) in STAGES)
        assert exchange.stage is STAGES.get((before, happening), before)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50)), max_size=200))
def test_alarms_ring_once_at_the_time_set_last(settings_made: list[tuple[str, int]]) -> None:
    alarms = Alarms()
    expected: dict[str, int] = {}
    for name, when in settings_made:
        if when == 0:
            alarms.clear(name)
            expected.pop(name, None)
        else:
            alarms.set(name, when)
            expected[name] = when
    assert alarms.next == min(expected.values(), default=None)
    rung: list[str] = []
    for now in range(51):
        for name in alarms.ring(now):
            assert expected[name] == now
            rung.append(name)
    assert sorted(rung) == sorted(expected)


frames_of_a_relay = st.one_of(
    st.builds(
        frames.Status,
        st.sampled_from([ONE, TWO, new_id(7)]),
        st.sampled_from(["bank", "mallory"]),
        st.sampled_from(State),
        st.none() | st.sampled_from(Code),
    ),
    st.builds(reply, st.sampled_from([ONE, TWO, new_id(7)]), st.sampled_from(["bank", "mallory"])),
    st.builds(
        lambda code, answers, after: frames.Error(code, RETRY[code], after, answers),
        st.sampled_from(Code),
        st.none() | st.sampled_from([ONE, TWO, new_id(7)]),
        st.none() | st.integers(0, 10_000),
    ),
    st.builds(frames.Found, st.sampled_from([ONE, new_id(9)]), st.just("x"), st.just([])),
    st.just(frames.Drain(5)),
    st.just(welcome()),
    st.just(challenge()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(frames_of_a_relay | st.sampled_from([1, 500, 5_000, 70_000]), max_size=60))
def test_whatever_a_relay_says_each_message_ends_once_and_only_by_this_side_as_answered(
    script: list[frames.RelayFrame | int],
) -> None:
    protocol, now = make(), NOW
    ended: list[Ended] = []
    todo: list[Event] = ready(protocol) + begin(protocol) + begin(protocol, TWO)

    def carry_out(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Due):
                carry_out(protocol.dispatch(event.id, "AAAA", 1, now))
            elif isinstance(event, Ended):
                ended.append(event)

    carry_out(todo)
    for step in script:
        if isinstance(step, int):
            now += step
            carry_out(protocol.tick(now))
        elif type(step) in ACCEPTED[protocol.phase]:
            carry_out(protocol.receive(step, now))
        else:
            with pytest.raises(RelayError):
                protocol.receive(step, now)
            protocol.disconnected(now)
            carry_out(ready(protocol, now))
    carry_out(protocol.tick(NOW + 10_000_000))
    assert sorted(event.id for event in ended) == [ONE, TWO]
    assert not [event for event in ended if event.stage is Stage.ANSWERED]
    assert protocol.under_way == 0

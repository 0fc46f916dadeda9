"""Vectors of the frames between a client and the relay: examples, and what is refused."""

from __future__ import annotations

from typing import Any

from tests.vectors.cases_keys import registration
from tests.vectors.cast import ADA, BANK, NOW
from tests.vectors.primitives import b64u, compact

MESSAGE_ID = "01a0d0a3-1c00-7000-8000-000000000002"
FRAME_ID = "01a0d0a3-1c00-7000-8000-000000000101"
BODY = b64u(b"\2 not really a sealed message")

Frame = dict[str, Any]


def client_frames() -> list[Frame]:
    send = {
        "type": "send",
        "id": MESSAGE_ID,
        "to": "bank",
        "kind": "request",
        "ttl_ms": 86_400_000,
        "body": BODY,
        "re": None,
    }
    return [
        registration()["register"],
        send,
        send | {"kind": "notice", "ttl_ms": 0},
        send | {"id": FRAME_ID, "to": "demo-ada", "kind": "reply", "re": MESSAGE_ID},
        {"type": "ack", "id": MESSAGE_ID, "from": "demo-ben"},
        {"type": "ack", "id": MESSAGE_ID, "from": None},
        {"type": "lookup", "id": FRAME_ID, "query": "Bank, Demo"},
        {"type": "publish", "id": FRAME_ID, "bundle": ADA.signed_bundle(generation=2)},
    ]


def relay_frames() -> list[Frame]:
    error = {
        "type": "error",
        "code": "ambiguous_name",
        "retry": "never",
        "retry_after_ms": None,
        "id": FRAME_ID,
        "detail": "2 clients have this name",
        "candidates": ["demo-ada", "ada-2"],
    }
    return [
        registration()["challenge"],
        {
            "type": "welcome",
            "connection": FRAME_ID,
            "limits": {
                "frame_bytes_max": 131_072,
                "body_bytes_max": 81_920,
                "ttl_ms_max": 2_592_000_000,
                "in_flight_max": 64,
                "sends_per_second": 200,
                "mailbox_messages_max": 1_000,
                "idle_seconds_max": 120,
            },
            "waiting": 0,
            "time": NOW,
        },
        {
            "type": "deliver",
            "id": MESSAGE_ID,
            "from": "demo-ben",
            "kind": "request",
            "attempt": 1,
            "accepted_at": NOW,
            "body": BODY,
            "re": None,
        },
        {"type": "status", "id": MESSAGE_ID, "to": "bank", "state": "queued", "code": None},
        {"type": "status", "id": MESSAGE_ID, "to": "bank", "state": "failed", "code": "peer_gone"},
        {
            "type": "found",
            "id": FRAME_ID,
            "query": "Bank, Demo",
            "bundles": [BANK.signed_bundle()],
        },
        {"type": "published", "id": FRAME_ID, "generation": 2},
        error,
        {"type": "error", "code": "rate_limited", "retry": "same", "retry_after_ms": 250},
        {"type": "drain", "reconnect_after_ms": 3_000},
    ]


def frames() -> dict[str, Any]:
    return {
        "from_client": client_frames(),
        "from_relay": relay_frames(),
        "refused_from_client": _refused_members() + _refused_texts(),
    }


def _refused_members() -> list[dict[str, str]]:
    register, send, _, reply, ack, _, lookup, publish = client_frames()
    changes: list[tuple[str, Frame, Frame]] = [
        ("an unknown type", ack, {"type": "hello"}),
        ("a frame of the relay", ack, {"type": "drain"}),
        ("an unknown member", ack, {"extra": 1}),
        ("an id that is no UUID of version 7", ack, {"id": "1f7e5b16-0000-4000-8000-000000000000"}),
        ("an id in capitals", send, {"id": MESSAGE_ID.upper()}),
        ("a recipient that is no client id", send, {"to": "Bank, Demo"}),
        ("an unknown kind", send, {"kind": "answer"}),
        ("a negative time to live", send, {"ttl_ms": -1}),
        ("a time to live of 31 days", send, {"ttl_ms": 31 * 86_400_000}),
        ("a time to live that is text", send, {"ttl_ms": "1"}),
        ("a request with re", send, {"re": MESSAGE_ID}),
        ("a reply without re", reply, {"re": None}),
        ("an empty body", send, {"body": ""}),
        ("a body that is not base64url", send, {"body": "a+b/"}),
        ("an empty look-up", lookup, {"query": ""}),
        ("a look-up that is too long", lookup, {"query": "x" * 209}),
        ("an unknown role", register, {"role": "relay"}),
        ("a nonce that is too short", register, {"nonce": "AAAA"}),
        ("a proof that is too short", register, {"proof": "AAAA"}),
        ("a bundle that is text", publish, {"bundle": "AAAA"}),
        ("a bundle with more in it", publish, {"bundle": publish["bundle"] | {"name": "x"}}),
    ]
    return [
        {"name": name, "text": compact(frame | change).decode(), "code": "bad_frame"}
        for name, frame, change in changes
    ]


def _refused_texts() -> list[dict[str, str]]:
    texts = {
        "empty": "",
        "no JSON": "{",
        "an array": "[]",
        "a number": "1",
        "null": "null",
        "no type": "{}",
        "a type that is a number": '{"type":1}',
        "half a surrogate pair": '{"type":"lookup","query":"\\ud800"}',
        "nested deeply": "[" * 2_000,
    }
    return [{"name": name, "text": text, "code": "bad_frame"} for name, text in texts.items()]

"""What `docs/protocol.md` says against what `protocol` does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from protocol import banking, bundles, frames, keyfile, limits, sealing
from protocol.encoding import b64u, pae
from protocol.errors import BANK_CODES, END_TO_END_CODES, RELAY_CODES, RETRY, Code
from protocol.keys import format_fingerprint
from tests.vectors.cases_keys import ED25519_SMALL_ORDER, X25519_SMALL_ORDER
from tests.vectors.files import vectors

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
FRAMES = {
    kind.__struct_config__.tag: kind
    for kind in (*get_args(frames.ClientFrame), *get_args(frames.RelayFrame))
}
JSON_EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def _section(heading: str) -> str:
    """Return the text under a heading, up to the next one of its level or above."""
    level = heading.index(" ")
    start = PAGE.index(f"\n{heading}\n") + len(heading) + 2
    following = re.search(rf"^#{{1,{level}}} ", PAGE[start:], re.MULTILINE)
    return PAGE[start : start + following.start()] if following else PAGE[start:]


def _first_table_members(text: str) -> list[str]:
    """Return the names in the first column of the first table whose header begins `Member`."""
    table = re.search(r"^ *\| Member \|.*\n *\|[-|]+\n((?: *\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    rows = table[1].strip().splitlines()
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def _members(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _between(name: str) -> str:
    match = re.search(rf"<!-- {name}: .*? -->\n(.*?)<!-- end of {name} -->", PAGE, re.DOTALL)
    assert match is not None
    return match[1].strip()


def codes_table() -> str:
    layers = (
        ("Between a client and the relay", RELAY_CODES),
        ("Between two clients", END_TO_END_CODES),
        ("The bank, in its order of precedence; then what is transient", BANK_CODES),
    )
    tables = []
    for title, codes in layers:
        rows = [f"| `{code.value}` | {RETRY[code].value} | {MEANINGS[code]} |" for code in codes]
        tables.append("\n".join([f"| {title} | Class | Means |", "|---|---|---|", *rows]))
    return "\n\n".join(tables)


def limits_table() -> str:
    rows = [
        f"| {LIMITS[name]} | {getattr(limits, name)} |"
        for name in re.findall(r"^([A-Z][A-Z_0-9]+): Final", LIMITS_SOURCE, re.MULTILINE)
    ]
    return "\n".join(["| Bound | Value |", "|---|---|", *rows])


LIMITS: dict[str, str] = {
    "PROTOCOL_VERSION": "version",
    "SUBPROTOCOL": "WebSocket subprotocol",
    "FRAME_BYTES_MAX": "a frame, bytes of UTF-8",
    "BODY_BYTES_MAX": "a body, decoded, bytes",
    "BODY_CHARS_MAX": "a body as base64url, characters",
    "INNER_BYTES_MAX": "the inner JSON of a message, and an answer, bytes",
    "JSON_DEPTH_MAX": "strict JSON, levels of nesting",
    "JSON_INTEGER_CHARS_MAX": "an integer in strict JSON, characters",
    "SEAL_PADDING_BYTES": "padding to a multiple of, bytes",
    "CLIENT_ID_CHARS_MAX": "client id, characters",
    "NAME_CHARS_MAX": "first name, last name, characters each",
    "QUERY_CHARS_MAX": "text of a look-up, characters",
    "ACCOUNT_NUMBER_CHARS_MAX": "account number, characters",
    "CURRENCY_CODE_CHARS_MAX": "currency, characters",
    "CURRENCY_EXPONENT_MAX": "exponent of a currency",
    "AMOUNT_CHARS_MAX": "amount of an order, characters",
    "AMOUNT_MINOR_UNITS_MAX": "amount of an order, minor units",
    "MEMO_CHARS_MAX": "memo, characters",
    "DETAIL_CHARS_MAX": "detail, characters",
    "RELAY_NAME_CHARS_MAX": "name of a relay, characters",
    "TEXT_MESSAGE_CHARS_MAX": "text between persons, characters",
    "CANDIDATES_MAX": "candidates of an ambiguous name",
    "NONCE_BYTES": "nonces of a registration, bytes",
    "BUNDLE_BYTES_MAX": "a bundle, bytes",
    "BUNDLE_ENCRYPTION_KEYS_MAX": "encryption keys in a bundle",
    "BUNDLE_VALIDITY_MS_MAX": "validity of a bundle, milliseconds",
    "MILLISECONDS_MAX": "times, and other integers but balances, at most",
    "CLOCK_TOLERANCE_MS": "how far ahead a peer's clock may be, milliseconds",
    "MESSAGE_LIFETIME_MS_MAX": "from `issued_at` to `expires_at`, milliseconds",
    "TTL_MS_MAX": "time to live of a `send`, milliseconds",
    "STATEMENT_ENTRIES_MAX": "entries on a page of a statement",
    "ACCOUNTS_MAX": "accounts on a page of `accounts`",
    "SEAL_OVERHEAD_BYTES_MAX": "what sealing adds to the inner JSON at the most, bytes",
}
LIMITS_SOURCE = Path(str(limits.__file__)).read_text(encoding="utf-8")
MEANINGS: dict[Code, str] = {
    Code.BAD_FRAME: "the frame breaks the schema, or is out of place",
    Code.FRAME_TOO_LARGE: "the frame is longer than 131072 bytes",
    Code.UNSUPPORTED_VERSION: "the version, or the subprotocol, is not spoken here",
    Code.ORIGIN_REFUSED: "a browser page of this origin may not connect",
    Code.REGISTRATION_REQUIRED: "register first",
    Code.REGISTRATION_TIMEOUT: "the registration took too long",
    Code.PROOF_REFUSED: "the proof of possession is wrong, or this id may not come in so",
    Code.ID_TAKEN: "the id belongs to another key, which did not sign this one",
    Code.WEAK_KEY: "a public key is not an acceptable one",
    Code.BAD_BUNDLE: "the bundle is malformed, wrongly signed, not valid now, or not newer",
    Code.UNKNOWN_RECIPIENT: "nobody has this id or name",
    Code.AMBIGUOUS_NAME: "several clients have this name; use an id",
    Code.RECIPIENT_ABSENT: "the recipient is not there, and the time to live is 0",
    Code.PEER_GONE: "the recipient went away with the message and did not acknowledge it",
    Code.EXPIRED: "the time to live ended before the message was acknowledged",
    Code.RATE_LIMITED: "too many frames or registrations; slow down",
    Code.OVERLOADED: "there is no room for it at the moment",
    Code.MAILBOX_FULL: "the recipient's mailbox is full",
    Code.SLOW_CONSUMER: "this client reads or acknowledges too slowly",
    Code.DRAINING: "the server goes away; come back",
    Code.REVOKED: "the operator blocked this id, or it belongs to another key now",
    Code.UNKNOWN_SENDER: "the recipient does not know the sender",
    Code.UNKNOWN_KEY_ID: "sealed to a key that is not held any more",
    Code.STALE_TICKET: "the session is over (for sessions, which come later)",
    Code.NOT_AUTHENTIC: "it did not open, or the signature is wrong",
    Code.BAD_MESSAGE: "it is authentic, but breaks the schema or contradicts its envelope",
    Code.MESSAGE_EXPIRED: "it expired",
    Code.CLOCK_SKEW: "it was issued more than 60 seconds in the future",
    Code.REPLAYED: "other signed bytes came under this id before",
    Code.REPLAY_WINDOW_FULL: "the memory for replays is full; later there is room",
    Code.DOWNGRADE_REFUSED: "both sides offer a better suite",
    Code.PEER_KEY_CHANGED: "the peer's identity key is not the pinned one",
    Code.UNSUPPORTED_PURPOSE: "the recipient does not serve this purpose",
    Code.ORDER_ID_CONFLICT: "the id was used for other signed bytes",
    Code.ORDER_EXPIRED: "it expired and was not recorded: a certain no",
    Code.KEY_REVOKED: "the key that signed it is not in force, or its owner is blocked",
    Code.BAD_ORDER: "the order could not be understood",
    Code.BAD_AMOUNT: "the amount is none, zero, too precise or too large",
    Code.ACCOUNT_UNAVAILABLE: "there is no such account for this customer",
    Code.PERMISSION_DENIED: "the customer may see the account, but not do this",
    Code.DESTINATION_UNKNOWN: "there is no such account to credit",
    Code.SAME_ACCOUNT: "both accounts are the same",
    Code.CURRENCY_MISMATCH: "the currencies differ",
    Code.ACCOUNT_FROZEN: "one of the accounts is frozen",
    Code.ACCOUNT_CLOSED: "one of the accounts is closed",
    Code.LIMIT_EXCEEDED: "the amount is above what this customer may order at once",
    Code.APPROVAL_REQUIRED: "somebody else has to approve it (comes later)",
    Code.INSUFFICIENT_FUNDS: "less is available",
    Code.BUSY: "too many orders wait; nothing was stored",
    Code.BANK_UNAVAILABLE: "the ledger can't be reached; nothing was stored",
    Code.INTERNAL: "something failed; send it again to find out",
}


def test_the_table_of_codes_is_that_of_the_code() -> None:
    assert _between("codes") == codes_table()


def test_the_table_of_limits_is_that_of_the_code() -> None:
    assert _between("limits") == limits_table()


def test_every_frame_has_a_section_and_no_other_is_there() -> None:
    headings = re.findall(r"^### `(\w+)`$", _section("## Frames"), re.MULTILINE)
    assert sorted(headings) == sorted(FRAMES)


@pytest.mark.parametrize("tag", sorted(FRAMES))
def test_every_member_of_a_frame_is_described(tag: str) -> None:
    assert sorted(_first_table_members(_section(f"### `{tag}`"))) == sorted(_members(FRAMES[tag]))


def test_the_limits_that_a_welcome_tells_are_described() -> None:
    row = next(line for line in _section("### `welcome`").splitlines() if "`limits`" in line)
    names = re.findall(r"`(\w+)`", row)[1:]
    assert [name for name in names if name != "ack"] == _members(frames.Limits)


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("## The key file", keyfile.KeyFileHeader),
        ("### Sealing, step by step", sealing.Inner),
        ("### Answers", banking.Answer),
        ("### Receipts", banking.Receipt),
        ("## Bundles", bundles.SignedBundle),
    ],
)
def test_every_member_of_what_is_signed_or_stored_is_described(heading: str, kind: Any) -> None:
    assert _first_table_members(_section(heading)) == _members(kind)


def test_every_member_of_a_bundle_is_described() -> None:
    described = _first_table_members(_section("## Bundles").split("The bundle itself is")[1])
    example = msgspec.json.decode(vectors("bundle")["accepted"][0]["json"])
    assert [name for name in described if name in example] == list(example)


@pytest.mark.parametrize(
    ("heading", "union"),
    [
        ("### Orders", banking.Order),
        ("### Queries", banking.Query),
        ("### Answers", banking.Result),
    ],
)
def test_every_operation_and_result_is_described(heading: str, union: Any) -> None:
    table = re.search(
        r"^\| `(?:operation|type)` \|.*\n((?:\|.*\n)+)", _section(heading), re.MULTILINE
    )
    assert table is not None
    rows = {row.split("`")[1]: row for row in table[1].splitlines()[1:]}
    kinds = {kind.__struct_config__.tag: kind for kind in get_args(union)}
    assert set(rows) == set(kinds)
    for tag, kind in kinds.items():
        words = set(re.findall(r"`(\w+)`", rows[tag]))
        assert set(_members(kind)) <= words, tag


@pytest.mark.parametrize(
    "kind", [banking.AccountLine, banking.BalanceLine, banking.StatementLine, banking.TransferLine]
)
def test_every_line_of_a_list_is_described(kind: Any) -> None:
    words = set(re.findall(r"`(\w+)`", _section("## The bank")))
    assert set(_members(kind)) <= words


def _published() -> list[Any]:
    """Return every JSON object of the vectors that may stand in the page as an example."""
    texts = [
        *(case["json"] for case in vectors("bundle")["accepted"]),
        *(case["json"] for case in vectors("receipt")["accepted"]),
    ]
    return [
        *(msgspec.json.decode(text) for text in texts),
        *vectors("frames")["from_client"],
        *vectors("frames")["from_relay"],
        *vectors("order")["orders_accepted"],
        *vectors("order")["queries_accepted"],
    ]


@pytest.mark.parametrize("example", JSON_EXAMPLES, ids=lambda text: text[:40])
def test_every_example_is_one_of_the_vectors(example: str) -> None:
    members = msgspec.json.decode(example)
    if "retry" in members and "re" in members:
        assert banking.decode_answer(example.encode()).code == "busy"
    else:
        assert members in _published()


def test_the_worked_example_of_pae() -> None:
    encoded = pae("tw1", 1, None, b"\xff").hex()
    assert encoded in PAGE.replace(" ", "")


def test_weak_keys_are_written_out() -> None:
    section = _section("## Keys")
    listed = re.findall(r"^([0-9a-f]{64})$", section, re.MULTILINE)
    assert listed == [key.hex() for key in (*ED25519_SMALL_ORDER, *X25519_SMALL_ORDER[:5])]


def test_the_shown_fingerprint_and_safety_number_are_those_of_the_vectors() -> None:
    known = vectors("keys")
    bank = next(case for case in known["clients"] if case["id"] == "bank")
    assert format_fingerprint(bytes.fromhex(bank["fingerprint"])) in PAGE
    assert known["safety_number"]["number"] in PAGE


def test_the_transcript_begins_as_the_vectors_do() -> None:
    case = vectors("registration")
    for text in (case["challenge"]["nonce"], case["register"]["nonce"], case["register"]["proof"]):
        assert text[:8] in PAGE
    body = bytes.fromhex(vectors("sealed")["accepted"][0]["open"]["body"])
    assert b64u(body)[:8] in PAGE


@pytest.mark.parametrize(
    "context",
    [
        "fingerprint",
        "safety number",
        "key id",
        "bundle",
        "register",
        "seal",
        "message",
        "reply",
        "receipt",
    ],
)
def test_every_context_string_is_named(context: str) -> None:
    assert f'"tw1 {context}' in PAGE


def test_every_vector_file_is_named() -> None:
    files = {path.name for path in (Path(__file__).parents[1] / "vectors").glob("*.json")}
    assert files <= set(re.findall(r"`(\w+\.json)`", _section("## The test vectors")))

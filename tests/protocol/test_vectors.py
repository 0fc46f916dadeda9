"""The published vectors against ``protocol``, which had no part in making them."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from protocol.banking import (
    SignedReceipt,
    decode_answer,
    decode_order,
    decode_query,
    decode_text,
    open_receipt,
    sign_receipt,
)
from protocol.bundles import SignedBundle, check_succession, open_bundle
from protocol.encoding import b64u, decode_strict, pae, unb64u
from protocol.errors import (
    Code,
    EndToEndError,
    KeyFileFormatError,
    RelayError,
    WrongPassphraseError,
)
from protocol.frames import (
    Challenge,
    Register,
    decode_client_frame,
    decode_nonce,
    decode_relay_frame,
    encode,
)
from protocol.identifiers import check_client_id, check_name, name_key, uuid7
from protocol.keyfile import decrypt_key_file, read_key_file_header
from protocol.keys import (
    IdentityKey,
    Prekey,
    Suite,
    check_identity_key,
    fingerprint,
    format_fingerprint,
    parse_fingerprint,
    safety_number,
    verify,
)
from protocol.registration import check_proof, make_proof, proof_message
from protocol.sealing import (
    Envelope,
    Opened,
    UnsealedRefusalError,
    compose,
    open_reply,
    open_sealed,
    refusal_body,
    seal_info,
    seal_reply,
    verify_evidence,
)
from tests.vectors import make_vectors
from tests.vectors.cast import NOW
from tests.vectors.files import named, vectors

unhex = bytes.fromhex


def test_the_files_are_what_the_program_makes() -> None:
    assert make_vectors.differing() == []


def test_the_program_says_what_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(make_vectors.VECTORS, "reply", lambda: {"nothing": True})
    assert make_vectors.main(["--check"]) == 1
    assert capsys.readouterr().out == "differs: reply.json\n"


# --- Encodings and ids ----------------------------------------------------------------------------


@pytest.mark.parametrize(**named(vectors("encoding")["pae"]))
def test_pae(case: dict[str, Any]) -> None:
    parts = [
        unhex(part["hex"]) if "hex" in part else part.get("text", part.get("integer"))
        for part in case["parts"]
    ]
    assert pae(*parts).hex() == case["encoded"]


@pytest.mark.parametrize(**named(vectors("encoding")["base64url_accepted"]))
def test_base64url(case: dict[str, Any]) -> None:
    assert unb64u(case["text"]) == unhex(case["bytes"])
    assert b64u(unhex(case["bytes"])) == case["text"]


@pytest.mark.parametrize(**named(vectors("encoding")["base64url_refused"]))
def test_refused_base64url(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="base64url"):
        unb64u(case["text"])


@pytest.mark.parametrize(**named(vectors("encoding")["json_refused"]))
def test_refused_json(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_strict(case["text"].encode("utf-8"), dict[str, int])


class _Any(msgspec.Struct, forbid_unknown_fields=True):
    a: msgspec.Raw


@pytest.mark.parametrize(**named(vectors("encoding")["any_json_accepted"]))
def test_any_json(case: dict[str, Any]) -> None:
    text = case["text"]
    assert bytes(decode_strict(text.encode("utf-8"), _Any).a).decode("utf-8") == text[5:-1]


@pytest.mark.parametrize(**named(vectors("encoding")["any_json_refused"]))
def test_refused_any_json(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"deeply|too long|twice"):
        decode_strict(case["text"].encode("utf-8"), _Any)


def test_identifiers() -> None:
    known = vectors("identifiers")
    assert all(name_key(one) == name_key(other) for one, other in known["names_equal"])
    assert all(name_key(one) != name_key(other) for one, other in known["names_different"])
    assert [check_client_id(text) for text in known["ids_accepted"]] == known["ids_accepted"]
    for text in known["ids_refused"]:
        with pytest.raises(ValueError, match="no client id"):
            check_client_id(text)
    for text in known["names_refused"]:
        with pytest.raises(ValueError, match="a name"):
            check_name(text)
    case = known["uuid7"]
    assert uuid7(case["time"], unhex(case["random"])) == case["text"]


# --- Keys and bundles -----------------------------------------------------------------------------


@pytest.mark.parametrize(**named(vectors("keys")["clients"]))
def test_keys_of_a_client(case: dict[str, Any]) -> None:
    identity = IdentityKey(unhex(case["identity_seed"]))
    assert identity.public.hex() == case["identity_key"]
    assert pae("tw1 fingerprint", case["id"], identity.public).hex() == case["fingerprint_input"]
    value = fingerprint(case["id"], identity.public)
    assert value.hex() == case["fingerprint"]
    assert format_fingerprint(value) == case["fingerprint_shown"]
    assert parse_fingerprint(case["fingerprint_shown"]) == value
    for pair in case["prekeys"]:
        prekey = Prekey(Suite(pair["suite"]), unhex(pair["secret"]), NOW)
        assert prekey.public.public.hex() == pair["public"]
        assert prekey.public.key_id.hex() == pair["key_id"]


def test_safety_number() -> None:
    known = vectors("keys")
    values = {case["id"]: unhex(case["fingerprint"]) for case in known["clients"]}
    one, other = (values[client_id] for client_id in known["safety_number"]["of"])
    assert safety_number(one, other) == known["safety_number"]["number"]
    assert safety_number(other, one) == known["safety_number"]["number"]


@pytest.mark.parametrize("key", vectors("keys")["ed25519_refused"])
def test_refused_identity_keys(key: str) -> None:
    with pytest.raises(RelayError) as caught:
        check_identity_key(unhex(key))
    assert caught.value.code == "weak_key"


@pytest.mark.parametrize(**named(vectors("bundle")["accepted"]))
def test_bundles(case: dict[str, Any]) -> None:
    signed = msgspec.convert(case["signed_bundle"], SignedBundle)
    bundle = open_bundle(signed, vectors("bundle")["now"])
    assert unb64u(signed.bundle).decode("utf-8") == case["json"]
    members = msgspec.json.decode(case["json"])
    assert (bundle.id, bundle.first_name, bundle.last_name, bundle.generation) == (
        members["id"],
        members["first_name"],
        members["last_name"],
        members["generation"],
    )


@pytest.mark.parametrize(**named(vectors("bundle")["refused"]))
def test_refused_bundles(case: dict[str, Any]) -> None:
    signed = msgspec.convert(case["signed_bundle"], SignedBundle)
    with pytest.raises(RelayError) as caught:
        open_bundle(signed, case["now"])
    assert caught.value.code == case["code"]


@pytest.mark.parametrize(**named(vectors("succession")["accepted"]))
def test_successions(case: dict[str, Any]) -> None:
    old, new = (
        open_bundle(msgspec.convert(signed, SignedBundle))
        for signed in (vectors("succession")["old"], case["new"])
    )
    check_succession(old, new)


@pytest.mark.parametrize(**named(vectors("succession")["refused"]))
def test_refused_successions(case: dict[str, Any]) -> None:
    old, new = (
        open_bundle(msgspec.convert(signed, SignedBundle))
        for signed in (vectors("succession")["old"], case["new"])
    )
    with pytest.raises(RelayError) as caught:
        check_succession(old, new)
    assert caught.value.code == case["code"]


# --- Frames and registration ----------------------------------------------------------------------


@pytest.mark.parametrize(**named(vectors("frames")["from_client"]))
def test_client_frames(case: dict[str, Any]) -> None:
    frame = decode_client_frame(msgspec.json.encode(case))
    assert decode_client_frame(encode(frame)) == frame
    assert msgspec.json.decode(encode(frame)) == case


@pytest.mark.parametrize(**named(vectors("frames")["from_relay"]))
def test_relay_frames(case: dict[str, Any]) -> None:
    frame = decode_relay_frame(msgspec.json.encode(case))
    assert decode_relay_frame(encode(frame)) == frame
    assert case.items() <= msgspec.json.decode(encode(frame)).items()


@pytest.mark.parametrize(**named(vectors("frames")["refused_from_client"]))
def test_refused_client_frames(case: dict[str, Any]) -> None:
    with pytest.raises(RelayError) as caught:
        decode_client_frame(case["text"])
    assert caught.value.code == case["code"]


def _register(challenge_members: dict[str, Any], register_members: dict[str, Any]) -> None:
    challenge = decode_relay_frame(msgspec.json.encode(challenge_members))
    register = decode_client_frame(msgspec.json.encode(register_members))
    assert isinstance(challenge, Challenge)
    assert isinstance(register, Register)
    check_proof(
        unb64u(register.proof),
        open_bundle(register.bundle, challenge.time),
        relay_name=challenge.relay,
        relay_nonce=decode_nonce(challenge.nonce),
        client_nonce=decode_nonce(register.nonce),
        claimed_id=register.id,
        version=register.version,
        role=register.role,
    )


def test_registration() -> None:
    case = vectors("registration")
    challenge, register = case["challenge"], case["register"]
    _register(challenge, register)
    bundle = open_bundle(msgspec.convert(register["bundle"], SignedBundle))
    assert bundle.hash.hex() == case["bundle_hash"]
    parts = {
        "relay_name": challenge["relay"],
        "relay_nonce": unb64u(challenge["nonce"]),
        "client_nonce": unb64u(register["nonce"]),
        "role": register["role"],
    }
    message = proof_message(**parts, client_id=bundle.id, version=1, bundle_hash=bundle.hash)
    assert message.hex() == case["message"]
    proof = make_proof(IdentityKey(unhex(case["identity_seed"])), bundle, **parts)
    assert b64u(proof) == register["proof"]


@pytest.mark.parametrize(**named(vectors("registration")["refused"]))
def test_refused_registrations(case: dict[str, Any]) -> None:
    whole = vectors("registration") | case
    with pytest.raises(RelayError) as caught:
        _register(whole["challenge"], whole["register"])
    assert caught.value.code == case["code"]


# --- Sealed messages and replies ------------------------------------------------------------------


def _envelope(members: dict[str, Any]) -> Envelope:
    return Envelope(
        id=members["id"],
        re=members["re"],
        sender=members["from"],
        sender_fingerprint=unhex(members["from_fingerprint"]),
        recipient=members["to"],
        recipient_fingerprint=unhex(members["to_fingerprint"]),
    )


def _open(members: dict[str, Any]) -> Opened:
    return open_sealed(
        unhex(members["body"]),
        _envelope(members["envelope"]),
        prekeys=[
            Prekey(Suite(pair["suite"]), unhex(pair["secret"]), NOW) for pair in members["prekeys"]
        ],
        sender_identity=unhex(members["sender_identity"]),
        sender_suites=[Suite(suite) for suite in members["sender_suites"]],
        now=members["now"],
    )


@pytest.mark.parametrize(**named(vectors("sealed")["accepted"]))
def test_sealed_messages(case: dict[str, Any]) -> None:
    opened = _open(case["open"])
    assert opened.signed.inner.decode("utf-8") == case["inner"]
    assert opened.signed.signature.hex() == case["signature"]
    assert opened.signed.hash.hex() == case["evidence_hash"]
    assert opened.reply_key.hex() == case["reply_key"]
    evidence = opened.signed.evidence
    assert verify_evidence(evidence, unhex(case["open"]["sender_identity"])) == opened.inner
    envelope = _envelope(case["open"]["envelope"])
    suite = Suite(case["suite"])
    assert seal_info(suite, envelope, unhex(case["key_id"])).hex() == case["info"]


@pytest.mark.parametrize(**named(vectors("sealed")["accepted"]))
def test_composing_gives_the_same_signed_bytes(case: dict[str, Any]) -> None:
    members = msgspec.json.decode(case["inner"])
    decode = decode_order if members["purpose"] == "bank.order" else decode_text
    signed = compose(
        IdentityKey(unhex(case["sender_identity_seed"])),
        _envelope(case["open"]["envelope"]),
        purpose=members["purpose"],
        content=decode(msgspec.json.encode(members["content"])),
        issued_at=members["issued_at"],
        expires_at=members["expires_at"],
        reply_key=unhex(case["reply_key"]),
    )
    assert signed.inner.decode("utf-8") == case["inner"]
    assert signed.signature.hex() == case["signature"]


@pytest.mark.parametrize(**named(vectors("sealed")["refused"]))
def test_refused_sealed_messages(case: dict[str, Any]) -> None:
    known = {accepted["name"]: accepted["open"] for accepted in vectors("sealed")["accepted"]}
    members = known[case["of"]] | case["with"]
    members["envelope"] = known[case["of"]]["envelope"] | case["with"].get("envelope", {})
    with pytest.raises(EndToEndError) as caught:
        _open(members)
    assert caught.value.code == case["code"]


def test_keyed_reply() -> None:
    case = vectors("reply")["accepted"]
    key, request = unhex(case["reply_key"]), unhex(case["request_hash"])
    answer = case["answer"].encode("utf-8")
    assert seal_reply(key, request, answer, unhex(case["nonce"])).hex() == case["body"]
    assert open_reply(unhex(case["body"]), key, request) == answer
    assert decode_answer(answer).code == "busy"


def test_unsealed_refusal() -> None:
    case, known = vectors("reply")["unsealed_refusal"], vectors("reply")["accepted"]
    with pytest.raises(UnsealedRefusalError) as caught:
        open_reply(unhex(case["body"]), unhex(known["reply_key"]), unhex(known["request_hash"]))
    assert caught.value.code == case["code"]
    assert refusal_body(caught.value.code).hex() == case["body"]


@pytest.mark.parametrize(**named(vectors("reply")["refused"]))
def test_refused_replies(case: dict[str, Any]) -> None:
    whole = vectors("reply")["accepted"] | case
    with pytest.raises(EndToEndError) as caught:
        open_reply(unhex(whole["body"]), unhex(whole["reply_key"]), unhex(whole["request_hash"]))
    assert caught.value.code == case["code"]


# --- Orders, receipts, key files ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "decode"),
    [("orders", decode_order), ("queries", decode_query), ("texts", decode_text)],
)
def test_contents(kind: str, decode: Any) -> None:
    for content in vectors("order")[f"{kind}_accepted"]:
        decoded = msgspec.to_builtins(decode(msgspec.json.encode(content)))
        assert content.items() <= decoded.items()
    for case in vectors("order")[f"{kind}_refused"]:
        with pytest.raises(EndToEndError) as caught:
            decode(msgspec.json.encode(case["content"]))
        assert caught.value.code == Code.BAD_MESSAGE, case["name"]
        # The bank stores what is no order, and then it has a code and a receipt of its own.
        stored = Code.BAD_ORDER if kind == "orders" else Code.BAD_MESSAGE
        assert case["code"] == stored, case["name"]


@pytest.mark.parametrize(**named(vectors("receipt")["accepted"]))
def test_receipts(case: dict[str, Any]) -> None:
    known = vectors("receipt")
    signed = msgspec.convert(case["signed_receipt"], SignedReceipt)
    receipt = open_receipt(signed, unhex(known["bank_identity"]))
    assert signed.raw.decode("utf-8") == case["json"]
    assert sign_receipt(IdentityKey(unhex(known["bank_identity_seed"])), receipt) == signed
    accepted = {case["open"]["envelope"]["id"]: case for case in vectors("sealed")["accepted"]}
    order = accepted[receipt.order_id]
    assert unb64u(receipt.evidence_hash).hex() == order["evidence_hash"]
    evidence = unhex(order["signature"]) + order["inner"].encode("utf-8")
    assert hashlib.sha256(evidence).digest() == unb64u(receipt.evidence_hash)


@pytest.mark.parametrize(**named(vectors("receipt")["refused"]))
def test_refused_receipts(case: dict[str, Any]) -> None:
    signed = msgspec.convert(case["signed_receipt"], SignedReceipt)
    with pytest.raises(EndToEndError) as caught:
        open_receipt(signed, unhex(vectors("receipt")["bank_identity"]))
    assert caught.value.code == case["code"]


def test_key_file() -> None:
    case = vectors("keyfile")
    data = case["file"].encode("utf-8")
    key_file = decrypt_key_file(data, case["passphrase"])
    header = read_key_file_header(data)
    assert (key_file.client_id, key_file.fingerprint.hex()) == (
        case["client_id"],
        case["fingerprint"],
    )
    assert header.client_id == case["client_id"]
    assert verify(key_file.identity.public, key_file.identity.sign(b"x"), b"x")
    assert decrypt_key_file(data, "correct horse fish").bundle == key_file.bundle


@pytest.mark.parametrize(**named(vectors("keyfile")["accepted"]))
def test_key_files_with_other_line_ends(case: dict[str, Any]) -> None:
    known = vectors("keyfile")
    key_file = decrypt_key_file(case["file"].encode("utf-8"), known["passphrase"])
    assert key_file.client_id == known["client_id"]


@pytest.mark.parametrize(**named(vectors("keyfile")["refused"]))
def test_refused_key_files(case: dict[str, Any]) -> None:
    whole = vectors("keyfile") | case
    reasons = {"format": KeyFileFormatError, "wrong_passphrase": WrongPassphraseError}
    with pytest.raises(reasons[case["reason"]]):
        decrypt_key_file(whole["file"].encode("utf-8"), whole["passphrase"])


def test_identity_of_the_vectors_signs_what_it_says() -> None:
    case = vectors("sealed")["accepted"][0]
    identity = unhex(case["open"]["sender_identity"])
    assert verify(identity, unhex(case["signature"]), unhex(case["signed_bytes"]))

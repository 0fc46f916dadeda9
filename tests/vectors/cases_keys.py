"""Vectors of encodings, ids, keys, bundles and the registration."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.vectors.cast import (
    ADA,
    ADA_LATER,
    BANK,
    BEN,
    CLASSIC,
    DAY,
    HYBRID,
    MALLORY,
    NOW,
    RELAY_NAME,
    Client,
)
from tests.vectors.primitives import b64u, compact, pae, seed, sign, unb64u, unhex_lines, x_wing_key

P = 2**255 - 19

ED25519_SMALL_ORDER = unhex_lines(
    """
    0100000000000000000000000000000000000000000000000000000000000000
    ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
    0000000000000000000000000000000000000000000000000000000000000080
    0000000000000000000000000000000000000000000000000000000000000000
    c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a
    c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa
    26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05
    26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85
    0100000000000000000000000000000000000000000000000000000000000080
    ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
    eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
    eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
    edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
    edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
    """
)
"""The 14 encodings of the 8 points of small order: 8 canonical ones, then 6 others."""

X25519_SMALL_ORDER = unhex_lines(
    """
    0000000000000000000000000000000000000000000000000000000000000000
    0100000000000000000000000000000000000000000000000000000000000000
    e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800
    5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157
    ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
    edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
    eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
    cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880
    4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7
    d9ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
    daffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
    dbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
    """
)
"""The list at cr.yp.to/ecdh.html: 5 canonical ones, then 7 others."""

ED25519_NO_POINT = (2).to_bytes(32, "little")
ED25519_NOT_CANONICAL = (P + 3).to_bytes(32, "little")
X25519_NOT_CANONICAL = (P + 9).to_bytes(32, "little")


def encoding() -> dict[str, Any]:
    lists: list[list[dict[str, Any]]] = [
        [],
        [{"text": ""}],
        [{"text": "test"}],
        [{"text": "Ärlig"}, {"integer": 1}, {"hex": "00ff"}, {"null": True}],
        [{"text": "ab"}, {"text": "c"}],
        [{"text": "a"}, {"text": "bc"}],
    ]
    return {
        "pae": [{"parts": parts, "encoded": _pae_of(parts).hex()} for parts in lists],
        "base64url_accepted": [
            {"text": b64u(bytes.fromhex(data)), "bytes": data}
            for data in ("", "00", "0000", "000000", "ff", "fbff", "14fb9c03d97e")
        ],
        "base64url_refused": [
            {"text": "AA==", "why": "padding"},
            {"text": "A", "why": "no bytes have one character"},
            {"text": "AB", "why": "the last four bits are not zero"},
            {"text": "AAB", "why": "the last two bits are not zero"},
            {"text": "+/+/", "why": "the alphabet of plain base64"},
            {"text": "AA A", "why": "white space"},
            {"text": "AAA\n", "why": "a line end"},
            {"text": "ÄAAA", "why": "a character outside ASCII"},
        ],
        "json_refused": [
            {"text": '{"a":1,"a":2}', "why": "a member name appears twice"},
            {"text": '{"a":1,"\\u0061":2}', "why": "the same name, written differently"},
            {"text": '{"a":NaN}', "why": "NaN is not JSON"},
            {"text": '{"a":1}}', "why": "something follows"},
            {"text": '\ufeff{"a":1}', "why": "a byte order mark"},
            {"text": '{"a":1.0}', "why": "an integer is written without a point"},
            {"text": '{"a":1e0}', "why": "an integer is written without an exponent"},
            {"text": '{"a\\ud800":1}', "why": "half a surrogate pair"},
        ],
        "any_json_accepted": [
            {"text": _around("[" * 63, "]" * 63), "why": "64 levels"},
            {"text": _around("[", "[]," * 100, "[]]"), "why": "many, but not deep"},
            {"text": _around('"', "[" * 100, '\\"]"'), "why": "brackets in a text"},
            {"text": _around("9" * 100), "why": "an integer of 100 digits"},
            {"text": _around("1.5e3"), "why": "a number that is no integer"},
        ],
        "any_json_refused": [
            {"text": _around("[" * 64, "]" * 64), "why": "65 levels"},
            {"text": _around('{"b":' * 64, "1", "}" * 64), "why": "65 levels of objects"},
            {"text": _around("9" * 101), "why": "an integer of 101 digits"},
            {"text": _around("-", "9" * 100), "why": "the same with its sign"},
            {"text": _around('[{"b":1,"b":1}]'), "why": "a member name appears twice"},
        ],
    }


def _around(*parts: str) -> str:
    """An object whose one member may be anything."""
    return f'{{"a":{"".join(parts)}}}'


def _pae_of(parts: list[dict[str, Any]]) -> bytes:
    values = [
        bytes.fromhex(part["hex"]) if "hex" in part else part.get("text", part.get("integer"))
        for part in parts
    ]
    return pae(*values)


def identifiers() -> dict[str, Any]:
    return {
        "names_equal": [
            ["KÜPPERS", "Ku\u0308ppers"],
            ["Straße", "STRASSE"],
            ["ﬁnn", "Finn"],
            ["Ada  Maria", "ada maria"],
            ["Ärlig ,Ada", "ärlig, ada"],
            ["Ärlig\uff0cAda", "ärlig, ada"],
        ],
        "names_different": [["Ada", "Ad\u0430"], ["Ärlig", "Arlig"], ["Ada", "Ad a"]],
        "names_refused": ["", " Ada", "Bank, Demo", "Bank\uff0cDemo", "A\u0308rlig", "Ada\u200b"],
        "ids_accepted": ["a", "0", "demo-ada", "A.b_c-9", "x" * 64],
        "ids_refused": ["", "-a", "x" * 65, "a b", "a,b", "ä", "a\n"],
        "uuid7": {
            "time": 0x017F22E279B0,
            "random": "0cc318c4dc0c0c07398f",
            "text": "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        },
    }


def keys() -> dict[str, Any]:
    digest = hashlib.sha512(pae("tw1 safety number", *sorted((ADA.fingerprint, BANK.fingerprint))))
    groups = [digest.digest()[start : start + 5] for start in range(0, 60, 5)]
    return {
        "clients": [_client_keys(client) for client in (ADA, BEN, BANK)],
        "safety_number": {
            "of": ["demo-ada", "bank"],
            "sha512": digest.hexdigest(),
            "number": " ".join(f"{int.from_bytes(group, 'big') % 100_000:05}" for group in groups),
        },
        "ed25519_refused": [key.hex() for key in ED25519_SMALL_ORDER]
        + [ED25519_NOT_CANONICAL.hex(), ED25519_NO_POINT.hex(), "00" * 31, "00" * 33],
        "x25519_refused": [key.hex() for key in X25519_SMALL_ORDER]
        + [X25519_NOT_CANONICAL.hex(), "00" * 31],
    }


def _client_keys(client: Client) -> dict[str, Any]:
    hexed = client.fingerprint.hex()
    described: dict[str, Any] = {
        "id": client.id,
        "first_name": client.first_name,
        "last_name": client.last_name,
        "identity_seed": client.identity_seed.hex(),
        "identity_key": client.identity.hex(),
        "fingerprint_input": pae("tw1 fingerprint", client.id, client.identity).hex(),
        "fingerprint": hexed,
        "fingerprint_shown": " ".join(hexed[start : start + 4] for start in range(0, 32, 4)),
        "prekeys": [pair.described() for pair in client.prekeys],
    }
    if HYBRID in client.suites:
        expanded = x_wing_key(client.prekey(HYBRID).secret)
        described["x_wing"] = {
            "ml_kem_seed": expanded.ml_kem_seed.hex(),
            "x25519_scalar": expanded.x25519_scalar.hex(),
        }
    return described


# --- Bundles ------------------------------------------------------------------------------------


def bundle() -> dict[str, Any]:
    changed_identity = {"generation": 2, "previous_fingerprint": b64u(ADA.fingerprint)}
    accepted = [
        _bundle_case("both suites", ADA.signed_bundle()),
        _bundle_case("suite 2 alone", BEN.signed_bundle()),
        _bundle_case("the bank's", BANK.signed_bundle()),
        _bundle_case(
            "a new identity, signed by the old one",
            ADA_LATER.signed_bundle(ADA, **changed_identity),
        ),
    ]
    return {"now": NOW, "accepted": accepted, "refused": _refused_bundles()}


def _bundle_case(name: str, signed: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "signed_bundle": signed, "json": _raw(signed).decode("utf-8")}


def _raw(signed: dict[str, Any]) -> bytes:
    return unb64u(signed["bundle"])


def _refused_bundles() -> list[dict[str, Any]]:
    def case(
        name: str, signed: dict[str, Any], code: str = "bad_bundle", now: int = NOW
    ) -> dict[str, Any]:
        return {"name": name, "signed_bundle": signed, "now": now, "code": code}

    good = ADA.signed_bundle()
    raw = _raw(good)
    edited = raw.replace(b'"generation":1', b'"generation":2')
    first_key = ADA.bundle()["encryption_keys"][0]
    weak = b64u(ED25519_SMALL_ORDER[0])
    refused = [
        case("edited after it was signed", good | {"bundle": b64u(edited)}),
        case("signed by another key", MALLORY.sign_bundle(raw)),
        case(
            "signed for another purpose", good | {"signature": b64u(sign(ADA.identity_seed, raw))}
        ),
        case("the better suite stripped", good | {"bundle": b64u(_strip_hybrid())}),
        case("a signature that is not canonical base64url", good | {"signature": "A" * 85 + "B"}),
        case("a bundle that is not JSON", ADA.sign_bundle(b"{")),
        case("a member twice", ADA.sign_bundle(raw[:-1] + b',"version":1}')),
        case("an unknown member", ADA.signed_bundle(extra=1)),
        case("a previous fingerprint without its signature", _orphan_fingerprint()),
        case("expired", good, now=NOW + 366 * DAY),
        case("not valid yet", good, now=NOW - 2 * DAY),
        case("an identity key of 3 bytes", ADA.signed_bundle(identity_key="AAAA"), "weak_key"),
        case("an identity key of small order", ADA.signed_bundle(identity_key=weak), "weak_key"),
    ]
    refused += [
        case(f"{member}: {value!r}"[:80], ADA.signed_bundle(**{member: value}))
        for member, value in _bad_members(first_key)
    ]
    return [
        *refused,
        *(
            _weak_encryption_key(CLASSIC, f"small order: {key.hex()[:8]}", key)
            for key in X25519_SMALL_ORDER[:5]
        ),
        *_weak_hybrid_keys(),
    ]


def _bad_members(key: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("version", 2),
        ("version", "1"),
        ("id", "demo ada"),
        ("first_name", ""),
        ("last_name", "Bank, Demo"),
        ("generation", 0),
        ("generation", 1.5),
        ("encryption_keys", []),
        ("encryption_keys", [key, key]),
        ("encryption_keys", [key | {"suite": 9}]),
        ("encryption_keys", [key | {"suite": 2}]),
        ("encryption_keys", [key | {"key_id": "AAAAAAAAAAA"}]),
        ("valid_to", NOW - 2 * DAY),
        ("valid_to", NOW + 30 * 366 * DAY),
        ("previous_fingerprint", "AAAA"),
    ]


def _strip_hybrid() -> bytes:
    keys_left = [key for key in ADA.bundle()["encryption_keys"] if key["suite"] == CLASSIC]
    return compact(ADA.bundle(encryption_keys=keys_left))


def _orphan_fingerprint() -> dict[str, Any]:
    return ADA.signed_bundle(previous_fingerprint=b64u(ADA.fingerprint))


def _weak_hybrid_keys() -> list[dict[str, Any]]:
    good = ADA.prekey(HYBRID).public
    # 3329 as the first coefficient (12 bits, little-endian), and as the last one of the vector.
    first = bytes((3329 & 0xFF, good[1] & 0xF0 | 3329 >> 8)) + good[2:]
    last = good[:1150] + bytes((good[1150] & 0x0F | (3329 & 0xF) << 4, 3329 >> 4)) + good[1152:]
    return [
        _weak_encryption_key(HYBRID, "suite 1, the first coefficient is 3329", first),
        _weak_encryption_key(HYBRID, "suite 1, the last coefficient is 3329", last),
        *(
            _weak_encryption_key(HYBRID, f"suite 1, X25519 of {name}", good[:1184] + key)
            for name, key in (
                ("small order", X25519_SMALL_ORDER[2]),
                ("an encoding that is not canonical", X25519_NOT_CANONICAL),
            )
        ),
    ]


def _weak_encryption_key(suite: int, name: str, public: bytes) -> dict[str, Any]:
    key_id = hashlib.sha256(pae("tw1 key id", suite, public)).digest()[:8]
    key = {"suite": suite, "key_id": b64u(key_id), "public": b64u(public)}
    signed = ADA.signed_bundle(encryption_keys=[key])
    name = f"an encryption key of {name}"
    return {"name": name, "signed_bundle": signed, "now": NOW, "code": "weak_key"}


def succession() -> dict[str, Any]:
    old = ADA.signed_bundle()
    previous = b64u(ADA.fingerprint)
    changed = {"generation": 2, "previous_fingerprint": previous}
    mallory = Client("demo-ada", "Ada", "Ärlig", MALLORY.identity_seed, MALLORY.prekeys)
    return {
        "old": old,
        "accepted": [
            {"name": "the same bytes again", "new": old},
            {"name": "a higher generation", "new": ADA.signed_bundle(generation=2)},
            {"name": "an identity signed by the old one", "new": _later(changed)},
        ],
        "refused": [
            {
                "name": "another bundle of the same generation",
                "new": ADA.signed_bundle(valid_to=NOW + DAY),
                "code": "bad_bundle",
            },
            {
                "name": "an identity that the old one did not sign",
                "new": mallory.signed_bundle(mallory, **changed),
                "code": "id_taken",
            },
            {
                "name": "an identity that names no old one",
                "new": mallory.signed_bundle(generation=2),
                "code": "id_taken",
            },
            {
                "name": "a new identity whose generation does not rise",
                "new": _later(changed | {"generation": 1}),
                "code": "bad_bundle",
            },
        ],
    }


def _later(changes: dict[str, Any]) -> dict[str, Any]:
    return ADA_LATER.signed_bundle(ADA, **changes)


# --- Registration -------------------------------------------------------------------------------


def registration() -> dict[str, Any]:
    signed = ADA.signed_bundle()
    relay_nonce, client_nonce = seed("relay nonce"), seed("client nonce")
    bundle_hash = hashlib.sha256(_raw(signed)).digest()
    message = pae(
        "tw1 register", RELAY_NAME, relay_nonce, client_nonce, ADA.id, 1, "person", bundle_hash
    )
    register = {
        "type": "register",
        "id": ADA.id,
        "bundle": signed,
        "nonce": b64u(client_nonce),
        "version": 1,
        "role": "person",
        "proof": b64u(sign(ADA.identity_seed, message)),
    }
    mallory_proof = b64u(sign(MALLORY.identity_seed, message))
    proof_refused: dict[str, dict[str, Any]] = {
        "id claimed with another's proof": {"proof": mallory_proof},
        "another nonce of the client": {"nonce": b64u(seed("another client nonce"))},
        "another role": {"role": "service"},
        "another of its own bundles": {"bundle": ADA.signed_bundle(generation=2)},
    }
    refused = [
        {"name": name, "register": register | change, "code": "proof_refused"}
        for name, change in proof_refused.items()
    ]
    refused += [
        {
            "name": "another's bundle",
            "register": register | {"bundle": BEN.signed_bundle()},
            "code": "bad_bundle",
        },
        {"name": "another id", "register": register | {"id": "demo-ben"}, "code": "bad_bundle"},
        {"name": "version 2", "register": register | {"version": 2}, "code": "unsupported_version"},
    ]
    challenge = {
        "type": "challenge",
        "relay": RELAY_NAME,
        "nonce": b64u(relay_nonce),
        "time": NOW,
        "versions": [1],
    }
    other_relay = challenge | {"relay": "other.example"}
    other_nonce = challenge | {"nonce": b64u(seed("another relay nonce"))}
    refused += [
        {"name": "passed on to another relay", "challenge": other_relay, "code": "proof_refused"},
        {"name": "kept for another connection", "challenge": other_nonce, "code": "proof_refused"},
    ]
    return {
        "challenge": challenge,
        "register": register,
        "identity_seed": ADA.identity_seed.hex(),
        "bundle_hash": bundle_hash.hex(),
        "message": message.hex(),
        "refused": refused,
    }

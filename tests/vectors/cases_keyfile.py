"""Vectors of the encrypted key file."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tests.vectors.cast import ADA, BEN, DAY, NOW, Client
from tests.vectors.primitives import b64u, compact, gcm, seed

PASSPHRASE = "correct horse ﬁsh"
"""With a ligature, so that a reader that forgets NFKC can't open the file."""
NORMALIZED = b"correct horse fish"


def keyfile() -> dict[str, Any]:
    header = _header(BEN)
    key = _stretch(header, NORMALIZED)
    contents = _contents(BEN)
    line = compact(header)
    good = _file(line, key, contents)
    return {
        "passphrase": PASSPHRASE,
        "passphrase_bytes": NORMALIZED.hex(),
        "header": line.decode(),
        "key": key.hex(),
        "contents": contents.decode(),
        "file": good,
        "accepted": [
            {"name": "no line feed at the end", "file": good[:-1]},
            {"name": "the line ends of Windows", "file": good.replace("\n", "\r\n")},
        ],
        "client_id": BEN.id,
        "fingerprint": BEN.fingerprint.hex(),
        "refused": _refused(header, key, contents, good),
    }


def _header(client: Client, **changes: Any) -> dict[str, Any]:
    return {
        "format": "tellerwire key file",
        "version": 1,
        "client_id": client.id,
        "fingerprint": b64u(client.fingerprint),
        "demo": False,
        "created_at": NOW - DAY,
        "kdf": "argon2id",
        "memory_kib": 19 * 1024,
        "passes": 2,
        "lanes": 1,
        "salt": b64u(seed("key file salt", 16)),
        "nonce": b64u(seed("key file nonce", 12)),
    } | changes


def _contents(client: Client, **changes: Any) -> bytes:
    return compact(
        {
            "identity": b64u(client.identity_seed),
            "prekeys": [
                {"suite": pair.suite, "secret": b64u(pair.secret), "created_at": NOW - DAY}
                for pair in client.prekeys
            ],
            "bundle": client.signed_bundle(),
        }
        | changes
    )


def _stretch(header: dict[str, Any], passphrase: bytes) -> bytes:
    kdf = Argon2id(
        salt=seed("key file salt", 16),
        length=32,
        iterations=header["passes"],
        lanes=header["lanes"],
        memory_cost=header["memory_kib"],
    )
    return kdf.derive(passphrase)


def _file(line: bytes, key: bytes, contents: bytes) -> str:
    sealed = gcm(key, seed("key file nonce", 12), contents, line)
    return line.decode() + "\n" + b64u(sealed) + "\n"


def _refused(
    header: dict[str, Any], key: bytes, contents: bytes, good: str
) -> list[dict[str, Any]]:
    first, rest = good.split("\n", 1)
    altered: dict[str, Any] = {
        "client_id": "demo-ada",
        "fingerprint": b64u(ADA.fingerprint),
        "demo": True,
        "created_at": NOW,
        "passes": 3,
        "lanes": 2,
        "memory_kib": 20 * 1024,
        "salt": b64u(bytes(16)),
        "nonce": b64u(bytes(12)),
    }
    malformed: dict[str, Any] = {
        "format": "another key file",
        "version": 2,
        "kdf": "pbkdf2",
        "memory_kib": 18 * 1024,
        "passes": 0,
        "lanes": 17,
    }
    wrong = [
        _case(f"header: {name} altered", _with(header, rest, **{name: value}), "wrong_passphrase")
        for name, value in altered.items()
    ]
    bad = [
        _case(f"header: {name} is {value!r}", _with(header, rest, **{name: value}), "format")
        for name, value in malformed.items()
    ]
    of_two = _file(compact(header), key, _contents(ADA))
    return [
        *wrong,
        *bad,
        {"name": "another passphrase", "passphrase": "correct horse", "reason": "wrong_passphrase"},
        _case("a character altered", first + "\n" + _other_first(rest), "wrong_passphrase"),
        _case("no second line", first + "\n", "format"),
        _case("an empty second line", first + "\n\n", "format"),
        _case("a second line that is no longer than a tag", first + "\n" + "A" * 22, "format"),
        _case("a third line", good + "\n", "format"),
        _case("a space at the end", good[:-1] + " \n", "format"),
        _case("a second line that is not base64url", first + "\n!\n", "format"),
        _case("no key file", "-----BEGIN PRIVATE KEY-----\n", "format"),
        _case("the contents of another client", of_two, "format"),
        _case(
            "contents with an unknown member",
            _file(compact(header), key, contents[:-1] + b',"extra":1}'),
            "format",
        ),
        _case(
            "a prekey of 31 bytes",
            _file(compact(header), key, _contents(BEN, prekeys=[_short_prekey()])),
            "format",
        ),
    ]


def _case(name: str, file: str, reason: str) -> dict[str, Any]:
    return {"name": name, "file": file, "reason": reason}


def _with(header: dict[str, Any], rest: str, **changes: Any) -> str:
    return compact(header | changes).decode() + "\n" + rest


def _other_first(text: str) -> str:
    return ("B" if text[0] == "A" else "A") + text[1:]


def _short_prekey() -> dict[str, Any]:
    return {"suite": 2, "secret": b64u(bytes(31)), "created_at": NOW}

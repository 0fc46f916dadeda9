"""The encrypted key file, as bytes: one line of JSON header, one line of base64url ciphertext.

The header tells how the passphrase becomes a key (Argon2id, RFC 9106) and is authenticated with
the contents (AES-256-GCM). A file that asks for less work than a floor is refused, so nobody can
weaken one unnoticed; one that asks for absurdly much is refused too.

(The encrypted PKCS#8 of most libraries stretches a passphrase with 2,048 rounds of PBKDF2, which
is not enough for a file that may be stolen.)
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from protocol.bundles import Bundle, SignedBundle, make_bundle, open_bundle
from protocol.encoding import b64u, check_unicode, decode_strict, unb64u
from protocol.errors import (
    KeyFileFormatError,
    MisuseError,
    ProtocolError,
    WrongPassphraseError,
)
from protocol.identifiers import ClientId, Milliseconds
from protocol.keys import IdentityKey, Prekey, RandomBytes, Suite, fingerprint

__all__ = [
    "DEFAULT_COST",
    "DEFAULT_VALIDITY_MS",
    "FILE_BYTES_MAX",
    "Cost",
    "KeyFile",
    "KeyFileHeader",
    "decrypt_key_file",
    "encrypt_key_file",
    "lock_name",
    "new_key_file",
    "read_key_file_header",
    "rotate_prekeys",
]

FORMAT: Final = "tellerwire key file"
FORMAT_VERSION: Final = 1
FILE_BYTES_MAX: Final = 65_536
DEFAULT_VALIDITY_MS: Final = 2 * 365 * 86_400_000

_TAG_BYTES: Final = 16
# Windows' line ends, and none after the last line, are what editors leave: they change nothing.
_TWO_LINES: Final = re.compile(rb"([^\n]*?)\r?\n([^\r\n]+)(?:\r?\n)?")

_MEMORY_KIB_MIN: Final = 19 * 1024
_MEMORY_KIB_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """How much work a guess at the passphrase takes (Argon2id)."""

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 4


DEFAULT_COST: Final = Cost()


class KeyFileHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What anybody can read of a key file, and nobody can alter unnoticed."""

    format: str
    version: int
    client_id: ClientId
    fingerprint: str
    demo: bool
    """The file belongs to a demonstration; a deployment refuses it."""
    created_at: Milliseconds
    kdf: str
    memory_kib: Annotated[int, msgspec.Meta(ge=_MEMORY_KIB_MIN, le=_MEMORY_KIB_MAX)]
    passes: Annotated[int, msgspec.Meta(ge=1, le=16)]
    lanes: Annotated[int, msgspec.Meta(ge=1, le=16)]
    salt: str
    nonce: str


class _WirePrekey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    suite: int
    secret: str
    created_at: Milliseconds


class _Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: str
    prekeys: list[_WirePrekey]
    bundle: SignedBundle


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Everything that a client is: its identity, its prekeys and its current bundle."""

    identity: IdentityKey
    prekeys: tuple[Prekey, ...]
    """Newest first; those that the bundle no longer offers are kept for what is on its way."""
    bundle: Bundle
    demo: bool
    created_at: int

    @property
    def client_id(self) -> str:
        """The id that the bundle carries."""
        return self.bundle.id

    @property
    def first_name(self) -> str:
        """The first name that the bundle carries."""
        return self.bundle.first_name

    @property
    def last_name(self) -> str:
        """The last name that the bundle carries."""
        return self.bundle.last_name

    @property
    def signed_bundle(self) -> SignedBundle:
        """The current bundle as it travels."""
        return self.bundle.signed

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the id and the identity."""
        return self.bundle.fingerprint


def new_key_file(
    client_id: str,
    first_name: str,
    last_name: str,
    *,
    now: int,
    random_bytes: RandomBytes,
    suites: tuple[Suite, ...] = (Suite.HYBRID, Suite.CLASSIC),
    demo: bool = False,
    valid_for_ms: int = DEFAULT_VALIDITY_MS,
) -> KeyFile:
    """Make a new identity with one prekey for each suite.

    :param now: milliseconds since the epoch.
    :raises RelayError: ``bad_bundle`` if the id or the name is not acceptable.
    """
    identity = IdentityKey.generate(random_bytes)
    prekeys = tuple(Prekey.generate(suite, now, random_bytes) for suite in suites)
    signed = make_bundle(
        identity,
        client_id=client_id,
        first_name=first_name,
        last_name=last_name,
        generation=1,
        encryption_keys=[prekey.public for prekey in prekeys],
        valid_from=now,
        valid_to=now + valid_for_ms,
    )
    return KeyFile(identity, prekeys, open_bundle(signed), demo, now)


def rotate_prekeys(
    key_file: KeyFile,
    *,
    now: int,
    random_bytes: RandomBytes,
    period_ms: int,
    valid_for_ms: int = DEFAULT_VALIDITY_MS,
) -> KeyFile:
    """Return the key file with new prekeys and a bundle of the next generation.

    Its number is the time, so that it also rises above the generations that came after an older
    copy of the file, should that have been restored.

    Prekeys older than two periods are dropped, and with them the means to open what was sealed to
    them; younger ones are kept for messages on their way.
    """
    bundle = key_file.bundle
    fresh = tuple(Prekey.generate(suite, now, random_bytes) for suite in bundle.suites)
    kept = tuple(
        prekey for prekey in key_file.prekeys if prekey.created_at > now - 2 * period_ms - 1
    )
    signed = make_bundle(
        key_file.identity,
        client_id=bundle.id,
        first_name=bundle.first_name,
        last_name=bundle.last_name,
        generation=max(bundle.generation + 1, now),
        encryption_keys=[prekey.public for prekey in fresh],
        valid_from=now,
        valid_to=now + valid_for_ms,
    )
    return replace(key_file, prekeys=fresh + kept, bundle=open_bundle(signed))


def encrypt_key_file(
    key_file: KeyFile, passphrase: str, random_bytes: RandomBytes, cost: Cost = DEFAULT_COST
) -> bytes:
    """Return the bytes of a key file under ``passphrase``.

    :raises MisuseError: the cost is one with which the file would be refused when it is opened.
    :raises WrongPassphraseError: the passphrase is not Unicode.
    """
    header = KeyFileHeader(
        format=FORMAT,
        version=FORMAT_VERSION,
        client_id=key_file.client_id,
        fingerprint=b64u(key_file.fingerprint),
        demo=key_file.demo,
        created_at=key_file.created_at,
        kdf="argon2id",
        memory_kib=cost.memory_kib,
        passes=cost.passes,
        lanes=cost.lanes,
        salt=b64u(random_bytes(16)),
        nonce=b64u(random_bytes(12)),
    )
    contents = _Contents(
        identity=b64u(key_file.identity.seed),
        prekeys=[
            _WirePrekey(prekey.public.suite.value, b64u(prekey.secret), prekey.created_at)
            for prekey in key_file.prekeys
        ],
        bundle=key_file.signed_bundle,
    )
    line = msgspec.json.encode(header)
    try:
        _read_header(line)
    except KeyFileFormatError as error:
        raise MisuseError(f"nobody could open such a key file: {error}") from error
    cipher = AESGCM(_stretch(header, passphrase))
    sealed = cipher.encrypt(unb64u(header.nonce), msgspec.json.encode(contents), line)
    return line + b"\n" + b64u(sealed).encode("ascii") + b"\n"


def read_key_file_header(data: bytes) -> KeyFileHeader:
    """Return the header of a key file without opening it; nothing vouches for it yet.

    :raises KeyFileFormatError: it is no key file, one that was cut off, or one that is too weak.
    """
    line, _ = _split(data)
    return _read_header(line)


def lock_name(name: str) -> str:
    """Return the name of the file beside a key file that is locked by whoever replaces that.

    A lock on the key file itself would be replaced with it.
    """
    return f"{name}.lock"


def decrypt_key_file(data: bytes, passphrase: str) -> KeyFile:
    """Open a key file.

    :raises KeyFileFormatError: it is no key file, one that was cut off, or one that is too weak.
    :raises WrongPassphraseError: the passphrase is wrong, or the file was altered.
    """
    line, sealed = _split(data)
    header = _read_header(line)
    try:
        raw = AESGCM(_stretch(header, passphrase)).decrypt(unb64u(header.nonce), sealed, line)
    except InvalidTag as error:
        raise WrongPassphraseError(
            f"the passphrase does not open the key file of {header.client_id}"
        ) from error
    except ValueError as error:
        raise KeyFileFormatError(f"this is no key file: {error}") from error
    return _read_contents(header, raw)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Return the header line without its end, and the ciphertext."""
    if len(data) > FILE_BYTES_MAX:
        raise KeyFileFormatError("this is no key file: it is too long")
    lines = _TWO_LINES.fullmatch(data)
    if lines is None:
        raise KeyFileFormatError("this is no key file: it has not two lines")
    try:
        sealed = unb64u(lines[2].decode("ascii"))
    except ValueError as error:
        raise KeyFileFormatError(f"this is no key file: {error}") from error
    if len(sealed) <= _TAG_BYTES:
        raise KeyFileFormatError("this is no key file: it was cut off")
    return lines[1], sealed


def _read_header(line: bytes) -> KeyFileHeader:
    try:
        header = decode_strict(line, KeyFileHeader)
        sizes = len(unb64u(header.salt)), len(unb64u(header.nonce))
    except ValueError as error:
        raise KeyFileFormatError(f"this is no key file: {error}") from error
    if (header.format, header.version, header.kdf) != (FORMAT, FORMAT_VERSION, "argon2id"):
        raise KeyFileFormatError("this is no key file of a known version")
    if sizes != (16, 12):
        raise KeyFileFormatError("this is no key file: salt or nonce has a wrong length")
    return header


def _read_contents(header: KeyFileHeader, raw: bytes) -> KeyFile:
    try:
        contents = decode_strict(raw, _Contents)
        identity = IdentityKey(unb64u(contents.identity))
        prekeys = tuple(
            Prekey(Suite(item.suite), unb64u(item.secret), item.created_at)
            for item in contents.prekeys
        )
        bundle = open_bundle(contents.bundle)
    except (ValueError, ProtocolError, MisuseError) as error:
        raise KeyFileFormatError(f"the key file's contents are damaged: {error}") from error
    claimed = (header.client_id, header.fingerprint)
    actual = (bundle.id, b64u(fingerprint(bundle.id, identity.public)))
    if claimed != actual or bundle.identity_key != identity.public:
        raise KeyFileFormatError("the key file's header and contents are of two clients")
    return KeyFile(identity, prekeys, bundle, header.demo, header.created_at)


def _stretch(header: KeyFileHeader, passphrase: str) -> bytes:
    # NFKC, so that a passphrase typed on another keyboard or system is the same passphrase.
    try:
        secret = unicodedata.normalize("NFKC", check_unicode(passphrase)).encode("utf-8")
    except ValueError as error:
        raise WrongPassphraseError("the passphrase is not Unicode") from error
    kdf = Argon2id(
        salt=unb64u(header.salt),
        length=32,
        iterations=header.passes,
        lanes=header.lanes,
        memory_cost=header.memory_kib,
    )
    return kdf.derive(secret)

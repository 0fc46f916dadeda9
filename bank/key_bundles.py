"""Key bundles in the forms in which people hand them to an operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import msgspec

from protocol import limits
from protocol.bundles import Bundle, SignedBundle, open_bundle
from protocol.encoding import decode_strict, unb64u
from protocol.errors import RelayError

__all__ = ["OldKeyError", "read_bundle", "read_bundle_file"]

FILE_BYTES_MAX: Final = 4 * limits.BUNDLE_BYTES_MAX
OLD_KEY_WORDS: Final = (
    "this is an RSA key of the old system, which can't sign orders; let the person make a key "
    "bundle with `python -m clients.person keygen`"
)
# PEM, OpenSSH, and the base64 of what a DER-encoded RSA key begins with.
_OLD_KEY_BEGINNINGS: Final = ("-----BEGIN", "ssh-rsa", "MII")
_HANDED_OVER: Final = "an object, JSON text, its base64url, or the name of a file with either"


class OldKeyError(ValueError):
    """What was handed over is an RSA key, not a key bundle."""


def read_bundle(value: object, folder: Path) -> Bundle:
    """Return the key bundle that a value of a file stands for, checked.

    :param value: the object with ``bundle``, ``signature`` and ``previous_signature``; the same as
        JSON text; base64url of that text; or the name of a file that holds either.
    :param folder: what a relative file name starts from.
    :raises OldKeyError: it is an RSA key.
    :raises ValueError: it is no bundle, or a bad one; with words that say what is wrong.
    """
    if isinstance(value, dict):
        return _checked(json.dumps(value).encode())
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a key bundle: {_HANDED_OVER}")
    text = value.strip()
    raw = _json_in(text)
    if raw is not None:
        return _checked(raw)
    if len(text) > limits.FRAME_BYTES_MAX or "\n" in text or "\0" in text:
        raise ValueError(f"is no key bundle; give {_HANDED_OVER}")
    return read_bundle_file(folder / text)


def read_bundle_file(path: Path) -> Bundle:
    """Return the key bundle in a file, checked.

    :raises OldKeyError: it holds an RSA key.
    :raises ValueError: it can't be read, is no bundle, or a bad one; the words name the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        text = content.decode("utf-8").strip()
    except OSError as error:
        raise ValueError(
            f"neither a key bundle nor a file that can be read ({path}: {error.strerror})"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no key bundle: it is not text") from error
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"{path} is no key bundle: it is too long")
    try:
        raw = _json_in(text)
        if raw is None:
            raise ValueError("it is neither JSON nor base64url of JSON")
        return _checked(raw)
    except OldKeyError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _json_in(text: str) -> bytes | None:
    """Return the JSON that a text is or encodes, or ``None`` if it is neither.

    :raises OldKeyError: it is an RSA key.
    """
    if text.startswith("{"):
        return text.encode()
    if text.startswith(_OLD_KEY_BEGINNINGS):
        raise OldKeyError(OLD_KEY_WORDS)
    try:
        raw = unb64u(text)
    except ValueError:
        return None
    return raw if raw.startswith(b"{") else None


def _checked(raw: bytes) -> Bundle:
    try:
        return open_bundle(decode_strict(raw, SignedBundle))
    except RelayError as error:
        raise ValueError(f"bad key bundle: {error.detail or error.code.value}") from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"is no key bundle: {error}") from error

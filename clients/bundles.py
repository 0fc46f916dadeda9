"""Bundle files: what is handed to a bank for enrolment, or to a friend for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from clients.errors import UsageError
from clients.files import read_at_most
from protocol.bundles import Bundle, SignedBundle, open_bundle
from protocol.errors import ProtocolError

__all__ = ["bundle_json", "read_bundle_file"]

FILE_BYTES_MAX: Final = 65_536


def bundle_json(bundle: SignedBundle) -> str:
    """Return the public bundle as the text of a file."""
    return msgspec.json.format(msgspec.json.encode(bundle), indent=2).decode() + "\n"


def read_bundle_file(path: Path) -> Bundle:
    """Return the bundle in a file, its signature checked.

    :raises UsageError: it can't be read, or is no good bundle.
    """
    try:
        data = read_at_most(path, FILE_BYTES_MAX)
        if len(data) > FILE_BYTES_MAX:
            raise UsageError(f"{path} is too long for a bundle")
        return open_bundle(msgspec.json.decode(data, type=SignedBundle))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, ProtocolError) as error:
        # A ValueError too is a name that no file can have: one with a NUL in it.
        raise UsageError(f"{path} is no good bundle: {error}") from error

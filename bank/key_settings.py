"""The bank's key file and passphrase as the settings, the environment or a terminal give them."""

from __future__ import annotations

import getpass
import os
import sys
import time
from pathlib import Path
from typing import Final

from bank.conf import bank_settings
from bank.errors import BankSetupError
from bank.keyring import Keyring, read_passphrase

__all__ = ["ENVIRONMENT_VARIABLE", "key_path", "now_ms", "open_keyring", "passphrase"]

ENVIRONMENT_VARIABLE: Final = "TELLERWIRE_BANK_PASSPHRASE"


def now_ms() -> int:
    """Return this machine's clock as milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def key_path(given: str | None = None) -> Path:
    """Return the path of the bank's key file.

    :param given: from the command line, before the setting.
    :raises BankSetupError: nothing says where it is.
    """
    path = given or bank_settings.KEY_FILE
    if not path:
        raise BankSetupError(
            "nothing says where the bank's key file is; set TELLERWIRE_BANK_KEY_FILE"
        )
    return Path(path)


def passphrase(given_file: str | None = None, *, confirm: bool = False) -> str:
    """Return the passphrase: from a file, else the environment, else from whoever types.

    :param given_file: from the command line, before the setting.
    :param confirm: for a new key file: it is typed twice.
    :raises BankSetupError: there is none, and nobody to ask.
    """
    file = given_file or bank_settings.PASSPHRASE_FILE
    if file:
        return read_passphrase(Path(file))
    from_environment = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if from_environment:
        return from_environment
    if not sys.stdin.isatty():
        raise BankSetupError(
            "nothing gives the passphrase of the bank's key file; set "
            f"TELLERWIRE_BANK_PASSPHRASE_FILE or {ENVIRONMENT_VARIABLE}"
        )
    typed = getpass.getpass("Passphrase of the bank's key file: ")
    if not typed:
        raise BankSetupError("the passphrase is empty")
    if confirm and getpass.getpass("The same passphrase again: ") != typed:
        raise BankSetupError("the two passphrases differ")
    return typed


def open_keyring(given: str | None = None, given_passphrase_file: str | None = None) -> Keyring:
    """Open the bank's key file.

    :raises BankSetupError: with words that say what to do.
    """
    path = key_path(given)
    if not path.exists():
        raise BankSetupError(f"there is no key file {path}; `manage.py init_bank` makes one")
    keyring = Keyring(path, passphrase(given_passphrase_file), clock=now_ms)
    if keyring.client_id != bank_settings.ID:
        raise BankSetupError(
            f"{path} is the key file of {keyring.client_id!r}, and the bank's id is "
            f"{bank_settings.ID!r} (TELLERWIRE_BANK_ID)"
        )
    return keyring

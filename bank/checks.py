"""System checks of the bank: what is wrong with its settings, and what a deployment must not have.

=========  ==========================================================================
bank.E001  ``BANK["ID"]`` is no client id
bank.E002  ``BANK["RELAY_URL"]`` is no WebSocket address
bank.E003  ``BANK`` has a key that means nothing
bank.E004  a bound of the bank is no whole number above zero
bank.E005  the file of ``BANK["KEY_FILE"]`` is no key file (``--deploy``)
bank.E006  it is the key file of somebody else (``--deploy``)
bank.E007  it is a key file of the demonstration (``--deploy``)
bank.E008  the database has persons or keys of the demonstration (``--deploy --database default``)
bank.E009  the bank's database does not answer (``--database default``)
=========  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.db import DatabaseError, connections

from bank.conf import DEFAULTS, bank_settings
from bank.database_faults import first_words
from protocol.addresses import check_relay_url
from protocol.encoding import unb64u
from protocol.errors import KeyFileFormatError
from protocol.identifiers import check_client_id
from protocol.keyfile import KeyFileHeader, read_key_file_header

__all__ = [
    "DEMO_FINGERPRINTS",
    "check_connection",
    "check_demo_rows",
    "check_key_file",
    "check_settings",
]

DEMO_ID_PREFIX: Final = "demo-"
DEMO_FINGERPRINTS: Final = frozenset(
    {
        "33f65e7d1db17c151c2928649194dbd7",  # bank
        "9d802eefb7d9cee79f05cf01eb7e69d3",  # demo-ada
        "f2cc983cb2ad86fd51517aecd896a3b1",  # demo-ben
    }
)
"""Of the key files in ``fixtures/demo``, which a deployment doesn't have."""
_BOUNDS: Final = ("BATCH_ORDERS_MAX", "QUEUE_ORDERS_MAX")


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that ``settings.BANK`` makes sense."""
    found: list[CheckMessage] = []
    try:
        check_client_id(str(bank_settings.ID))
    except ValueError as error:
        found.append(Error(f'BANK["ID"]: {error}.', id="bank.E001"))
    try:
        check_relay_url(bank_settings.RELAY_URL)
    except ValueError as error:
        found.append(
            Error(
                f'BANK["RELAY_URL"]: {error}.',
                hint="Set TELLERWIRE_BANK_RELAY_URL.",
                id="bank.E002",
            )
        )
    found += [
        Error(
            f"BANK[{name!r}] means nothing.",
            hint=f"Known are {', '.join(sorted(DEFAULTS))}.",
            id="bank.E003",
        )
        for name in sorted(set(getattr(settings, "BANK", {})) - set(DEFAULTS))
    ]
    for name in _BOUNDS:
        value = getattr(bank_settings, name)
        if type(value) is not int or value < 1:
            found.append(
                Error(
                    f"BANK[{name!r}] is {value!r}, not a whole number above zero.", id="bank.E004"
                )
            )
    return found


def check_key_file(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a deployment's key file is the bank's own, and not the demonstration's.

    A file that is not there is no fault here: the host of the admin needs none.
    """
    path = Path(bank_settings.KEY_FILE) if bank_settings.KEY_FILE else None
    if path is None or not path.is_file():
        return []
    try:
        header = read_key_file_header(path.read_bytes())
    except (OSError, KeyFileFormatError) as error:
        return [Error(f"The bank's key file {path} can't be used: {error}.", id="bank.E005")]
    found: list[CheckMessage] = []
    if header.client_id != bank_settings.ID:
        found.append(
            Error(
                f"{path} is the key file of {header.client_id!r}; the bank's id is "
                f"{bank_settings.ID!r}.",
                hint="Set TELLERWIRE_BANK_KEY_FILE or TELLERWIRE_BANK_ID.",
                id="bank.E006",
            )
        )
    if header.demo or _fingerprint(header) in DEMO_FINGERPRINTS:
        found.append(
            Error(
                f"{path} is a key file of the demonstration: everybody has it, and its passphrase.",
                hint="Make the bank's own with `manage.py init_bank`.",
                id="bank.E007",
            )
        )
    return found


def check_connection(
    app_configs: Sequence[AppConfig] | None,
    *,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Check that the bank's database answers; Django's own checks needn't ask PostgreSQL."""
    if "default" not in (databases or ()):
        return []
    try:
        connections["default"].ensure_connection()
    except DatabaseError as error:
        return [
            Error(
                f"The bank's database does not answer: {first_words(error)}.",
                hint="See that it runs, and that TELLERWIRE_DATABASE_URL leads to it.",
                id="bank.E009",
            )
        ]
    return []


def check_demo_rows(
    app_configs: Sequence[AppConfig] | None,
    *,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Check that a deployment's database doesn't accept the demonstration's keys."""
    if "default" not in (databases or ()):
        return []
    persons = apps.get_model("bank", "Person")._default_manager
    keys = apps.get_model("bank", "PersonKey")._default_manager
    found = set(
        persons.filter(client_id__startswith=DEMO_ID_PREFIX).values_list("client_id", flat=True)
    )
    in_force = keys.filter(fingerprint__in=DEMO_FINGERPRINTS, revoked_at__isnull=True)
    found |= set(in_force.values_list("person__client_id", flat=True))
    return [
        Error(
            f"The database has {client_id!r} of the demonstration, whose key everybody has.",
            hint="Start a deployment from an empty database.",
            id="bank.E008",
        )
        for client_id in sorted(found)
    ]


def _fingerprint(header: KeyFileHeader) -> str:
    try:
        return unb64u(header.fingerprint).hex()
    except ValueError:
        return ""

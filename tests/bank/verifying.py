"""The command that checks the ledger, as a test asks it."""

from __future__ import annotations

from io import StringIO

from django.core.management import CommandError, call_command


def verify() -> tuple[int, str]:
    """Run `verify_ledger`; return its exit status and what it said."""
    out = StringIO()
    try:
        call_command("verify_ledger", stdout=out)
    except CommandError as error:
        return error.returncode, out.getvalue()
    return 0, out.getvalue()

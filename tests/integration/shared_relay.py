"""A relay that several tests share: each finds it as if nobody had ever registered."""

from __future__ import annotations

import time
from typing import Final

from relay.models import Client, Connection, Mail, StoredStatus
from tests.integration.processes import RunningServer

LEAVE_SECONDS_MAX: Final = 20.0
POLL_SECONDS: Final = 0.01


def forget_clients(*servers: RunningServer) -> None:
    """Wait until the last test's connections are gone, and delete every client and message."""
    deadline = time.monotonic() + LEAVE_SECONDS_MAX
    while any(server.relay_connections for server in servers) or Connection.objects.exists():
        assert time.monotonic() < deadline, "a test left connections behind"
        time.sleep(POLL_SECONDS)
    for model in (Mail, StoredStatus, Client):
        model.objects.all().delete()

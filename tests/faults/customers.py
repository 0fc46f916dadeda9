"""The demo's first person as a customer, inside the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from clients.retry import RetryPolicy
from clients.session import Session, Setup, connect
from tests.installation import ADA, Installation

__all__ = ["PATIENT", "ada"]

PATIENT: Final = RetryPolicy(tries=8, try_ms=5_000)


@asynccontextmanager
async def ada(
    installation: Installation, *, relay_url: str | None = None, policy: RetryPolicy = PATIENT
) -> AsyncIterator[Session]:
    """Be connected as Ada; her state is the one that her program would use."""
    setup = Setup(
        installation.keys_of(ADA),
        relay_url or installation.relay_url,
        installation.bank,
        installation.state_of(ADA),
        policy,
    )
    async with connect(
        setup, on_message=lambda _: None, on_refused=lambda *_: None, wait_seconds=30
    ) as session:
        yield session

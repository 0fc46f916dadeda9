"""Running one connected conversation from a command: start, show what arrives, end in order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import typer

from clients.customer import OrderResult
from clients.display import Display
from clients.errors import OutputError
from clients.memory import PinsOnDisk
from clients.outcomes import ExitStatus, late_end_text
from clients.session import Session, Setup, connect
from clients.stopping import run_until_stopped
from clients.storage import StateDirectory, StoredMessage
from clients.words import in_words
from protocol.errors import Code
from protocol.keys import format_fingerprint

__all__ = ["connected", "end_with", "show_waiting", "talk"]

T = TypeVar("T")


def end_with(status: ExitStatus) -> None:
    """End the command with an exit status."""
    if status is not ExitStatus.OK:
        raise typer.Exit(int(status))


def talk(setup: Setup, display: Display, conversation: Callable[[Session], Awaitable[T]]) -> T:
    """Connect, hold a short conversation, leave; messages that come meanwhile are kept.

    :raises KeyboardInterrupt: the program is to end, by Ctrl-C or SIGTERM.
    """

    async def run() -> T:
        async with connected(setup, display) as session:
            return await conversation(session)

    return run_until_stopped(run())


@contextlib.asynccontextmanager
async def connected(
    setup: Setup,
    display: Display,
    *,
    on_unshown: Callable[[OutputError], None] | None = None,
    wait_seconds: float | None = None,
) -> AsyncIterator[Session]:
    """Be connected for a block.

    :param on_unshown: show messages as they come, and call this when one can't be shown: it waits
        for the next time. Without it all are kept for `listen`, and counted.
    """
    kept = 0
    state = StateDirectory(setup.state_path)
    newcomers = _Newcomers(setup, PinsOnDisk(state), display)

    def on_message(message: StoredMessage) -> None:
        nonlocal kept
        newcomers.tell()
        if on_unshown is None:
            kept += 1
            return
        try:
            _show(state, message, display)
        except OutputError as error:
            on_unshown(error)

    def on_refused(sender: str, code: Code, detail: str) -> None:
        display.warn(f"a message from {sender} was refused: {in_words(code, detail)}")

    def on_late_end(result: OrderResult) -> None:
        display.warn(late_end_text(result))

    async with connect(
        setup,
        on_message=on_message,
        on_refused=on_refused,
        on_late_end=on_late_end,
        wait_seconds=wait_seconds,
    ) as session:
        yield session
    newcomers.tell()
    if kept:
        display.warn(f"{kept} new message(s) came meanwhile; read them with: listen")


class _Newcomers:
    """Tells of people whose keys were taken on trust: whoever looks can compare fingerprints.

    The bank is none of them: its fingerprint is configured.
    """

    def __init__(self, setup: Setup, pins: PinsOnDisk, display: Display) -> None:
        self._pins = pins
        self._display = display
        self._known = {pin.bundle.id for pin in pins.all_pins()} | {setup.key_file.client_id}
        if setup.bank is not None:
            self._known.add(setup.bank.id)

    def tell(self) -> None:
        for pin in self._pins.all_pins():
            bundle = pin.bundle
            if bundle.id not in self._known:
                self._known.add(bundle.id)
                self._display.warn(
                    f"new to you: {bundle.name} ({bundle.id}), "
                    f"fingerprint {format_fingerprint(bundle.fingerprint)}"
                )


def show_waiting(state: StateDirectory, display: Display) -> None:
    """Show the messages that came when nobody looked."""
    for message in state.waiting_messages():
        _show(state, message, display)


def _show(state: StateDirectory, message: StoredMessage, display: Display) -> None:
    with state.showing(message) as is_ours:
        if is_ours:
            display.message(message)

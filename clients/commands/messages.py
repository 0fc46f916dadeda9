"""Commands about messages between persons, and scripts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from clients.actions import BankAction
from clients.commands.connected import (
    connected,
    end_with,
    show_waiting,
    talk,
)
from clients.commands.options import Common, setup_of, with_common_options
from clients.config import Config, load_config
from clients.directory import check_query
from clients.display import Display
from clients.errors import (
    ClientError,
    OutcomeUnknownError,
    OutputError,
    RefusedError,
    RelayUnreachableError,
    UsageError,
)
from clients.outcomes import ExitStatus, status_of, text_text
from clients.script import Script, tell_action
from clients.session import NO_FINGERPRINT, Session, Setup
from clients.stopping import run_until_stopped, stop_on_signals
from clients.waiting import first_of
from protocol.errors import LocalError

__all__ = ["listen", "run", "send"]


@with_common_options
def run(
    common: Common,
    script: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The configuration with the actions.")
    ] = None,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Leave when every action has ended.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="One line of JSON for each event.")
    ] = False,
) -> None:
    """Carry out the actions of a configuration file, in order, then stay for its duration.

    One line tells of each action. Messages that come are shown until `general.duration` seconds
    have passed since the start. The script is the consent: nothing is asked.

    Exit status 0 only if every action succeeded; a message that still waits in the recipient's
    mailbox counts, and the line says "queued".

    Example: python -m clients.person run ada.json --once
    """
    started = time.monotonic()
    path = script or common.config
    if path is None:
        raise UsageError("which configuration? Give it as `run CONFIG`")
    config = load_config(path, script=True)
    display = Display(as_json=json_lines)
    begun = asyncio.Event()
    try:
        setup = setup_of(common, config)
        _check_bank(setup, config)
        running = _run_script(setup, config, display, started, begun, stay=not once)
        status = run_until_stopped(running)
    except OutputError:
        raise
    except (ClientError, LocalError) as error:
        if not begun.is_set():
            _tell_not_done(config, display, _why_not_begun(error))
        raise
    except KeyboardInterrupt:
        if not begun.is_set():
            _tell_not_done(config, display, "the program was stopped")
        raise
    end_with(status)


def _why_not_begun(error: ClientError | LocalError) -> str:
    if isinstance(error, RelayUnreachableError):
        return "there was no connection to the relay within general.duration"
    return str(error)


def _check_bank(setup: Setup, config: Config) -> None:
    """Refuse a script whose orders nobody could check the bank for, before its first action.

    :raises UsageError: no bank's fingerprint is configured.
    """
    if setup.bank is None and any(isinstance(each, BankAction) for each in config.actions):
        raise UsageError(NO_FINGERPRINT)


def _tell_not_done(config: Config, display: Display, why: str) -> None:
    for number in range(1, len(config.actions) + 1):
        tell_action(display, config.actions, number, f"not done: {why}", ok=False)


async def _run_script(
    setup: Setup,
    config: Config,
    display: Display,
    started: float,
    begun: asyncio.Event,
    *,
    stay: bool,
) -> ExitStatus:
    loop = asyncio.get_running_loop()
    left = config.general.duration_seconds - (time.monotonic() - started)
    stop = asyncio.Event()
    async with connected(
        setup, display, on_unshown=lambda _: stop.set(), wait_seconds=max(left, 0.1)
    ) as session:
        stop_on_signals(stop)
        bundle = setup.key_file.bundle
        display.say(
            f"connected to {setup.relay_url} as {bundle.name} ({bundle.id})",
            event="connected",
            id=bundle.id,
            relay=setup.relay_url,
        )
        show_waiting(session.state, display)
        begun.set()
        left = config.general.duration_seconds - (time.monotonic() - started)
        deadline = loop.time() + left
        script = Script(session, config.actions, display, deadline=deadline, stop=stop)
        return await script.run(stay=stay)


@with_common_options
def send(
    common: Common,
    to: Annotated[str, typer.Argument(help='An id, or a name: "Last, First".')],
    text: Annotated[str, typer.Argument(help="What to say.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Send a message to a person, sealed so that only that person can read it.

    It ends as answered (that person's program has it), delivered (the relay says so), queued (it
    waits in the mailbox), or refused.

    Example: python -m clients.person send --config ada.json "Beispiel, Ben" "Hello Ben"
    """
    check_query(to)
    setup = setup_of(common)
    display = Display()

    async def conversation(session: Session) -> ExitStatus:
        recipient = await session.client.directory.resolve(to)
        try:
            outgoing, done = session.messenger.send(recipient, text, setup.policy)
        except ValueError as error:
            raise UsageError(str(error)) from error
        await first_of(done, outgoing.queued.wait())
        try:
            result = outgoing.result(done.result() if done.done() else None)
        except RefusedError:
            raise
        except ClientError as error:
            unknown = f"it may or may not have reached {recipient.id}: {error}"
            raise OutcomeUnknownError(unknown) from error
        if as_json:
            display.json(result)
        else:
            display.say(f"{text_text(result)} ({recipient.name})")
        return status_of(result)

    end_with(talk(setup, display, conversation))


@with_common_options
def listen(
    common: Common,
    *,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Leave after this long (default: never).")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="One line of JSON for each message.")
    ] = False,
) -> None:
    """Show messages as they come, and first those that came before; Ctrl-C ends it.

    Example: python -m clients.person listen --config ben.json
    """
    setup = setup_of(common)
    run_until_stopped(_listen(setup, Display(as_json=json_lines), seconds))


async def _listen(setup: Setup, display: Display, seconds: float | None) -> None:
    stop = asyncio.Event()
    unshown: list[OutputError] = []

    def give_up(error: OutputError) -> None:
        unshown.append(error)
        stop.set()

    async with connected(setup, display, on_unshown=give_up) as session:
        stop_on_signals(stop)
        display.warn(f"listening as {setup.key_file.bundle.name}; Ctrl-C ends it")
        show_waiting(session.state, display)
        closed = asyncio.ensure_future(session.client.wait_closed())
        await first_of(closed, stop.wait(), seconds=seconds)
        if closed.done():
            closed.result()
        closed.cancel()
    if unshown:
        raise unshown[0]

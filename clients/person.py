"""The person's program: ``python -m clients.person``, or ``python clients/person.py``.

Exit status: 0 it was done, 1 it was refused or failed, 2 what was typed (or a configuration) is
wrong, 3 whether it happened is not known yet (``orders --finish`` finds out), 130 it was stopped by
Ctrl-C (143 by SIGTERM) while nothing was at stake.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from pathlib import Path
from typing import Final

if not __package__:
    # Started as a script, Python looks for modules in this folder first: a file here could stand
    # in for a package of the same name. Look where the packages are instead.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

# ruff: noqa: E402 - from here on Ctrl-C ends the program without a traceback
_INTERRUPT: Final = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" and _INTERRUPT is signal.default_int_handler:
    # Nothing is at stake while all that follows is read in.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import typer

from clients.commands import keys, messages, money, orders
from clients.commands.command import PersonCommand, PersonGroup
from clients.display import Display, print_whatever_comes
from clients.explaining import explain
from clients.outcomes import ExitStatus
from clients.stopping import INTERRUPTED_STATUS

__all__ = ["app", "main"]

app: Final = typer.Typer(
    name="person",
    cls=PersonGroup,
    help="Talk to people and to your bank through a relay that can read none of it.\n\n"
    "Begin with `keygen`, give the bank your bundle (`show --bundle`), and write its fingerprint "
    "into your configuration. Then `accounts`, `transfer`, `send`, `listen`.\n\n"
    "Every command takes --config FILE, or --key, --relay and --bank-fingerprint.",
    epilog="Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the outcome is not known "
    "yet (`orders --finish` finds out), 130 stopped by Ctrl-C, or 143 by SIGTERM, with nothing at "
    "stake. Example: "
    "python -m clients.person transfer account1 account2 100 --config ada.json",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_PANELS: Final = {
    "Your keys": (keys.keygen, keys.show, keys.passwd, keys.rotate, keys.trust),
    "People": (messages.send, messages.listen, messages.run),
    "Money": (
        money.accounts,
        money.balance,
        money.statement,
        money.transfer,
        money.withdraw,
        money.deposit,
        orders.orders,
        orders.verify,
    ),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel, cls=PersonCommand)(_command)


def main() -> int:
    """Run a command and return the exit status; nothing ever ends in a traceback."""
    print_whatever_comes()
    try:
        app()
    except BrokenPipeError:
        return ExitStatus.FAILED
    except KeyboardInterrupt:  # before there is a command that would say more
        return INTERRUPTED_STATUS
    except Exception as error:  # noqa: BLE001 - the last resort of a program for people
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        return explain(error, Display())
    finally:
        _let_go_of_output()
    return ExitStatus.OK


def _let_go_of_output() -> None:
    """Keep Python from complaining at exit, with a status of its own, of what can't be written."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _INTERRUPT)
    try:
        sys.exit(main())
    finally:
        # All is done and said: a signal that comes now changes nothing about the exit status.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

"""``python -m bankproject.demo``: play the scenario, or stay."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from bankproject.demo import installation as setup
from bankproject.demo.processes import DemoError, Programs
from bankproject.demo.scenario import EXPECTED, play
from bankproject.demo.transcript import Transcript
from bankproject.ports import port_number
from clients.display import print_whatever_comes

FAILED: Final = 1


def main() -> int:
    """Return the exit status: 0 if everything came out as it has to."""
    options = _parser().parse_args()
    print_whatever_comes()
    console = Console(highlight=False, soft_wrap=True)
    # SIGTERM is an interruption too: whatever was started is stopped, and the folder goes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _folder() as folder:
            _run(folder, options, console)
    except DemoError as error:
        sys.stderr.write(f"\nThe demonstration failed: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        return FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bankproject.demo",
        description="Start a relay, a bank and two people on fresh demo data, and show them work.",
    )
    parser.add_argument("--stay", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument(
        "--port", type=port_number, default=0, help="the server's port (default: a free one)"
    )
    return parser


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tellerwire-demo-") as name:
        yield Path(name)


def _run(folder: Path, options: argparse.Namespace, console: Console) -> None:
    began = time.monotonic()
    transcript = Transcript(console)
    place = setup.prepare(folder, options.port or None)
    with Programs(folder, place.environment(), setup.HOME) as programs:
        transcript.step(
            "A bank is set up",
            "Fresh databases; opening balances are transfers signed by the bank.",
        )
        setup.fill_databases(programs, place.operator_password if options.stay else None)
        transcript.note("account1 (Demo Club), account2 (Ada) and account3 (Ben) hold 1000 each")
        transcript.step(
            "The relay starts, and the bank registers with it",
            "The relay sees who talks to whom, never what is said.",
        )
        setup.start_relay(programs, place)
        setup.start_bank(programs)
        transcript.note(f"relay at {place.relay}")
        if options.stay:
            setup.introduce(programs, place, "demo-ben")
            _stay(programs, place, console)
            return
        play(programs, place, transcript)
    balances = ", ".join(f"{account} {balance}" for account, balance in EXPECTED.items())
    transcript.closing(f"Done in {time.monotonic() - began:.0f} seconds: {balances}")


def _stay(programs: Programs, place: setup.Installation, console: Console) -> None:
    person = f"{shlex.quote(sys.executable)} -m clients.person"
    state = shlex.quote(str(place.folder / "state"))
    ada, ben = (shlex.quote(str(place.config(name))) for name in ("demo-ada", "demo-ben"))
    told = f"""
Everything runs. Press Ctrl-C to stop it; its data in {place.folder} goes with it.

  Admin   {place.web}/admin/   user {setup.OPERATOR}, password {place.operator_password}
  Relay   {place.relay}

In another terminal, in this folder ({setup.HOME}):

  export TELLERWIRE_PASSPHRASE={setup.PASSPHRASE} TELLERWIRE_STATE={state}
  {person} accounts --config {ada}
  {person} transfer --config {ada} account2 account3 25
  {person} statement --config {ada} account2
  {person} send --config {ada} "Beispiel, Ben" "Your 25 are on the way"
  {person} listen --config {ben}

Take a permission away from Ada in the admin (Employees), and try her next order.
"""
    # Who has read it may already want it to end.
    with contextlib.suppress(KeyboardInterrupt):
        console.print(Text(told))  # as it is: brackets in a path are no markup
        programs.watch()


if __name__ == "__main__":
    sys.exit(main())

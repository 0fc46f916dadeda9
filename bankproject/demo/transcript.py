"""What the demonstration prints: steps, who said what, balances."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Transcript"]


class Transcript:
    """A readable account of a run, on the terminal or in a file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 0

    def step(self, title: str, meaning: str) -> None:
        """Begin the next step."""
        self._steps += 1
        self._console.print()
        self._console.print(Text(f"{self._steps}. {title}", style="bold"))
        self._console.print(Text(f"   {meaning}", style="dim"))

    def note(self, text: str) -> None:
        """Print a line of the demonstration's own."""
        self._console.print(Text(f"   {text}"))

    def said(self, who: str, output: str) -> None:
        """Print what one of the programs printed, line by line."""
        for line in output.splitlines():
            if line.strip():
                self._console.print(Text.assemble((f"   {who:<5}", "cyan"), "│ ", line))

    def balances(self, found: Mapping[str, str]) -> None:
        """Print the balances as a table."""
        table = Table(box=None, padding=(0, 3, 0, 3))
        table.add_column("account")
        table.add_column("balance", justify="right")
        for account, balance in sorted(found.items()):
            table.add_row(account, balance)
        self._console.print(table)

    def closing(self, text: str) -> None:
        """Print the last word."""
        self._console.print()
        self._console.print(Text(text, style="bold green"))

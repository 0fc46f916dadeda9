"""What people see: plain lines on standard output, problems and logs on standard error."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clients.errors import OutputError
from clients.storage import StoredMessage
from protocol.keys import format_fingerprint

__all__ = [
    "Display",
    "amount_text",
    "date_text",
    "print_whatever_comes",
    "printable",
    "time_text",
]

CONTROL = "C"
TABLE_COLUMNS_MAX = 10_000
GAP_WIDTH = 2
"""Between two columns of a table."""
BROKEN_COLUMN_WIDTH_MIN = len("00:00:00+00:00")
"""A column of a table that is narrower than this isn't read any more, but spelt."""


def printable(text: str) -> str:
    """Return ``text`` with everything escaped that a terminal would not show as it is.

    Control characters could move the cursor or recolour the screen; invisible and bidirectional
    ones could make a text look like another.
    """
    return "".join(
        char.encode("unicode_escape").decode("ascii") if _is_unseen(char) else char for char in text
    )


def _is_unseen(char: str) -> bool:
    return unicodedata.category(char)[0] == CONTROL or char in "\u2028\u2029"


def print_whatever_comes() -> None:
    """Let a terminal or a pipe that doesn't speak Unicode get an escape for what it can't show.

    Otherwise a name with an umlaut would end the program before it has said that money moved. What
    whoever started the program has closed leads nowhere, and no socket takes its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def amount_text(minor_units: int, exponent: int) -> str:
    """Return an amount of minor units as a decimal number."""
    sign = "-" if minor_units < 0 else ""
    digits = str(abs(minor_units)).rjust(exponent + 1, "0")
    if exponent == 0:
        return sign + digits
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


def time_text(milliseconds: int) -> str:
    """Return a time in this computer's time zone, to the second."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1_000, UTC).astimezone()
    except (ValueError, OverflowError, OSError):  # beyond the calendar, whoever says so
        return f"{milliseconds} ms since 1970"
    return moment.isoformat(sep=" ", timespec="seconds")


def date_text(milliseconds: int) -> str:
    """Return the date that a time begins in UTC, as value dates are meant."""
    try:
        return datetime.fromtimestamp(milliseconds / 1_000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms since 1970"


class Display:
    """Says things to whoever started the program.

    Whatever says something raises :class:`~clients.errors.OutputError` where it can't be written.

    :param as_json: say every event as one line of JSON instead.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out = Console(highlight=False, soft_wrap=True)
        if not self._out.is_terminal:
            self._out.width = TABLE_COLUMNS_MAX

    def say(self, line: str, **event: object) -> None:
        """Print one line; with ``event``, that instead where JSON is wanted."""
        if not self.as_json:
            self.write(f"{printable(line)}\n")
        elif event:
            self.json(event, indent=None)

    @contextlib.contextmanager
    def saying_or_warning(self, line: str) -> Iterator[None]:
        """Say in the block how something ended; where that can't be written, warn with ``line``.

        What has happened isn't changed by what can be said of it.
        """
        try:
            yield
        except OutputError as error:
            self.warn(f"{error}; {line}")

    def say_anywhere(self, line: str, **event: object) -> None:
        """As :meth:`say`, but on standard error where it can't be written; never raises."""
        with self.saying_or_warning(line):
            self.say(line, **event)

    def warn(self, line: str) -> None:
        """Print one line on standard error; it is lost where that can't be written either."""
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{printable(line)}\n")
            sys.stderr.flush()

    def write(self, text: str) -> None:
        """Print a text as it is."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            raise OutputError(error) from error

    def json(self, value: Any, indent: int | None = 2) -> None:
        """Print a value as JSON; what a terminal would not show as it is stands there escaped."""
        plain = msgspec.to_builtins(value)
        in_ascii = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        text = json.dumps(plain, ensure_ascii=in_ascii, indent=indent)
        # What comes unescaped from there is in a string, or is the layout's end of a line.
        shown = (json.dumps(c)[1:-1] if c != "\n" and _is_unseen(c) else c for c in text)
        self.write("".join(shown) + "\n")

    def table(self, columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> None:
        """Print a table, as wide as it has to be where no terminal bounds it.

        Where the terminal is too narrow for that, each row is a block with a line for each column.

        :param columns: heading, and whether the column is never broken and aligned to the right,
            as numbers are.
        """
        shown = [[printable(cell) for cell in row] for row in rows]
        if shown and self._is_too_narrow(columns, shown):
            self.write(_blocks([heading for heading, _ in columns], shown))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading, whole in columns:
            justify: Literal["right", "left"] = "right" if whole else "left"
            table.add_column(heading, justify=justify, no_wrap=whole, overflow="fold")
        for row in shown:
            table.add_row(*map(Text, row))
        # Drawn beside standard output, so that all that is printed there goes through write.
        drawn = io.StringIO()
        Console(
            file=drawn,
            width=self._out.width,
            force_terminal=self._out.is_terminal,
            color_system="standard" if self._out.color_system else None,
            highlight=False,
            soft_wrap=True,
        ).print(table)
        self.write(drawn.getvalue())

    def _is_too_narrow(
        self, columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]
    ) -> bool:
        """Whether columns would have to be broken into less than people can read."""
        needed = 0
        for number, (heading, whole) in enumerate(columns):
            widest = max(cell_len(text) for text in [heading, *(row[number] for row in rows)])
            needed += GAP_WIDTH + (widest if whole else min(widest, BROKEN_COLUMN_WIDTH_MIN))
        return needed - GAP_WIDTH > self._out.width

    def message(self, message: StoredMessage) -> None:
        """Show a message from a person: who, with which key, and what."""
        fingerprint = format_fingerprint(bytes.fromhex(message.fingerprint))
        self.say(
            f"message from {message.name} ({message.sender}): {message.text}",
            event="message",
            sender=message.sender,
            name=message.name,
            fingerprint=fingerprint,
            id=message.id,
            text=message.text,
            issued_at=message.issued_at,
        )


def _blocks(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return each row as lines of heading and cell, with an empty line between rows."""
    width = max(map(len, headings)) + 1
    names = [f"{heading}:".ljust(width) for heading in headings]
    blocks = (
        "".join(f"{name} {cell}".rstrip() + "\n" for name, cell in zip(names, row, strict=True))
        for row in rows
    )
    return "\n".join(blocks)

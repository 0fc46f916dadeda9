"""How the program's commands read what was typed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

from typer.core import TyperCommand, TyperGroup

from clients.errors import OutputError

__all__ = ["PersonCommand", "PersonGroup"]

_NEGATIVE: Final = re.compile(r"-[0-9.,].*")


class PersonCommand(TyperCommand):
    """A command to which ``-5`` is an amount, so that it is refused as one, by its name.

    Taken for an option it would only be an unknown one.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments and options."""
        if any(_NEGATIVE.fullmatch(arg) for arg in args):
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with _saying_what_cant_be_written():
            super().format_help(ctx, formatter)


class PersonGroup(TyperGroup):
    """The program itself: all of its commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with _saying_what_cant_be_written():
            super().format_help(ctx, formatter)


@contextlib.contextmanager
def _saying_what_cant_be_written() -> Iterator[None]:
    """Help is written by the library, not by :class:`~clients.display.Display`."""
    try:
        yield
    except OSError as error:
        raise OutputError(error) from error

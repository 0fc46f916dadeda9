"""How the program's commands read what was typed."""

from __future__ import annotations

import re
from typing import Any, Final

from typer.core import TyperCommand

__all__ = ["PersonCommand"]

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

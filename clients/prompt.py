"""Asking whoever sits at the terminal, while the connection stays alive."""

from __future__ import annotations

import asyncio
import sys

__all__ = ["ask_yes"]

YES = frozenset({"y", "yes"})


async def ask_yes(question: str) -> bool:
    """Return whether the answer is yes; everything else is a no, the end of the input too.

    The event loop waits for the line, not a thread: a thread that reads can't be interrupted, and
    Ctrl-C would leave a program that waits for a line that nobody will type.
    """
    sys.stdout.write(f"{question} [y/N]: ")
    sys.stdout.flush()
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    terminal = sys.stdin.fileno()
    # A terminal is readable when a whole line was typed.
    loop.add_reader(terminal, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(terminal)
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        sys.stdout.write("\n")
    return line.strip().lower() in YES

"""Asking whoever sits at the terminal, while the connection stays alive."""

from __future__ import annotations

import asyncio
import sys
from typing import TextIO

__all__ = ["ask_yes"]

YES = frozenset({"y", "yes"})


async def ask_yes(question: str, screen: TextIO) -> bool:
    """Return whether the answer is yes; everything else is a no, the end of the input too.

    :param screen: where the question is read: standard output or standard error.

    The event loop waits for the line, not a thread: a thread that reads can't be interrupted, and
    Ctrl-C would leave a program that waits for a line that nobody will type.
    """
    screen.write(f"{question} [y/N]: ")
    screen.flush()
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    terminal = sys.stdin.fileno()
    # A terminal is readable when a whole line was typed.
    loop.add_reader(terminal, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(terminal)
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError:
        return False
    if not line.endswith("\n"):
        screen.write("\n")
    return line.strip().lower() in YES

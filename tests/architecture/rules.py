"""Who may import whom: the rules, as functions from a file's imports to what is wrong with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tests.architecture.imports import FIRST_PARTY, UNKNOWN, Import

RUNBANK: Final = Path("bank/management/commands/runbank.py")

MAY_IMPORT: Final = {
    "protocol": frozenset({"protocol"}),
    "clients": frozenset({"clients", "protocol"}),
    "relay": frozenset({"relay", "protocol"}),
    "bank": frozenset({"bank", "protocol"}),
    "bankproject": FIRST_PARTY,
}
# The end-to-end promise made visible: no code of the relay could open a message.
CLOSED_TO_RELAY: Final = ("protocol.sealing", "protocol.sessions", "protocol.banking")
WEB_FRAMEWORK: Final = ("django", "channels", "channels_redis", "asgiref", "daphne", "uvicorn")
PROTOCOL_LIBRARIES: Final = frozenset({"cryptography", "msgspec"})
# Time, randomness and keys are passed in, and bytes go in and out: so it can be simulated.
INPUT_AND_OUTPUT: Final = (
    "asyncio",
    "http",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "selectors",
    "shutil",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
)

Rule = Callable[[Path, Import], bool]


def package_of(path: Path) -> str:
    """Return the top-level package that the file belongs to."""
    return path.parts[0]


def crosses_a_wall(path: Path, found: Import) -> bool:
    """A package imports another one that it may not know."""
    package = package_of(path)
    other = found.module.split(".")[0]
    if other not in FIRST_PARTY | {"tests", "benchmarks"}:
        return False
    if path == RUNBANK and other == "clients":
        return False
    return other not in MAY_IMPORT[package]


def opens_messages(path: Path, found: Import) -> bool:
    """The relay imports what opens messages, or all of `protocol` at once."""
    return package_of(path) == "relay" and (
        any(found.is_within(module) for module in CLOSED_TO_RELAY)
        or found.module in {"protocol", "protocol.*"}
    )


def needs_the_web_framework(path: Path, found: Import) -> bool:
    """The protocol or a client imports a part of the web framework."""
    return package_of(path) in {"protocol", "clients"} and any(
        found.is_within(module) for module in WEB_FRAMEWORK
    )


def does_input_or_output(path: Path, found: Import) -> bool:
    """The protocol imports something that acts, or a library that isn't among its few."""
    if package_of(path) != "protocol" or found.is_within("protocol"):
        return False
    top = found.module.split(".")[0]
    known = top in PROTOCOL_LIBRARIES or top in sys.stdlib_module_names
    return not known or any(found.is_within(module) for module in INPUT_AND_OUTPUT)


def hides_in_a_function(path: Path, found: Import) -> bool:
    """A first-party import stands inside a function."""
    return found.in_function and found.module.split(".")[0] in FIRST_PARTY


def is_computed(path: Path, found: Import) -> bool:
    """What is imported can't be told from the source."""
    return found.module == UNKNOWN


RULES: Final[tuple[Rule, ...]] = (
    crosses_a_wall,
    opens_messages,
    needs_the_web_framework,
    does_input_or_output,
    hides_in_a_function,
    is_computed,
)


def violations(path: Path, imports: Iterable[Import], rules: Iterable[Rule] = RULES) -> list[str]:
    """Return a line for each rule that each import of the file breaks."""
    return [
        f"{path}:{found.line}: {found.module}: {rule.__doc__}"
        for found in imports
        for rule in rules
        if rule(path, found)
    ]

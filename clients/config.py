"""The configuration file of a person: one JSON file, with the original's keys.

::

    {
      "person":  {"id": "demo-ada", "name": "Last, First",
                  "keys": {"private": "demo-ada.key", "public": "fingerprint or bundle file"}},
      "general": {"duration": "10", "retries": "3", "timeout": "2"},
      "server":  {"ip": "127.0.0.1", "port": "8765"},
      "bank":    {"id": "bank", "fingerprint": "0123 4567 …"},
      "actions": ["SEND [demo-ben] hello", "SEND [bank] ADD [account1] [account2] [100]"]
    }

A script needs all of ``general`` and ``actions``; commands that get their orders from the command
line do without. Numbers may be written as texts. ``keys.private`` names a key file, relative to
this file's folder; ``keys.public`` may be left out, and is checked where it is there; an RSA key
that the original had there is of no use any more, and changes nothing. ``server`` may have a
``path`` and ``tls``, or a whole ``url`` instead of everything else. Durations are seconds, and
``retries`` is how often a message is sent at the most; 0 is one try, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clients.actions import Action, parse_action
from clients.errors import ActionError, ConfigError
from clients.files import read_at_most
from protocol.addresses import check_relay_url
from protocol.encoding import check_unicode
from protocol.identifiers import check_client_id, split_name
from protocol.keys import parse_fingerprint

__all__ = ["BANK_ID", "OLD_KEY_ADVICE", "Config", "General", "is_old_key", "load_config"]

BANK_ID: Final = "bank"
RELAY_PATH: Final = "/relay"
FILE_BYTES_MAX: Final = 1_048_576
DURATION_SECONDS_MAX: Final = 30 * 86_400
TIMEOUT_SECONDS_MAX: Final = 3_600
RETRIES_MAX: Final = 1_000

OLD_KEY_ADVICE: Final = (
    "holds a key in clear, as the original did. Keys live in encrypted files here: make a new "
    "one with `python -m clients.person keygen`, put that file's name here, have the bank enrol "
    "it, and treat the old key as public"
)

Section = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class General:
    """Patience.

    :param duration_seconds: how long a script's program stays, from its start.
    :param tries: how often a message is sent at the most.
    :param timeout_seconds: how long each try waits.
    """

    duration_seconds: float = 60.0
    tries: int = 3
    timeout_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Config:
    """What a configuration file says, checked."""

    path: Path
    person_id: str
    first_name: str
    last_name: str
    key_file: Path
    public: str | None
    """A fingerprint, or the name of a bundle file, that the key file must fit."""
    general: General
    relay_url: str
    bank_id: str
    bank_fingerprint: bytes | None
    actions: tuple[Action, ...]


class _Reader:
    """Takes members out of one section and names what is wrong with them."""

    def __init__(self, path: Path, name: str, members: Section) -> None:
        self._path = path
        self._name = name
        self._members = members
        self._taken: set[str] = set()

    def error(self, key: str, problem: str) -> ConfigError:
        dotted = f"{self._name}.{key}" if self._name and key else self._name or key
        return ConfigError(self._path, dotted, problem)

    def has(self, key: str) -> bool:
        return key in self._members

    def take(self, key: str) -> object:
        if key not in self._members:
            raise self.error(key, "is missing")
        self._taken.add(key)
        return self._members[key]

    def section(self, key: str, *, optional: bool = False) -> _Reader:
        value = {} if optional and not self.has(key) else self.take(key)
        if not isinstance(value, dict):
            raise self.error(key, "must be an object, { … }")
        name = f"{self._name}.{key}" if self._name else key
        return _Reader(self._path, name, value)

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str):
            raise self.error(key, "must be a text")
        if not value.strip():
            raise self.error(key, "must not be empty")
        try:
            return check_unicode(value.strip())
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def number(self, key: str, *, least: float, most: float) -> float:
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise self.error(key, "must be a number")
        if isinstance(value, str) and not value.strip():
            raise self.error(key, "must not be empty")
        try:
            number = _number(value)
        except (ValueError, OverflowError) as error:
            raise self.error(key, f"must be a number, and is {value!r}") from error
        if not math.isfinite(number) or not least <= number <= most:
            bounds = f"between {least:.12g} and {most:.12g}"
            raise self.error(key, f"must be {bounds}, and is {value}")
        return number

    def whole(self, key: str, *, least: int, most: int) -> int:
        number = self.number(key, least=least, most=most)
        if number != int(number):
            raise self.error(key, "must be a whole number")
        return int(number)

    def flag(self, key: str) -> bool:
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def finish(self) -> None:
        unknown = sorted(set(self._members) - self._taken)
        if unknown:
            raise self.error(unknown[0], "is not known here; is it misspelt?")


def _number(value: float | str) -> float:
    """Python reads more than people write as a number: other scripts' digits, and 1_0 for 10."""
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        raise ValueError("these are not the digits 0 to 9")
    return float(value)


def load_config(path: Path, *, script: bool = False) -> Config:
    """Read a configuration file, every action in it included.

    :param script: it is to be carried out, so ``general`` and ``actions`` have to be there; other
        commands do without them.
    :raises ConfigError: it can't be read, or a key is missing, wrong or unknown; it names which.
    """
    root = _Reader(path, "", _read(path))
    person = root.section("person")
    person_id, first_name, last_name = _person(person)
    keys = person.section("keys")
    key_file = _private(path, keys)
    public = keys.text("public") if keys.has("public") else None
    general = _general(root.section("general", optional=not script), whole=script)
    relay_url = _server(root.section("server"))
    bank_id, fingerprint = _bank(root.section("bank", optional=True))
    actions = _actions(root, bank_id) if script or root.has("actions") else ()
    for reader in (root, person, keys):
        reader.finish()
    return Config(
        path=path,
        person_id=person_id,
        first_name=first_name,
        last_name=last_name,
        key_file=key_file,
        public=public,
        general=general,
        relay_url=relay_url,
        bank_id=bank_id,
        bank_fingerprint=fingerprint,
        actions=actions,
    )


def _read(path: Path) -> Section:
    try:
        data = read_at_most(path, FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(path, "", f"can't be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(path, "", "is too long for a configuration")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, "", f"is not good JSON in UTF-8: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(path, "", "must hold one object, { … }")
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} appears twice")
    return members


def _person(person: _Reader) -> tuple[str, str, str]:
    try:
        person_id = check_client_id(person.text("id"))
    except ValueError as error:
        raise person.error("id", str(error)) from error
    try:
        first_name, last_name = split_name(person.text("name"))
    except ValueError as error:
        raise person.error("name", str(error)) from error
    return person_id, first_name, last_name


def is_old_key(text: str) -> bool:
    """Return whether a text is a key as the original had them: PEM, or the base64 within it."""
    lines = "\n" in text or "-----" in text or text.startswith("ssh-rsa ")
    # "MII" is how the DER of every RSA key begins.
    return lines or len(text) > 1_000 or (text.startswith("MII") and len(text) > 100)


def _private(path: Path, keys: _Reader) -> Path:
    text = keys.text("private")
    if is_old_key(text):
        raise keys.error("private", OLD_KEY_ADVICE)
    try:
        return (path.parent / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise keys.error("private", f"is no name of a file: {error}") from error


def _general(general: _Reader, *, whole: bool) -> General:
    standard = General()
    found = General(
        duration_seconds=general.number("duration", least=0, most=DURATION_SECONDS_MAX)
        if whole or general.has("duration")
        else standard.duration_seconds,
        # No try at all would send nothing; where the original wrote 0 it meant once.
        tries=max(1, general.whole("retries", least=0, most=RETRIES_MAX))
        if whole or general.has("retries")
        else standard.tries,
        timeout_seconds=general.number("timeout", least=0.05, most=TIMEOUT_SECONDS_MAX)
        if whole or general.has("timeout")
        else standard.timeout_seconds,
    )
    general.finish()
    return found


def _server(server: _Reader) -> str:
    if server.has("url"):
        try:
            url = check_relay_url(server.text("url"))
        except ValueError as error:
            raise server.error("url", str(error)) from error
        for key in ("ip", "port", "path", "tls"):
            if server.has(key):
                raise server.error(key, "can't be given beside server.url; leave one of them out")
        server.finish()
        return url
    host = server.text("ip")
    port = server.whole("port", least=1, most=65_535)
    path = server.text("path") if server.has("path") else RELAY_PATH
    scheme = "wss" if server.has("tls") and server.flag("tls") else "ws"
    server.finish()
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    # Any of these would end the host, and what follows the port with it.
    if any(char in host for char in "/@#?"):
        raise server.error("ip", f"{host!r} is no address of a computer, nor its name")
    for key, rest in (("ip", ""), ("path", path.lstrip("/"))):
        try:
            url = check_relay_url(f"{scheme}://{bracketed}:{port}/{rest}")
        except ValueError as error:
            raise server.error(key, str(error)) from error
    return url


def _bank(bank: _Reader) -> tuple[str, bytes | None]:
    bank_id, fingerprint = BANK_ID, None
    if bank.has("id"):
        try:
            bank_id = check_client_id(bank.text("id"))
        except ValueError as error:
            raise bank.error("id", str(error)) from error
    if bank.has("fingerprint"):
        try:
            fingerprint = parse_fingerprint(bank.text("fingerprint"))
        except ValueError as error:
            raise bank.error("fingerprint", str(error)) from error
    bank.finish()
    return bank_id, fingerprint


def _actions(root: _Reader, bank_id: str) -> tuple[Action, ...]:
    sources = root.take("actions")
    if not isinstance(sources, list):
        raise root.error("actions", "must be a list, [ … ]")
    actions = []
    for number, source in enumerate(sources, start=1):
        if not isinstance(source, str):
            raise root.error(f"actions[{number}]", "must be a text")
        try:
            actions.append(parse_action(check_unicode(source), bank_id))
        except (ActionError, ValueError) as error:
            raise root.error(f"actions[{number}]", str(error)) from error
    return tuple(actions)

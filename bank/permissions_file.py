"""The file of persons, organizations, accounts and permissions that ``import_permissions`` reads.

::

    {
      "organizations": {
        CODE: {
          "account": NUMBER,
          "employees": {PERSON: {"permissions": ["ADD", "SUB"], "roles": [ROLE]}},
          "roles": {ROLE: ["ADD"]},
          "name": TEXT
        }
      },
      "persons": {
        PERSON: {"account": NUMBER, "public_key": KEY BUNDLE, "name": "Last, First"}
      }
    }

``roles``, ``name`` and an employee's ``roles`` may be left out; a person without key and name goes
by the id until a key bundle tells the name. A permission is ``ADD`` (view and transfer), ``SUB``
(view and withdraw), or one of the bank's own names. A key bundle is anything that
:func:`bank.key_bundles.read_bundle` takes.

Whatever is missing, wrong or unknown is named with its path, and all of it at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bank.errors import ChangeFault, ChangeRefusedError
from bank.key_bundles import OldKeyError, read_bundle
from bank.models import Permission
from protocol import limits
from protocol.bundles import Bundle
from protocol.identifiers import (
    ACCOUNT_NUMBER_PATTERN,
    check_client_id,
    display_name,
    is_printable,
    split_name,
)

__all__ = ["FileEmployee", "FileOrganization", "FilePerson", "PermissionsFile", "read_file"]

GIVEN_BY: Final[Mapping[str, frozenset[str]]] = {
    "ADD": frozenset({Permission.VIEW.value, Permission.TRANSFER.value}),
    "SUB": frozenset({Permission.VIEW.value, Permission.WITHDRAW.value}),
    **{name: frozenset({name}) for name in Permission.values},
}
_ACCOUNT_FORM: Final = (
    f"1 to {limits.ACCOUNT_NUMBER_CHARS_MAX} letters a-z, digits, '.', '_' or '-', beginning with "
    "a letter or digit"
)
_WITHOUT_KEYS: Final = "or import with --without-keys and enrol the bundle later"


@dataclass(frozen=True, slots=True)
class FilePerson:
    """A person of the file.

    :param name: (first name, last name); ``None`` where the file doesn't say.
    :param bundle: ``None`` where keys are not imported.
    """

    client_id: str
    account: str
    name: tuple[str, str] | None
    bundle: Bundle | None


@dataclass(frozen=True, slots=True)
class FileEmployee:
    """An employee of the file, with the bank's names of the permissions."""

    client_id: str
    permissions: frozenset[str]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileOrganization:
    """An organization of the file; each role by its name with its permissions."""

    code: str
    account: str
    name: str | None
    employees: tuple[FileEmployee, ...]
    roles: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class PermissionsFile:
    """Everything that a file says, consistent in itself."""

    persons: tuple[FilePerson, ...]
    organizations: tuple[FileOrganization, ...]


def read_file(path: Path, *, without_keys: bool = False) -> PermissionsFile:
    """Read a file and check it against itself; the database is not looked at.

    :param without_keys: leave the keys alone, whatever they are.
    :raises ChangeRefusedError: ``bad_value``; a line for everything that is wrong, each beginning
        with its path in the file.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_refuse_repeats)
    except OSError as error:
        raise _bad(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise _bad(f"{path} is not JSON: {error}.") from error
    reader = _Reader(path.parent, without_keys=without_keys)
    parsed = reader.file(content)
    if reader.problems:
        raise _bad("\n".join([f"{path} can't be imported:", *reader.problems]))
    return parsed


class _Reader:
    """Reads the parts of a file and collects what is wrong with them."""

    def __init__(self, folder: Path, *, without_keys: bool) -> None:
        self._folder = folder
        self._without_keys = without_keys
        self._accounts: dict[str, str] = {}
        self.problems: list[str] = []

    def file(self, content: object) -> PermissionsFile:
        top = self._object(content, "", {"organizations", "persons"}, set())
        persons = self._entries(top, "", "persons")
        organizations = self._entries(top, "", "organizations")
        parsed = PermissionsFile(
            tuple(self._person(client_id, value) for client_id, value in persons.items()),
            tuple(
                self._organization(code, value, set(persons))
                for code, value in organizations.items()
            ),
        )
        self._distinct("persons", persons)
        return parsed

    def _person(self, client_id: str, value: object) -> FilePerson:
        path = f"persons.{client_id}"
        self._identifier(client_id, path)
        required = {"account"} if self._without_keys else {"account", "public_key"}
        fields = self._object(value, path, required, {"public_key", "name"})
        name = self._name(fields, path)
        bundle = self._bundle(fields, path, client_id)
        if bundle is not None:
            of_bundle = (bundle.first_name, bundle.last_name)
            if name is not None and name != of_bundle:
                self._problem(
                    f"{path}.name",
                    f'the key bundle says "{bundle.name}", not "{display_name(*name)}"',
                )
            name = of_bundle
        account = self._account(fields, path)
        return FilePerson(client_id, account, name, None if self._without_keys else bundle)

    def _bundle(self, fields: Mapping[str, Any], path: str, client_id: str) -> Bundle | None:
        if "public_key" not in fields:
            return None
        try:
            bundle = read_bundle(fields["public_key"], self._folder)
        except ValueError as error:
            # Without keys only the name in a bundle is of use, so it needn't be one.
            if not self._without_keys:
                advice = f", {_WITHOUT_KEYS}" if isinstance(error, OldKeyError) else ""
                self._problem(f"{path}.public_key", f"{error}{advice}")
            return None
        if bundle.id != client_id:
            if not self._without_keys:
                self._problem(f"{path}.public_key", f"the key bundle is of {bundle.id}")
            return None
        return bundle

    def _organization(self, code: str, value: object, persons: set[str]) -> FileOrganization:
        path = f"organizations.{code}"
        self._identifier(code, path)
        fields = self._object(value, path, {"account", "employees"}, {"roles", "name"})
        roles = {}
        for role, given in self._entries(fields, path, "roles").items():
            self._printable(role, f"{path}.roles.{role}")
            roles[role] = self._permissions(given, f"{path}.roles.{role}")
        employees = self._entries(fields, path, "employees")
        for client_id in employees:
            if client_id not in persons:
                self._problem(f"{path}.employees.{client_id}", "is not listed in persons")
        name = fields.get("name")
        if name is not None and (not isinstance(name, str) or not name.strip()):
            self._problem(f"{path}.name", "must be text that is not empty")
            name = None
        self._printable(name or "", f"{path}.name")
        return FileOrganization(
            code=code,
            account=self._account(fields, path),
            name=name,
            employees=tuple(
                self._employee(client_id, given, f"{path}.employees.{client_id}", set(roles))
                for client_id, given in employees.items()
            ),
            roles=roles,
        )

    def _employee(
        self, client_id: str, value: object, path: str, known_roles: set[str]
    ) -> FileEmployee:
        fields = self._object(value, path, {"permissions"}, {"roles"})
        permissions = self._permissions(fields.get("permissions", []), f"{path}.permissions")
        roles = self._texts(fields.get("roles", []), f"{path}.roles")
        for number, role in enumerate(roles):
            if role not in known_roles:
                self._problem(f"{path}.roles[{number}]", f"the organization has no role {role!r}")
        return FileEmployee(client_id, permissions, tuple(roles))

    def _permissions(self, value: object, path: str) -> frozenset[str]:
        given: set[str] = set()
        for number, name in enumerate(self._texts(value, path)):
            if name not in GIVEN_BY:
                known = ", ".join(GIVEN_BY)
                self._problem(f"{path}[{number}]", f"there is no permission {name!r}, only {known}")
            given |= GIVEN_BY.get(name, frozenset())
        return frozenset(given)

    def _account(self, fields: Mapping[str, Any], path: str) -> str:
        """Return the account's number."""
        if "account" not in fields:
            return ""
        value, path = fields["account"], f"{path}.account"
        if isinstance(value, bool) or not isinstance(value, int | str):
            self._problem(path, "must be the number of an account, as text or a whole number")
            return ""
        number = str(value)
        if not re.match(ACCOUNT_NUMBER_PATTERN, number):
            self._problem(path, f"{number!r} is no account number: {_ACCOUNT_FORM}")
            return ""
        if number in self._accounts:
            self._problem(path, f"account {number} is given to {self._accounts[number]} already")
        self._accounts.setdefault(number, path.rpartition(".")[0])
        return number

    def _name(self, fields: Mapping[str, Any], path: str) -> tuple[str, str] | None:
        value = fields.get("name")
        if value is None:
            return None
        try:
            if not isinstance(value, str):
                raise ValueError('must be text of the form "Last, First"')
            return split_name(value)
        except ValueError as error:
            self._problem(f"{path}.name", str(error))
            return None

    def _distinct(self, path: str, names: Mapping[str, Any]) -> None:
        """Refuse ids that differ in the case of letters only: the relay takes them for one."""
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(name.casefold(), name)
            if other != name:
                self._problem(f"{path}.{name}", f"differs from {other} only in letter case")

    def _identifier(self, text: str, path: str) -> None:
        try:
            check_client_id(text)
        except ValueError as error:
            self._problem(path, str(error))

    def _printable(self, text: str, path: str) -> None:
        """Refuse what names of persons can't have either; databases don't take all of it."""
        if not is_printable(text):
            self._problem(path, "has control or invisible characters")

    def _entries(self, fields: Mapping[str, Any], path: str, name: str) -> Mapping[str, Any]:
        """Return the object of that name with whatever entries; an empty one if it is missing."""
        value = fields.get(name, {})
        if isinstance(value, dict):
            return value
        self._problem(f"{path}.{name}".lstrip("."), "must be an object")
        return {}

    def _object(
        self, value: object, path: str, required: set[str], optional: set[str]
    ) -> Mapping[str, Any]:
        """Return an object that has these members; what is missing or unknown is a problem."""
        if not isinstance(value, dict):
            self._problem(path or "the file", "must be an object")
            return {}
        for name in sorted(required - set(value)):
            self._problem(f"{path}.{name}".lstrip("."), "is missing")
        for name in sorted(set(value) - required - optional):
            known = ", ".join(sorted(required | optional))
            self._problem(f"{path}.{name}".lstrip("."), f"is not known; known are {known}")
        return value

    def _texts(self, value: object, path: str) -> list[str]:
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        self._problem(path, "must be a list of texts")
        return []

    def _problem(self, path: str, words: str) -> None:
        shown = path if is_printable(path) else ascii(path)[1:-1]
        self.problems.append(f"{shown}: {words}.")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two members of one name would leave it to chance which one counts."""
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} appears twice in one object")
    return members


def _bad(words: str) -> ChangeRefusedError:
    return ChangeRefusedError(ChangeFault.BAD_VALUE, words)

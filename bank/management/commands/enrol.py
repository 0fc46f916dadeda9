"""``manage.py enrol``: from now on the bank accepts what this key signs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from bank.audit import Actor
from bank.errors import ChangeFault, ChangeRefusedError
from bank.key_bundles import read_bundle_file
from bank.models import Person, PersonKey
from bank.services.keys import enrol_key, key_in_force, rotate_key
from bank.services.persons import has_stand_in_name, register_person, rename_person
from protocol.bundles import Bundle
from protocol.identifiers import check_client_id, split_name
from protocol.keys import format_fingerprint, parse_fingerprint

ACTOR = Actor.command("enrol")


class Command(BaseCommand):
    """Shows the fingerprint, asks, and enrols the bundle."""

    help = (
        "Enrol a person's key bundle. Compare the fingerprint with the person first, by telephone "
        "or face to face: whoever holds the key acts for the person from then on."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what can be given."""
        parser.add_argument("person", help="the person's client id")
        parser.add_argument("bundle", type=Path, help="the file with the key bundle")
        parser.add_argument(
            "--fingerprint",
            help="what the person told you; another one is refused, and no question is asked",
        )
        parser.add_argument(
            "--name",
            help='"Last, First", as the bank shall know the person; by default as the bundle says',
        )
        parser.add_argument(
            "--replace",
            action="store_true",
            help="accept a new identity that the old key did not sign (the old key was lost)",
        )
        parser.add_argument("--yes", action="store_true", help="don't ask for confirmation")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the command."""
        try:
            check_client_id(options["person"])
            bundle = read_bundle_file(options["bundle"])
            name = split_name(options["name"]) if options["name"] else None
            told = parse_fingerprint(options["fingerprint"]) if options["fingerprint"] else None
        except ValueError as error:
            raise CommandError(str(error)) from error
        person = Person.objects.filter(client_id=options["person"]).first()
        self._show(bundle, person)
        if told is not None and told != bundle.fingerprint:
            raise CommandError(
                f"The fingerprint is not the one that you gave, {format_fingerprint(told)}. "
                "Nothing was enrolled."
            )
        if told is None and not options["yes"]:
            self._ask()
        try:
            with transaction.atomic():
                key = _enrol(options["person"], bundle, name, replace=options["replace"])
        except ChangeRefusedError as error:
            raise CommandError(_with_advice(error)) from error
        self.stdout.write(f"Enrolled: {key.person}, generation {key.generation}.")

    def _show(self, bundle: Bundle, person: Person | None) -> None:
        self.stdout.write(f"Key bundle of {bundle.id}, {bundle.name}")
        self.stdout.write(f"Generation    {bundle.generation}")
        self.stdout.write(f"Fingerprint   {format_fingerprint(bundle.fingerprint)}")
        current = None if person is None else key_in_force(person)
        if current is not None:
            in_force = format_fingerprint(bytes.fromhex(current.fingerprint))
            self.stdout.write(f"In force now  {in_force}")
        elif person is None:
            self.stdout.write("The bank doesn't know this person yet.")

    def _ask(self) -> None:
        if not sys.stdin.isatty():
            raise CommandError(
                "Nobody is there to confirm the fingerprint; give --fingerprint or --yes. "
                "Nothing was enrolled."
            )
        try:
            answer = input("Did you compare the fingerprint with the person? Enrol it? [y/N] ")
        except (EOFError, KeyboardInterrupt):
            answer = ""
        if answer.strip().lower() not in {"y", "yes"}:
            raise CommandError("Nothing was enrolled.")


def _enrol(
    client_id: str, bundle: Bundle, name: tuple[str, str] | None, *, replace: bool
) -> PersonKey:
    """Register or rename the person where that is needed, and enrol or rotate the key."""
    person = Person.objects.filter(client_id=client_id).first()
    if person is None:
        first_name, last_name = name or (bundle.first_name, bundle.last_name)
        person = register_person(ACTOR, client_id, first_name, last_name)
    elif name is not None and name != (person.first_name, person.last_name):
        rename_person(ACTOR, person, *name)
    elif name is None and has_stand_in_name(person):
        rename_person(ACTOR, person, bundle.first_name, bundle.last_name)
    if key_in_force(person) is None:
        return enrol_key(ACTOR, person, bundle.signed)
    return rotate_key(ACTOR, person, bundle.signed, confirmed=replace)


def _with_advice(error: ChangeRefusedError) -> str:
    if error.fault is ChangeFault.NEEDS_CONFIRMATION:
        return f"{error.words} Give --replace to confirm. Nothing was enrolled."
    return f"{error.words} Nothing was enrolled."

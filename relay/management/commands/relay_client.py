"""`manage.py relay_client`: who is known to the relay, from the command line."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError

from protocol.bundles import SignedBundle, open_bundle
from protocol.errors import RelayError
from protocol.keys import format_fingerprint
from relay import directory, revocation
from relay.models import Client

__all__ = ["Command"]


class Command(BaseCommand):
    """List, enrol, block, unblock and release clients."""

    help = "Lists, enrols, blocks, unblocks and releases clients of the relay."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """One subcommand for each verb."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list", help="every client, with its fingerprint")
        enrol = verbs.add_parser("enrol", help="bind an id to the key in a bundle's file")
        enrol.add_argument("bundle", type=Path, help="a JSON file with bundle and signature")
        enrol.add_argument("--service", action="store_true", help="it may register as a service")
        for verb, meaning in (
            ("block", "keep a client out, and end its connections"),
            ("unblock", "let a client in again"),
            ("release", "let the next key take an id; its mail is deleted"),
        ):
            verbs.add_parser(verb, help=meaning).add_argument("id")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what was asked for."""
        match options["verb"]:
            case "list":
                self._list()
            case "enrol":
                self._enrol(options["bundle"], may_be_service=options["service"])
            case "block":
                revocation.block([_client(options["id"])])
            case "unblock":
                revocation.unblock([_client(options["id"])])
            case "release":
                revocation.release(_client(options["id"]))

    def _list(self) -> None:
        for client in Client.objects.all():
            fingerprint = (
                format_fingerprint(bytes.fromhex(client.fingerprint))
                if client.fingerprint
                else "no key yet"
            )
            role = "service" if client.may_be_service else "person"
            self.stdout.write(f"{client.client_id}  {role}  {client.status}  {fingerprint}")

    def _enrol(self, path: Path, *, may_be_service: bool) -> None:
        try:
            signed = msgspec.json.decode(path.read_bytes(), type=SignedBundle)
            bundle = open_bundle(signed)
            client = directory.enrol(bundle, may_be_service=may_be_service or None)
        except OSError as error:
            raise CommandError(f"{path} can't be read: {error.strerror}.") from error
        except msgspec.DecodeError as error:
            raise CommandError(f"{path} holds no bundle: {error}.") from error
        except RelayError as error:
            raise CommandError(f"{path}: {error}.") from error
        self.stdout.write(f"{client.client_id}  {format_fingerprint(bundle.fingerprint)}")


def _client(client_id: str) -> Client:
    try:
        return Client.objects.get(id_key=client_id.lower())
    except Client.DoesNotExist as error:
        raise CommandError(f"The relay knows no client {client_id!r}.") from error

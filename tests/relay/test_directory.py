"""Who may use which id; names; what an operator does."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, transaction

from protocol.errors import Code, RelayError
from protocol.frames import Role
from protocol.keys import IdentityKey, format_fingerprint
from relay import directory
from relay.models import Client, Mail
from tests.relay.peer import Identity, identity

pytestmark = pytest.mark.django_db(databases=["default", "relay"])


def refused(who: Identity, code: Code, role: Role = Role.PERSON) -> None:
    before = list(Client.objects.order_by("pk").values())
    with pytest.raises(RelayError) as caught:
        directory.register(who.bundle, role)
    assert caught.value.code is code
    assert list(Client.objects.order_by("pk").values()) == before


def test_the_first_key_has_the_id() -> None:
    ada = identity("Ada", "Ada", "Ärlig")
    admitted = directory.register(ada.bundle, Role.PERSON)
    assert (admitted.client_id, admitted.id_key) == ("Ada", "ada")
    row = Client.objects.get()
    assert row.fingerprint == ada.bundle.fingerprint.hex()
    assert (row.first_name, row.last_name, row.generation) == ("Ada", "Ärlig", 1)
    assert row.last_seen is not None
    directory.register(ada.bundle, Role.PERSON)
    for client_id in ("Ada", "ada", "ADA"):
        refused(identity(client_id), Code.ID_TAKEN)
    refused(Identity("ada", ada.key, "Ada", "Ärlig", _renamed(ada, "ada").bundle), Code.ID_TAKEN)


def _renamed(who: Identity, client_id: str) -> Identity:
    """Return a bundle of the same key for an id that differs in case alone."""
    other = identity(client_id)
    return Identity(client_id, who.key, "x", "y", other.bundle).next(generation=2, key=who.key)


def test_only_who_the_record_allows_is_a_service() -> None:
    refused(identity("ada"), Code.PROOF_REFUSED, Role.SERVICE)
    directory.register(identity("bank").bundle, Role.SERVICE)
    ada = identity("ada")
    directory.register(ada.bundle, Role.PERSON)
    Client.objects.filter(id_key="ada").update(may_be_service=True)
    directory.register(ada.bundle, Role.SERVICE)


def test_closed_registration_lets_in_whom_the_operator_knows(settings: Any) -> None:
    settings.RELAY = {"REGISTRATION": "closed"}
    ada, ben = identity("ada"), identity("ben")
    refused(ada, Code.PROOF_REFUSED)
    directory.enrol(ada.bundle)
    directory.register(ada.bundle, Role.PERSON)
    refused(identity("ada"), Code.ID_TAKEN)
    Client.objects.create(client_id="ben")  # known without a key: the next key takes it
    directory.register(ben.bundle, Role.PERSON)
    refused(identity("ben"), Code.ID_TAKEN)


def test_a_pinned_key_comes_in_where_registration_is_closed(settings: Any) -> None:
    bank = identity("bank")
    settings.RELAY = {
        "REGISTRATION": "closed",
        "PINNED_FINGERPRINTS": {"bank": format_fingerprint(bank.bundle.fingerprint)},
    }
    for stranger in (identity("bank"), identity("ada")):
        refused(stranger, Code.PROOF_REFUSED)
    directory.register(bank.bundle, Role.SERVICE)
    refused(identity("bank"), Code.ID_TAKEN)


def test_a_pinned_id_is_kept_for_its_key_and_its_successors(settings: Any) -> None:
    bank, squatter = identity("bank"), identity("bank")
    directory.register(squatter.bundle, Role.SERVICE)
    settings.RELAY = {
        "PINNED_FINGERPRINTS": [f"Bank={format_fingerprint(bank.bundle.fingerprint)}"]
    }
    refused(squatter, Code.ID_TAKEN)
    directory.register(bank.bundle, Role.SERVICE)
    refused(squatter, Code.ID_TAKEN)
    successor = bank.next(key=IdentityKey(b"\x07" * 32))
    directory.register(successor.bundle, Role.SERVICE)
    refused(bank, Code.ID_TAKEN)  # the old key, perhaps stolen, does not come back
    directory.register(successor.bundle, Role.SERVICE)


def test_bundles_only_rise() -> None:
    ada = identity("ada")
    directory.register(ada.next(generation=5).bundle, Role.PERSON)
    refused(ada.next(generation=4), Code.BAD_BUNDLE)
    directory.publish("ada", ada.next(generation=6).bundle, ada.bundle.identity_key)
    assert Client.objects.get().generation == 6
    with pytest.raises(RelayError) as caught:
        directory.publish("ada", ada.next(generation=6).bundle, ada.bundle.identity_key)
    assert caught.value.code is Code.BAD_BUNDLE
    with pytest.raises(RelayError) as caught:
        directory.publish("ada", identity("ada").next(generation=9).bundle, ada.bundle.identity_key)
    assert caught.value.code is Code.ID_TAKEN


def test_names_are_found_in_either_order_and_however_they_are_written() -> None:
    ada = identity("ada", "Ada", "Ärlig")
    kuno = [identity("kuno", "Kuno", "Küppers"), identity("Kuno2", "KUNO", "KÜPPERS")]
    for one in (ada, *kuno):
        directory.register(one.bundle, Role.PERSON)
    for query in (
        "ada",
        "ADA",
        "Ärlig, Ada",
        "Ada,Ärlig",
        "a\u0308rlig ,  ADA",
        "\uff21\uff44\uff41, Ärlig",
    ):
        assert directory.find(query) == [ada.bundle.signed], query
    with pytest.raises(directory.AmbiguousNameError) as ambiguous:
        directory.find("küppers, kuno")
    assert ambiguous.value.candidates == ["kuno", "Kuno2"]
    for query in ("eve", "Ärlig, Eve", "Ärlig", ",", "ada, ", "%", "\x00,", "ada\x00"):
        with pytest.raises(RelayError) as caught:
            directory.find(query)
        assert caught.value.code is Code.UNKNOWN_RECIPIENT


def test_a_very_long_name_fits() -> None:
    long = "\ufdfa" * 100  # one character that compatibility normalization turns into eighteen
    ada = identity("ada", long, long)
    directory.register(ada.bundle, Role.PERSON)
    assert directory.find(f"{long}, {long}") == [ada.bundle.signed]


def test_blocked_and_released_ids() -> None:
    ada, heir = identity("ada", "Ada", "Alt"), identity("ada", "Ida", "Neu")
    directory.register(ada.bundle, Role.PERSON)
    row = Client.objects.get()
    directory.set_blocked([row], blocked=True)
    refused(ada, Code.REVOKED)
    with pytest.raises(RelayError) as caught:
        directory.publish("ada", ada.next().bundle, ada.bundle.identity_key)
    assert caught.value.code is Code.REVOKED
    with pytest.raises(RelayError):
        directory.find("ada")
    holders = {("ada", ada.key.public), ("ben", b"")}
    assert directory.not_entitled(holders) == holders
    directory.set_blocked([row], blocked=False)
    directory.register(ada.bundle, Role.PERSON)
    assert directory.not_entitled(holders) == {("ben", b"")}
    _mail_for("ada")
    directory.release(row)
    assert not Mail.objects.exists()
    assert directory.not_entitled(holders) == holders
    with pytest.raises(RelayError):
        directory.find("Alt, Ada")
    directory.register(heir.bundle, Role.PERSON)
    assert directory.not_entitled(holders) == holders
    assert directory.not_entitled({("ada", heir.key.public)}) == set()
    refused(ada, Code.ID_TAKEN)
    assert directory.find("Neu, Ida") == [heir.bundle.signed]


def _mail_for(key: str) -> None:
    Mail.objects.create(
        recipient_key=key,
        recipient=key,
        sender_key="ben",
        sender="ben",
        message_id="01890a5d-ac96-774b-bcce-b302099a8057",
        kind="notice",
        body="x",
        size=1,
        accepted_at=0,
        expires_at=1,
        position=1,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"id_key": "other"},
        {"status": "gone"},
        {"identity_key": None},
        {"bundle": None},
        {"fingerprint": ""},
    ],
)
def test_the_database_refuses_what_can_not_be(wrong: dict[str, Any]) -> None:
    directory.register(identity("ada").bundle, Role.PERSON)
    with pytest.raises(IntegrityError), transaction.atomic(using="relay"):
        Client.objects.update(**wrong)


def test_natural_keys() -> None:
    directory.register(identity("Ada").bundle, Role.PERSON)
    row = Client.objects.get()
    assert Client.objects.get_by_natural_key(*row.natural_key()) == row


# --- The command ----------------------------------------------------------------------------


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("relay_client", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_enrols_lists_blocks_and_releases(tmp_path: Path) -> None:
    bank = identity("bank")
    path = tmp_path / "bundle.json"
    path.write_bytes(msgspec.json.encode(bank.bundle.signed))
    shown = format_fingerprint(bank.bundle.fingerprint)
    assert run("enrol", "--service", str(path)) == f"bank  {shown}\n"
    assert run("list") == f"bank  service  active  {shown}\n"
    run("block", "BANK")
    refused(bank, Code.REVOKED, Role.SERVICE)
    run("unblock", "bank")
    directory.register(bank.bundle, Role.SERVICE)
    run("release", "bank")
    assert run("list") == "bank  service  active  no key yet\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read"),
        ("{}", "holds no bundle"),
        ('{"bundle":"x","signature":"y"}', "bad_bundle"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "bundle.json"
    if content is not None:
        path.write_text(content)
        json.loads(content)
    with pytest.raises(CommandError, match=words):
        run("enrol", str(path))
    with pytest.raises(CommandError, match="knows no client 'eve'"):
        run("block", "eve")
    assert not Client.objects.exists()

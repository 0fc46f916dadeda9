"""``enrol``: a key counts once an operator has confirmed its fingerprint."""

from __future__ import annotations

import builtins
import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from bank.audit import Actor
from bank.models import AuditRecord, Person, PersonKey
from bank.services.keys import key_in_force
from bank.services.persons import register_nameless
from protocol.bundles import SignedBundle, open_bundle
from protocol.keys import format_fingerprint
from tests.bank.parties import bundle_object, identity_of, make_person, signed_bundle
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def enrol(signed: SignedBundle, person: str = "demo-ada", **options: Any) -> str:
    Path("ada.bundle").write_text(json.dumps(bundle_object(signed)), encoding="utf-8")
    printed = StringIO()
    call_command("enrol", person, "ada.bundle", stdout=printed, **options)
    return printed.getvalue()


def refused(signed: SignedBundle, words: str, person: str = "demo-ada", **options: Any) -> None:
    with nothing_changed(), pytest.raises(CommandError, match=words):
        enrol(signed, person, **options)


def shown(signed: SignedBundle) -> str:
    return format_fingerprint(open_bundle(signed).fingerprint)


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(builtins, "input", lambda question: text)


def test_a_new_person_is_enrolled_after_confirmation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "y")
    printed = enrol(signed_bundle("demo-ada"))
    assert shown(signed_bundle("demo-ada")) in printed
    assert "doesn't know this person yet" in printed
    assert "Enrolled: Test, Demo-ada (demo-ada), generation 1." in printed
    key = PersonKey.objects.get()
    assert bytes(key.identity_key) == identity_of("demo-ada").public
    assert set(AuditRecord.objects.values_list("actor", flat=True)) == {"command:enrol"}


@pytest.mark.parametrize("typed", ["", "n", "no", "maybe"])
def test_anything_but_yes_enrols_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    answer(monkeypatch, typed)
    refused(signed_bundle("demo-ada"), "Nothing was enrolled")


def test_without_anybody_to_ask_it_enrols_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    refused(signed_bundle("demo-ada"), "Nobody is there to confirm the fingerprint")


def test_the_fingerprint_that_the_person_told_confirms_or_refuses(folder: Path) -> None:
    signed = signed_bundle("demo-ada")
    other = shown(signed_bundle("demo-ada", version=2))
    refused(signed, "not the one that you gave", fingerprint=other, yes=True)
    refused(signed, "32 hexadecimal digits", fingerprint="12 34")
    enrol(signed, fingerprint=shown(signed).replace(" ", ":").upper())
    assert PersonKey.objects.count() == 1


def test_a_person_whom_the_bank_knows_keeps_the_name_unless_told(folder: Path) -> None:
    make_person("demo-ada", with_key=False)
    signed = signed_bundle("demo-ada", last_name="Beispiel")
    refused(signed, 'the bank knows "Test, Demo-ada"', yes=True)
    enrol(signed, yes=True, name="Beispiel, Demo-ada")
    assert Person.objects.get().last_name == "Beispiel"


def test_a_person_of_whom_only_the_id_is_known_gets_the_name_of_the_bundle(folder: Path) -> None:
    register_nameless(Actor.command("test"), "demo-ada")
    enrol(signed_bundle("demo-ada"), yes=True)
    assert Person.objects.get().full_name == "Test, Demo-ada"


@pytest.mark.parametrize("ended", [EOFError, KeyboardInterrupt])
def test_who_ends_the_question_enrols_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ended: type[BaseException]
) -> None:
    def interrupted(question: str) -> str:
        raise ended

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(builtins, "input", interrupted)
    refused(signed_bundle("demo-ada"), "Nothing was enrolled")


def test_a_bundle_of_somebody_else_is_refused(folder: Path) -> None:
    refused(signed_bundle("demo-ben"), "is of demo-ben, not of demo-ada", yes=True)


def test_an_id_that_is_none_is_refused(folder: Path) -> None:
    refused(signed_bundle("demo-ada"), "no client id", person="demo ada", yes=True)


def test_a_file_that_is_no_bundle_is_refused(folder: Path) -> None:
    for content in ("", "{}", "-----BEGIN PUBLIC KEY-----", "\ufeff", "[" * 100_000):
        Path("bad.bundle").write_text(content, encoding="utf-8")
        with nothing_changed(), pytest.raises(CommandError):
            call_command("enrol", "demo-ada", "bad.bundle", yes=True)
    with nothing_changed(), pytest.raises(CommandError, match="can be read"):
        call_command("enrol", "demo-ada", "nowhere.bundle", yes=True)


def test_a_newer_generation_takes_the_place_of_the_old_one(folder: Path) -> None:
    enrol(signed_bundle("demo-ada"), yes=True)
    printed = enrol(signed_bundle("demo-ada", generation=2), yes=True)
    assert "In force now" in printed
    assert [key.in_force for key in PersonKey.objects.order_by("pk")] == [False, True]


def test_a_lost_key_is_replaced_only_if_told(folder: Path) -> None:
    enrol(signed_bundle("demo-ada", generation=4), yes=True)
    fresh = signed_bundle("demo-ada", version=2)
    refused(fresh, "Give --replace to confirm", yes=True)
    enrol(fresh, yes=True, replace=True)
    key = key_in_force(Person.objects.get())
    assert key is not None
    assert bytes(key.identity_key) == identity_of("demo-ada", 2).public
    refused(signed_bundle("demo-ada", generation=5), "was revoked", yes=True, replace=True)

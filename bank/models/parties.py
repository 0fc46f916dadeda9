"""Who deals with the bank: persons with their enrolled keys, and organizations."""

from __future__ import annotations

from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.db.models.functions import Length, Lower
from django.db.models.lookups import Exact
from django.utils import timezone

from bank.models.natural_keys import loaded_after
from protocol import identifiers, limits

FINGERPRINT_PATTERN = r"\A[0-9a-f]{32}\Z"
FINGERPRINT_CHARACTERS = 32
IDENTITY_KEY_BYTES = 32


def validate_client_id(value: str) -> None:
    """Refuse, as a ``ValidationError``, a text that is no client id."""
    try:
        identifiers.check_client_id(value)
    except ValueError as error:
        raise ValidationError(str(error), code="bad_client_id") from error


def validate_name(value: str) -> None:
    """Refuse, as a ``ValidationError``, a name that is not in the form in which names travel."""
    try:
        identifiers.check_name(value)
    except ValueError as error:
        raise ValidationError(str(error), code="bad_name") from error


class PersonStatus(models.TextChoices):
    """Whether the bank acts on what a person signs."""

    ACTIVE = "active", "Active"
    BLOCKED = "blocked", "Blocked"


class PersonManager(models.Manager["Person"]):
    """Finds persons by the id with which they register at the relay."""

    def get_by_natural_key(self, client_id: str) -> Person:
        """Return the person with this client id, or raise ``Person.DoesNotExist``."""
        return self.get(client_id=client_id)


class Person(models.Model):
    """A person whom the bank knows, under the id that the person has at the relay."""

    client_id = models.CharField(
        "client id",
        max_length=limits.CLIENT_ID_CHARS_MAX,
        unique=True,
        validators=[validate_client_id],
        help_text="The id with which the person registers at the relay.",
    )
    first_name = models.CharField(max_length=limits.NAME_CHARS_MAX, validators=[validate_name])
    last_name = models.CharField(max_length=limits.NAME_CHARS_MAX, validators=[validate_name])
    status = models.CharField(
        max_length=16, choices=PersonStatus.choices, default=PersonStatus.ACTIVE
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = PersonManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["last_name", "first_name", "client_id"]
        verbose_name = "person"
        verbose_name_plural = "persons"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                Lower("client_id"),
                name="bank_person_client_id_caseless",
                violation_error_message="Another person has this client id in other letter case.",
            ),
            models.CheckConstraint(
                condition=Q(client_id__regex=identifiers.CLIENT_ID_PATTERN),
                name="bank_person_client_id_form",
                violation_error_message="The client id has characters that are not allowed.",
            ),
            models.CheckConstraint(
                condition=~Q(first_name="") & ~Q(first_name__contains=","),
                name="bank_person_first_name_form",
                violation_error_message="The first name must not be empty or contain a comma.",
            ),
            models.CheckConstraint(
                condition=~Q(last_name="") & ~Q(last_name__contains=","),
                name="bank_person_last_name_form",
                violation_error_message="The last name must not be empty or contain a comma.",
            ),
            models.CheckConstraint(
                condition=Q(status__in=PersonStatus.values),
                name="bank_person_status_known",
                violation_error_message="A person is either active or blocked.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.full_name} ({self.client_id})"

    @property
    def full_name(self) -> str:
        """The name as it is shown everywhere: "Last, First"."""
        return identifiers.display_name(self.first_name, self.last_name)

    def natural_key(self) -> tuple[str]:
        """Return ``(client_id,)``, which fixtures use instead of the number of the row."""
        return (self.client_id,)


class PersonKeyManager(models.Manager["PersonKey"]):
    """Finds enrolled keys by person, fingerprint and generation."""

    def get_by_natural_key(self, client_id: str, fingerprint: str, generation: int) -> PersonKey:
        """Return that key, or raise ``PersonKey.DoesNotExist``."""
        return self.get(person__client_id=client_id, fingerprint=fingerprint, generation=generation)


class PersonKey(models.Model):
    """One enrolled key bundle of a person.

    The rows of a person are the history of that person's keys, oldest first. At most one is in
    force: the one that is not revoked. A rotation ends the old row and adds a new one, so the
    signature under every old order can still be checked.
    """

    person = models.ForeignKey(Person, on_delete=models.PROTECT, related_name="keys")
    identity_key = models.BinaryField(max_length=IDENTITY_KEY_BYTES)
    fingerprint = models.CharField(max_length=FINGERPRINT_CHARACTERS)
    bundle = models.JSONField(
        help_text="The signed bundle as it was enrolled: bundle, signature, previous_signature."
    )
    generation = models.PositiveBigIntegerField()
    enrolled_at = models.DateTimeField(default=timezone.now)
    revoked_at = models.DateTimeField(null=True, blank=True)
    revocation_reason = models.CharField(max_length=200, blank=True, default="")

    objects = PersonKeyManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["person", "pk"]
        verbose_name = "enrolled key"
        verbose_name_plural = "enrolled keys"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["person"],
                condition=Q(revoked_at__isnull=True),
                name="bank_personkey_one_in_force",
                violation_error_message="This person already has a key in force.",
            ),
            models.UniqueConstraint(
                fields=["person", "fingerprint", "generation"],
                name="bank_personkey_generation_once",
                violation_error_message="This generation of the key is already enrolled.",
            ),
            models.CheckConstraint(
                condition=Q(fingerprint__regex=FINGERPRINT_PATTERN),
                name="bank_personkey_fingerprint_form",
                violation_error_message="A fingerprint is 32 lowercase hexadecimal digits.",
            ),
            models.CheckConstraint(
                condition=Q(Exact(Length("identity_key"), IDENTITY_KEY_BYTES)),
                name="bank_personkey_identity_key_size",
                violation_error_message="An identity key has 32 bytes.",
            ),
            models.CheckConstraint(
                condition=Q(revoked_at__isnull=False) | Q(revocation_reason=""),
                name="bank_personkey_reason_if_revoked",
                violation_error_message="Only a revoked key has a reason of revocation.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.person} generation {self.generation}"

    @property
    def in_force(self) -> bool:
        """Whether orders signed with this key are accepted."""
        return self.revoked_at is None

    @loaded_after("bank.person")
    def natural_key(self) -> tuple[str, str, int]:
        """Return ``(client_id, fingerprint, generation)``."""
        return (self.person.client_id, self.fingerprint, self.generation)


class OrganizationManager(models.Manager["Organization"]):
    """Finds organizations by their code."""

    def get_by_natural_key(self, code: str) -> Organization:
        """Return the organization with this code, or raise ``Organization.DoesNotExist``."""
        return self.get(code=code)


class Organization(models.Model):
    """An organization that owns accounts and lets its employees act on them.

    One of them is the bank itself: it owns the cash and issuance accounts, and its employees
    may be tellers.
    """

    code = models.CharField(
        max_length=limits.CLIENT_ID_CHARS_MAX, unique=True, validators=[validate_client_id]
    )
    name = models.CharField(max_length=200)
    is_bank = models.BooleanField(
        "is the bank", default=False, help_text="Exactly one organization is the bank itself."
    )

    objects = OrganizationManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["name", "code"]
        verbose_name = "organization"
        verbose_name_plural = "organizations"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["is_bank"],
                condition=Q(is_bank=True),
                name="bank_organization_one_bank",
                violation_error_message="There is already an organization that is the bank.",
            ),
            models.CheckConstraint(
                condition=Q(code__regex=identifiers.CLIENT_ID_PATTERN),
                name="bank_organization_code_form",
                violation_error_message="The code has characters that are not allowed.",
            ),
            models.CheckConstraint(
                condition=~Q(name=""),
                name="bank_organization_name_given",
                violation_error_message="An organization has a name.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"

    def natural_key(self) -> tuple[str]:
        """Return ``(code,)``."""
        return (self.code,)

"""Currencies, and accounts with their balances."""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from bank.models.natural_keys import loaded_after
from bank.models.parties import Organization, Person
from protocol import identifiers, limits

validate_account_number = RegexValidator(
    identifiers.ACCOUNT_NUMBER_PATTERN,
    "Use 1 to 34 letters (A to Z), digits, dots, underscores or hyphens; "
    "the first must be a letter or a digit.",
    code="bad_account_number",
)
validate_currency_code = RegexValidator(
    identifiers.CURRENCY_PATTERN,
    "Use 3 to 12 capital letters and digits; the first must be a letter.",
    code="bad_currency_code",
)


class CurrencyManager(models.Manager["Currency"]):
    """Finds currencies by their code.

    ``Currency`` has no method ``natural_key``: the code is the primary key already, and a dump
    without primary keys would leave it out.
    """

    def get_by_natural_key(self, code: str) -> Currency:
        """Return the currency with this code, or raise ``Currency.DoesNotExist``."""
        return self.get(code=code)


class Currency(models.Model):
    """A unit of account: amounts are integers in units of 10 to the power of -exponent."""

    code = models.CharField(
        max_length=limits.CURRENCY_CODE_CHARS_MAX,
        primary_key=True,
        validators=[validate_currency_code],
    )
    exponent = models.PositiveSmallIntegerField(
        validators=[MinValueValidator(0), MaxValueValidator(limits.CURRENCY_EXPONENT_MAX)],
        help_text="How many decimal places an amount has: 2 for euros and cents.",
    )
    name = models.CharField(max_length=100)

    objects = CurrencyManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["code"]
        verbose_name = "currency"
        verbose_name_plural = "currencies"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(code__regex=identifiers.CURRENCY_PATTERN),
                name="bank_currency_code_form",
                violation_error_message="A currency code is 3 to 12 capital letters and digits.",
            ),
            models.CheckConstraint(
                condition=Q(exponent__gte=0, exponent__lte=limits.CURRENCY_EXPONENT_MAX),
                name="bank_currency_exponent_range",
                violation_error_message="A currency has 0 to 6 decimal places.",
            ),
        ]

    def __str__(self) -> str:
        return self.code


class AccountKind(models.TextChoices):
    """What an account is for; the bank's own kinds are where money enters and leaves."""

    CUSTOMER = "customer", "Customer account"
    CASH = "cash", "Cash of the bank"
    ISSUANCE = "issuance", "Issuance of the bank"


class AccountStatus(models.TextChoices):
    """Whether an account takes part in transfers."""

    OPEN = "open", "Open"
    FROZEN = "frozen", "Frozen"
    CLOSED = "closed", "Closed"


class AccountManager(models.Manager["Account"]):
    """Finds accounts by the number that people type."""

    def get_by_natural_key(self, number: str) -> Account:
        """Return the account with this number, or raise ``Account.DoesNotExist``."""
        return self.get(number=number)


class Account(models.Model):
    """An account with its balance in minor units of its currency.

    The balance is the sum of the credits minus the sum of the debits; only the ledger changes
    it. What can be spent is ``balance - held + credit_limit``.
    """

    id = models.BigAutoField(primary_key=True)
    number = models.CharField(
        max_length=limits.ACCOUNT_NUMBER_CHARS_MAX,
        unique=True,
        validators=[validate_account_number],
    )
    owner_person = models.ForeignKey(
        Person, on_delete=models.PROTECT, null=True, blank=True, related_name="accounts"
    )
    owner_organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, blank=True, related_name="accounts"
    )
    kind = models.CharField(
        max_length=16, choices=AccountKind.choices, default=AccountKind.CUSTOMER
    )
    currency = models.ForeignKey(Currency, on_delete=models.PROTECT, related_name="accounts")
    balance = models.BigIntegerField(default=0, editable=False)
    held = models.BigIntegerField(default=0, editable=False)
    credit_limit = models.BigIntegerField(
        default=0,
        validators=[MinValueValidator(0)],
        help_text="How far below zero the balance may go, in minor units of the currency.",
    )
    unlimited = models.BooleanField(
        default=False,
        help_text="The balance may go below zero without a limit; only accounts of the bank.",
    )
    status = models.CharField(
        max_length=16, choices=AccountStatus.choices, default=AccountStatus.OPEN
    )
    order_limit = models.BigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="The largest amount that one order may take from the account, in minor units; "
        "empty for no limit.",
    )

    objects = AccountManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["number"]
        verbose_name = "account"
        verbose_name_plural = "accounts"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(number__regex=identifiers.ACCOUNT_NUMBER_PATTERN),
                name="bank_account_number_form",
                violation_error_message="The account number has characters that are not allowed.",
            ),
            models.CheckConstraint(
                condition=Q(owner_person__isnull=False, owner_organization__isnull=True)
                | Q(owner_person__isnull=True, owner_organization__isnull=False),
                name="bank_account_one_owner",
                violation_error_message="An account belongs either to one person "
                "or to one organization.",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=AccountKind.values),
                name="bank_account_kind_known",
                violation_error_message="There is no such kind of account.",
            ),
            models.CheckConstraint(
                condition=Q(kind=AccountKind.CUSTOMER) | Q(owner_organization__isnull=False),
                name="bank_account_bank_kinds_of_organization",
                violation_error_message="Cash and issuance accounts belong to the bank's "
                "organization.",
            ),
            models.UniqueConstraint(
                fields=["currency", "kind"],
                condition=~Q(kind=AccountKind.CUSTOMER),
                name="bank_account_one_of_bank_kind",
                violation_error_message="The bank has one cash and one issuance account "
                "for each currency.",
            ),
            models.CheckConstraint(
                condition=Q(status__in=AccountStatus.values),
                name="bank_account_status_known",
                violation_error_message="An account is open, frozen or closed.",
            ),
            models.CheckConstraint(
                condition=Q(held__gte=0),
                name="bank_account_held_not_negative",
                violation_error_message="The held amount must not be negative.",
            ),
            models.CheckConstraint(
                condition=Q(credit_limit__gte=0),
                name="bank_account_credit_limit_not_negative",
                violation_error_message="The credit limit must not be negative.",
            ),
            models.CheckConstraint(
                condition=Q(unlimited=False) | ~Q(kind=AccountKind.CUSTOMER),
                name="bank_account_unlimited_only_bank",
                violation_error_message="Only cash and issuance accounts may be unlimited.",
            ),
            models.CheckConstraint(
                condition=Q(unlimited=True) | Q(balance__gte=F("held") - F("credit_limit")),
                name="bank_account_not_overdrawn",
                violation_error_message="The account would be overdrawn.",
            ),
            models.CheckConstraint(
                condition=~Q(status=AccountStatus.CLOSED) | Q(balance=0, held=0),
                name="bank_account_closed_is_empty",
                violation_error_message="Only an account with a balance of zero can be closed.",
            ),
            models.CheckConstraint(
                condition=Q(order_limit__isnull=True) | Q(order_limit__gte=0),
                name="bank_account_order_limit_not_negative",
                violation_error_message="The limit of an order must not be negative.",
            ),
        ]

    def __str__(self) -> str:
        return self.number

    @property
    def owner(self) -> Person | Organization:
        """The person or the organization that owns the account."""
        owner = self.owner_person or self.owner_organization
        if owner is None:
            raise ValueError(f"account {self.number} has no owner")
        return owner

    @property
    def available(self) -> int | None:
        """What can be spent, in minor units; ``None`` where there is no limit."""
        return None if self.unlimited else self.balance - self.held + self.credit_limit

    @loaded_after("bank.person", "bank.organization", "bank.currency")
    def natural_key(self) -> tuple[str]:
        """Return ``(number,)``."""
        return (self.number,)

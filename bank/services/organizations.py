"""Organizations, the bank's own among them."""

from __future__ import annotations

from bank.audit import Actor
from bank.models import Organization
from bank.services import saving

__all__ = ["create_organization", "ensure_bank_organization", "rename_organization"]


def create_organization(
    actor: Actor, code: str, name: str, *, is_bank: bool = False
) -> Organization:
    """Add an organization.

    :raises ChangeRefusedError: ``bad_value``, or ``already_exists`` for a code that is taken or
        a second bank.
    """
    organization = Organization(code=code, name=name, is_bank=is_bank)
    saving.add(actor, organization)
    return organization


def rename_organization(actor: Actor, organization: Organization, name: str) -> None:
    """Change an organization's name; its code stays, for people and files refer to it."""
    saving.change(actor, organization, name=name)


def ensure_bank_organization(actor: Actor, code: str, name: str) -> Organization:
    """Return the organization that is the bank itself, made under this code where there is none."""
    existing = Organization.objects.filter(is_bank=True).first()
    return existing or create_organization(actor, code, name, is_bank=True)

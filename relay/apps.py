"""The relay as a Django application."""

from django.apps import AppConfig


class RelayConfig(AppConfig):
    """Directory, mailbox and presence; its tables live in the database alias `relay`."""

    name = "relay"
    label = "relay"
    verbose_name = "Relay"
    default_auto_field = "django.db.models.BigAutoField"

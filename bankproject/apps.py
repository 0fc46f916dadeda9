"""The admin of a production deployment."""

from django.contrib.admin.apps import AdminConfig


class OperatorAdminConfig(AdminConfig):
    """Puts the admin that wants a second factor in the place of Django's own."""

    default_site = "bankproject.operator_site.OperatorSite"

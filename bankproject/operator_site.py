"""The admin site that lets nobody in who has shown a password alone."""

from django_otp.admin import OTPAdminSite


class OperatorSite(OTPAdminSite):
    """Admin for operators with a confirmed one-time-password device."""

    site_header = "Tellerwire"
    site_title = "Tellerwire"

    def __init__(self, name: str = "admin") -> None:
        """Keep Django's own name, by which the admin's pages link to each other."""
        super().__init__(name)

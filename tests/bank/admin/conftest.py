"""An operator who is logged in to the admin."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

LOGIN_BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture
def superuser(db: None) -> User:
    return User.objects.create_superuser("demo-root", password="unused")


@pytest.fixture
def operator(superuser: User) -> Client:
    """A browser in which a superuser is logged in."""
    client = Client()
    client.force_login(superuser, backend=LOGIN_BACKEND)
    return client

"""For the tests: real databases of the vendor that TELLERWIRE_TEST_DATABASE names.

Names and addresses are set by `tests/conftest.py`, which starts the servers and makes the copies.
"""

import tempfile
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from bankproject import environment
from bankproject.settings.base import *  # noqa: F403 - settings modules are layers of one namespace

SECRET_KEY = "django-insecure-for-tests-only"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
METRICS = True

TEST_DATABASE = environment.text("TEST_DATABASE", "sqlite")
_URLS = {
    # No test reaches these: a query that isn't led to a copy shall fail, not write somewhere.
    "sqlite": f"sqlite:///{Path(tempfile.gettempdir()) / 'tellerwire-no-such-folder'}/none.sqlite3",
    "postgresql": "postgresql://nobody@127.0.0.1:1/none",
}
if TEST_DATABASE not in _URLS:
    raise ImproperlyConfigured(
        f"TELLERWIRE_TEST_DATABASE must be one of {', '.join(_URLS)}, not {TEST_DATABASE!r}."
    )
DATABASES = {
    alias: environment.database_from_url("TEST_DATABASE", _URLS[TEST_DATABASE])
    for alias in ("default", "relay")
}

# Hashing a password slowly is the point elsewhere; here it would only cost time.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOG_LEVEL = "WARNING"
WHITENOISE_AUTOREFRESH = True
WHITENOISE_USE_FINDERS = True

"""For one machine that nobody else reaches: needs nothing, protects little."""

import sys

from bankproject import environment
from bankproject.settings.base import *  # noqa: F403 - settings modules are layers of one namespace
from bankproject.settings.base import ALLOWED_HOSTS, DATA_DIR, INSTALLED_APPS

DEBUG = environment.flag("DEBUG", default=True)
SECRET_KEY = environment.text("SECRET_KEY", "django-insecure-for-development-only")
ALLOWED_HOSTS = ALLOWED_HOSTS or ["localhost", "127.0.0.1", "[::1]"]
METRICS = environment.flag("METRICS", default=True)

# Daphne comes first, to give `runserver` its WebSocket. It brings Twisted along, which would take
# every other command a third of a second.
if "runserver" in sys.argv[1:2]:
    INSTALLED_APPS = ["daphne", *INSTALLED_APPS]

DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
DATABASES = {
    "default": environment.database_from_url(
        "DATABASE_URL", environment.text("DATABASE_URL", f"sqlite:///{DATA_DIR / 'bank.sqlite3'}")
    ),
    "relay": environment.database_from_url(
        "RELAY_DATABASE_URL",
        environment.text("RELAY_DATABASE_URL", f"sqlite:///{DATA_DIR / 'relay.sqlite3'}"),
    ),
}
WHITENOISE_AUTOREFRESH = True
WHITENOISE_USE_FINDERS = True

"""For a deployment: everything comes from the environment, and what is missing is named."""

from bankproject import environment, log_format
from bankproject.settings.base import *  # noqa: F403 - settings modules are layers of one namespace
from bankproject.settings.base import INSTALLED_APPS, LOG_LEVEL, RELAY, ROLES

SECRET_KEY = environment.secret("SECRET_KEY", "a long random text that only this deployment knows")
ALLOWED_HOSTS = environment.listing("ALLOWED_HOSTS")
if not ALLOWED_HOSTS:
    environment.required("ALLOWED_HOSTS", "the host names, separated by commas, that are served")

# A role that isn't played needs no database, and an alias without an engine refuses every query.
DATABASES = {"default": {}}
if ROLES & {"bank", "web"}:
    DATABASES["default"] = environment.required_database(
        "DATABASE", "the bank's database, as postgresql://…"
    )
if "relay" in ROLES:
    DATABASES["relay"] = environment.required_database(
        "RELAY_DATABASE", "the relay's database, as postgresql://…"
    )
CHANNEL_LAYERS = environment.channel_layers(
    environment.required_redis_url() if "relay" in ROLES else ""
)

RELAY = {
    **RELAY,
    "NAME": environment.required("RELAY_NAME", "the relay's public name, signed at registration")
    if "relay" in ROLES
    else RELAY["NAME"],
    "REGISTRATION": environment.text("RELAY_REGISTRATION", "closed"),
}

# The admin wants a second factor; `manage.py addstatictoken OPERATOR` gives the first one.
INSTALLED_APPS = [
    "bankproject.apps.OperatorAdminConfig" if app == "django.contrib.admin" else app
    for app in INSTALLED_APPS
]

# TLS ends at a proxy. That a request came by TLS, and from where, is taken from that proxy's
# headers by uvicorn (FORWARDED_ALLOW_IPS); trusting a header here would believe everybody.
SECURE_SSL_REDIRECT = True
# The health check and the metrics are asked from inside, without TLS.
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]
SECURE_HSTS_SECONDS = 365 * 24 * 60 * 60
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_HSTS_PRELOAD = True
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = True
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Strict"
SESSION_COOKIE_AGE = 8 * 60 * 60
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
CSRF_COOKIE_SECURE = True
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Strict"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
LOGGING = log_format.logging_settings(as_json=True, level=LOG_LEVEL)

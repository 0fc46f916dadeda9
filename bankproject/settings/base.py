"""What all settings share. Start a process with `development`, `production` or `test`."""

from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF

from bankproject import environment, log_format

BASE_DIR = Path(__file__).resolve().parent.parent.parent
DATA_DIR = Path(environment.text("DATA_DIR", str(BASE_DIR / "var")))

# Which parts of the system this process plays: relay (the WebSocket endpoint), bank (the bank's
# tables and commands), web (the admin of whichever of the two is here).
ROLES = environment.roles()

DEBUG = False
ALLOWED_HOSTS: list[str] = environment.listing("ALLOWED_HOSTS")
ROOT_URLCONF = "bankproject.urls"
ASGI_APPLICATION = "bankproject.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "csp",
    "django_otp",
    "django_otp.plugins.otp_static",
    "django_otp.plugins.otp_totp",
    *(role for role in ("relay", "bank") if role in ROLES),
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# The bank's tables are in `default`, the relay's in `relay`: two SQLite files don't wait for each
# other's locks, and a deployment can put the relay on a host that the bank doesn't trust.
DATABASE_ROUTERS = ["bankproject.routers.RoleRouter"]
DATABASES: dict[str, dict[str, Any]] = {}
CHANNEL_LAYERS = environment.channel_layers(environment.text("REDIS_URL"))

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# Five wrong passwords close the combination of operator and address for a quarter of an hour;
# locking the operator alone would let anybody lock every operator out.
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_VERBOSE = False

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
X_FRAME_OPTIONS = "DENY"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True

STATIC_URL = "static/"
STATIC_ROOT = Path(environment.text("STATIC_ROOT", str(BASE_DIR / "staticfiles")))

LOG_LEVEL = environment.log_level("INFO")
LOGGING = log_format.logging_settings(as_json=False, level=LOG_LEVEL)

# Whether /metrics is served; it shows counts and rates, so a public address should not have it.
METRICS = environment.flag("METRICS", default=False)

# Read lazily through relay/conf.py and bank/conf.py, which know the defaults of what is missing.
RELAY: dict[str, Any] = {
    "NAME": environment.text("RELAY_NAME", "relay.localhost"),
    "REGISTRATION": environment.text("RELAY_REGISTRATION", "open"),
    "ALLOWED_ORIGINS": environment.listing("RELAY_ALLOWED_ORIGINS"),
    # Ids that may register as a service, so that each request goes to one connection.
    "SERVICE_IDS": environment.listing("RELAY_SERVICE_IDS", [environment.text("BANK_ID", "bank")]),
    # Ids whose key is known beforehand, so that nobody else can be the first to claim them.
    "PINNED_FINGERPRINTS": environment.mapping("RELAY_PINNED_FINGERPRINTS"),
}
BANK: dict[str, Any] = {
    "ID": environment.text("BANK_ID", "bank"),
    "KEY_FILE": environment.text("BANK_KEY_FILE"),
    "PASSPHRASE_FILE": environment.text("BANK_PASSPHRASE_FILE"),
    "RELAY_URL": environment.text("BANK_RELAY_URL", "ws://127.0.0.1:8000/relay"),
}

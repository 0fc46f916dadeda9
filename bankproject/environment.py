"""What settings read from the environment; every variable starts with `TELLERWIRE_`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import environ
from django.core.exceptions import ImproperlyConfigured

PREFIX: Final = "TELLERWIRE_"
LOG_LEVELS: Final = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
KNOWN_ROLES: Final = ("relay", "bank", "web")
DATABASE_SCHEMES: Final = ("sqlite", "postgresql")
SQLITE_ENGINE: Final = "django.db.backends.sqlite3"
SQLITE_BUSY_SECONDS: Final = 20
POSTGRESQL_CONNECT_SECONDS: Final = 5
POSTGRESQL_SILENCE_SECONDS: Final = 30
"""How long a process may say nothing in the middle of a transaction. One that was stopped there, or
whose computer is gone, would otherwise hold its locks for ever, and whoever needs them would wait
as long; what it had not committed is undone, and done again when it goes on."""

_environment = environ.Env()


def text(name: str, default: str = "") -> str:
    """Return the variable `TELLERWIRE_<name>`, or `default` where it is missing or empty."""
    return _environment.str(PREFIX + name, default="").strip() or default


def required(name: str, meaning: str) -> str:
    """Return the variable, or refuse to start with a sentence that names it and its meaning."""
    value = text(name)
    if not value:
        raise ImproperlyConfigured(f"Set {PREFIX}{name}: {meaning}.")
    return value


def secret(name: str, meaning: str) -> str:
    """Return a secret from the file named in `TELLERWIRE_<name>_FILE`, or else from the variable.

    A file is preferred: a process's environment shows up in inspection tools and crash reports.
    """
    if not text(f"{name}_FILE"):
        return required(name, f"{meaning} (or its file in {PREFIX}{name}_FILE)")
    return _from_file(name)


def _from_file(name: str) -> str:
    """Return what the file named in `TELLERWIRE_<name>_FILE` holds, which must not be nothing."""
    path = text(f"{name}_FILE")
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(f"{PREFIX}{name}_FILE can't be read: {error}.") from error
    if not value:
        raise ImproperlyConfigured(f"{PREFIX}{name}_FILE names an empty file: {path}.")
    return value


def listing(name: str, default: Iterable[str] = ()) -> list[str]:
    """Return a variable that holds values separated by commas."""
    value = text(name)
    return [part.strip() for part in value.split(",") if part.strip()] or list(default)


def mapping(name: str) -> dict[str, str]:
    """Return `key=value` pairs: of the variable, separated by commas, or of its file.

    In the file that `TELLERWIRE_<name>_FILE` names, which is preferred, each pair has a line.
    """
    parts = _from_file(name).splitlines() if text(f"{name}_FILE") else listing(name)
    pairs = [part.partition("=") for part in parts]
    wrong = [key for key, equals, value in pairs if not (key and equals and value)]
    if wrong:
        raise ImproperlyConfigured(f"{PREFIX}{name} must hold key=value pairs, not {wrong[0]!r}.")
    return {key.strip(): value.strip() for key, _, value in pairs}


def flag(name: str, *, default: bool) -> bool:
    """Return a variable that says yes or no; anything else is refused by name."""
    value = text(name).lower()
    if value in ("", "true", "false"):
        return default if not value else value == "true"
    raise ImproperlyConfigured(f"{PREFIX}{name} must be true or false, not {value!r}.")


def log_level(default: str) -> str:
    """Return the least level that is logged, in capital letters."""
    level = text("LOG_LEVEL", default).upper()
    if level not in LOG_LEVELS:
        raise ImproperlyConfigured(
            f"{PREFIX}LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}, not {level!r}."
        )
    return level


def roles(default: Iterable[str] = KNOWN_ROLES) -> frozenset[str]:
    """Return the roles that this process plays: a part of `relay`, `bank`, `web`."""
    chosen = frozenset(listing("ROLES", default))
    unknown = sorted(chosen - set(KNOWN_ROLES))
    if unknown:
        raise ImproperlyConfigured(
            f"{PREFIX}ROLES names {', '.join(unknown)}; known are {', '.join(KNOWN_ROLES)}."
        )
    if not chosen & {"relay", "bank"}:
        raise ImproperlyConfigured(f"{PREFIX}ROLES needs relay or bank: web shows what is there.")
    return chosen


def sqlite_database(path: Path | str) -> dict[str, Any]:
    """Return Django's settings of one SQLite file, as durable as SQLite can be.

    IMMEDIATE takes the write lock when a transaction begins: a transaction that reads first and
    writes later would otherwise fail at once when another one wrote in between, without waiting.
    """
    return {
        "ENGINE": SQLITE_ENGINE,
        "NAME": str(path),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": SQLITE_BUSY_SECONDS,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
        },
    }


def database_from_url(name: str, url: str) -> dict[str, Any]:
    """Return Django's settings of the database at `url` (`sqlite:///file` or `postgresql://…`).

    What stands behind a question mark in it are options of libpq; they replace those that are set
    here.

    :param name: the variable that an error shall name.
    """
    if url.partition("://")[0] not in DATABASE_SCHEMES:
        schemes = " or ".join(DATABASE_SCHEMES)
        raise ImproperlyConfigured(f"{PREFIX}{name} must begin with {schemes} and ://.")
    try:
        parsed = dict(_environment.db_url_config(url))
    except (ValueError, KeyError) as error:
        raise ImproperlyConfigured(f"{PREFIX}{name} is no database URL.") from error
    if parsed["ENGINE"] == SQLITE_ENGINE:
        return sqlite_database(parsed["NAME"])
    options = {
        "connect_timeout": POSTGRESQL_CONNECT_SECONDS,
        # A server that is gone without a word is noticed as soon; by default that takes two hours.
        "keepalives_idle": POSTGRESQL_SILENCE_SECONDS // 3,
        "keepalives_interval": POSTGRESQL_SILENCE_SECONDS // 6,
        "keepalives_count": 4,
        "tcp_user_timeout": POSTGRESQL_SILENCE_SECONDS * 1_000,
        "options": f"-c idle_in_transaction_session_timeout={POSTGRESQL_SILENCE_SECONDS}s",
    }
    return {**parsed, "OPTIONS": options | parsed.get("OPTIONS", {})}


def required_database(name: str, meaning: str) -> dict[str, Any]:
    """Return the database of `TELLERWIRE_<name>_URL`, which a deployment must set.

    Its password may stand in the URL or, better, in the file of `TELLERWIRE_<name>_PASSWORD_FILE`.
    """
    database = database_from_url(f"{name}_URL", secret(f"{name}_URL", meaning))
    if text(f"{name}_PASSWORD_FILE"):
        database["PASSWORD"] = secret(f"{name}_PASSWORD", "the database's password")
    return database


def required_redis_url() -> str:
    """Return the address of the Redis that a deployment must set, with its password in it."""
    url = secret("REDIS_URL", "the Redis between the relay's processes, as redis://…")
    if not text("REDIS_PASSWORD_FILE"):
        return url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://:{quote(secret('REDIS_PASSWORD', 'its password'), safe='')}@{rest}"


def channel_layers(redis_url: str) -> dict[str, dict[str, Any]]:
    """Return the channel layer between processes, or one within this process without Redis."""
    if not redis_url:
        return {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    return {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [redis_url]},
        }
    }

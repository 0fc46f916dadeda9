"""How log lines look: JSON for machines in production, columns for people in development."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Let Python find no such packages in the block, unless they are loaded already."""
    hidden = [name for name in names if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(hidden))  # None says that there is no such module
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# structlog loads these where they are installed, which takes a tenth of each command's start.
# daphne needs the one and the demo the other; no line of a log does.
with _absent("twisted", "rich"):
    import structlog

from structlog.typing import Processor  # noqa: E402 - after the block

from bankproject import logged_errors, peer_lines  # noqa: E402 - as above

_SHARED_PROCESSORS: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def logging_settings(*, as_json: bool, level: str) -> dict[str, Any]:
    """Configure structlog and return the `LOGGING` setting that formats the rest the same way."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED_PROCESSORS,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": list(_SHARED_PROCESSORS),
                "processors": _render(as_json=as_json),
            }
        },
        "filters": {
            "in_one_line": {"()": logged_errors.InOneLine},
            "of_peers": {"()": peer_lines.OfPeers},
            "without_traceback": {"()": peer_lines.WithoutTraceback},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Django gives these handlers of their own; everything leaves by the root instead.
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], "level": level, "propagate": True},
            # Strangers ask for pages and hosts that don't exist: what isn't found is no event.
            "django.request": {"level": "ERROR"},
            "django.security.DisallowedHost": {"filters": ["without_traceback"]},
            "uvicorn.error": {"filters": ["of_peers"]},
            "channels_redis.pubsub": {"filters": ["in_one_line"]},
        },
    }


def _render(*, as_json: bool) -> list[Processor]:
    last: Processor = structlog.processors.JSONRenderer()
    if not as_json:
        # Plain: the renderer's own tracebacks show local variables, and those may be secrets.
        last = structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.ExceptionRenderer(logged_errors.format_exception),
        logged_errors.cut_details,
        last,
    ]

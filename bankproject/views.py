"""What machines ask over HTTP: is it alive, is it ready, how much has it done."""

from typing import Final

from django.conf import settings
from django.db import connections
from django.db.utils import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

SERVICE_UNAVAILABLE: Final = 503


@require_safe
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """Answer 200 while the process lives; asks nothing else, so it never restarts a healthy one."""
    return JsonResponse({"status": "ok", "roles": sorted(settings.ROLES)})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 if every database of this process answers, 503 with their aliases if not."""
    silent = [alias for alias in settings.DATABASES if not _answers(alias)]
    if silent:
        return JsonResponse(
            {"status": "unavailable", "databases": silent}, status=SERVICE_UNAVAILABLE
        )
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with this process's counters in the text format of Prometheus."""
    return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)


def _answers(alias: str) -> bool:
    connection = connections[alias]
    if connection.vendor == "unknown":  # the role that needs this database isn't played here
        return True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True

"""The ASGI application: HTTP to Django, WebSockets to the relay where that role is played.

`bankproject/serve.py` starts it for production; `manage.py runserver` does so for development.
"""

import os
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bankproject.settings.development")

# Django is set up here; only afterwards can the relay's models be imported, and a process without
# the relay's role never imports them.
_http = get_asgi_application()

if "relay" in settings.ROLES:
    from relay.routing import websocket_urlpatterns
else:
    websocket_urlpatterns = []


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Refuse a WebSocket at an address that has none: HTTP 403, and no traceback in the log."""
    await receive()
    await send({"type": "websocket.close"})


_elsewhere: Any = refuse  # the router takes ASGI applications where Django takes views

application = ProtocolTypeRouter(
    {
        "http": _http,
        "websocket": URLRouter([*websocket_urlpatterns, re_path("", _elsewhere)]),
    }
)

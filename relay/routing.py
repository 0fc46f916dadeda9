"""Where the relay answers WebSockets."""

from django.urls import URLPattern, path

from relay.consumers import RelayConsumer

__all__ = ["websocket_urlpatterns"]

websocket_urlpatterns: list[URLPattern] = [path("relay", RelayConsumer.as_asgi(), name="relay")]

"""Blocking and releasing clients, with effect at once: their connections end wherever they are.

The database decides. Telling the processes is a courtesy on top of it: what isn't heard is found by
the next sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer

from relay import directory
from relay.bus_frames import Batch, Revoke, encode
from relay.database import ALIAS
from relay.hub import running_hubs
from relay.models import Client, Worker

__all__ = ["block", "release", "unblock"]

log = structlog.get_logger(__name__)


def block(clients: Sequence[Client]) -> None:
    """Keep clients out, and end their connections."""
    directory.set_blocked(list(clients), blocked=True)
    _end_connections([client.id_key for client in clients])


def unblock(clients: Sequence[Client]) -> None:
    """Let clients in again."""
    directory.set_blocked(list(clients), blocked=False)


def release(client: Client) -> None:
    """Give an id free for the next key, and end the connections of the last one."""
    directory.release(client)
    _end_connections([client.id_key])


def _end_connections(keys: list[str]) -> None:
    for hub in running_hubs():
        for key in keys:
            hub.revoke_soon(key)
    layer = get_channel_layer()
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        return
    message = encode(Batch("", "", [Revoke(key) for key in keys]))
    channels = Worker.objects.using(ALIAS).exclude(channel="").values_list("channel", flat=True)
    for channel in channels:
        try:
            async_to_sync(layer.send)(channel, message)
        except Exception as error:  # noqa: BLE001 - a channel layer may raise anything
            log.warning("revocation.not_told", error=type(error).__name__)

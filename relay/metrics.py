"""What the relay counts, for Prometheus: plain numbers, read when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from protocol.errors import Code

__all__ = ["Counters", "counters"]


class Counters:
    """The counts of this process; adding to an integer costs next to nothing on the hot path."""

    __slots__ = (
        "accepted",
        "connections",
        "delivered",
        "forwarded",
        "refusals",
        "registered",
        "stored",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.connections = 0
        self.delivered = 0
        self.forwarded = 0
        self.registered = 0
        self.stored = 0
        self.refusals: Counter[str] = Counter()

    def refused(self, code: Code) -> None:
        """Count a refusal under its code."""
        self.refusals[code.value] += 1


counters: Final = Counters()


class RelayCollector(Collector):
    """Gives the counts to Prometheus."""

    def collect(self) -> Iterator[Metric]:
        """Yield what is counted now."""
        yield GaugeMetricFamily(
            "tellerwire_relay_connections", "Open connections", value=counters.connections
        )
        for name, meaning, value in (
            ("registrations", "Clients that registered", counters.registered),
            ("messages_accepted", "Messages taken from their senders", counters.accepted),
            ("messages_delivered", "Deliveries, repeated ones too", counters.delivered),
            ("messages_stored", "Messages put into a mailbox", counters.stored),
            ("messages_forwarded", "Messages passed to another process", counters.forwarded),
        ):
            yield CounterMetricFamily(f"tellerwire_relay_{name}", meaning, value=value)
        refusals = CounterMetricFamily(
            "tellerwire_relay_refusals", "Refusals by code", labels=["code"]
        )
        for code, count in list(counters.refusals.items()):
            refusals.add_metric([code], count)
        yield refusals


REGISTRY.register(RelayCollector())

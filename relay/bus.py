"""Between the relay's processes: a channel for each, many frames in one message, treated as lossy.

A message for a client of another process is forwarded there. Whoever forwards keeps it until the
other process has said what became of it; it asks after a while, and where no answer comes the
message goes to the mailbox. So what the channel layer loses comes late or twice, never not at all.

A process that doesn't answer, or that nothing can be sent to, is a suspect: its lease shows that it
lives, but not that the bus leads there. Nothing is forwarded to it until something is heard from it
on the bus; at each sweep it is asked to say something.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from protocol.errors import Code
from protocol.frames import Role, State
from relay.bus_frames import (
    Ask,
    Batch,
    BusFrame,
    Drained,
    Forward,
    Gone,
    Held,
    Hello,
    Here,
    MailStored,
    Report,
    Revoke,
    Settled,
    StatusKept,
    decode,
    encode,
)
from relay.exchange import Exchange
from relay.leases import Others
from relay.limits import RelayLimits
from relay.messages import Message, MessageKey, RemoteOrigin
from relay.metrics import counters
from relay.presence import LocalClient

__all__ = ["Bus"]

log = structlog.get_logger(__name__)

BATCH_CHARS_MAX: Final = 1_048_576
WAITING_FRAMES_MAX: Final = 20_000
RECENT_REPORTS_MAX: Final = 20_000
ASK_KEYS_MAX: Final = 1_000
RETRY_SECONDS: Final = 1.0
UNANSWERED_FACTOR: Final = 3
"""After this many times the wait for word, a process that doesn't answer counts as gone."""


@dataclass(slots=True)
class _Forwarded:
    message: Message
    since: int
    """When the other process was last known to have it, or was given it."""
    asked_at: int


class Bus:
    """This process's end of the bus."""

    def __init__(
        self,
        *,
        layer: Any,
        exchange: Exchange,
        limits: RelayLimits,
        clock: Callable[[], int],
        revoke: Callable[[str], None],
    ) -> None:
        self.channel = ""
        self._layer = layer
        self._exchange = exchange
        self._limits = limits
        self._clock = clock
        self._revoke = revoke
        self._channels: dict[str, str] = {}
        self._suspects: dict[str, str] = {}
        """Channels of processes that nothing is forwarded to; none of them is in ``_channels``."""
        self._waiting: dict[str, list[BusFrame]] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._forwarded: dict[str, dict[MessageKey, _Forwarded]] = {}
        self._held: dict[tuple[str, MessageKey], Message] = {}
        """What other processes forwarded, with the process: a sender may come back by another one,
        and send the same again."""
        self._reports: OrderedDict[tuple[str, MessageKey], Report] = OrderedDict()
        self._heard_while_reading: list[tuple[str, Here]] | None = None

    # What the exchange asks for.

    def forward(self, message: Message, *, taken_here: bool) -> bool:
        """Pass a message on to where its recipient is connected; False if that is nowhere."""
        presence = self._exchange.presence
        workers = presence.workers_of(message.recipient_key)
        if presence.is_remote_service(message.recipient_key):
            if taken_here:
                return False
            workers = sorted(workers, key=lambda one: len(self._forwarded.get(one, ())))[:1]
        now = self._clock()
        for worker in workers:
            if message.key in self._forwarded.get(worker, ()):
                continue  # it was sent again: word of it could not say which of the two it means
            if self._post(worker, Forward.of(message)):
                counters.forwarded += 1
                message.forwards.add(worker)
                self._forwarded.setdefault(worker, {})[message.key] = _Forwarded(message, now, now)
        return bool(message.forwards)

    def report(self, message: Message, state: State, code: Code | None) -> bool:
        """Tell the process that a message came from what became of it; False if it is gone."""
        assert isinstance(message.origin, RemoteOrigin)
        report = Report(message.key, state, code)
        key = (message.origin.worker, message.key)
        if self._held.get(key, message) is not message:
            return True  # it was given up there; word of it would be taken for word of the next one
        self._held.pop(key, None)
        self._reports[key] = report
        self._reports.move_to_end(key)
        if len(self._reports) > RECENT_REPORTS_MAX:
            self._reports.popitem(last=False)
        return self._post(message.origin.worker, report)

    def settled(self, message: Message) -> None:
        """Tell the other processes that were given a message that it needs no delivery any more."""
        for worker in message.forwards:
            self._forwarded.get(worker, {}).pop(message.key, None)
            self._post(worker, Settled(message.key))
        message.forwards.clear()

    def mail_stored(self, recipient_key: str) -> None:
        """Tell where the recipient is connected that mail has come."""
        for worker in self._exchange.presence.workers_of(recipient_key):
            self._post(worker, MailStored(recipient_key))

    def status_kept(self, sender_key: str) -> None:
        """Tell where the sender is connected that a status waits."""
        for worker in self._exchange.presence.workers_of(sender_key):
            self._post(worker, StatusKept(sender_key))

    def drained(self, recipient_key: str, through: int) -> None:
        """Tell everybody that all mail of a client is handed out."""
        self._tell_all(Drained(recipient_key, through))

    def announce(self, client: LocalClient) -> None:
        """Tell everybody how many connections of a client are here now."""
        self._tell_all(_here(client))

    # Running it.

    async def open(self) -> None:
        """Get a channel of one's own."""
        self.channel = await self._layer.new_channel()

    async def receive(self) -> None:
        """Take in what other processes send, until cancelled."""
        while True:
            try:
                message = await self._layer.receive(self.channel)
                self._take(decode(message))
            except ValueError as error:
                log.warning("bus.unreadable", error=str(error))
            except Exception as error:  # noqa: BLE001 - a channel layer may raise anything
                log.error("bus.receive_failed", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """Say goodbye."""
        self._tell_all(Gone())
        senders = list(self._senders.values())
        if senders:
            await asyncio.wait(senders, timeout=RETRY_SECONDS)
        for sender in senders:
            sender.cancel()

    def begin_refresh(self) -> None:
        """Who is where is being read: remember what is announced meanwhile."""
        self._heard_while_reading = []

    def refresh(self, others: Others) -> None:
        """Take over what the database says of the other processes."""
        for name in (set(self._channels) | set(self._suspects)) - set(others.workers):
            self._lose(name)
        greeted = set(self._channels)
        suspects = set(self._suspects)
        trusted = {
            name: channel for name, channel in others.workers.items() if name not in suspects
        }
        self._channels = trusted
        self._suspects = {name: others.workers[name] for name in suspects}
        self._exchange.presence.replace_remote(row for row in others.clients if row[0] in trusted)
        for worker, here in self._heard_while_reading or ():
            if worker in trusted:
                self._exchange.presence.set_remote(worker, here.client, here.role, here.count)
        self._heard_while_reading = None
        for name in set(trusted) - greeted:
            self._post(name, Hello())
            self._introduce_clients(name)
        for name in suspects:
            self._probe(name)

    def tick(self) -> None:
        """Ask after messages without word, and give up on processes that don't answer."""
        now = self._clock()
        for worker, forwarded in list(self._forwarded.items()):
            overdue: list[MessageKey] = []
            for key, entry in forwarded.items():
                if now - entry.since > self._unanswered_ms:
                    log.warning("bus.no_answer", worker=worker)
                    self._suspect(worker)
                    self._give_back_all(worker)
                    break
                if now - entry.asked_at > self._limits.forward_ms:
                    entry.asked_at = now
                    overdue.append(key)
            else:
                for start in range(0, len(overdue), ASK_KEYS_MAX):
                    self._post(worker, Ask(overdue[start : start + ASK_KEYS_MAX]))

    @property
    def _unanswered_ms(self) -> int:
        return UNANSWERED_FACTOR * self._limits.forward_ms

    # Out.

    def _introduce_clients(self, worker: str) -> None:
        for client in self._exchange.presence.local.values():
            self._post(worker, _here(client))

    def _tell_all(self, frame: BusFrame) -> None:
        for worker in self._channels:
            self._post(worker, frame)

    def _post(self, worker: str, frame: BusFrame) -> bool:
        return worker in self._channels and self._put(worker, frame)

    def _probe(self, worker: str) -> None:
        """Ask a suspect to say something, unless the last time is still being sent."""
        if worker not in self._senders:
            self._put(worker, Hello())
            self._put(worker, Ask([]))

    def _put(self, worker: str, frame: BusFrame) -> bool:
        waiting = self._waiting.setdefault(worker, [])
        if len(waiting) >= WAITING_FRAMES_MAX:
            return False
        waiting.append(frame)
        if worker not in self._senders:
            loop = asyncio.get_running_loop()
            self._senders[worker] = loop.create_task(self._send(worker))
        return True

    async def _send(self, worker: str) -> None:
        """Send what waits for a process; what comes meanwhile goes with the next message."""
        sending: list[BusFrame] = []
        try:
            while waiting := self._waiting.get(worker):
                count = _count_that_fits(waiting)
                sending, self._waiting[worker] = waiting[:count], waiting[count:]
                channel = self._channels.get(worker) or self._suspects.get(worker)
                if channel is None:
                    return
                batch = Batch(self._exchange.name, self.channel, sending)
                # A layer that hangs would keep the next word from going out when it is back.
                async with asyncio.timeout(self._unanswered_ms / 1_000):
                    await self._layer.send(channel, encode(batch))
        except Exception as error:  # noqa: BLE001 - a channel layer may raise anything
            # What else is lost is found by asking for it, or by the next sweep.
            log.error("bus.send_failed", error=type(error).__name__)
            self._suspect(worker)
            self._give_back_unsent(worker, sending + self._waiting.get(worker, []))
        finally:
            self._waiting.pop(worker, None)
            self._senders.pop(worker, None)

    # In.

    def _take(self, batch: Batch) -> None:
        worker = batch.worker
        if batch.channel:
            self._channels[worker] = batch.channel
            if self._suspects.pop(worker, None) is not None:
                self._trust_again(worker)
        for frame in batch.frames:
            _REACTIONS[type(frame)](self, worker, frame)

    def _on_hello(self, worker: str, frame: Hello) -> None:
        log.info("bus.greeted", worker=worker)
        self._introduce_clients(worker)

    def _on_gone(self, worker: str, frame: Gone) -> None:
        self._lose(worker)

    def _on_revoke(self, worker: str, frame: Revoke) -> None:
        self._revoke(frame.client)

    def _on_settled(self, worker: str, frame: Settled) -> None:
        message = self._held.pop((worker, frame.key), None)
        if message is not None:
            message.settled = True

    def _on_mail_stored(self, worker: str, frame: MailStored) -> None:
        self._exchange.mail_came(frame.client)

    def _on_status_kept(self, worker: str, frame: StatusKept) -> None:
        self._exchange.statuses_came(frame.client)

    def _on_drained(self, worker: str, frame: Drained) -> None:
        self._exchange.presence.drained(frame.client, frame.through)

    def _on_here(self, worker: str, frame: Here) -> None:
        if self._heard_while_reading is not None:
            self._heard_while_reading.append((worker, frame))
        self._exchange.presence.set_remote(worker, frame.client, frame.role, frame.count)

    def _on_forward(self, worker: str, frame: Forward) -> None:
        message = frame.message(worker)
        self._reports.pop((worker, message.key), None)
        self._held[worker, message.key] = message
        self._exchange.route(message, self._clock())

    def _on_report(self, worker: str, frame: Report) -> None:
        entry = self._forwarded.get(worker, {}).pop(frame.key, None)
        if entry is None:
            return
        message = entry.message
        message.forwards.discard(worker)
        if message.settled:
            return
        if frame.state is State.DELIVERED:
            self._exchange.settle(message)
        elif not message.holders and not message.forwards:
            if frame.state is State.QUEUED:
                self._exchange.tell_queued(message)
            else:
                self._exchange.fail(message, frame.code or Code.PEER_GONE)

    def _on_ask(self, worker: str, frame: Ask) -> None:
        held = [key for key in frame.keys if (worker, key) in self._held]
        unknown = []
        for key in frame.keys:
            report = self._reports.get((worker, key))
            if report is not None:
                self._post(worker, report)
            elif (worker, key) not in self._held:
                unknown.append(key)
        self._post(worker, Held(held, unknown))

    def _on_held(self, worker: str, frame: Held) -> None:
        forwarded = self._forwarded.get(worker, {})
        now = self._clock()
        for key in frame.held:
            entry = forwarded.get(key)
            if entry is not None:
                entry.since = now
        self._give_back(worker, [forwarded.pop(key) for key in frame.unknown if key in forwarded])

    def _suspect(self, worker: str) -> None:
        """Forward nothing to a process until something is heard from it."""
        channel = self._channels.pop(worker, None)
        if channel is not None:
            self._suspects[worker] = channel
        self._exchange.presence.forget_worker(worker)

    def _trust_again(self, worker: str) -> None:
        """Something was heard: ask for its clients, and then for what it still has of us."""
        log.info("bus.heard_again", worker=worker)
        self._post(worker, Hello())
        now = self._clock()
        for entry in self._forwarded.get(worker, {}).values():
            entry.since = now

    def _lose(self, worker: str) -> None:
        """A process is gone: what it was given is to be delivered otherwise."""
        self._channels.pop(worker, None)
        self._suspects.pop(worker, None)
        self._exchange.presence.forget_worker(worker)
        self._give_back_all(worker)

    def _give_back_all(self, worker: str) -> None:
        self._waiting.pop(worker, None)
        self._give_back(worker, list(self._forwarded.pop(worker, {}).values()))

    def _give_back_unsent(self, worker: str, frames: Iterable[BusFrame]) -> None:
        forwarded = self._forwarded.get(worker, {})
        unsent = [frame.key for frame in frames if isinstance(frame, Forward)]
        self._give_back(worker, [forwarded.pop(key) for key in unsent if key in forwarded])

    def _give_back(self, worker: str, entries: Iterable[_Forwarded]) -> None:
        for entry in entries:
            message = entry.message
            message.forwards.discard(worker)
            if message.settled or message.holders or message.forwards:
                continue
            message.attempt += 1  # for all that is known it was delivered
            if message.is_immediate:
                self._exchange.report(message, State.FAILED, Code.PEER_GONE)
            else:
                self._exchange.store(message)


_REACTIONS: Final[dict[type, Callable[[Bus, str, Any], None]]] = {
    Hello: Bus._on_hello,
    Gone: Bus._on_gone,
    Here: Bus._on_here,
    Forward: Bus._on_forward,
    Report: Bus._on_report,
    Settled: Bus._on_settled,
    MailStored: Bus._on_mail_stored,
    StatusKept: Bus._on_status_kept,
    Drained: Bus._on_drained,
    Ask: Bus._on_ask,
    Held: Bus._on_held,
    Revoke: Bus._on_revoke,
}


def _here(client: LocalClient) -> Here:
    role = Role.SERVICE if client.services else Role.PERSON
    return Here(client.key, role, len(client.connections))


def _count_that_fits(frames: list[BusFrame]) -> int:
    """Return how many frames, at least one, go into one message of the channel layer."""
    size = 0
    for count, frame in enumerate(frames):
        size += len(frame.body) if isinstance(frame, Forward) else 100
        if size > BATCH_CHARS_MAX and count:
            return count
    return len(frames)

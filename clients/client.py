"""What every client does: be connected, send messages that end, ask the relay, answer.

:class:`Client` turns the state machine's events into futures. A message to be sent is an
:class:`~clients.outgoing.Outgoing`: an object that seals itself to a recipient's current key, as
often as needed, and judges the replies to it. :class:`Client` knows nothing about what is inside.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clients.connection import Clock, Connection, system_clock
from clients.directory import Directory
from clients.errors import (
    ClientError,
    PeerKeyChangedError,
    RefusedError,
    RelayUnreachableError,
)
from clients.outgoing import Again, Answered, Hopeless, Outgoing, Unbelievable, Verdict
from clients.peers import Peers
from clients.retry import TRY_JITTER, RetryPolicy
from clients.waiting import fail
from protocol import limits
from protocol.bundles import Bundle
from protocol.client_events import (
    CallEnded,
    Due,
    Ended,
    Event,
    Events,
    Incoming,
    Progress,
    Registered,
    RelayTrouble,
    ReplyArrived,
    StrayReply,
)
from protocol.client_exchange import Stage
from protocol.client_protocol import ClientProtocol
from protocol.encoding import b64u, unb64u
from protocol.frames import Deliver, Role
from protocol.identifiers import uuid7
from protocol.keyfile import KeyFile
from protocol.keys import RandomBytes

__all__ = ["Client"]

_log = logging.getLogger("tellerwire.client")


@dataclass(slots=True)
class _Sending:
    outgoing: Outgoing
    done: asyncio.Future[Ended]


class Client:
    """A registered client of one relay.

    Use it as an asynchronous context manager, or call :meth:`start` and :meth:`close`.

    :param on_incoming: gets every request and notice; must not block. It is the one to
        :meth:`reply` and :meth:`ack`.
    :param on_stray_reply: gets replies to nothing that is under way; they are acked for it.
    """

    def __init__(
        self,
        key_file: KeyFile,
        relay_url: str,
        *,
        role: Role = Role.PERSON,
        peers: Peers | None = None,
        on_incoming: Callable[[Deliver], None] | None = None,
        on_stray_reply: Callable[[Deliver], None] | None = None,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = os.urandom,
    ) -> None:
        self.key_file = key_file
        self.relay_url = relay_url
        self.clock = clock
        self.random_bytes = random_bytes
        self.peers = peers if peers is not None else Peers()
        self._on_incoming = on_incoming
        self.on_stray_reply = on_stray_reply
        self.protocol = ClientProtocol(
            key_file.identity, key_file.bundle, role, TRY_JITTER.pause_ms
        )
        self.protocol.expected_relay = self.peers.relay_name(relay_url)
        self.connection = Connection(self.protocol, relay_url, self._take, clock=clock)
        self.directory = Directory(self.protocol, self.connection, self.peers, clock, self.new_id)
        self._sendings: dict[str, _Sending] = {}
        self._runner: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._takers: dict[type, Callable[[Any], None]] = {
            ReplyArrived: self._take_reply,
            Due: self._take_due,
            Progress: self._take_progress,
            Ended: self._take_ended,
            Incoming: self._take_incoming,
            CallEnded: self.directory.take,
            StrayReply: self._take_stray_reply,
            Registered: self._take_registered,
            RelayTrouble: self._take_trouble,
        }

    # --- Coming and going ---

    async def __aenter__(self) -> Client:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._runner = asyncio.create_task(self.connection.run())
        self._runner.add_done_callback(self._on_runner_done)

    @property
    def failure(self) -> BaseException | None:
        """Why there will be no connection any more; None as long as there may be one."""
        if self._runner is None or not self._runner.done():
            return None
        error = None if self._runner.cancelled() else self._runner.exception()
        return error or RelayUnreachableError("the connection to the relay was closed")

    def _on_runner_done(self, _: asyncio.Task[None]) -> None:
        """Nothing can end well any more: tell everybody who waits."""
        failure = self.failure
        assert failure is not None
        self.directory.fail(failure)
        for sending in self._sendings.values():
            if not sending.done.done():
                fail(sending.done, failure)

    async def wait_ready(self, seconds: float) -> None:
        """Wait until this client is registered.

        :raises RelayUnreachableError: not in time.
        :raises RegistrationRefusedError: it never will be.
        :raises RelayRenamedError: another relay answers at this address than before.
        """
        assert self._runner is not None
        waiter = asyncio.create_task(self.connection.ready.wait())
        await asyncio.wait(
            {waiter, self._runner}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        waiter.cancel()
        if self._runner.done():
            self._runner.result()
        if not self.connection.ready.is_set():
            problem = self.connection.last_problem or "no answer"
            raise RelayUnreachableError(
                f"no connection to the relay at {self.relay_url} within "
                f"{round(seconds, 1):g} seconds: {problem}"
            )

    async def wait_closed(self) -> None:
        """Wait until the connection has ended for good; raises why if that was an error."""
        assert self._runner is not None
        await asyncio.shield(self._runner)

    async def close(self, seconds: float = 3.0) -> None:
        """Write what has been handed over, then leave."""
        if self._runner is None:
            return
        for task in self._tasks:
            task.cancel()
        self.connection.stop()
        await asyncio.wait({self._runner}, timeout=seconds)
        if not self._runner.done():
            self._runner.cancel()
            await asyncio.wait({self._runner})

    # --- Keys ---

    async def publish(self, key_file: KeyFile) -> int:
        """Publish a rotated bundle and use it from now on; return its generation.

        :raises RefusedError: as the relay refused, e.g. ``bad_bundle`` for an old generation.
        """
        generation = await self.directory.publish(key_file.signed_bundle)
        self.use(key_file)
        return generation

    def use(self, key_file: KeyFile) -> None:
        """Register with this key file's bundle from the next connection on."""
        self.key_file = key_file
        self.protocol.use(key_file.identity, key_file.bundle)

    # --- Sending ---

    def new_id(self) -> str:
        """Return a new message id."""
        return uuid7(self.clock(), self.random_bytes(10))

    def send(self, outgoing: Outgoing, policy: RetryPolicy) -> asyncio.Future[Ended]:
        """Send a message and keep at it; the future tells how it ended.

        The future raises :class:`PeerKeyChangedError` where the recipient's key is not the one
        that is known. Cancel it, or :meth:`give_up`, to stop trying.
        """
        now = self.connection.steady()
        done: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        if (failure := self.failure) is not None:
            fail(done, failure)
            return done
        self._sendings[outgoing.id] = _Sending(outgoing, done)
        events = self.protocol.begin(
            outgoing.id,
            outgoing.to,
            outgoing.kind,
            tries=policy.tries,
            try_ms=policy.try_ms,
            lapses_at=now + policy.patience_ms,
            now=now,
        )
        self.connection.apply(events)
        return done

    def known(self, peer_id: str) -> Bundle | None:
        """Return a peer's keys if they are known and good, without asking the relay."""
        try:
            return self.peers.known(peer_id, self.clock())
        except RefusedError:
            return None  # sending will say why

    def give_up(self, message_id: str) -> None:
        """Stop trying to send a message; its future tells that it lapsed."""
        self.connection.apply(self.protocol.lapse(message_id))

    def stage_of(self, message_id: str) -> Stage | None:
        """Where a message is; None once it has ended."""
        return self.protocol.stage_of(message_id)

    def reply(self, deliver: Deliver, body: bytes, ttl_ms: int) -> bool:
        """Answer a delivered request, before it is acknowledged.

        :return: False where the answer can't be sent now. Then don't acknowledge: the request is
            delivered again.
        """
        reply_id = self.new_id()
        events = self.protocol.reply(reply_id, deliver.sender, deliver.id, b64u(body), ttl_ms)
        self.connection.apply(events)
        return bool(events)

    def ack(self, deliver: Deliver) -> None:
        """Tell the relay that a delivered message is safe here."""
        self.connection.apply(self.protocol.ack(deliver))

    # --- What happens ---

    def _take(self, event: Event) -> None:
        self._takers[type(event)](event)

    def _take_registered(self, event: Registered) -> None:
        self.peers.pin_relay(self.relay_url, event.relay)
        self.protocol.expected_relay = event.relay

    def _take_trouble(self, event: RelayTrouble) -> None:
        _log.warning("the relay reports %s %s", event.error.code.value, event.error.detail)

    def _take_incoming(self, event: Incoming) -> None:
        if self._on_incoming is not None:
            self._on_incoming(event.deliver)

    def _take_stray_reply(self, event: StrayReply) -> None:
        if self.on_stray_reply is not None:
            self.on_stray_reply(event.deliver)
        self.ack(event.deliver)

    def _take_reply(self, event: ReplyArrived) -> None:
        message_id = event.deliver.re or ""
        sending = self._sendings.get(message_id)
        verdict: Verdict = Unbelievable()
        if sending is not None:
            try:
                verdict = sending.outgoing.judge(unb64u(event.deliver.body))
            except ValueError:
                verdict = Unbelievable()
        self.connection.apply(self._follow(message_id, verdict))
        self.ack(event.deliver)

    def _follow(self, message_id: str, verdict: Verdict) -> Events:
        match verdict:
            case Answered():
                return self.protocol.answered(message_id)
            case Hopeless():
                return self.protocol.refused(message_id, verdict.code, verdict.detail)
            case Again():
                return self.protocol.again(
                    message_id,
                    self.connection.steady(),
                    code=verdict.code,
                    after_ms=verdict.after_ms,
                    refetch=verdict.refetch,
                )
            case Unbelievable():
                _log.warning("a reply to %s was not made by who was asked; ignored", message_id)
                return []

    def _take_progress(self, event: Progress) -> None:
        sending = self._sendings.get(event.id)
        if sending is not None:
            sending.outgoing.progressed(event.stage, event.code)

    def _take_ended(self, event: Ended) -> None:
        sending = self._sendings.pop(event.id, None)
        if sending is not None and not sending.done.done():
            sending.done.set_result(event)

    def _take_due(self, event: Due) -> None:
        sending = self._sendings.get(event.id)
        if sending is None or sending.done.done():
            # Nobody waits for it any more.
            self._sendings.pop(event.id, None)
            self.connection.apply(self.protocol.lapse(event.id))
            return
        try:
            known = self.peers.known(sending.outgoing.to, self.clock())
        except RefusedError as error:
            self._fail(sending, error)
            return
        if known is not None and not event.refetch:
            self._dispatch(sending, known)
            return
        task = asyncio.create_task(self._fetch_and_dispatch(sending, refetch=event.refetch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch_and_dispatch(self, sending: _Sending, *, refetch: bool) -> None:
        outgoing = sending.outgoing
        try:
            recipient = await self.directory.peer(outgoing.to, refetch=refetch)
        except RefusedError as error:
            self._fail(sending, error)
        except ClientError as error:
            _log.info("no keys for %s: %s", outgoing.to, error)
            self.connection.apply(self.protocol.again(outgoing.id, self.connection.steady()))
        else:
            self._dispatch(sending, recipient)

    def _fail(self, sending: _Sending, error: RefusedError) -> None:
        if isinstance(error, PeerKeyChangedError) and not sending.done.done():
            fail(sending.done, error)
        events = self.protocol.refused(sending.outgoing.id, error.code, error.detail)
        self.connection.apply(events)

    def _dispatch(self, sending: _Sending, recipient: Bundle) -> None:
        outgoing = sending.outgoing
        try:
            body = b64u(outgoing.wrap(recipient))
        except RefusedError as error:
            self._fail(sending, error)
            return
        ttl_ms = max(0, min(outgoing.ttl_ms(self.clock()), limits.TTL_MS_MAX))
        self.connection.apply(
            self.protocol.dispatch(outgoing.id, body, ttl_ms, self.connection.steady())
        )

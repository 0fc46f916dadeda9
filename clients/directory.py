"""Asking the relay for people's keys, and telling it one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from clients.connection import Clock, Connection
from clients.errors import RefusedError, RelayUnreachableError, UsageError
from clients.peers import Peers
from clients.waiting import fail
from protocol import limits
from protocol.bundles import Bundle, SignedBundle, open_bundle
from protocol.client_events import CallEnded
from protocol.client_protocol import ClientProtocol
from protocol.errors import Code, RelayError
from protocol.frames import Error, Found, Lookup, Publish, Published
from protocol.identifiers import check_client_id, is_name_query

__all__ = ["Directory", "check_query"]

CALL_MS: Final = 15_000
"""How long a question to the relay may take, reconnections included."""

Result = Found | Published | Error | None


def check_query(query: str) -> str:
    """Return ``query`` if somebody can have that id or name.

    :raises UsageError: nobody can; with words that say what an id or a name looks like.
    """
    if not is_name_query(query):
        try:
            return check_client_id(query)
        except ValueError as error:
            raise UsageError(f"{error}; a name has a comma: Last, First") from error
    if len(query) > limits.QUERY_CHARS_MAX:
        raise UsageError(f"nobody has a name of more than {limits.QUERY_CHARS_MAX} characters")
    return query


class Directory:
    """The relay's directory as one client sees it: what the relay says, held against the pins."""

    def __init__(
        self,
        protocol: ClientProtocol,
        connection: Connection,
        peers: Peers,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._protocol = protocol
        self._connection = connection
        self._peers = peers
        self._clock = clock
        self._new_id = new_id
        self._calls: dict[str, asyncio.Future[Result]] = {}
        self._failure: BaseException | None = None

    async def lookup(self, query: str, *, within_ms: int = CALL_MS) -> list[Bundle]:
        """Return the bundles that the relay has for an id or a name, each checked by itself.

        Nobody of that id or name is an empty list. A bundle here is what the relay gave; whether it
        is whom one means is for :meth:`peer`.

        :raises RefusedError: as the relay refused (``ambiguous_name`` with the candidates), or
            ``bad_bundle`` for one that is not good.
        :raises RelayUnreachableError: no answer in time.
        :raises UsageError: nobody can have that id or name.
        """
        try:
            result = await self._call(Lookup(self._new_id(), check_query(query)), within_ms)
        except RefusedError as error:
            if error.code is Code.UNKNOWN_RECIPIENT:
                return []
            raise
        if not isinstance(result, Found):
            raise RelayUnreachableError("the relay answered a look-up with something else")
        try:
            return [open_bundle(signed, self._clock()) for signed in result.bundles]
        except RelayError as error:
            detail = f"what the relay gave for {query!r}: {error.detail}"
            raise RefusedError(error.code, detail, proven=False) from error

    async def peer(self, peer_id: str, *, refetch: bool = False, pin_new: bool = True) -> Bundle:
        """Return the bundle to use for a client: known and pinned, or looked up and checked.

        Ids that differ in case alone are one; the bundle has the client's own spelling.

        :param refetch: ask the relay also where the bundle is known.
        :param pin_new: remember also who was not known before.
        :raises PeerKeyChangedError: the relay gave another identity than the known one.
        :raises RefusedError: ``unknown_recipient`` and what else the relay refuses.
        """
        known = self._peers.known(peer_id, self._clock())
        if known is not None and not refetch:
            return known
        for bundle in await self.lookup(peer_id):
            if bundle.id.lower() == peer_id.lower():
                return self._peers.admit(bundle, pin_new=pin_new)
        if known is not None:
            return known
        raise RefusedError(
            Code.UNKNOWN_RECIPIENT, f"the relay knows nobody with the id {peer_id}", proven=False
        )

    async def resolve(self, query: str) -> Bundle:
        """Return the bundle of whom a person means: an id, or a name with a comma.

        Pinned peers of that name count beside what the relay gives, so that it can't put somebody
        else in the place of a known one by leaving that one out.

        :raises RefusedError: ``ambiguous_name`` with the candidates, ``unknown_recipient``.
        """
        if not is_name_query(query):
            return await self.peer(query)
        found = {bundle.id: bundle for bundle in self._peers.named(query)}
        for bundle in await self.lookup(query):
            if self._peers.matches(bundle, query):
                found.setdefault(bundle.id, bundle)
        if len(found) > 1:
            names = ", ".join(sorted(found))
            raise RefusedError(
                Code.AMBIGUOUS_NAME,
                f"{query!r} may be any of {names}; use the id",
                proven=False,
                candidates=tuple(sorted(found)),
            )
        if not found:
            raise RefusedError(
                Code.UNKNOWN_RECIPIENT, f"the relay knows nobody called {query!r}", proven=False
            )
        return await self.peer(next(iter(found)))

    async def publish(self, bundle: SignedBundle, *, within_ms: int = CALL_MS) -> int:
        """Replace this client's own bundle at the relay; return the generation kept there.

        :raises RefusedError: as the relay refused, e.g. ``bad_bundle`` for an old generation.
        """
        result = await self._call(Publish(self._new_id(), bundle), within_ms)
        if not isinstance(result, Published):
            raise RelayUnreachableError("the relay answered a publication with something else")
        return result.generation

    def take(self, event: CallEnded) -> None:
        """Hear the end of a call."""
        future = self._calls.get(event.id)
        if future is not None and not future.done():
            future.set_result(event.result)

    def fail(self, error: BaseException) -> None:
        """There will be no connection any more: nothing can be answered."""
        self._failure = error
        for future in self._calls.values():
            if not future.done():
                fail(future, error)

    async def _call(self, frame: Lookup | Publish, within_ms: int) -> Found | Published:
        if self._failure is not None:
            raise self._failure
        now = self._connection.steady()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._calls[frame.id] = future
        try:
            self._connection.apply(self._protocol.call(frame, lapses_at=now + within_ms, now=now))
            result = await future
        finally:
            self._calls.pop(frame.id, None)
        if result is None:
            raise RelayUnreachableError("the relay did not answer in time")
        if isinstance(result, Error):
            named = (
                f"; it may be any of {', '.join(result.candidates)}" if result.candidates else ""
            )
            raise RefusedError(
                result.code,
                result.detail + named,
                proven=False,
                candidates=tuple(result.candidates),
            )
        return result

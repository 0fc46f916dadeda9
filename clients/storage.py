"""The state directory: orders under way, receipts, pins, messages received.

::

    outbox/ORDER.log      orders from before their first send until they have ended for certain
    receipts/ORDER.json   an order that has ended, with the bank's signed receipt and bundle;
                          many that end together share one file (:mod:`clients.receipts`)
    inbox/MESSAGE.json    a message that was acknowledged and not yet shown
    seen.log              which messages were received, until they expire
    pins.json             whose key is whose, and the names of relays
    lock                  held for the moment of a change

Several programs may use one directory at the same time. Each keeps its orders in a log of its own
(:mod:`clients.outbox`); whole files replace each other, and two programs that finish one order
write the same receipt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from clients.errors import StorageError
from clients.files import held, locked, make_private_folder, put_private, remove_leftovers
from clients.outbox import Outbox
from clients.receipts import Receipts
from clients.records import OrderRecord
from protocol.identifiers import ClientId, Milliseconds, UuidText

__all__ = ["StateDirectory", "StoredMessage"]

MESSAGE_VERSION: Final = 1


class StoredMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A message that was received and not yet shown."""

    version: int = MESSAGE_VERSION
    id: UuidText
    sender: ClientId
    name: str
    fingerprint: str
    text: str
    issued_at: Milliseconds
    received_at: Milliseconds

    def __repr__(self) -> str:
        return f"<StoredMessage {self.id} from {self.sender}>"


class StateDirectory:
    """One client's state on disk."""

    def __init__(self, path: Path) -> None:
        """Make what is missing.

        :raises StorageError: the directory can't be used.
        """
        self.path = path
        self.receipts = Receipts(path / "receipts")
        self.inbox = path / "inbox"
        self.pins_file = path / "pins.json"
        self.seen_file = path / "seen.log"
        self._lock_file = path / "lock"
        for folder in (path, self.receipts.folder, self.inbox):
            make_private_folder(folder)
            remove_leftovers(folder)
        self.outbox = Outbox(path / "outbox", self.locked, self.receipts.missing)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory's lock, for the moment of a change to a shared file.

        :raises StorageError: whatever the system refused while it was held.
        """
        try:
            with locked(self._lock_file):
                yield
        except OSError as error:
            raise StorageError(f"{self.path} can't be used: {error.strerror}") from error

    # --- Orders ---

    def archive(self, records: Sequence[OrderRecord]) -> None:
        """Move orders that have ended from the outbox to the receipts, durably.

        :raises StorageError: the disk doesn't take them; they stay in the outbox.
        """
        if not all(record.has_ended for record in records):
            raise ValueError("the order has not ended")
        self.receipts.keep(records)
        self.outbox.strike_off([record.order_id for record in records])

    def unfinished(self) -> list[OrderRecord]:
        """Return the orders whose outcome is not known, oldest first.

        :raises StorageError: a file of the outbox is damaged; it is named.
        """
        return self.outbox.unfinished()

    def finished(self) -> list[OrderRecord]:
        """Return the orders that have ended, oldest first, but for those with damaged receipts."""
        return [record for _, record in self.receipts.read()[0]]

    def order(self, order_id: str) -> OrderRecord | None:
        """Return one order, ended or not; None if there is none here with this id.

        :raises StorageError: what there is of it is damaged.
        """
        found = self._find(order_id)
        return found[1] if found is not None else None

    def file_of(self, order_id: str) -> Path:
        """Return the file that an order is in, or will be: its receipt, or a log of the outbox.

        Where damage keeps that from being found out it is the outbox's folder: what became of an
        order isn't changed by it.
        """
        try:
            found = self._find(order_id)
        except StorageError:
            return self.outbox.folder
        return found[0] if found is not None else self.receipts.own_file(order_id)

    def _find(self, order_id: str) -> tuple[Path, OrderRecord] | None:
        """A damaged receipt counts for nothing while the order is in the outbox."""
        under_way = None
        if self.receipts.missing([order_id]):
            under_way = self.outbox.find(order_id)
        return under_way or self.receipts.find(order_id)

    # --- Messages that wait to be shown ---

    def keep_message(self, message: StoredMessage) -> None:
        """Keep a message durably until it is shown."""
        put_private(self._message_file(message), msgspec.json.encode(message))

    def waiting_messages(self) -> list[StoredMessage]:
        """Return the messages that wait to be shown, oldest first."""
        messages = []
        for path in sorted(self.inbox.glob("*.json")):
            try:
                messages.append(msgspec.json.decode(path.read_bytes(), type=StoredMessage))
            except FileNotFoundError:
                continue
            except msgspec.DecodeError as error:
                raise StorageError(f"{path} is damaged: {error}") from error
        return messages

    @contextlib.contextmanager
    def showing(self, message: StoredMessage) -> Iterator[bool]:
        """Hold a message while the block shows it, then drop it; False if another program has it.

        Where the block raises, or the program ends in it, the message waits for the next time.
        """
        with held(self._message_file(message)) as is_ours:
            yield is_ours
            if is_ours:
                self.take_message(message)

    def take_message(self, message: StoredMessage) -> bool:
        """Drop a message that waits; False if another program was quicker."""
        try:
            self._message_file(message).unlink()
        except FileNotFoundError:
            return False
        return True

    def _message_file(self, message: StoredMessage) -> Path:
        return self.inbox / f"{message.id}-{message.sender}.json"

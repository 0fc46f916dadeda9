"""The state directory: orders under way, receipts, pins, messages received.

::

    outbox/ORDER.json     an order from before its first send until it has ended for certain
    receipts/ORDER.json   an order that has ended, with the bank's signed receipt and bundle
    inbox/MESSAGE.json    a message that was acknowledged and not yet shown
    seen.log              which messages were received, until they expire
    pins.json             whose key is whose, and the names of relays
    lock                  held for the moment of a change

Several programs may use one directory at the same time. Orders need no lock: each has a file of its
own, whole files replace each other, and two programs that finish one order write the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from clients.errors import StorageError
from clients.files import Put, locked, make_private_folder, put_all, put_private
from protocol.banking import SignedReceipt
from protocol.encoding import unb64u
from protocol.errors import Code
from protocol.identifiers import ClientId, Milliseconds, UuidText
from protocol.keys import SignedBundle
from protocol.sealing import SignedMessage

__all__ = ["DurableWriter", "Ending", "OrderRecord", "StateDirectory", "StoredMessage"]

RECORD_VERSION: Final = 1


class Ending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an order ended without a receipt: the bank's sealed word that it never will run."""

    code: Code
    detail: str
    at: Milliseconds


class OrderRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about one order: enough to send it again, and to prove what became of it."""

    version: int = RECORD_VERSION
    order_id: UuidText
    person: ClientId
    person_fingerprint: str
    bank: ClientId
    bank_fingerprint: str
    """Hexadecimal, as it was configured when the order was signed."""
    operation: str
    meaning: str
    """What was asked for, in words."""
    evidence: str
    """Signature and inner bytes of the signed order, base64url."""
    reply_key: str
    """What opens the answers, base64url; not part of the evidence."""
    issued_at: Milliseconds
    expires_at: Milliseconds
    receipt: SignedReceipt | None = None
    bank_bundle: SignedBundle | None = None
    ending: Ending | None = None

    @property
    def signed(self) -> SignedMessage:
        """The signed order, byte for byte."""
        return SignedMessage.from_evidence(unb64u(self.evidence))

    @property
    def has_ended(self) -> bool:
        """Whether it is certain what became of it."""
        return self.receipt is not None or self.ending is not None

    def __repr__(self) -> str:
        return f"<OrderRecord {self.order_id}>"


class StoredMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A message that was received and not yet shown."""

    version: int = RECORD_VERSION
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
        self.outbox = path / "outbox"
        self.receipts = path / "receipts"
        self.inbox = path / "inbox"
        self.pins_file = path / "pins.json"
        self.seen_file = path / "seen.log"
        self._lock_file = path / "lock"
        for folder in (path, self.outbox, self.receipts, self.inbox):
            make_private_folder(folder)

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

    def put_order(self, record: OrderRecord) -> Put:
        """Return what to write before the order is sent for the first time."""
        return Put(self._outbox_file(record.order_id), _encode(record))

    def put_ended(self, record: OrderRecord) -> Put:
        """Return what to write when an order has ended: it moves to the receipts."""
        if not record.has_ended:
            raise ValueError("the order has not ended")
        gone = self._outbox_file(record.order_id)
        return Put(self.receipt_file(record.order_id), _encode(record), gone)

    def receipt_file(self, order_id: str) -> Path:
        """Where the receipt of an order is, or will be."""
        return self.receipts / f"{order_id}.json"

    def _outbox_file(self, order_id: str) -> Path:
        return self.outbox / f"{order_id}.json"

    def unfinished(self) -> list[OrderRecord]:
        """Return the orders whose outcome is not known, oldest first.

        :raises StorageError: one of the files is damaged; it is named.
        """
        records = []
        for path in sorted(self.outbox.glob("*.json")):
            if self._has_whole_receipt(path.name):
                # It ended, and the power went out before its name was gone from the outbox.
                path.unlink(missing_ok=True)
                continue
            record = _read_order(path)
            if record is not None:
                records.append(record)
        return records

    def finished(self) -> list[OrderRecord]:
        """Return the orders that have ended, oldest first."""
        found = (_read_order(path) for path in sorted(self.receipts.glob("*.json")))
        return [record for record in found if record is not None]

    def order(self, order_id: str) -> OrderRecord | None:
        """Return one order, ended or not; None if there is none here with this id.

        :raises StorageError: what there is of it is damaged.
        """
        waiting = _read_order(self._outbox_file(order_id))
        receipt = self.receipt_file(order_id)
        if waiting is not None and not self._has_whole_receipt(receipt.name):
            return waiting
        return _read_order(receipt)

    def _has_whole_receipt(self, name: str) -> bool:
        """Whether an order has ended: half a receipt counts for nothing, the bank has another."""
        try:
            return _read_order(self.receipts / name) is not None
        except StorageError:
            return False

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

    def take_message(self, message: StoredMessage) -> bool:
        """Claim a message for showing it; False if another program was quicker."""
        try:
            self._message_file(message).unlink()
        except FileNotFoundError:
            return False
        return True

    def _message_file(self, message: StoredMessage) -> Path:
        return self.inbox / f"{message.id}-{message.sender}.json"


def _encode(record: OrderRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def _read_order(path: Path) -> OrderRecord | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return read_order(data, path)


def read_order(data: bytes, path: Path) -> OrderRecord:
    """Return the order in a file of the outbox or the receipts.

    :raises StorageError: the file is no such file, or of a later version.
    """
    try:
        record = msgspec.json.decode(data, type=OrderRecord)
        unb64u(record.evidence)
        unb64u(record.reply_key)
        bytes.fromhex(record.bank_fingerprint)
    except (msgspec.DecodeError, ValueError) as error:
        raise StorageError(f"{path} is no order or receipt, or is damaged: {error}") from error
    if record.version != RECORD_VERSION:
        raise StorageError(f"{path} is of version {record.version}, which is not known")
    return record


class DurableWriter:
    """Writes files in a thread, as many at once as have gathered: one flush serves them all.

    :param gather_seconds: how long to let files gather; 0 begins at once if nothing is being
        written, and what comes meanwhile is the next batch.
    """

    def __init__(
        self, gather_seconds: float = 0.0, write: Callable[[list[Put]], None] = put_all
    ) -> None:
        self._gather_seconds = gather_seconds
        self._write = write
        self._waiting: list[tuple[Put, asyncio.Future[None]]] = []
        self._running: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def put(self, put: Put) -> asyncio.Future[None]:
        """Write a file; the future is done once it is safe.

        It raises :class:`StorageError` if the disk doesn't take it.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((put, done))
        if self._running is None and self._timer is None:
            if self._gather_seconds:
                self._timer = loop.call_later(self._gather_seconds, self._start)
            else:
                self._start()
        return done

    async def flush(self) -> None:
        """Wait until everything that was handed over is safe, or has failed."""
        while self._running is not None or self._waiting:
            if self._running is None:
                self._start()
            elif not self._running.done():
                await asyncio.wait({self._running})
            else:
                await asyncio.sleep(0)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None or not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        loop = asyncio.get_running_loop()
        puts = [put for put, _ in batch]
        self._running = loop.run_in_executor(None, self._write, puts)
        self._running.add_done_callback(lambda running: self._finish(batch, running))

    def _finish(
        self, batch: list[tuple[Put, asyncio.Future[None]]], running: asyncio.Future[None]
    ) -> None:
        self._running = None
        error = None if running.cancelled() else running.exception()
        for _, done in batch:
            if done.done():
                continue
            if running.cancelled():
                done.cancel()
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(None)
        self._start()

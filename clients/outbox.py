"""The outbox: orders from before they are first sent until it is certain what became of them.

Each session appends to a log of its own, ``outbox/ORDER.log`` (named for the first order in it), a
line for each order: a checksum and the record. Appending is the cheapest thing that a disk does:
whatever has gathered goes to it with one write, which returns once it is there. Nothing is ever
struck out: an order has ended once its receipt is in the receipts folder, and a log goes when all
of its orders have.

A session holds a lock on its log for as long as it appends. A log that nobody holds was left by a
session that ended, or was ended; its orders are there to be finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clients.errors import StorageError
from clients.files import FILE_MODE, make_private_folder, sync_folder, write_at
from clients.records import OrderRecord, decode_record, encode_record

__all__ = ["LOG_SUFFIX", "Outbox"]

LOG_SUFFIX: Final = ".log"
LOG_BYTES_MAX: Final = 1_048_576
"""When a log is this long the next one is begun, so that logs go while a session lasts."""

RESERVED_BYTES: Final = 65_536
"""How much a log grows at once, filled with zeros. Writing over what is there already leaves the
length and the place of the file alone, and reaching the disk then takes half as long."""

LOG_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DSYNC
"""Each write returns once the data, and the length, are on the disk; times of access may wait."""


@dataclass(slots=True)
class _Log:
    """A log that this session has begun.

    ``descriptor`` is None once nothing more is appended; ``waiting`` are the orders in it that have
    not ended.
    """

    path: Path
    descriptor: int | None
    size: int = 0
    """Where the next line goes."""
    reserved: int = 0
    """How long the file is; zeros follow the last line."""
    waiting: set[str] = field(default_factory=set)


class Outbox:
    """The orders under way in one state directory, of this session and of others.

    :param locked: holds the state directory's lock for the moment of a change.
    :param open_among: returns those of some orders that have not ended: no receipt is safe.
    """

    def __init__(
        self,
        folder: Path,
        locked: Callable[[], AbstractContextManager[None]],
        open_among: Callable[[Iterable[str]], set[str]],
    ) -> None:
        make_private_folder(folder)
        self.folder = folder
        self._locked = locked
        self._open_among = open_among
        self._current: _Log | None = None
        self._logs: dict[str, _Log] = {}
        # Appending and striking off happen in different threads.
        self._mutex = threading.Lock()

    # --- This session's orders ---

    def add(self, records: Sequence[OrderRecord]) -> None:
        """Keep orders durably; afterwards they may be sent.

        :raises StorageError: the disk is full, or whatever the system says; then none is kept.
        """
        lines = b"".join(map(_line, records))
        with self._mutex:
            try:
                log = self._open_log(records[0].order_id)
                self._append(log, lines)
            except OSError as error:
                raise StorageError(f"{self.folder} can't be written: {error.strerror}") from error
            for record in records:
                log.waiting.add(record.order_id)
                self._logs[record.order_id] = log

    def strike_off(self, order_ids: Collection[str]) -> None:
        """Forget orders whose receipts are safe; a log goes with the last one in it."""
        with self._mutex:
            for order_id in order_ids:
                log = self._logs.pop(order_id, None)
                if log is not None:
                    log.waiting.discard(order_id)
                    self._drop_if_done(log)

    def rest(self) -> None:
        """Leave the log to whoever finishes what is in it; the next order begins another."""
        with self._mutex:
            self._leave_log()

    def _open_log(self, first_id: str) -> _Log:
        if self._current is not None and self._current.size >= LOG_BYTES_MAX:
            self._leave_log()
        if self._current is None:
            path = self.folder / f"{first_id}{LOG_SUFFIX}"
            with self._locked():
                # Held before anybody else can look at it and take it for one that was left.
                descriptor = os.open(path, LOG_FLAGS, FILE_MODE)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            sync_folder(self.folder)
            self._current = _Log(path, descriptor)
        return self._current

    def _append(self, log: _Log, lines: bytes) -> None:
        assert log.descriptor is not None  # only the current log is appended to
        end = log.size + len(lines)
        try:
            if end > log.reserved:
                lines += bytes(RESERVED_BYTES)
                log.reserved = end + RESERVED_BYTES
            write_at(log.descriptor, lines, log.size)
        except OSError:
            # Whoever is told that an order was not kept may place it anew: it must not be found.
            with contextlib.suppress(OSError):
                os.ftruncate(log.descriptor, log.size)
                os.fsync(log.descriptor)
            self._leave_log()
            raise
        log.size = end

    def _leave_log(self) -> None:
        log, self._current = self._current, None
        if log is not None and log.descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(log.descriptor, log.size)
            os.close(log.descriptor)
            log.descriptor = None
            self._drop_if_done(log)

    def _drop_if_done(self, log: _Log) -> None:
        if log.descriptor is None and not log.waiting:
            log.path.unlink(missing_ok=True)

    # --- Everybody's orders ---

    def unfinished(self) -> list[OrderRecord]:
        """Return the orders whose outcome is not known, oldest first.

        :raises StorageError: a log is damaged; it is named.
        """
        waiting: list[OrderRecord] = []
        for path, records in self._read_logs():
            here = self._open_among(record.order_id for record in records)
            waiting.extend(record for record in records if record.order_id in here)
            if not here:
                self._remove_left_log(path)
        return sorted(waiting, key=lambda record: record.order_id)

    def find(self, order_id: str) -> tuple[Path, OrderRecord] | None:
        """Return an order that was kept here, and the log that it is in; it may have ended.

        :raises StorageError: a log is damaged; it is named.
        """
        for path, records in self._read_logs():
            for record in records:
                if record.order_id == order_id:
                    return path, record
        return None

    def _read_logs(self) -> Iterator[tuple[Path, list[OrderRecord]]]:
        for path in sorted(self.folder.glob(f"*{LOG_SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):
                yield path, _read_lines(path)

    def _remove_left_log(self, path: Path) -> None:
        """Remove a log whose orders have all ended, unless somebody appends to it."""
        with self._locked(), contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Looked at once more: nobody appends any more, but somebody may have until now.
                if not self._open_among(record.order_id for record in _read_lines(path)):
                    path.unlink()
            except BlockingIOError:
                return
            finally:
                os.close(descriptor)


def _line(record: OrderRecord) -> bytes:
    data = encode_record(record)
    return b"%08x %b\n" % (zlib.crc32(data), data)


def _read_lines(path: Path) -> list[OrderRecord]:
    """Return the records in a log.

    After the last line there are zeros, up to the end of the file. A line that a power cut tore
    was never reported as safe, so its order was never sent: it has no end, or zeros where the disk
    had not written yet. Any other line that is wrong is damage.
    """
    records = []
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if b"\0" in line:
            continue
        checksum, _, data = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(data):
            raise StorageError(f"{path} is damaged in line {number}")
        records.append(decode_record(data, path))
    return records

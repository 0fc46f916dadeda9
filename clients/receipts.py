"""The receipts folder: orders that have ended, with the bank's word on each.

An order that ends by itself, or with a few others, has a file of its own, ``ORDER.json``, for
people to keep, send and check. Where many end together, as in a program that places hundreds in a
second, they share one, ``FIRST-….jsonl``, with a line for each: making a file takes longer than
everything else that is done for an order. No file is ever changed after it was written.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from clients.errors import StorageError
from clients.files import Put, put_all, put_private, read_at_most
from clients.records import OrderRecord, decode_record, encode_record

__all__ = ["Receipts", "read_receipt_file"]

OWN_FILES_MAX: Final = 8
"""Up to so many receipts that are written together have a file each."""
SHARED_SUFFIX: Final = ".jsonl"
FILE_BYTES_MAX: Final = 67_108_864
"""Of a file that a person names: thousands of receipts, and no device that never ends."""


class Receipts:
    """The receipts of one state directory; several programs may write there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # What is in a shared file never changes, so each is read once.
        self._shared: dict[Path, frozenset[str]] = {}

    def keep(self, records: Sequence[OrderRecord]) -> None:
        """Write receipts durably.

        :raises StorageError: the disk is full, or whatever the system says.
        """
        if len(records) <= OWN_FILES_MAX:
            put_all(Put(self.own_file(one.order_id), _for_people(one)) for one in records)
            return
        # The name says when; its random end keeps two programs from replacing each other's file.
        name = f"{records[0].order_id}-{secrets.token_hex(4)}{SHARED_SUFFIX}"
        lines = b"".join(encode_record(record) + b"\n" for record in records)
        put_private(self.folder / name, lines)

    def own_file(self, order_id: str) -> Path:
        """Where the receipt of an order is if it has a file of its own."""
        return self.folder / f"{order_id}.json"

    def find(self, order_id: str) -> tuple[Path, OrderRecord] | None:
        """Return the receipt of an order and the file that it is in.

        :raises StorageError: what there is of it is damaged.
        """
        path = self.own_file(order_id)
        if path.exists():
            return path, decode_record(path.read_bytes(), path)
        for shared in self._shared_files():
            if order_id in self._shared[shared]:
                record = next(one for one in _intact_in(shared) if one.order_id == order_id)
                return shared, record
        return None

    def missing(self, order_ids: Iterable[str]) -> set[str]:
        """Return those of some orders of which there is no receipt here.

        A damaged receipt counts for nothing: the bank gives another.
        """
        wanted = {order_id for order_id in order_ids if not self._has_intact_file(order_id)}
        for shared in self._shared_files() if wanted else ():
            wanted -= self._shared[shared]
        return wanted

    def read(self) -> tuple[list[tuple[Path, OrderRecord]], list[StorageError]]:
        """Return all receipts with their files, oldest order first, and what is damaged."""
        found: dict[str, tuple[Path, OrderRecord]] = {}
        damage: list[StorageError] = []
        for path in sorted(self.folder.glob("*.json*")):
            for record in _read_each(path):
                if isinstance(record, StorageError):
                    damage.append(record)
                else:
                    found[record.order_id] = path, record
        return [found[order_id] for order_id in sorted(found)], damage

    def _has_intact_file(self, order_id: str) -> bool:
        path = self.own_file(order_id)
        try:
            decode_record(path.read_bytes(), path)
        except (FileNotFoundError, StorageError):
            return False
        return True

    def _shared_files(self) -> Iterator[Path]:
        for path in sorted(self.folder.glob(f"*{SHARED_SUFFIX}")):
            if path not in self._shared:
                self._shared[path] = frozenset(one.order_id for one in _intact_in(path))
            yield path


def read_receipt_file(path: Path) -> list[OrderRecord]:
    """Return the receipts in a file: one, or several in a file that they share.

    :raises StorageError: it holds something else, or one of them is damaged.
    :raises OSError: it can't be read.
    """
    data = read_at_most(path, FILE_BYTES_MAX)
    if len(data) > FILE_BYTES_MAX:
        raise StorageError(f"{path} is too long for receipts")
    return [decode_record(part, path, line) for line, part in _parts_of(path, data)]


def _intact_in(path: Path) -> Iterator[OrderRecord]:
    return (record for record in _read_each(path) if isinstance(record, OrderRecord))


def _read_each(path: Path) -> Iterator[OrderRecord | StorageError]:
    """Yield the receipts in a file; a damaged one, or none any more, hides no other."""
    with contextlib.suppress(FileNotFoundError):
        for line, data in _parts_of(path, path.read_bytes()):
            try:
                yield decode_record(data, path, line)
            except StorageError as error:
                yield error


def _parts_of(path: Path, data: bytes) -> list[tuple[int | None, bytes]]:
    if path.suffix != SHARED_SUFFIX:
        return [(None, data)]
    return list(enumerate(data.splitlines(), 1))


def _for_people(record: OrderRecord) -> bytes:
    return msgspec.json.format(encode_record(record), indent=2) + b"\n"

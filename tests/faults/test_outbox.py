"""What a power cut leaves in a client's folder: halves of files, and names that should be gone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from bank.models import Order
from clients.records import OrderRecord
from clients.storage import StateDirectory
from protocol.banking import Transfer
from tests.faults.customers import ada
from tests.faults.plan import PlannedOrder
from tests.faults.reconciliation import differences
from tests.installation import ADA, Installation

ORDER = PlannedOrder(0, Transfer("account1", "account2", "100", memo="order 0"), None)


def half_of(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: len(data) // 2]


def before_the_receipt(state: StateDirectory, kept: Path, name: str) -> None:
    """The order was sent and booked; the receipt never got to the disk."""
    (state.receipts.folder / name).unlink()
    put_back(state, kept)


def put_back(state: StateDirectory, kept: Path) -> None:
    shutil.copyfile(kept, state.outbox.folder / "kept.log")


def in_the_middle_of_the_receipt(state: StateDirectory, kept: Path, name: str) -> None:
    half = half_of(state.receipts.folder / name)
    before_the_receipt(state, kept, name)
    (state.receipts.folder / f".{name}.0badcafe.tmp").write_bytes(half)


def a_receipt_that_the_disk_lost_half_of(state: StateDirectory, kept: Path, name: str) -> None:
    """A disk that lies about what it has written can do this."""
    (state.receipts.folder / name).write_bytes(half_of(state.receipts.folder / name))
    put_back(state, kept)


def an_empty_receipt(state: StateDirectory, kept: Path, name: str) -> None:
    (state.receipts.folder / name).write_bytes(b"")
    put_back(state, kept)


def before_the_outbox_was_cleared(state: StateDirectory, kept: Path, name: str) -> None:
    put_back(state, kept)


def in_the_middle_of_the_next_order(state: StateDirectory, kept: Path, name: str) -> None:
    """An order whose line was never finished was never sent either: there is none."""
    before_the_receipt(state, kept, name)
    with (state.outbox.folder / "kept.log").open("ab") as log:
        log.write(half_of(kept))
    (state.outbox.folder / "empty.log").write_bytes(b"")
    (state.outbox.folder / "zeros.log").write_bytes(bytes(4096))


CUTS = [
    before_the_receipt,
    in_the_middle_of_the_receipt,
    a_receipt_that_the_disk_lost_half_of,
    an_empty_receipt,
    before_the_outbox_was_cleared,
    in_the_middle_of_the_next_order,
]


async def order_and_keep_the_outbox(installation: Installation, kept: Path) -> OrderRecord:
    """Place the order, and keep a copy of the file that was in the outbox meanwhile."""
    async with ada(installation) as session:
        task = asyncio.create_task(session.customer.submit(ORDER.order))
        while not (found := session.state.unfinished()):
            await asyncio.sleep(0)
        shutil.copyfile(session.state.file_of(found[0].order_id), kept)
        result = await task
        await session.customer.flush()
        record = session.state.order(result.order_id)
        assert record is not None
        return record


async def finish_outbox(installation: Installation) -> None:
    async with ada(installation) as session:
        for record in session.state.unfinished():
            await session.customer.finish(record)
        await session.customer.flush()


def test_every_cut_is_survived(installation: Installation, tmp_path: Path) -> None:
    installation.start_server()
    installation.start_bank()
    state = StateDirectory(installation.state_of(ADA))
    kept = tmp_path / "kept"
    record = asyncio.run(order_and_keep_the_outbox(installation, kept))
    kept.write_bytes(kept.read_bytes().rstrip(b"\0"))  # what is reserved for more orders
    assert differences(ADA, state, [ORDER]) == []
    receipt = state.receipts.own_file(record.order_id)
    whole = receipt.read_bytes()
    for cut in CUTS:
        cut(state, kept, receipt.name)
        asyncio.run(finish_outbox(installation))
        assert differences(ADA, state, [ORDER]) == [], cut.__name__
        assert state.order(record.order_id) == record, cut.__name__
        assert receipt.read_bytes() == whole, cut.__name__
    assert Order.objects.filter(person__client_id=ADA).count() == 1
    assert state.unfinished() == []
    assert list(state.outbox.folder.iterdir()) == []

"""The receipts folder: a file for each order, or one for many that ended together."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clients.errors import StorageError
from clients.files import LEFTOVER_SECONDS
from clients.receipts import OWN_FILES_MAX, Receipts, read_receipt_file
from clients.storage import StateDirectory
from tests.clients.test_storage import ended, record

ROOT = Path(__file__).parents[2]
MANY = range(1, OWN_FILES_MAX + 2)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


@pytest.fixture
def receipts(state: StateDirectory) -> Receipts:
    return state.receipts


def files(receipts: Receipts) -> list[Path]:
    return sorted(receipts.folder.iterdir())


def test_a_few_have_a_file_each(receipts: Receipts) -> None:
    few = [ended(number) for number in MANY][:-1]
    receipts.keep(few)
    assert files(receipts) == [receipts.own_file(one.order_id) for one in few]
    assert [read_receipt_file(path) for path in files(receipts)] == [[one] for one in few]


def test_many_share_a_file_that_only_its_owner_can_read(receipts: Receipts) -> None:
    many = [ended(number) for number in MANY]
    receipts.keep(many)
    [shared] = files(receipts)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o600
    assert read_receipt_file(shared) == many
    assert receipts.read() == ([(shared, one) for one in many], [])
    assert receipts.find(many[-1].order_id) == (shared, many[-1])
    assert receipts.find(record(99).order_id) is None


def test_orders_whose_receipts_share_a_file_have_ended(state: StateDirectory) -> None:
    state.outbox.add([record(number) for number in (*MANY, 99)])
    state.archive([ended(number) for number in MANY])
    assert state.unfinished() == [record(99)]
    assert state.finished() == [ended(number) for number in MANY]
    assert state.order(record(1).order_id) == ended(1)
    assert state.order(record(99).order_id) == record(99)
    assert state.file_of(record(1).order_id) == files(state.receipts)[0]


def test_a_log_goes_once_its_orders_share_a_file(state: StateDirectory) -> None:
    state.outbox.add([record(number) for number in MANY])
    state.outbox.rest()
    other = StateDirectory(state.path)
    other.receipts.keep([ended(number) for number in MANY])
    assert other.unfinished() == []
    assert list(state.outbox.folder.iterdir()) == []


def test_the_same_orders_finished_by_two_programs_replace_nothing(receipts: Receipts) -> None:
    receipts.keep([ended(number) for number in MANY])
    other = Receipts(receipts.folder)
    other.keep([ended(number) for number in (*MANY, 50)])
    assert len(files(receipts)) == 2
    assert [one for _, one in receipts.read()[0]] == [ended(number) for number in (*MANY, 50)]
    assert receipts.missing([record(50).order_id]) == set()


def test_what_another_program_adds_is_found(receipts: Receipts) -> None:
    wanted = [record(number).order_id for number in MANY]
    assert receipts.missing(wanted) == set(wanted)
    Receipts(receipts.folder).keep([ended(number) for number in MANY])
    assert receipts.missing(wanted) == set()


def test_a_damaged_line_is_named_and_hides_no_other(receipts: Receipts) -> None:
    many = [ended(number) for number in MANY]
    receipts.keep(many)
    [shared] = files(receipts)
    lines = shared.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][: len(lines[1]) // 2] + b"\n"
    shared.write_bytes(b"".join(lines))
    found, [damage] = receipts.read()
    assert [one for _, one in found] == [many[0], *many[2:]]
    assert f"line 2 of {shared}" in str(damage)
    assert receipts.missing([one.order_id for one in many]) == {many[1].order_id}
    with pytest.raises(StorageError, match="line 2 of"):
        read_receipt_file(shared)


def test_a_damaged_receipt_that_was_given_again_is_there(receipts: Receipts) -> None:
    many = [ended(number) for number in MANY]
    receipts.keep(many)
    [shared] = files(receipts)
    shared.write_bytes(b"{\n" + b"\n".join(shared.read_bytes().splitlines()[1:]) + b"\n")
    again = Receipts(receipts.folder)
    assert again.missing([many[0].order_id]) == {many[0].order_id}
    again.keep([many[0]])
    assert again.missing([many[0].order_id]) == set()
    assert [one for _, one in again.read()[0]] == many


def test_programs_that_keep_at_the_same_time_lose_nothing(state: StateDirectory) -> None:
    program = (
        "import sys; from pathlib import Path; from clients.storage import StateDirectory\n"
        "from tests.clients.test_storage import ended, record\n"
        "state = StateDirectory(Path(sys.argv[1]))\n"
        "for turn in range(10):\n"
        "    state.archive([ended(number) for number in range(turn * 10, turn * 10 + 10)])\n"
        "    assert state.order(record(turn * 10).order_id) is not None\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, state.path], cwd=ROOT) for _ in range(3)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert state.finished() == [ended(number) for number in range(100)]


def test_only_old_unfinished_files_are_removed(state: StateDirectory) -> None:
    old = state.receipts.folder / ".one.json.0badcafe.tmp"
    fresh = state.receipts.folder / ".two.json.0badcafe.tmp"
    for path in (old, fresh):
        path.write_bytes(b"{")
    before = time.time() - LEFTOVER_SECONDS - 1
    os.utime(old, (before, before))
    StateDirectory(state.path)
    assert files(state.receipts) == [fresh]

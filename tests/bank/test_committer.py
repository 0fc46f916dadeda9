"""The committer: batches that form by themselves, bounds, and an orderly end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from bank.committer import GroupCommitter
from bank.errors import BankError, OutcomeUnknownError
from bank.incoming import IncomingOrder, OrderOutcome
from protocol.errors import Code

SECONDS = 10


def an_order(number: int = 0) -> IncomingOrder:
    return IncomingOrder(number, "ada", b"", str(number), b"", b"", 0, None)


def submit(committer: GroupCommitter, incoming: IncomingOrder) -> Future[OrderOutcome]:
    future = committer.put(incoming)
    committer.wake()
    return future


class HeldBook:
    """Books nothing; the first batch waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, batch: Sequence[IncomingOrder]) -> list[OrderOutcome]:
        self.batches.append([order.person_id for order in batch])
        self.entered.set()
        assert self.go_on.wait(SECONDS)
        return [OrderOutcome(None, detail=order.order_id) for order in batch]


@pytest.fixture
def make() -> Iterator[Callable[..., GroupCommitter]]:
    made: list[GroupCommitter] = []

    def make_committer(book: object, *, batch: int = 1000, queue: int = 1000) -> GroupCommitter:
        committer = GroupCommitter(book, batch_orders_max=batch, queue_orders_max=queue)  # type: ignore[arg-type]  # fakes
        made.append(committer)
        return committer

    yield make_committer
    for committer in made:
        committer.close()


def test_a_single_order_is_a_batch_of_one(make: Callable[..., GroupCommitter]) -> None:
    book = HeldBook()
    book.go_on.set()
    assert submit(make(book), an_order(7)).result(SECONDS).detail == "7"
    assert book.batches == [[7]]


def test_what_arrives_during_a_commit_shares_the_next_one(
    make: Callable[..., GroupCommitter],
) -> None:
    book = HeldBook()
    committer = make(book, batch=3)
    futures = [submit(committer, an_order(0))]
    assert book.entered.wait(SECONDS)
    futures += [submit(committer, an_order(number)) for number in range(1, 6)]
    book.go_on.set()
    assert [future.result(SECONDS).detail for future in futures] == list("012345")
    assert book.batches == [[0], [1, 2, 3], [4, 5]]


def test_what_is_put_in_is_booked_when_the_thread_is_woken(
    make: Callable[..., GroupCommitter],
) -> None:
    book = HeldBook()
    book.go_on.set()
    committer = make(book)
    futures = [committer.put(an_order(number)) for number in range(3)]
    assert not book.entered.wait(0.2)
    committer.wake()
    assert [future.result(SECONDS).detail for future in futures] == ["0", "1", "2"]
    assert book.batches == [[0, 1, 2]]


def test_closing_books_what_was_put_in(make: Callable[..., GroupCommitter]) -> None:
    book = HeldBook()
    book.go_on.set()
    committer = make(book)
    future = committer.put(an_order(5))
    committer.close()
    assert future.result(SECONDS).detail == "5"
    with pytest.raises(BankError, match="busy"):
        committer.put(an_order(6))


def test_a_full_queue_answers_busy_and_takes_nothing(make: Callable[..., GroupCommitter]) -> None:
    book = HeldBook()
    committer = make(book, queue=2)
    futures = [submit(committer, an_order(0))]
    assert book.entered.wait(SECONDS)
    futures += [submit(committer, an_order(number)) for number in (1, 2)]
    with pytest.raises(BankError) as caught:
        submit(committer, an_order(3))
    assert caught.value.code is Code.BUSY
    assert caught.value.retry_after_ms
    book.go_on.set()
    assert [future.result(SECONDS).detail for future in futures] == list("012")
    assert [number for batch in book.batches for number in batch] == [0, 1, 2]


def test_an_error_reaches_everybody_in_the_batch_and_the_committer_lives_on(
    make: Callable[..., GroupCommitter],
) -> None:
    failures = [OutcomeUnknownError()]

    def book(batch: Sequence[IncomingOrder]) -> list[OrderOutcome]:
        if failures:
            raise failures.pop()
        return [OrderOutcome(None) for _ in batch]

    committer = make(book)
    with pytest.raises(OutcomeUnknownError):
        submit(committer, an_order()).result(SECONDS)
    assert submit(committer, an_order()).result(SECONDS) == OrderOutcome(None)


def test_closing_books_what_waits_and_takes_nothing_more(
    make: Callable[..., GroupCommitter],
) -> None:
    book = HeldBook()
    committer = make(book)
    futures = [submit(committer, an_order(number)) for number in range(3)]
    closer = threading.Thread(target=committer.close)
    closer.start()
    book.go_on.set()
    closer.join(SECONDS)
    assert not closer.is_alive()
    assert [future.result(0).detail for future in futures] == list("012")
    with pytest.raises(BankError) as caught:
        submit(committer, an_order())
    assert caught.value.code is Code.BUSY


def test_an_order_that_is_given_up_while_it_waits_is_not_booked(
    make: Callable[..., GroupCommitter],
) -> None:
    book = HeldBook()
    committer = make(book)
    first = submit(committer, an_order(0))
    assert book.entered.wait(SECONDS)
    given_up, kept = submit(committer, an_order(1)), submit(committer, an_order(2))
    assert given_up.cancel()
    assert not first.cancel()
    book.go_on.set()
    assert (first.result(SECONDS).detail, kept.result(SECONDS).detail) == ("0", "2")
    assert book.batches == [[0], [2]]

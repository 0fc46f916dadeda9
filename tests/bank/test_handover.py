"""The handover: whatever a thread completes arrives in the loop, with few wake-ups."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from bank.handover import HELD_BACK_MAX, Handover

SECONDS = 10


def completed(values: list[Future[int]]) -> threading.Thread:
    def complete() -> None:
        for number, value in enumerate(values):
            if value.set_running_or_notify_cancel():
                value.set_result(number)

    thread = threading.Thread(target=complete)
    thread.start()
    return thread


async def test_outcomes_arrive_each_at_its_own_waiter() -> None:
    handover: Handover[int] = Handover(lambda: None, at_once=True)
    for _ in range(20):
        futures: list[Future[int]] = [Future() for _ in range(200)]
        waiting = [asyncio.create_task(handover.wait(future)) for future in futures]
        await asyncio.sleep(0)
        thread = completed(futures)
        assert await asyncio.wait_for(asyncio.gather(*waiting), SECONDS) == list(range(200))
        thread.join()


async def test_a_batch_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    handover: Handover[int] = Handover(lambda: None, at_once=True)
    futures: list[Future[int]] = [Future() for _ in range(100)]
    waiting = [asyncio.create_task(handover.wait(future)) for future in futures]
    await asyncio.sleep(0)
    wake, wakes = loop.call_soon_threadsafe, []

    def count(*arguments: object) -> object:
        wakes.append(arguments)
        return wake(*arguments)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    # The loop is busy here until all are complete, as it is while it works on other messages.
    completed(futures).join()
    assert len(wakes) == 1
    assert await asyncio.gather(*waiting) == list(range(100))


async def test_errors_arrive_too() -> None:
    handover: Handover[int] = Handover(lambda: None, at_once=True)
    future: Future[int] = Future()
    waiting = asyncio.create_task(handover.wait(future))
    await asyncio.sleep(0)
    future.set_exception(OverflowError("too much"))
    with pytest.raises(OverflowError, match="too much"):
        await asyncio.wait_for(waiting, SECONDS)


async def test_who_stops_waiting_gives_up_what_nobody_has_begun() -> None:
    handover: Handover[int] = Handover(lambda: None, at_once=True)
    future: Future[int] = Future()
    waiting = asyncio.create_task(handover.wait(future))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert future.cancelled()


async def test_what_was_complete_before_is_there_at_once() -> None:
    future: Future[int] = Future()
    future.set_result(7)
    handover: Handover[int] = Handover(lambda: None, at_once=True)
    assert await asyncio.wait_for(handover.wait(future), SECONDS) == 7


async def woken_for(count: int, *, at_once: bool) -> list[int]:
    """Return how many futures there were at each time when the thread was woken."""
    begun: list[Future[int]] = []
    wakes: list[int] = []
    handover: Handover[int] = Handover(lambda: wakes.append(len(begun)), at_once=at_once)

    async def wait() -> int:
        future: Future[int] = Future()
        future.set_result(len(begun))
        begun.append(future)
        return await handover.wait(future)

    await asyncio.wait_for(asyncio.gather(*(wait() for _ in range(count))), SECONDS)
    return wakes


async def test_the_thread_is_woken_once_for_what_one_turn_of_the_loop_brings() -> None:
    assert await woken_for(1, at_once=False) == [1]
    assert await woken_for(10, at_once=False) == [10]


async def test_the_thread_is_not_kept_waiting_for_a_long_turn() -> None:
    wakes = await woken_for(3 * HELD_BACK_MAX, at_once=False)
    assert wakes[:2] == [HELD_BACK_MAX, 2 * HELD_BACK_MAX]
    assert wakes[-1] == 3 * HELD_BACK_MAX


async def test_the_thread_is_woken_for_each_where_it_only_waits_itself() -> None:
    assert await woken_for(3, at_once=True) == [1, 2, 3]

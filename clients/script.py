"""Carrying out a script: its actions in order, one result line for each, until its time is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from clients.actions import Action, BankAction, SendAction, looks_like_order
from clients.config import BANK_ID
from clients.customer import BankPin
from clients.display import Display
from clients.errors import (
    ClientError,
    OutcomeUnknownError,
    OutputError,
    RefusedError,
    RelayUnreachableError,
)
from clients.messages import DeliveryState, OutgoingText
from clients.outcomes import (
    FINISH_HINT,
    ExitStatus,
    order_text,
    refusal_text,
    status_of,
    text_text,
    twin_texts,
)
from clients.session import Session
from clients.waiting import first_of
from protocol.bundles import Bundle
from protocol.client_events import Ended
from protocol.errors import Code, LocalError

__all__ = ["Script", "tell_action"]

_log = logging.getLogger("tellerwire.script")

FIND_PAUSE_SECONDS: Final = 0.3
"""Between look-ups of a recipient who has not registered yet."""
ANSWER_GRACE_SECONDS: Final = 1.0
"""At the end, for answers that are on their way."""


@dataclass(eq=False)
class _Sent:
    """A message that is on its way while later actions are carried out."""

    number: int
    action: SendAction
    outgoing: OutgoingText
    done: asyncio.Future[Ended]
    told: bool = field(default=False)


class Script:
    """The actions of one configuration, and what became of them.

    :param deadline: when the program's time is over, in the event loop's time.
    :param stop: set when somebody wants the program to end before that.
    """

    def __init__(
        self,
        session: Session,
        actions: tuple[Action, ...],
        display: Display,
        *,
        deadline: float,
        stop: asyncio.Event,
    ) -> None:
        self._session = session
        self._actions = actions
        self._display = display
        self._deadline = deadline
        self._stop = stop
        self._policy = session.setup.policy
        self._statuses: dict[int, ExitStatus] = {}
        self._sent: list[_Sent] = []

    async def run(self, *, stay: bool) -> ExitStatus:
        """Carry out every action; one that fails doesn't keep the next from being tried.

        :param stay: stay connected, and take messages, until the time is over.
        """
        for number, action in enumerate(self._actions, start=1):
            if self._is_over:
                self._tell(number, ExitStatus.FAILED, f"not done: {self._why_over}")
            else:
                await self._carry_out(number, action)
        if stay:
            await self._wait_until_over()
        elif self._open_messages:
            await asyncio.wait(
                [each.done for each in self._open_messages], timeout=ANSWER_GRACE_SECONDS
            )
        self._tell_open_messages()
        return self._status

    @property
    def _status(self) -> ExitStatus:
        found = set(self._statuses.values())
        for status in (ExitStatus.FAILED, ExitStatus.UNKNOWN):
            if status in found:
                return status
        return ExitStatus.OK

    @property
    def _remaining(self) -> float:
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    @property
    def _is_over(self) -> bool:
        return self._stop.is_set() or self._remaining <= 0

    @property
    def _why_over(self) -> str:
        if self._stop.is_set():
            return "the program was stopped"
        return "the time that general.duration gives was over"

    async def _wait_until_over(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._remaining):
                await self._stop.wait()

    async def _carry_out(self, number: int, action: Action) -> None:
        try:
            match action:
                case BankAction():
                    await self._order(number, action)
                case SendAction():
                    await self._send(number, action)
        except RefusedError as error:
            self._tell(number, ExitStatus.FAILED, refusal_text(error), error.code)
        except OutcomeUnknownError as error:
            self._tell(number, ExitStatus.UNKNOWN, f"unknown: {error}")
        except (ClientError, LocalError) as error:
            self._tell(number, ExitStatus.FAILED, f"failed: {error}")
        except Exception as error:  # noqa: BLE001 - one action doesn't keep the next from being tried
            _log.debug("action %d failed", number, exc_info=error)
            self._tell_unexpected(number, action, error)

    async def _order(self, number: int, action: BankAction) -> None:
        for text in twin_texts(self._session.customer, action.order):
            self._display.warn(f"action {number}/{len(self._actions)}: {text}")
        customer = self._session.customer
        if not await self._in_time(checking := asyncio.ensure_future(customer.check_bank())):
            self._tell(number, ExitStatus.FAILED, f"not done: {self._why_over}")
            return
        checking.result()
        submitting = asyncio.ensure_future(customer.submit(action.order, policy=self._policy))
        if not await self._in_time(submitting):
            words = f"unknown: {self._why_over} before the bank answered; {FINISH_HINT}"
            self._tell(number, ExitStatus.UNKNOWN, words)
            return
        result = submitting.result()
        self._tell(number, status_of(result), order_text(result), result.code)

    async def _in_time(self, task: asyncio.Future[Any]) -> bool:
        """Wait for something until the script's time is over; False where it was given up then."""
        await first_of(task, self._stop.wait(), seconds=self._remaining)
        if task.done():
            return True
        task.cancel()
        await asyncio.wait({task})
        # A timer may go off a moment early; nothing more is begun all the same.
        self._deadline = min(self._deadline, asyncio.get_running_loop().time())
        return False

    async def _send(self, number: int, action: SendAction) -> None:
        recipient = await self._find(number, action.recipient)
        bank = self._session.setup.bank
        if bank is not None and recipient.id == bank.id:
            detail = f"{action.recipient} is the bank, which takes orders only. {_bank_hint(bank)}"
            raise RefusedError(Code.UNSUPPORTED_PURPOSE, detail, proven=True)
        outgoing, done = self._session.messenger.send(recipient, action.text, self._policy)
        sent = _Sent(number, action, outgoing, done)
        self._sent.append(sent)
        done.add_done_callback(lambda _: self._tell_sent(sent))
        patience = min(self._remaining, self._policy.try_ms / 1_000)
        await first_of(done, outgoing.queued.wait(), self._stop.wait(), seconds=patience)
        # What waits in a mailbox may be answered long after: the next action doesn't wait for it.

    async def _find(self, number: int, recipient: str) -> Bundle:
        """Return the recipient's bundle; who isn't known yet may register any moment.

        Without a bundle there is nothing to seal to, so no mailbox can take the message meanwhile.
        Later actions wait too, since two messages to one recipient must keep their order; whoever
        started the script is told whom it waits for, and how long.

        :raises RefusedError: not known after all tries, ambiguous, or with a changed key.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + min(self._remaining, self._policy.tries * self._policy.try_ms / 1_000)
        told = False
        heard: ClientError | None = None
        while True:
            resolving = asyncio.ensure_future(self._session.client.directory.resolve(recipient))
            try:
                if await self._in_time(resolving):
                    return resolving.result()
            except RefusedError as error:
                if error.code is not Code.UNKNOWN_RECIPIENT:
                    raise
                heard = error
            except RelayUnreachableError as error:
                heard = error
            if self._stop.is_set() or (self._is_over and heard is None):
                why = f"{self._why_over} before {recipient} was there"
                raise ClientError(f"nothing was sent: {why}")
            if heard is not None and (self._is_over or loop.time() >= until):
                raise heard
            if isinstance(heard, RefusedError) and not told:
                self._tell_waiting(number, recipient, until - loop.time())
                told = True
            await asyncio.sleep(FIND_PAUSE_SECONDS)

    # --- Result lines ---

    def _tell_unexpected(self, number: int, action: Action, error: Exception) -> None:
        """An order may have been sent before it; a message that wasn't is sent by nobody."""
        words = f"something went wrong in this program: {error} (--debug shows where)"
        if isinstance(action, BankAction):
            self._tell(number, ExitStatus.UNKNOWN, f"unknown: {words}; {FINISH_HINT}")
        else:
            self._tell(number, ExitStatus.FAILED, f"failed: {words}")

    def _tell_waiting(self, number: int, recipient: str, seconds: float) -> None:
        """Say it on standard error, and so that nobody takes it for the action's one line."""
        self._display.warn(
            f"waiting up to {math.ceil(seconds)} s for {recipient}, whom the relay doesn't know "
            f"yet (action {number}/{len(self._actions)})"
        )

    @property
    def _open_messages(self) -> list[_Sent]:
        return [each for each in self._sent if not each.told]

    def _tell_sent(self, sent: _Sent) -> None:
        if sent.told or sent.done.cancelled():
            return
        sent.told = True
        error = sent.done.exception()
        if isinstance(error, RefusedError):
            self._tell(sent.number, ExitStatus.FAILED, refusal_text(error), error.code)
        elif error is not None:
            self._tell(sent.number, ExitStatus.UNKNOWN, f"unknown: {error}")
        else:
            self._tell_text(sent, sent.done.result())

    def _tell_open_messages(self) -> None:
        for sent in self._open_messages:
            sent.told = True
            self._tell_text(sent, None)

    def _tell_text(self, sent: _Sent, ended: Ended | None) -> None:
        result = sent.outgoing.result(ended)
        words = text_text(result)
        if result.state is not DeliveryState.REFUSED:
            words = f"{words} ({sent.action.text})"
        elif result.code is Code.UNSUPPORTED_PURPOSE and looks_like_order(sent.action.text):
            words = f"{words}. {_bank_hint(self._session.setup.bank)}"
        self._tell(sent.number, status_of(result), words, result.code)

    def _tell(self, number: int, status: ExitStatus, words: str, code: Code | None = None) -> None:
        self._statuses[number] = status
        ok = status is ExitStatus.OK
        try:
            tell_action(self._display, self._actions, number, words, ok=ok, code=code)
        except OutputError as error:
            # What was done stays done; what nobody would be told of is not begun.
            self._display.warn(f"{error}; action {number}/{len(self._actions)} {words}")
            self._stop.set()


def tell_action(
    display: Display,
    actions: Sequence[Action],
    number: int,
    words: str,
    *,
    ok: bool,
    code: Code | None = None,
) -> None:
    """Print the line of one action, of which ``words`` say what became of it.

    :param number: from 1.
    :raises OutputError: it can't be written.
    """
    display.say(
        f"action {number}/{len(actions)} {words}",
        event="action",
        number=number,
        actions=len(actions),
        action=actions[number - 1].source,
        ok=ok,
        code=code.value if code is not None else None,
        result=words,
    )


def _bank_hint(bank: BankPin | None) -> str:
    bank_id = bank.id if bank is not None else BANK_ID
    return f"Orders are addressed to the bank's id: `SEND [{bank_id}] …`"

"""Commands about orders that were sent: what is unfinished, and what a receipt proves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from clients.commands.connected import end_with, talk
from clients.commands.money import result_facts, say_result
from clients.commands.options import (
    Common,
    bank_of,
    open_key,
    setup_of,
    state_path,
    with_common_options,
)
from clients.config import Config
from clients.customer import BankPin, OrderResult, OrderState
from clients.display import Display, amount_text, time_text
from clients.errors import ClientError, RefusedError, StorageError, UsageError
from clients.orders import check_evidence, check_receipt, meaning_of
from clients.outbox import LOG_SUFFIX
from clients.outcomes import ExitStatus, balance_text, order_text
from clients.receipts import read_receipt_file
from clients.records import OrderRecord
from clients.session import Session
from clients.storage import StateDirectory
from clients.words import in_words
from protocol.banking import Outcome, Receipt, decode_order
from protocol.bundles import Bundle, open_bundle
from protocol.encoding import decode_strict
from protocol.errors import Code, ProtocolError
from protocol.identifiers import UUID7_PATTERN
from protocol.keys import format_fingerprint

__all__ = ["orders", "verify"]


@with_common_options
def orders(
    common: Common,
    *,
    finish: Annotated[
        bool, typer.Option("--finish", help="Send the unfinished ones again, the same bytes.")
    ] = False,
    again: Annotated[
        str | None,
        typer.Option(
            metavar="ORDER_ID",
            help="Send one order again, byte for byte, even if it has ended: the bank gives the "
            "same receipt and books nothing.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List those that have ended, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the orders whose outcome is not known; --finish finds out.

    An order is kept from before it is first sent until the bank's signed receipt is here. Sending
    it again never makes it run twice.

    Example: python -m clients.person orders --finish --config ada.json
    """
    if finish and again is not None:
        raise UsageError("either --finish or --again")
    display = Display()
    if again is not None:
        _send_again(common, again, display, as_json=as_json)
    elif finish:
        _finish_all(common, display, as_json=as_json)
    else:
        _list(common, display, everything=everything, as_json=as_json)


def _list(common: Common, display: Display, *, everything: bool, as_json: bool) -> None:
    config = common.read_config()
    state = StateDirectory(state_path(common, _client_id(common, config)))
    finished, damage = state.receipts.read() if everything else ([], [])
    waiting = [(state.file_of(record.order_id), record) for record in state.unfinished()]
    found = sorted(waiting + finished, key=lambda pair: pair[1].order_id)
    if as_json:
        display.json([_facts(file, record) for file, record in found])
    elif found:
        _say_table(display, [record for _, record in found])
    else:
        display.say("no orders" if everything else "no unfinished orders")
    if damage:
        raise StorageError("\n".join(map(str, damage)))


def _say_table(display: Display, records: list[OrderRecord]) -> None:
    display.table(
        [("order", True), ("signed", False), ("what", False), ("outcome", False)],
        [
            (record.order_id, time_text(record.issued_at), record.meaning, _outcome(record))
            for record in records
        ],
    )


def _client_id(common: Common, config: Config | None) -> str:
    """Whose orders: known without a passphrase where there is a configuration."""
    if config is not None and common.key is None:
        return config.person_id
    return open_key(common, config)[1].client_id


def _facts(file: Path, record: OrderRecord) -> dict[str, object]:
    receipt = _unchecked_receipt(record)
    return {
        "order_id": record.order_id,
        "operation": record.operation,
        "meaning": record.meaning,
        "outcome": _outcome(record),
        "code": receipt.code if receipt is not None else None,
        "issued_at": record.issued_at,
        "expires_at": record.expires_at,
        "file": str(file),
    }


def _unchecked_receipt(record: OrderRecord) -> Receipt | None:
    """Return what a kept receipt says; it was checked when it was kept, `verify` does it again."""
    if record.receipt is None:
        return None
    try:
        return decode_strict(record.receipt.raw, Receipt)
    except ValueError as error:
        raise StorageError(f"the receipt of order {record.order_id} is damaged") from error


def _outcome(record: OrderRecord) -> str:
    receipt = _unchecked_receipt(record)
    if receipt is not None:
        code = f": {receipt.code.value}" if receipt.code is not None else ""
        return f"{receipt.outcome.value}{code}"
    if record.ending is not None:
        return f"never: {record.ending.code.value}"
    return "unknown"


# --- Sending again ---


def _finish_all(common: Common, display: Display, *, as_json: bool) -> None:
    setup = setup_of(common)
    unfinished = StateDirectory(setup.state_path).unfinished()
    # As JSON all are said together, in the end.
    one_by_one = Display(as_json=as_json)

    async def conversation(session: Session) -> list[OrderResult]:
        return [await _finish_one(session, record, one_by_one) for record in unfinished]

    finished = talk(setup, display, conversation) if unfinished else []
    if as_json:
        with display.saying_or_warning(f"{len(finished)} order(s) sent again"):
            display.json([result_facts(result) for result in finished])
    elif not unfinished:
        display.say("no unfinished orders")
    # Refused is an answer: what counts here is whether everything is known now.
    unknown = any(result.state is OrderState.UNKNOWN for result in finished)
    end_with(ExitStatus.UNKNOWN if unknown else ExitStatus.OK)


async def _finish_one(session: Session, record: OrderRecord, display: Display) -> OrderResult:
    try:
        result = await session.customer.finish(record)
    except RefusedError as error:
        words = f"unknown: {in_words(error.code, error.detail)}"
        result = _not_sent(session.state, record, error)
    else:
        words = order_text(result)
    display.say_anywhere(f"{record.order_id} {words}")
    return result


def _not_sent(state: StateDirectory, record: OrderRecord, error: RefusedError) -> OrderResult:
    return OrderResult(
        order_id=record.order_id,
        meaning=record.meaning,
        state=OrderState.UNKNOWN,
        receipt=None,
        code=error.code,
        detail=error.detail,
        file=state.file_of(record.order_id),
    )


def _send_again(common: Common, order_id: str, display: Display, *, as_json: bool) -> None:
    if not re.match(UUID7_PATTERN, order_id):
        raise UsageError(f"{order_id!r} is no order's id; `orders --all` lists them")
    setup = setup_of(common)
    state = StateDirectory(setup.state_path)
    record = state.order(order_id)
    if record is None:
        raise UsageError(f"there is no order {order_id} in {setup.state_path}")

    async def conversation(session: Session) -> tuple[OrderResult, bool]:
        return await session.customer.repeat(record)

    result, same = talk(setup, display, conversation)
    if result.state is OrderState.UNKNOWN or not record.has_ended:
        say_result(result, display, as_json=as_json)
        return
    if not same:
        raise ClientError(
            f"the bank gave another receipt for order {order_id} than before. Keep both: "
            f"{state.file_of(order_id)}"
        )
    words = f"the same receipt, byte for byte: {_outcome(record)} ({record.meaning})"
    with display.saying_or_warning(words):
        if as_json:
            display.json(
                {"order_id": order_id, "same_receipt": True, "file": str(state.file_of(order_id))}
            )
        else:
            display.say(words)


# --- Proof ---


@with_common_options
def verify(
    common: Common,
    receipt: Annotated[Path, typer.Argument(help="A file from the receipts folder.")],
    *,
    order: Annotated[
        str | None,
        typer.Option(
            metavar="ORDER_ID", help="Only that of one order, in a file that many orders share."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check a receipt without any connection: is it this bank's word on exactly this order?

    And is the order signed by whom it names?

    It needs the bank's fingerprint, from the configuration or --bank-fingerprint; nothing in the
    file itself is trusted.

    Example: python -m clients.person verify ~/.tellerwire/ada/receipts/0190….json --config ada.json
    """
    bank = bank_of(common, common.read_config())
    if bank is None:
        raise UsageError("whose receipt should it be? Give --config or --bank-fingerprint")
    display = Display()
    records = _receipts_in(receipt, order)
    verified = [(record, *_verified(record, bank, receipt)) for record in records]
    if as_json:
        found = [checked for _, checked, _ in verified]
        display.json(found[0] if len(found) == 1 else found)
        return
    for number, (record, checked, bundle) in enumerate(verified):
        if number:
            display.say("")
        _say_verified(display, record, checked, bundle)


def _receipts_in(file: Path, order_id: str | None) -> list[OrderRecord]:
    """Return the receipts in a file, or the one of an order.

    :raises UsageError: the file can't be read, or has none (of that order).
    """
    try:
        records = read_receipt_file(file)
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}") from error
    except StorageError as error:
        if file.suffix == LOG_SUFFIX:
            raise UsageError(
                f"{file} is a log of the outbox: orders, and no receipts. Those are in the folder "
                "receipts; `orders --all --json` tells which file an order is in"
            ) from error
        raise
    wanted = [record for record in records if order_id in (None, record.order_id)]
    if not wanted:
        raise UsageError(f"{file} has no receipt" + (f" of order {order_id}" if order_id else ""))
    return wanted


def _verified(record: OrderRecord, bank: BankPin, path: Path) -> tuple[Receipt, Bundle]:
    if record.receipt is None or record.bank_bundle is None:
        raise RefusedError(
            Code.NOT_AUTHENTIC,
            f"{path} holds no receipt of the bank: nothing is proven",
            proven=True,
        )
    if record.bank_fingerprint != bank.fingerprint.hex():
        raise RefusedError(
            Code.NOT_AUTHENTIC, f"{path} is of a bank with another fingerprint", proven=True
        )
    try:
        check_evidence(record)
        bundle = open_bundle(record.bank_bundle)
        return check_receipt(record.receipt, record, bundle), bundle
    except ProtocolError as error:
        raise RefusedError(error.code, f"{path}: {error.detail}", proven=True) from error


def _say_verified(display: Display, record: OrderRecord, checked: Receipt, bank: Bundle) -> None:
    display.say(f"genuine: signed by {bank.name} ({bank.id})")
    display.say(f"fingerprint: {format_fingerprint(bank.fingerprint)}")
    display.say(f"order:       {checked.order_id}, signed by {checked.person}")
    person = format_fingerprint(bytes.fromhex(record.person_fingerprint))
    display.say(f"fingerprint: {person}")
    display.say(f"asked for:   {_signed_meaning(record)}")
    if checked.outcome is Outcome.ACCEPTED:
        display.say(f"outcome:     accepted at {time_text(checked.booked_at)}")
    else:
        display.say(f"outcome:     refused: {in_words(checked.code, checked.detail)}")
    for line in checked.transfers:
        amount = amount_text(line.amount, line.exponent)
        display.say(
            f"booked:      {amount} {line.currency} from {line.debit_account} to "
            f"{line.credit_account}, transfer {line.id}"
        )
    for after in checked.balances:
        display.say(f"afterwards:  {balance_text(after)}")


def _signed_meaning(record: OrderRecord) -> str:
    """What the evidence asks for; the words beside it in the file prove nothing."""
    try:
        return meaning_of(decode_order(bytes(check_evidence(record).content)))
    except ProtocolError as error:
        raise RefusedError(
            Code.BAD_MESSAGE, f"the order in the file can't be read: {error}", proven=True
        ) from error

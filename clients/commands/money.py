"""Commands about money: what there is, and moving it."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from typing import Annotated, Final

import typer

from clients.actions import check_account, check_amount, check_currency
from clients.commands.connected import end_with, talk
from clients.commands.options import Common, setup_of, with_common_options
from clients.customer import OrderResult
from clients.display import Display, amount_text, date_text, printable, time_text
from clients.errors import (
    ClientError,
    OutcomeUnknownError,
    RefusedError,
    UsageError,
)
from clients.orders import meaning_of
from clients.outcomes import ExitStatus, balance_text, order_text, status_of, twin_texts
from clients.prompt import ask_yes
from clients.session import Session
from protocol import limits
from protocol.banking import (
    AccountLine,
    AccountsQuery,
    AccountsResult,
    BalanceQuery,
    BalanceResult,
    Deposit,
    Order,
    StatementLine,
    StatementQuery,
    StatementResult,
    Transfer,
    Withdraw,
)
from protocol.keys import format_fingerprint

__all__ = ["accounts", "balance", "deposit", "statement", "transfer", "withdraw"]

PAGES_MAX: Final = 10_000
"""A bank that never comes to an end is not asked for ever."""

_CSV_COLUMNS: Final = (
    "sequence",
    "booked_at",
    "value_date",
    "kind",
    "counterparty",
    "amount",
    "balance_after",
    "currency",
    "memo",
    "transfer_id",
)

AccountArgument = Annotated[str, typer.Argument(help="The account's number.")]
AmountArgument = Annotated[str, typer.Argument(help="As a decimal number: 100 or 12.50.")]
CurrencyOption = Annotated[
    str | None, typer.Option(help="Refuse it if the account's currency is another.")
]
MemoOption = Annotated[str, typer.Option(help="A note that both sides see on their statements.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask before money moves.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, amounts in minor units.")]


class UnexpectedAnswerError(ClientError):
    """The bank answered a question with something else."""

    def __init__(self) -> None:
        super().__init__("the bank answered with something else than was asked for")


# --- Questions ---


@with_common_options
def accounts(common: Common, *, as_json: JsonOption = False) -> None:
    """List the accounts that you may see, and what you may do with them.

    Example: python -m clients.person accounts --config ada.json
    """
    setup, display = setup_of(common), Display()
    found = talk(setup, display, _all_accounts)
    if as_json:
        display.json(found)
        return
    display.table(
        [
            ("account", False),
            ("owner", False),
            ("status", False),
            ("you may", False),
            ("balance", True),
            ("available", True),
            ("currency", False),
        ],
        [_account_row(line) for line in found.accounts],
    )


async def _all_accounts(session: Session) -> AccountsResult:
    lines: list[AccountLine] = []
    after: str | None = None
    for _ in range(PAGES_MAX):
        page = await session.customer.ask(AccountsQuery(after=after))
        if not isinstance(page, AccountsResult):
            raise UnexpectedAnswerError
        lines.extend(page.accounts)
        after = page.next_after
        if after is None:
            return AccountsResult(lines, page.sequence)
    raise UnexpectedAnswerError


def _account_row(line: AccountLine) -> tuple[str, ...]:
    return (
        line.account,
        line.owner,
        line.status,
        ", ".join(line.permissions),
        amount_text(line.balance, line.exponent),
        amount_text(line.available, line.exponent),
        line.currency,
    )


@with_common_options
def balance(common: Common, account: AccountArgument, *, as_json: JsonOption = False) -> None:
    """Show what is in an account.

    Example: python -m clients.person balance account1 --config ada.json
    """
    setup, display = setup_of(common), Display()
    query = BalanceQuery(check_account(account))

    async def conversation(session: Session) -> BalanceResult:
        result = await session.customer.ask(query)
        if not isinstance(result, BalanceResult):
            raise UnexpectedAnswerError
        return result

    found = talk(setup, display, conversation)
    if as_json:
        display.json(found)
    else:
        display.say(f"{balance_text(found.balance)}, {found.status}")


@with_common_options
def statement(
    common: Common,
    account: AccountArgument,
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many entries, the newest first.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="Every entry there is.")] = False,
    before: Annotated[
        int | None,
        typer.Option(
            min=0, max=limits.MILLISECONDS_MAX, help="Only entries with a lower sequence number."
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As comma-separated values.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show an account's entries, newest first.

    Example: python -m clients.person statement account2 --all --csv --config ada.json
    """
    if as_csv and as_json:
        raise UsageError("either --csv or --json")
    setup, display = setup_of(common), Display()
    check_account(account)
    wanted = None if everything else limit

    async def conversation(session: Session) -> StatementResult:
        return await _pages(session, account, before, wanted)

    found = talk(setup, display, conversation)
    if as_json:
        display.json(found)
    elif as_csv:
        _write_csv(display, found)
    else:
        _show_statement(display, found)


async def _pages(
    session: Session, account: str, before: int | None, wanted: int | None
) -> StatementResult:
    entries: list[StatementLine] = []
    for _ in range(PAGES_MAX):
        left = limits.STATEMENT_ENTRIES_MAX if wanted is None else wanted - len(entries)
        count = min(left, limits.STATEMENT_ENTRIES_MAX)
        page = await session.customer.ask(StatementQuery(account, before, count))
        if not isinstance(page, StatementResult):
            raise UnexpectedAnswerError
        entries.extend(page.entries)
        before = page.next_before
        if before is None or (wanted is not None and len(entries) >= wanted):
            return StatementResult(
                page.account, page.currency, page.exponent, entries, before, page.sequence
            )
    raise UnexpectedAnswerError


def _show_statement(display: Display, found: StatementResult) -> None:
    display.table(
        [
            ("sequence", True),
            ("booked", False),
            ("kind", False),
            ("with", False),
            (f"amount {found.currency}", True),
            ("balance", True),
            ("memo", False),
        ],
        [
            (
                str(line.sequence),
                time_text(line.booked_at),
                line.kind,
                line.counterparty,
                amount_text(line.amount, found.exponent),
                amount_text(line.balance_after, found.exponent),
                line.memo,
            )
            for line in found.entries
        ],
    )
    if found.next_before is not None:
        display.say(f"there is more: --before {found.next_before}, or --all")


def _write_csv(display: Display, found: StatementResult) -> None:
    # Others wrote the memos: a terminal would obey what a file just keeps.
    shown = printable if sys.stdout.isatty() else str
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for line in found.entries:
        writer.writerow(
            [
                line.sequence,
                time_text(line.booked_at),
                date_text(line.value_date) if line.value_date is not None else "",
                line.kind,
                shown(line.counterparty),
                amount_text(line.amount, found.exponent),
                amount_text(line.balance_after, found.exponent),
                found.currency,
                shown(_inert(line.memo)),
                line.transfer_id,
            ]
        )
    display.write(text.getvalue())


def _inert(text: str) -> str:
    """Keep a spreadsheet from taking somebody else's memo for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


# --- Orders ---


@with_common_options
def transfer(
    common: Common,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The account to debit.")],
    destination: Annotated[str, typer.Argument(metavar="TO", help="The account to credit.")],
    amount: AmountArgument,
    *,
    currency: CurrencyOption = None,
    memo: MemoOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Move money from one account to another.

    It asks first, and shows which bank will do it. The order runs exactly once, however often it
    has to be sent; if its outcome is not known (exit status 3), `orders --finish` finds out.

    Example: python -m clients.person transfer account1 account2 100 --config ada.json
    """
    order = Transfer(
        from_account=check_account(source),
        to_account=check_account(destination),
        amount=check_amount(amount),
        currency=check_currency(currency),
        memo=_check_memo(memo),
    )
    _carry_out(common, order, yes=yes, as_json=as_json)


@with_common_options
def withdraw(
    common: Common,
    account: AccountArgument,
    amount: AmountArgument,
    *,
    currency: CurrencyOption = None,
    memo: MemoOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take money out of the bank.

    Example: python -m clients.person withdraw account2 100 --config ada.json
    """
    order = Withdraw(
        account=check_account(account),
        amount=check_amount(amount),
        currency=check_currency(currency),
        memo=_check_memo(memo),
    )
    _carry_out(common, order, yes=yes, as_json=as_json)


@with_common_options
def deposit(
    common: Common,
    account: AccountArgument,
    amount: AmountArgument,
    *,
    currency: CurrencyOption = None,
    memo: MemoOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring money into the bank; for the bank's tellers.

    Example: python -m clients.person deposit account2 100 --config teller.json
    """
    order = Deposit(
        account=check_account(account),
        amount=check_amount(amount),
        currency=check_currency(currency),
        memo=_check_memo(memo),
    )
    _carry_out(common, order, yes=yes, as_json=as_json)


def _check_memo(memo: str) -> str:
    if len(memo) > limits.MEMO_CHARS_MAX:
        raise UsageError(f"a memo has at most {limits.MEMO_CHARS_MAX} characters")
    return memo


def _carry_out(common: Common, order: Order, *, yes: bool, as_json: bool) -> None:
    if not yes and not sys.stdin.isatty():
        raise UsageError("money moves only after a yes: use a terminal, or give --yes")
    setup, display = setup_of(common), Display()
    # What a program or a file gets holds no questions, and nobody would see one there.
    aside = as_json or not (yes or sys.stdout.isatty())
    tell = display.warn if aside else display.say
    begun = False
    result: OrderResult | None = None

    async def conversation(session: Session) -> None:
        nonlocal begun, result
        await session.customer.check_bank()
        for text in twin_texts(session.customer, order):
            (display.warn if yes else tell)(text)
        if not yes and not await _consent(session, order, tell, aside=aside):
            return
        begun = True
        result = await session.customer.submit(order)

    try:
        talk(setup, display, conversation)
    except KeyboardInterrupt as stopped:
        # What has ended is told of also where the program was stopped while it left the relay.
        if begun and result is None:
            raise OutcomeUnknownError(
                "stopped. If the order was sent already it may run; find out with: orders --finish"
            ) from stopped
        if not begun:
            tell("")
    except RefusedError:
        # Whatever was sent has a result: this was refused before the order was kept.
        display.warn("nothing was sent, and nothing is kept to be sent later")
        raise
    if result is None:
        tell("nothing was sent")
        raise typer.Exit(int(ExitStatus.FAILED))
    say_result(result, display, as_json=as_json)


async def _consent(
    session: Session, order: Order, tell: Callable[[str], None], *, aside: bool
) -> bool:
    bank = await session.bank_bundle()
    tell(f"{meaning_of(order)}")
    tell(f"at {bank.name} ({bank.id}), fingerprint {format_fingerprint(bank.fingerprint)}")
    return await ask_yes("Do it?", sys.stderr if aside else sys.stdout)


def say_result(result: OrderResult, display: Display, *, as_json: bool) -> None:
    """Say how an order ended, and end the command with its exit status, said or not."""
    with display.saying_or_warning(order_text(result)):
        if as_json:
            display.json(result_facts(result))
        else:
            display.say(order_text(result))
            if result.receipt is not None and result.file.exists():
                display.say(f"receipt: {result.file}")
    end_with(status_of(result))


def result_facts(result: OrderResult) -> dict[str, object]:
    """Return how an order ended, as JSON tells it."""
    return {
        "order_id": result.order_id,
        "state": result.state.value,
        "code": result.code.value if result.code is not None else None,
        "detail": result.detail,
        "file": str(result.file),
        "receipt": result.receipt,
    }

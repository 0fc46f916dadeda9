"""``manage.py runbank``: the bank as a client of the relay. Several may run under the one id."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import structlog
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.db.backends.signals import connection_created

from bank.committer import GroupCommitter
from bank.conf import bank_settings
from bank.database_faults import first_words
from bank.database_threads import DatabaseThreads
from bank.enrolled import EnrolledKeys
from bank.errors import BankSetupError
from bank.gateway import Gateway, SealedRequest
from bank.issuing import check_bank_enrolled
from bank.key_settings import now_ms, open_keyring
from bank.keyring import Keyring
from bank.ledger import book
from bank.statements import keep_plans
from clients.errors import ClientError, RegistrationRefusedError, RelayUnreachableError
from clients.event_loop import run as run_loop
from clients.service import IncomingRequest, ServiceClient
from protocol.addresses import check_relay_url
from protocol.errors import Code
from protocol.keys import format_fingerprint

READER_THREADS: Final = 2
KEYS_CHECK_SECONDS: Final = 5.0
READY_SECONDS: Final = 15.0
SWITCH_SECONDS: Final = 0.000_5

logger = structlog.get_logger(__name__)


class Command(BaseCommand):
    """Runs the bank until SIGTERM or SIGINT; then finishes what is in hand and exits 0."""

    help = "Run the bank: answer orders and queries that arrive through the relay."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Say what can be given."""
        parser.add_argument("--relay", help="instead of TELLERWIRE_BANK_RELAY_URL")
        parser.add_argument("--key-file", help="instead of TELLERWIRE_BANK_KEY_FILE")
        parser.add_argument("--passphrase-file", help="instead of TELLERWIRE_BANK_PASSPHRASE_FILE")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the command."""
        try:
            url = check_relay_url(options["relay"] or bank_settings.RELAY_URL)
        except ValueError as error:
            raise CommandError(str(error)) from error
        connection_created.connect(keep_plans)
        try:
            keyring = open_keyring(options["key_file"], options["passphrase_file"])
            check_bank_enrolled(keyring.key_file)
            keyring.rotate_if_due()
            _tune_interpreter()
            run_loop(self._run(keyring, url))
        except (BankSetupError, ClientError) as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(
                f"the bank's database does not answer: {first_words(error)}"
            ) from error
        finally:
            connection_created.disconnect(keep_plans)

    async def _run(self, keyring: Keyring, url: str) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        has_rotated = False
        async with _gateway(keyring) as gateway:
            while not stop.is_set():
                try:
                    await self._serve(gateway, keyring, url, stop)
                except RegistrationRefusedError as error:
                    # Another process may have published newer keys than those of the attempt.
                    if await asyncio.to_thread(keyring.reload):
                        continue
                    if error.code is not Code.BAD_BUNDLE or has_rotated:
                        raise
                    # Or this is an older copy of the file, from a backup.
                    logger.warning("keys_older_than_known", error=str(error))
                    await asyncio.to_thread(keyring.rotate_unless_changed)
                    has_rotated = True

    async def _serve(
        self, gateway: Gateway, keyring: Keyring, url: str, stop: asyncio.Event
    ) -> None:
        """Serve until ``stop`` is set or the relay will not have us; drain on the way out."""

        async def handle(request: IncomingRequest) -> bytes | None:
            return await gateway.answer(
                SealedRequest(request.id, request.re, request.sender, request.body)
            )

        service = ServiceClient(
            keyring.key_file, url, handle, concurrency=bank_settings.BATCH_ORDERS_MAX
        )
        async with service:
            tasks = [
                asyncio.create_task(stop.wait()),
                asyncio.create_task(service.wait_closed()),
                asyncio.create_task(self._announce(service, keyring, url)),
                asyncio.create_task(_keep_keys(service, keyring)),
            ]
            try:
                await _first_to_end(tasks[:2])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _announce(self, service: ServiceClient, keyring: Keyring, url: str) -> None:
        """Say on standard output when the bank can be reached."""
        while True:
            try:
                await service.wait_ready(READY_SECONDS)
                break
            except RelayUnreachableError as error:
                logger.warning("relay_unreachable", error=str(error))
        fingerprint = format_fingerprint(keyring.fingerprint)
        self.stdout.write(f"bank ready: {keyring.client_id}, {fingerprint}, {url}")
        self.stdout.flush()


def _tune_interpreter() -> None:
    """Settle this process for its two busy threads: the event loop, and the one that books.

    Each statement of a booking lets go of the interpreter, and would then wait for up to 5 ms (the
    default) until the event loop gives it back. And what start-up made stays for good: the garbage
    collector need not look through it again and again.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()


async def _first_to_end(tasks: list[asyncio.Task[Any]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


@contextlib.asynccontextmanager
async def _gateway(keyring: Keyring) -> AsyncIterator[Gateway]:
    """Make the gateway with its threads, and end those once nothing can come in any more."""
    committer = GroupCommitter(
        partial(book, bank=keyring.identity),
        batch_orders_max=bank_settings.BATCH_ORDERS_MAX,
        queue_orders_max=bank_settings.QUEUE_ORDERS_MAX,
    )
    threads = DatabaseThreads(READER_THREADS)
    try:
        yield Gateway(keyring, committer, threads, EnrolledKeys(), clock=now_ms)
    finally:
        await asyncio.to_thread(committer.close)
        await asyncio.to_thread(threads.close)


async def _keep_keys(service: ServiceClient, keyring: Keyring) -> None:
    """Rotate the prekeys when it is time, and publish what this or another process has made.

    Also where the file has become older than what this process used: a backup took its place.
    """
    made = None
    while True:
        await asyncio.sleep(KEYS_CHECK_SECONDS)
        try:
            await asyncio.to_thread(keyring.rotate_if_due)
            used, found = service.key_file.bundle.generation, keyring.key_file.bundle.generation
            if found < used and found != made:  # once for each file, should the clock be behind
                logger.warning("keys_older_than_known", generation=found)
                await asyncio.to_thread(keyring.rotate_unless_changed)
                made = keyring.key_file.bundle.generation
            if service.key_file.bundle.generation != keyring.key_file.bundle.generation:
                # The same bundle may be published by every process; the first one is news.
                generation = await service.publish(keyring.key_file)
                logger.info("keys_published", generation=generation)
        except (BankSetupError, ClientError, OSError) as error:
            logger.warning("keys_not_renewed", error=str(error))

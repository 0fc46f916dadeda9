"""The walls between the packages hold, and the test that says so would see a hole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.imports import FIRST_PARTY, imports_in, imports_of, python_files


@pytest.mark.parametrize("package", sorted(FIRST_PARTY))
def test_no_file_breaks_a_rule(package: str) -> None:
    files = python_files(package)
    assert files

    broken = [line for path in files for line in rules.violations(path, imports_of(path))]

    assert not broken, "\n".join(broken)


# Each line plants one violation in a file of that name; the rule beside it must see it.
PLANTED = [
    ("protocol/keys.py", "import relay", rules.crosses_a_wall),
    ("protocol/keys.py", "from bank.models import accounts", rules.crosses_a_wall),
    ("protocol/keys.py", "import django.conf", rules.needs_the_web_framework),
    ("protocol/keys.py", "import time", rules.does_input_or_output),
    ("protocol/keys.py", "from os import urandom", rules.does_input_or_output),
    ("protocol/keys.py", "import asyncio.queues", rules.does_input_or_output),
    ("protocol/keys.py", "import websockets", rules.does_input_or_output),
    ("clients/person.py", "import bank.money as money", rules.crosses_a_wall),
    ("clients/person.py", "from relay import models", rules.crosses_a_wall),
    ("clients/person.py", "from django.conf import settings", rules.needs_the_web_framework),
    ("clients/person.py", "import channels.layers", rules.needs_the_web_framework),
    ("relay/consumers.py", "import bank", rules.crosses_a_wall),
    ("relay/consumers.py", "from clients.client import Client", rules.crosses_a_wall),
    ("relay/consumers.py", "from protocol import frames, sealing", rules.opens_messages),
    ("relay/consumers.py", "from protocol.sealing import open_sealed", rules.opens_messages),
    ("relay/consumers.py", "import protocol.banking", rules.opens_messages),
    ("relay/consumers.py", "import protocol.sessions as harmless", rules.opens_messages),
    ("relay/consumers.py", "import protocol", rules.opens_messages),
    ("relay/consumers.py", "from protocol import *", rules.opens_messages),
    ("relay/management/commands/x.py", "from ....bank import models", rules.crosses_a_wall),
    ("bank/gateway.py", "import relay.models", rules.crosses_a_wall),
    ("bank/gateway.py", "from clients import service", rules.crosses_a_wall),
    ("bank/management/commands/enrol.py", "import clients.client", rules.crosses_a_wall),
    ("bank/management/commands/runbank.py", "import relay.models", rules.crosses_a_wall),
    ("bank/gateway.py", "from bankproject import environment", rules.crosses_a_wall),
    ("relay/conf.py", "import bankproject.settings", rules.crosses_a_wall),
    ("clients/config.py", "import bankproject", rules.crosses_a_wall),
    ("bankproject/urls.py", "import tests.servers", rules.crosses_a_wall),
    ("relay/consumers.py", "def f():\n    import bank.models", rules.crosses_a_wall),
    ("relay/consumers.py", "async def f():\n    if x:\n        import bank", rules.crosses_a_wall),
    ("relay/consumers.py", "class A:\n    def f(self):\n        import bank", rules.crosses_a_wall),
    ("relay/consumers.py", "try:\n    import bank\nexcept X:\n    pass", rules.crosses_a_wall),
    ("relay/consumers.py", "f = lambda: __import__('bank')", rules.crosses_a_wall),
    ("relay/consumers.py", "importlib.import_module('protocol.sealing')", rules.opens_messages),
    ("relay/consumers.py", "import_module('bank.models')", rules.crosses_a_wall),
    ("relay/consumers.py", "import_string('bank.models.Account')", rules.crosses_a_wall),
    ("relay/consumers.py", "import_module('.sealing', 'protocol')", rules.is_computed),
    ("relay/consumers.py", "import_module('pro' + 'tocol.sealing')", rules.is_computed),
    ("relay/consumers.py", "import_module(name='bank.models')", rules.crosses_a_wall),
    ("bank/gateway.py", "def f():\n    from bank import models", rules.hides_in_a_function),
]


@pytest.mark.parametrize(("path", "source", "rule"), PLANTED)
def test_a_planted_violation_is_found(path: str, source: str, rule: rules.Rule) -> None:
    planted = imports_in(source, Path(path))

    assert rules.violations(Path(path), planted, [rule])


ALLOWED = [
    ("bank/management/commands/runbank.py", "from clients import service"),
    ("bank/gateway.py", "from protocol import banking, sealing"),
    ("relay/consumers.py", "from protocol import frames"),
    ("relay/consumers.py", "from protocol.relay_protocol import RelayProtocol"),
    ("clients/client.py", "import asyncio, websockets, protocol.sealing"),
    ("protocol/keys.py", "from cryptography.hazmat.primitives import hashes; import msgspec, hmac"),
    ("bankproject/asgi.py", "from relay.routing import websocket_urlpatterns"),
    ("bank/gateway.py", "def f():\n    import json"),
]


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_what_is_allowed_is_not_found(path: str, source: str) -> None:
    assert not rules.violations(Path(path), imports_in(source, Path(path)))

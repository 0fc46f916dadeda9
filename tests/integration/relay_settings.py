"""The development settings with bounds for the relay that a test gives as JSON."""

import json
import os

from bankproject.settings.development import *  # noqa: F403 - settings modules are layers of one namespace
from bankproject.settings.development import RELAY

RELAY = {**RELAY, **json.loads(os.environ["TELLERWIRE_TEST_RELAY"])}

"""The development settings with bounds for the bank that a test gives as JSON."""

import json
import os

from bankproject.settings.development import *  # noqa: F403 - settings modules are layers of one namespace
from bankproject.settings.development import BANK

BANK = {**BANK, **json.loads(os.environ["TELLERWIRE_TEST_BANK"])}

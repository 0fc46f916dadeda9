"""Settings of the tests of the protocol."""

from __future__ import annotations

from hypothesis import settings

# On a machine that is busy an example may take long, which says nothing about the code.
settings.register_profile("protocol", deadline=None)
settings.load_profile("protocol")

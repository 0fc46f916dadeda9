"""Fixtures of the fault tests."""

from tests.installation import installation

__all__ = ["installation"]

"""Standalone clients of the relay: they need neither Django nor the relay's or the bank's code."""

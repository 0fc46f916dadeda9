"""The relay's commands."""

"""System checks of the bank."""

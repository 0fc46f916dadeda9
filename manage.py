#!/usr/bin/env python3
"""Django's command line for every role of Tellerwire (relay, bank, web)."""

import os
import sys

from django.core.management import execute_from_command_line

from bankproject.operator_errors import told_in_words


def main() -> None:
    """Run the command of the command line with the development settings, unless others are set."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bankproject.settings.development")
    with told_in_words(sys.argv[1:]):
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()

"""``python -m bankproject.demo.databases [OPERATOR PASSWORD]``: what a bank begins with.

Both databases of the environment are made, and the demo bank is loaded, opening balances included.
Whoever is named may log in to the admin. One process for all of it: each would take a second to
start.
"""

import sys
from pathlib import Path

import django
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command

FIXTURE = Path(__file__).resolve().parent.parent.parent / "fixtures" / "demo_bank.json"


def fill(operator: tuple[str, ...]) -> None:
    """Fill the databases; they have to be empty.

    :param operator: nobody, or a name and a password.
    """
    for alias in settings.DATABASES:
        call_command("migrate", database=alias, verbosity=0)
    call_command("loaddata", str(FIXTURE), verbosity=0)
    if operator:
        name, password = operator
        get_user_model().objects.create_superuser(name, "", password)


if __name__ == "__main__":
    django.setup()
    fill(tuple(sys.argv[1:]))

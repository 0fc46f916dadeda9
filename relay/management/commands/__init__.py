"""Commands for the relay's operator: `manage.py help`."""

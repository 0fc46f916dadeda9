"""TCP ports as command lines name them."""

import argparse
from typing import Final

PORT_MAX: Final = 65_535


def port_number(text: str) -> int:
    """Return the port that an option names; 0 stands for a free one, where that makes sense.

    :raises argparse.ArgumentTypeError: with words for whoever typed it.
    """
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(PORT_MAX))
    if not is_number or int(text) > PORT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; a port is 0 to {PORT_MAX}")
    return int(text)

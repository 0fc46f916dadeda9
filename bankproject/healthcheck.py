"""The container's health check: ask this very host, in the name of the first allowed host.

    python -m bankproject.healthcheck [--port 8000]

Exits 0 if `/healthz` answers 200, else 1 with the reason. Without Django, since it runs often.
"""

import argparse
import http.client
import os
import sys
from collections.abc import Sequence
from typing import Final

from bankproject.ports import port_number

TIMEOUT_SECONDS: Final = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if the process on this host lives."""
    parser = argparse.ArgumentParser(prog="python -m bankproject.healthcheck")
    parser.add_argument("--port", type=port_number, default=8000)
    options = parser.parse_args(arguments)
    connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"Host": _host()})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"no answer from port {options.port}: {error}\n")
        return 1
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        sys.stderr.write(f"port {options.port} answers {status}\n")
        return 1
    return 0


def _host() -> str:
    """Django refuses requests for hosts that aren't allowed, so ask for one that is."""
    first = os.environ.get("TELLERWIRE_ALLOWED_HOSTS", "").split(",")[0].strip().lstrip(".")
    return first if first not in {"", "*"} else "localhost"


if __name__ == "__main__":
    sys.exit(main())

"""Make the test vectors, or check that the files are exactly what this program makes.

python -m tests.vectors.make_vectors            # write the files
python -m tests.vectors.make_vectors --check    # compare them, byte for byte
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.vectors import cases_banking, cases_frames, cases_keyfile, cases_keys, cases_sealing

FOLDER: Final = Path(__file__).parent

VECTORS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "encoding": cases_keys.encoding,
    "identifiers": cases_keys.identifiers,
    "keys": cases_keys.keys,
    "bundle": cases_keys.bundle,
    "succession": cases_keys.succession,
    "registration": cases_keys.registration,
    "frames": cases_frames.frames,
    "sealed": cases_sealing.sealed,
    "reply": cases_sealing.reply,
    "order": cases_banking.order,
    "receipt": cases_banking.receipt,
    "keyfile": cases_keyfile.keyfile,
}


def rendered(name: str) -> bytes:
    """Return the bytes of the file of that name."""
    text = json.dumps(VECTORS[name](), ensure_ascii=False, indent=1)
    return (text + "\n").encode("utf-8")


def differing() -> list[str]:
    """Return the names of the files that are not what this program makes."""
    expected = {f"{name}.json" for name in VECTORS}
    present = {path.name for path in FOLDER.glob("*.json")}
    changed = [
        f"{name}.json"
        for name in VECTORS
        if f"{name}.json" in present and (FOLDER / f"{name}.json").read_bytes() != rendered(name)
    ]
    return sorted({*changed, *(expected ^ present)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files or check them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if parser.parse_args(arguments).check:
        wrong = differing()
        sys.stdout.write("".join(f"differs: {name}\n" for name in wrong))
        return 1 if wrong else 0
    for name in VECTORS:
        (FOLDER / f"{name}.json").write_bytes(rendered(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())

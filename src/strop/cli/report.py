"""`strop report`: the HTML report of a search, written again."""

from __future__ import annotations

import sys
from pathlib import Path

from strop import report
from strop.errors import InputError


def run(folder: Path) -> int:
    """Write the report and print its path."""
    if not folder.is_dir():
        raise InputError(
            f"there is no folder '{folder}'", hint="name what strop optimize wrote (--output)"
        )
    if not (folder / "result.json").is_file():
        raise InputError(
            f"the folder '{folder}' holds no result.json",
            hint="name what strop optimize wrote (--output), once it has finished",
        )
    sys.stdout.write(f"{report.write(folder)}\n")
    return 0

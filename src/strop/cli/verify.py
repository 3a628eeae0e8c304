"""`strop verify`: a bundle's digests, outputs, speed and claim, checked on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strop.bundle import Verification, verify
from strop.cli.folders import bundle_in
from strop.cli.status import status

_STYLES = {"ok": "green", "failed": "bold red", "unproven": "yellow"}


def run(
    bundle: Path,
    data: str | None,
    original: str | None,
    *,
    launches: int,
    trust: bool,
    as_json: bool,
) -> int:
    """Verify, print, and return the exit code: 0 all hold, 3 something is unproven, 1 failed."""
    with status() as say:
        found = verify(
            bundle_in(bundle),
            data=data,
            original=original,
            trust=trust,
            launches=launches,
            emit=say,
        )
    if as_json:
        sys.stdout.write(found.to_json(indent=1) + "\n")
    else:
        _print(found)
    return exit_code(found)


def exit_code(found: Verification) -> int:
    """1 when a check failed, 3 when one could not be made, 0 when all hold."""
    statuses = {check.status for check in found.checks}
    return 1 if "failed" in statuses else 3 if "unproven" in statuses else 0


def _print(found: Verification) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{escape(found.bundle)}[/]  {escape(str(found.claim or 'no claim'))}")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in found.checks:
        style = _STYLES[check.status]
        table.add_row(f"[{style}]{check.status}[/]", check.name, escape(check.detail))
    console.print(table)
    console.print(f"claim here: {found.verdict}")

"""The command line: parse, call the API, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; errors of strop's own become one line and an exit code."""
    try:
        from strop.cli.app import run
    except KeyboardInterrupt:  # where the disk is slow, imports take long enough to be interrupted
        sys.stderr.write("strop: interrupted\n")
        sys.exit(130)
    run()

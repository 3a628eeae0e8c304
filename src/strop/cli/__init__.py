"""The command line: parse, call the API, print."""

from __future__ import annotations


def main() -> None:
    """Run the command line; errors of strop's own become one line and an exit code."""
    from strop.cli.app import run

    run()

"""What goes on right now, on stderr: a spinner on a terminal, plain lines everywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from rich.console import Console


@contextlib.contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A function that shows one line until the next one comes."""
    console = Console(stderr=True)
    if console.is_terminal and os.environ.get("TERM") != "dumb":
        with console.status("starting") as spinner:
            yield lambda line: spinner.update(line)
    else:
        yield _line


def _line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()

"""A progress view worth watching on a terminal, and plain lines everywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from strop.records import (
    BestChanged,
    Event,
    ProofFinished,
    SearchFinished,
    SearchStarted,
    StageEntered,
    Trial,
    TrialFinished,
    TrialStarted,
    Warned,
)

_ROWS = 14
# In a log: how long nothing was written before a passing remark is worth a line.
_QUIET_SECONDS = 30.0


class View(Protocol):
    """Listens to a search and shows it."""

    def hear(self, event: Event) -> None: ...
    def say(self, line: str) -> None: ...


@contextlib.contextmanager
def progress_view(budget: float) -> Iterator[View]:
    """The view that fits stderr: a live table on a terminal, one line an event elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal and os.environ.get("TERM") != "dumb":
        table = _LiveTable(budget)
        with Live(table, console=console, refresh_per_second=4, transient=False):
            yield table
    else:
        yield _Lines()


class _Lines:
    """One line an event, for logs."""

    def __init__(self) -> None:
        self._start = self._written = time.monotonic()
        self._silent = True

    def hear(self, event: Event) -> None:
        if line := _line(event):
            self._write(line)

    def say(self, line: str) -> None:
        """A passing remark: the first of all, and where nothing was written for a while."""
        if self._silent or time.monotonic() - self._written >= _QUIET_SECONDS:
            self._write(line)

    def _write(self, line: str) -> None:
        self._written = time.monotonic()
        self._silent = False
        sys.stderr.write(f"[{self._written - self._start:6.1f}s] {line}\n")
        sys.stderr.flush()


class _LiveTable:
    """Trials as they come, what was dropped and why, the best so far, and the time left."""

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._start = time.monotonic()
        self._trials: list[Trial] = []
        self._running = ""
        self._saying = ""
        self._stage = "starting"
        self._best = ""
        self._candidates = 0
        self._warnings: list[str] = []
        self._proofs: dict[int, str] = {}

    def say(self, line: str) -> None:
        self._saying = line

    def hear(self, event: Event) -> None:
        self._saying = ""
        if isinstance(event, SearchStarted):
            self._candidates = event.candidates
        elif isinstance(event, StageEntered):
            self._stage = f"{event.stage}: {event.detail}" if event.detail else event.stage
            self._running = ""
        elif isinstance(event, TrialStarted):
            self._running = f"#{event.number} {event.recipe_text}"
        elif isinstance(event, TrialFinished):
            # A later event of one number replaces the trial, as one that breaks a limit after all.
            kept = [trial for trial in self._trials if trial.number != event.trial.number]
            self._trials = [*kept, event.trial]
        elif isinstance(event, BestChanged):
            self._best = f"#{event.number} {event.recipe_text}"
        elif isinstance(event, ProofFinished):
            verdict = "proven" if event.claim else "not proven"
            self._proofs[event.number] = verdict
        elif isinstance(event, Warned):
            self._warnings.append(event.message)
        elif isinstance(event, SearchFinished):
            self._stage = "done"

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("#", justify="right", style="dim", no_wrap=True)
        table.add_column("recipe", ratio=3, overflow="ellipsis", no_wrap=True)
        table.add_column("lost", justify="right", no_wrap=True)
        table.add_column("speed", justify="right", no_wrap=True)
        table.add_column("verdict", ratio=2, overflow="ellipsis", no_wrap=True)
        hidden = max(0, len(self._trials) - _ROWS)
        for trial in self._trials[-_ROWS:]:
            style, verdict = _verdict(trial)
            verdict = self._proofs.get(trial.number, verdict)
            table.add_row(
                str(trial.number),
                str(trial.recipe),
                _lost(trial),
                _speed(trial),
                verdict,
                style=style,
            )
        elapsed = time.monotonic() - self._start
        left = max(0.0, self._budget - elapsed)
        head = Text.assemble(
            ("strop ", "bold"),
            f"{self._stage}   ",
            (f"{len(self._trials)} of {self._candidates} candidates tried   ", "dim"),
            (f"{_clock(left)} left", "cyan"),
        )
        parts: list[Text | Table] = [head]
        parts += [Text(f"! {line}", style="yellow") for line in self._warnings[-3:]]
        if hidden:
            parts.append(Text(f"… {hidden} earlier trials", style="dim"))
        parts.append(table)
        now = self._saying or self._running
        if now and self._stage != "done":
            parts.append(Text(f"▸ {now}", style="cyan", overflow="ellipsis", no_wrap=True))
        if self._best:
            parts.append(Text.assemble(("best so far ", "dim"), (self._best, "bold green")))
        return Group(*parts)


def _line(event: Event) -> str:
    if isinstance(event, SearchStarted):
        return f"{event.candidates} candidates, {_clock(event.budget_seconds)} budget"
    if isinstance(event, StageEntered):
        return f"{event.stage}: {event.detail}" if event.detail else event.stage
    if isinstance(event, TrialFinished):
        trial = event.trial
        _, verdict = _verdict(trial)
        return (
            f"#{trial.number:<3d} {_lost(trial):>8} {_speed(trial):>7}  {trial.recipe}  {verdict}"
        )
    if isinstance(event, BestChanged):
        return f"best so far: #{event.number} {event.recipe_text}"
    if isinstance(event, ProofFinished):
        verdict = str(event.claim) if event.claim else "not proven"
        return f"#{event.number} {verdict}"
    if isinstance(event, Warned):
        return f"warning: {event.message}"
    if isinstance(event, SearchFinished):
        return "improved" if event.improved else f"nothing better: {event.reason}"
    return ""


def _verdict(trial: Trial) -> tuple[str, str]:
    if trial.status == "failed":
        return "red", f"failed: {trial.reason}"
    if trial.status == "dropped":
        return "dim", trial.reason
    return "", "equivalent" if trial.equivalent else "within, to be proven"


def _lost(trial: Trial) -> str:
    found = trial.evidence.search_quality
    if found is None:
        return ""
    return f"{0.0 if abs(found.drop.estimate) < 5e-5 else found.drop.estimate:+.2%}"


def _speed(trial: Trial) -> str:
    found = trial.evidence.speedups
    return f"{found[0].ratio.estimate:.2f}×" if found else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

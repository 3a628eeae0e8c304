"""`strop load-test`: put load on a server, and say whether it kept its latency."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from strop.cli.numbers import duration
from strop.cli.optimize import shapes_of
from strop.errors import InputError
from strop.loadtest import Bin, LoadTest, Moment, Percentiles, Plan, Slo, run
from strop.search import parse_seconds

_BAR = 40
_STYLES = {"held": "bold green", "missed": "bold red", "undecided": "bold yellow"}


@dataclass(frozen=True)
class Options:
    """The command's options as they were typed."""

    url: str
    model: str
    scenario: str | None
    rate: float | None
    arrivals: str
    concurrency: int | None
    duration: str
    warm_up: str
    slo: str | None
    percentile: float
    allow_refusals: bool
    connections: int
    batch: int
    json_tensors: bool
    data: Path | None
    shape: list[str]
    body: Path | None
    token_file: Path | None
    ca: Path | None
    timeout: str
    seed: int


def load_test(options: Options, *, as_json: bool) -> int:
    """Test, print, and return the exit code: 0 held or no SLO given, 3 missed or undecided."""
    plan = plan_of(options)
    with _progress() as say:
        found = run(plan, say)
    if as_json:
        sys.stdout.write(found.to_json(indent=1) + "\n")
    else:
        _print(found)
    return 0 if found.verdict is None or found.verdict.verdict == "held" else 3


def plan_of(options: Options) -> Plan:
    """What was typed as what is meant; InputError when it means nothing."""
    scenarios = ("server", "single-stream", "multi-stream", "offline", "closed")
    if options.scenario is not None and options.scenario not in scenarios:
        raise InputError(
            f"'{options.scenario}' is no scenario", hint=f"it is one of {', '.join(scenarios)}"
        )
    if options.arrivals not in ("poisson", "constant"):
        raise InputError(f"arrivals are poisson or constant, not '{options.arrivals}'")
    if not 50 <= options.percentile < 100:
        raise InputError(
            f"the percentile {options.percentile:g} is not from 50 to below 100",
            hint="write --percentile 99",
        )
    slo = None
    if options.slo is not None:
        slo = Slo(
            seconds=parse_seconds(options.slo),
            percentile=options.percentile / 100,
            allow_refusals=options.allow_refusals,
        )
    return Plan(
        url=options.url,
        model=options.model,
        scenario=options.scenario,  # type: ignore[arg-type]  # checked above
        rate=options.rate,
        arrivals=options.arrivals,  # type: ignore[arg-type]  # checked above
        concurrency=options.concurrency,
        duration=parse_seconds(options.duration),
        warm_up=0.0 if options.warm_up in ("0", "0s") else parse_seconds(options.warm_up),
        slo=slo,
        connections=options.connections,
        rows=options.batch,
        form="json" if options.json_tensors else "binary",
        data=options.data,
        shapes=shapes_of(options.shape),
        body=options.body,
        token=_token(options.token_file),
        ca=options.ca,
        timeout=parse_seconds(options.timeout),
        seed=options.seed,
    ).check()


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token in '{path.name}' cannot be read") from error
    if not token or not token.isprintable() or " " in token:
        raise InputError(f"'{path.name}' does not hold a token on one line")
    return token


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Moment], None]]:
    """A line that stays and changes on a terminal, and a line a second everywhere else."""
    console = Console(stderr=True)
    if console.is_terminal and os.environ.get("TERM") != "dumb":
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda moment: live.update(Text(_moment(moment), style="cyan"), refresh=True)
    else:
        calls = 0

        def line(moment: Moment) -> None:
            nonlocal calls
            calls += 1
            if calls % 4 == 1:
                sys.stderr.write(_moment(moment) + "\n")
                sys.stderr.flush()

        yield line


def _moment(moment: Moment) -> str:
    parts = [
        f"{moment.phase} {moment.done:4.0%}",
        f"{moment.answered_a_second:,.0f}/s",
        f"p50 {duration(moment.p50)}  p99 {duration(moment.p99)}" if moment.p50 else "no answer",
        f"{moment.waiting:,} out",
    ]
    if moment.refused:
        parts.append(f"{moment.refused:,} refused")
    if moment.failed:
        parts.append(f"{moment.failed:,} failed")
    return "   ".join(parts)


def _print(found: LoadTest) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(_heading(found))}[/]")
    console.print(f"  {escape(found.payload)}", style="dim")
    if found.search:
        console.print()
        console.print(_trials(found))
    console.print()
    console.print(
        f"  {found.answered:,} answered, {found.refused:,} refused, {found.failed:,} failed "
        f"in {found.seconds:.1f} s: {found.throughput:,.1f} answers/s"
        + (
            f", {found.rows_per_second:,.1f} rows/s"
            if found.rows * found.samples > 1 or found.scenario == "offline"
            else ""
        )
    )
    # Offline has all its samples at once: how long one of them waits says nothing.
    if found.latency is not None and found.scenario != "offline":
        console.print(_percentiles(found))
        console.print()
        limit = found.verdict.slo_seconds if found.verdict else None
        for line in _bars(found.histogram, limit):
            console.print(line)
    if found.bound_seconds is not None and found.bound_percentile is not None:
        console.print(
            f"\n  p{100 * found.bound_percentile:.0f} is at most "
            f"{duration(found.bound_seconds)} at 99% confidence (LoadGen's early stopping)"
        )
    if found.first_error:
        console.print(f"! the first that failed: {escape(found.first_error)}", style="yellow")
    for note in found.notes:
        console.print(f"! {escape(note)}", style="yellow")
    if found.verdict is not None:
        console.print()
        console.print(_verdict(found))


def _heading(found: LoadTest) -> str:
    model = f" {found.model}" if found.model else ""
    how = {
        "server": f"{found.rate or 0:,.1f} queries/s, {found.arrivals} arrivals",
        "single-stream": "one query at a time",
        "multi-stream": f"{found.samples} requests at a time",
        "offline": f"all at once, {found.concurrency} in flight",
        "closed": f"{found.concurrency} in flight",
    }[found.scenario]
    rows = f", {found.rows} rows each" if found.rows > 1 else ""
    return f"{found.scenario}: {found.url}{model}, {how}{rows}, {found.form}"


def _trials(found: LoadTest) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("  rate", "queries", "over", "p99", ""):
        table.add_column(name, justify="right")
    for trial in found.search:
        table.add_row(
            f"{trial.rate:,.0f}/s",
            f"{trial.queries:,}",
            f"{trial.over:,}",
            "" if trial.p99 is None else duration(trial.p99),
            "held" if trial.held else "not held",
        )
    return table


def _percentiles(found: LoadTest) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    names = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9", "maximum": "longest"}
    for name in names.values():
        table.add_column(name, justify="right")

    def row(title: str, values: Percentiles) -> None:
        table.add_row(f"  {title}", *(duration(getattr(values, name)) for name in names))

    if found.latency is not None:
        row("latency", found.latency)
    if found.refusal is not None:
        row("refusals", found.refusal)
    return table


def _bars(bins: tuple[Bin, ...], limit: float | None) -> Iterator[str]:
    most = max((one.count for one in bins), default=1)
    for one in bins:
        bar = "█" * round(_BAR * one.count / most) or ("▏" if one.count else "")
        style = "red" if limit is not None and one.low >= limit else "cyan"
        mark = "  ← SLO" if limit is not None and one.low <= limit < one.high else ""
        yield (
            f"  {duration(one.low):>8} – {duration(one.high):>8} {one.count:>9,} "
            f"[{style}]{bar}[/]{mark}"
        )


def _verdict(found: LoadTest) -> str:
    verdict = found.verdict
    assert verdict is not None
    style = _STYLES[verdict.verdict]
    what = f"p{100 * verdict.percentile:g} ≤ {duration(verdict.slo_seconds)}"
    text = (
        f"[{style}]{verdict.verdict}[/]  {what}: {verdict.over:,} of {verdict.queries:,} queries "
        "over"
    )
    if verdict.refusals_allowed:
        text += ", refused ones left out"
    if verdict.verdict == "undecided":
        text += (
            f"; so many over need {verdict.required:,} queries for {verdict.confidence:.0%} "
            "confidence: pass a longer --duration"
        )
    return text

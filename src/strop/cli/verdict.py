"""The last thing on the screen: before and after, the claim, and where it all lies."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from strop.cli.numbers import quantity
from strop.cli.spending import at_rate, how_cost, how_energy, joules, million
from strop.records import Candidate, Interval, Result, Saving
from strop.search import Outcome


def print_verdict(outcome: Outcome) -> None:
    """Print a result for people, on stdout."""
    console = Console(highlight=False, soft_wrap=True)
    result = outcome.result
    console.print()
    if result.status == "improved":
        console.print(f"[bold green]improved[/]  {result.delivered.text}")
        console.print(f"  {result.claim}")
    else:
        console.print("[bold yellow]nothing better could be claimed[/]")
        console.print(f"  {result.reason}", highlight=False)
        console.print(f"  delivered: {result.delivered.text}, {result.claim or 'the original'}")
    if result.others:
        start = result.delivered.recipe.start or result.model
        console.print(f"  starts from {start}; the original is {result.model}", markup=False)
    if result.near_miss is not None:
        miss = result.near_miss
        ratio = f", {miss.speedup:.2f}× the equivalent" if miss.speedup else ""
        console.print(f"  nearest miss: {miss.text}{ratio}: {miss.reason}")
    console.print()
    console.print(_table(result))
    for found in result.delivered.evidence.speedups:
        against = getattr(result, found.against).text
        console.print(f"{_interval(found.ratio)} the speed of the {found.against}, {against}")
    for saved in result.delivered.evidence.savings:
        console.print(_saving(saved))
    if result.operation:
        console.print(result.operation, markup=False)
    for line in _grounds(result):
        console.print(line, style="dim")
    console.print()
    if outcome.bundle.exists():
        console.print(f"bundle  {outcome.bundle}")
    else:
        console.print("no bundle: the original runs in eager PyTorch, which only its code can")
    if (outcome.folder / result.report).exists():
        console.print(f"report  {outcome.folder / result.report}")


def _table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    columns = {
        "original": result.original,
        "fastest equivalent": result.equivalent,
        "delivered": result.delivered,
    }
    for name in columns:
        table.add_column(name, justify="right")
    found = list(columns.values())
    table.add_row("examples a second", *(_throughput(candidate) for candidate in found))
    table.add_row("median latency", *(_latency(candidate, "p50") for candidate in found))
    table.add_row("p99", *(_latency(candidate, "p99") for candidate in found))
    table.add_row(result.data.metric, *(_quality(candidate, result) for candidate in found))
    table.add_row("peak memory", *(_bytes(candidate, "peak") for candidate in found))
    table.add_row("file", *(_bytes(candidate, "file") for candidate in found))
    energies = [candidate.evidence.energy for candidate in found]
    if any(energies):
        table.add_row(
            "energy an inference", *("–" if one is None else joules(one) for one in energies)
        )
    costs = [candidate.evidence.cost for candidate in found]
    if any(costs):
        table.add_row("cost a million", *("–" if one is None else million(one) for one in costs))
    if any(one is not None and one.rate for one in costs):
        rate = next(one.rate for one in costs if one is not None and one.rate)
        told = ("–" if one is None else at_rate(one) for one in costs)
        table.add_row(f"  at {quantity(rate, '/s')}", *told)
    return table


def _grounds(result: Result) -> list[str]:
    """How energy and cost were found, each way told once."""
    found = [result.original, result.equivalent, result.delivered]
    energies = [one.evidence.energy for one in found if one.evidence.energy is not None]
    costs = [result.delivered.evidence.cost]
    return list(
        dict.fromkeys(
            [
                *(how_energy(energy) for energy in energies),
                *(how_cost(cost) for cost in costs if cost is not None),
            ]
        )
    )


def _latency(candidate: Candidate, which: str) -> str:
    if not candidate.evidence.latency:
        return "–"
    found = getattr(candidate.evidence.latency[0], which)
    return f"{found.estimate * 1e3:.3g} ms"


def _throughput(candidate: Candidate) -> str:
    if not candidate.evidence.latency:
        return "–"
    return quantity(candidate.evidence.latency[0].throughput)


def _saving(found: Saving) -> str:
    """How much less energy, or how much more, which is never called less."""
    ratio, how = found.ratio, "less energy than"
    if ratio.estimate < 1:
        high = 1 / ratio.low if ratio.low > 0 else math.inf
        ratio = Interval(estimate=1 / ratio.estimate, low=1 / ratio.high, high=high)
        how = "the energy of"
    return f"{_interval(ratio)} {how} the {found.against}, {found.kind}"


def _interval(ratio: Interval) -> str:
    return f"{ratio.estimate:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"


def _quality(candidate: Candidate, result: Result) -> str:
    evidence = candidate.evidence
    found = evidence.prove_quality or evidence.search_quality
    if candidate is result.original:
        # What was proven of the delivered was proven beside the original, on the same examples.
        found = result.delivered.evidence.prove_quality or found
    if found is None:
        return "–"
    score = found.reference if candidate is result.original else found.candidate
    return f"{score:.2%} of {found.n:,}"


def _bytes(candidate: Candidate, what: str) -> str:
    memory = candidate.evidence.memory
    value = getattr(memory, what) if memory else None
    if not value:
        return "–"
    return f"{value / 1e6:.1f} MB" if value >= 1e5 else quantity(value, "B")

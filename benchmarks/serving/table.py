"""README.md from results.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import step_bundles
import step_cycles
import step_overload
import step_rates

_SHOWN = {"mlserver": "MLServer", "litserve": "LitServe", "strop": "**strop serve**"}


def readme(results: Mapping[str, Any]) -> str:
    """The whole page."""
    sections = {
        "rates": _rates,
        "bundles": _bundles,
        "overload": _overload,
        "policies": _policies,
        "identity": _identity,
        "cycles": _cycles,
    }
    lines = [
        "# strop serve, measured",
        "",
        "Written by `python benchmarks/serving/run.py`; the figures are in `results.json`.",
        "",
        "```console",
        "$ python examples/zoo/fetch.py --output zoo --cache cache",
        "$ python benchmarks/zoo/run.py --zoo zoo --output zoo-benchmark",
        "$ python benchmarks/serving/run.py --zoo zoo --bundles zoo-benchmark",
        "```",
        "",
        "The load generator is pinned to one core and the server, with all its threads and",
        "processes, to another. Every server of every round is a fresh process; rounds go over",
        "all of them in turn. Figures are medians over rounds, with their range in brackets.",
        "",
    ]
    for name, section in sections.items():
        if name in results:
            lines += [*section(results[name]["found"]), ""]
    return "\n".join([*lines, *_machine(results), ""])


def missed(results: Mapping[str, Any]) -> list[str]:
    """The aims that were not reached, by step and name."""
    names = []
    for step in ("rates", "bundles", "overload", "identity", "cycles"):
        found = results.get(step, {}).get("found", [])
        for entry in found if isinstance(found, list) else [found]:
            where = f"{step}/{entry['name']}" if "name" in entry else step
            if "error" in entry:
                names.append(f"{where}: {entry['error']}")
            names += [f"{where}: {aim}" for aim, met in entry.get("met", {}).items() if not met]
    return names


def _rates(found: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "## 64 floats as JSON",
        "",
        f"{found['connections']} connections, each asking again as soon as it is answered. The",
        "same 64 → 32 → 10 network in the same ONNX Runtime session on one thread, the same body,",
        f"batches of up to {found['batch']} in every server; those that wait for a batch to fill",
        f"wait {found['wait_ms']} ms. The others are as their documentation has them, MLServer in",
        "one process, LitServe with one API server and one worker, mosec with one worker. *Bare*",
        "parses and answers, and computes nothing; *bare with batches* computes what arrived in",
        "one round of the loop, and checks nothing.",
        "",
        "| server | requests/s | median, ms | p99, ms | CPU a request, µs | strop is | aim |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    )
    order = sorted(found["servers"].items(), key=lambda item: -item[1]["rate"]["median"])
    for name, row in order:
        ratio = found["ratios"].get(name)
        aim = step_rates.AIMS.get(name)
        yield (
            f"| {_SHOWN.get(name, name)} | {_span(row['rate'])} "
            f"| {_span(row['median_seconds'], 1e3)} | {_span(row['p99_seconds'], 1e3)} "
            f"| {_span(row['cpu_per_request'], 1e6)} | {_times(ratio)} "
            f"| {_aim(aim, found['met'].get(name))} |"
        )
    busiest = max(found["servers"].values(), key=lambda row: row["generator_cpu"]["median"])
    versions = found["versions"]
    yield from (
        "",
        f"strop put {found['servers']['strop']['rows_per_batch']:.1f} rows in a batch on average.",
        f"The generator used at most {busiest['generator_cpu']['median']:.0%} of its core "
        f"(at {busiest['rate']['median']:,.0f} requests/s): its own ceiling is about "
        f"{busiest['ceiling']['median']:,.0f} requests/s.",
        "Answers other than 200: "
        + (
            ", ".join(f"{name} {row['errors']}" for name, row in order if row["errors"])
            or "none of any server"
        )
        + f". MLServer {versions['mlserver']}, LitServe {versions['litserve']}, mosec "
        f"{versions['mosec']}, in environments of their own.",
    )


def _bundles(found: list[Mapping[str, Any]]) -> Iterator[str]:
    aims = step_bundles.AIM_ADDED
    yield from (
        "## Bundles over HTTP",
        "",
        "Binary tensors. *Alone* is the same session in a process of its own on the server's core,",
        "called in a loop with batches of the same size. *Full*: every request is a whole batch,",
        "on 3 connections. *Rows*: every request is one row, and the server makes the batches.",
        "",
        "| model | batch | alone, rows/s | full | rows | rows in a batch | aim |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    )
    for row in found:
        yield (
            f"| {row['name']} ({row['form']}) | {row['batch']} | {_span(row['engine_rate'])} "
            f"| {_share(row['kept']['full'])} | {_share(row['kept']['single'])} "
            f"| {row['rows_per_batch']['single']['median']:.1f} "
            f"| full {_aim(step_bundles.AIM_KEPT, row['met']['kept'], share=True)} |"
        )
    yield from (
        "",
        "One request of one row in flight, against the same call alone; the client never sleeps.",
        "",
        "| model | alone, ms | served, ms | added at the median, ms | added at p99, ms | aim |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    )
    for row in found:
        met = row["met"]["added_median"] and row["met"]["added_p99"]
        yield (
            f"| {row['name']} | {_span(row['engine_latency']['median'], 1e3)} "
            f"| {_span(row['served_latency']['median'], 1e3)} "
            f"| {_span(row['added']['median'], 1e3)} | {_span(row['added']['p99'], 1e3)} "
            f"| {aims['median'] * 1e3:g} and {aims['p99'] * 1e3:g} ms, {_word(met)} |"
        )


def _overload(found: list[Mapping[str, Any]]) -> Iterator[str]:
    aims = step_overload.AIMS
    yield from (
        "## Ten times capacity",
        "",
        "`--slo` set; the peak is the best of closed loops whose p99 keeps it, then requests",
        "arrive at random (Poisson) at ten times the peak, whatever becomes of those before them.",
        "The latency of accepted requests counts from the moment they were due, that of refusals",
        "from the moment they were sent.",
        "",
        "| model | SLO, ms | peak, /s | offered, /s | accepted of the peak | p99 accepted, ms "
        "| refused: median, p99, ms | memory | missed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    )
    for row in found:
        if "error" in row:
            yield f"| {row['name']} | | | | | | | | {row['error']} |"
            continue
        refused, accepted = row["refusal_latency"], row["accepted_latency"]
        yield (
            f"| {row['name']} ({row['form']}) | {row['slo_seconds'] * 1e3:g} | {row['peak']:,.0f} "
            f"| {row['offered']:,.0f} | {row['of_peak']:.1%} "
            f"| {accepted.get('p99', float('nan')) * 1e3:.1f} "
            f"| {refused.get('median', float('nan')) * 1e3:.2f}, "
            f"{refused.get('p99', float('nan')) * 1e3:.2f} "
            f"| × {row['memory_grown']:.3f} "
            f"| {', '.join(name for name, met in row['met'].items() if not met) or 'nothing'} |"
        )
    yield from (
        "",
        f"Aims: p99 within the SLO, refusals (503 with Retry-After, every one) within "
        f"{aims['refusal_seconds'] * 1e3:g} ms at p99, accepted work at least "
        f"{aims['of_peak']:.0%} of the peak, memory flat (at most × {aims['memory']:g} after the "
        "first half). The sockets, the parsing and the refusals are paid on the server's one "
        "core, too: the cheaper the model, the more of it ten times its capacity takes.",
    )
    for row in found:
        if "bound_of_peak" in row:
            yield (
                f"\n{row['name']}: a bare loop that reads a request, looks at nothing and writes "
                f"503 (`bare.py PORT refuse`) takes {row['bare_refusal_seconds'] * 1e6:.1f} µs of "
                "the core for each at this rate. Were every refusal as cheap, the core could still "
                f"answer no more than {row['bound_of_peak']:.1%} of the peak; the aim asks for "
                f"{aims['of_peak']:.0%}."
            )
    for row in found:
        if "error" not in row:
            late = row["generator_late"].get("p99", 0.0) * 1e3
            counts = ", ".join(f"{status}: {count:,}" for status, count in row["counts"].items())
            yield f"\n{row['name']}: {counts}; the generator was late by {late:.2f} ms at p99."
            if (steps := row.get("late_steps")) is not None:
                yield (
                    f"\n{row['name']}: of {steps['all']} steps of 50 ms, {steps['accepted']} held "
                    f"an accepted answer beyond the SLO and {steps['refused']} a refusal beyond "
                    f"{aims['refusal_seconds'] * 1e3:g} ms (`timeline` in `results.json`)."
                )


def _policies(found: list[Mapping[str, Any]]) -> Iterator[str]:
    yield from (
        "## Two policies",
        "",
        "`policy: deadline` beside `policy: fixed` with two delays, in fact and not in the",
        "simulation: the same server, SLO and admission, requests of one row at random",
        "(Poisson) at shares of what the deadline-aware one answers in a closed loop.",
        "",
        "| model | load | policy | answered, /s | median, ms | p99, ms | refused |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    )
    for row in found:
        for one in sorted(row["rows"], key=lambda one: one["load"]):
            latency = one["latency"]
            yield (
                f"| {row['name']}, SLO {row['slo_seconds'] * 1e3:g} ms | {one['load']:.0%} "
                f"| {one['policy']} | {one['accepted']:,.0f} "
                f"| {latency.get('median', float('nan')) * 1e3:.2f} "
                f"| {latency.get('p99', float('nan')) * 1e3:.2f} | {one['refused']:.1%} |"
            )


def _identity(found: Mapping[str, Any]) -> Iterator[str]:
    total = found["right"] + found["wrong"] + found["failed"]
    yield from (
        "## Whose answer is it?",
        "",
        f"{total:,} requests on {found['connections']} connections, each with an id, 1 to 4 rows,",
        "a length of 1 to 24 and values of its own; one of ten in JSON, the others binary. Every",
        "answer is held against what the same session gives for that request alone, byte for byte.",
        "Values are multiples of 1/256, so that every sum is exact: ONNX Runtime's float sums",
        "otherwise depend, in the last bit, on the address at which a row begins.",
        "",
        f"Right: **{found['right']:,}**, wrong: **{found['wrong']:,}**, failed: "
        f"**{found['failed']:,}**; {found['rate']:,.0f} requests/s, "
        f"{found['rows_per_batch']:.1f} rows in a batch on average, {found['largest_batch']} at "
        "most.",
    )


def _cycles(found: Mapping[str, Any]) -> Iterator[str]:
    latency = found["latency"]
    errors = found["errors"] + len(found["admin_errors"])
    yield from (
        "## Loading and unloading",
        "",
        f"{found['cycles']:,} cycles in {found['seconds']:.0f} s, each of which loads one model,",
        "asks it, unloads it, and loads a second one anew while it is being asked;",
        f"{found['rate']:g} requests/s go to that one and to a third, which stays.",
        "",
        f"Answers: {found['answers']:,}, errors: **{errors:,}**; median "
        f"{latency.get('median', float('nan')) * 1e3:.2f} ms, p99 "
        f"{latency.get('p99', float('nan')) * 1e3:.2f} ms. Resident memory at the end over that "
        f"after the first tenth: **× {found['memory_drift']:.3f}** (aim: within × "
        f"{step_cycles.AIM:g}, {_word(found['met']['memory'])}).",
    )


def _machine(results: Mapping[str, Any]) -> Iterator[str]:
    machine = results.get("machine", {})
    packages = machine.get("packages", {})
    shown = ("strop", "numpy", "onnxruntime", "openvino")
    versions = ", ".join(f"{name} {packages[name]}" for name in shown if name in packages)
    loads = ", ".join(
        f"{step} {found['load_before']:.1f}"
        for step, found in results.items()
        if isinstance(found, dict) and "load_before" in found
    )
    yield from (
        "## Machine",
        "",
        f"{machine.get('cpu')}, {len(machine.get('cpus', ()))} logical CPUs granted "
        f"({', '.join(machine.get('isa', ()))}); {results.get('date')}; Python "
        f"{machine.get('python')}, {versions}. Load averages before each step: {loads}.",
    )


def _span(row: Mapping[str, float], scale: float = 1.0) -> str:
    low, middle, high = (_number(row[key] * scale) for key in ("low", "median", "high"))
    return middle if low == high else f"{middle} [{low}, {high}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _share(row: Mapping[str, float]) -> str:
    return f"{row['median']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def _times(row: Mapping[str, float] | None) -> str:
    return "" if row is None else f"{row['median']:.2f}× [{row['low']:.2f}, {row['high']:.2f}]"


def _aim(aim: float | None, met: bool | None, *, share: bool = False) -> str:
    if aim is None:
        return ""
    return f"{aim:.0%}, {_word(met)}" if share else f"{aim:g}×, {_word(met)}"


def _word(met: object) -> str:
    return "met" if met else "missed"

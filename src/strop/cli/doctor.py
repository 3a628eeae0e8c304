"""`strop doctor`: what this machine and this installation can do."""

from __future__ import annotations

import math
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strop.cli.numbers import quantity, ratio
from strop.cli.status import status
from strop.diagnosis import Cores, Diagnosis, Power, diagnose


def run(*, quick: bool, as_json: bool) -> int:
    """Diagnose, print, and return the exit code."""
    with status() as say:
        found = diagnose(quick, say=say)
    if as_json:
        sys.stdout.write(found.to_json(indent=1) + "\n")
    else:
        _print(found)
    return 0


def _print(found: Diagnosis) -> None:
    console = Console(highlight=False)
    machine = found.machine
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("processor", escape(f"{machine.cpu} ({machine.architecture})"))
    table.add_row("instructions", ", ".join(machine.isa) or "none that matter here")
    table.add_row("cores", _cores(found.cores))
    table.add_row("load", f"{found.load:.2f}")
    table.add_row("memory", f"{quantity(machine.memory_bytes, 'B')} granted")
    table.add_row("python", machine.python)
    for engine in found.engines:
        text = f"[green]{engine.version}[/]" if engine.available else escape(engine.remedy)
        table.add_row(f"engine {engine.name}", text)
    for extra in found.extras:
        held = ", ".join(f"{package} {version}" for package, version in extra.packages.items())
        table.add_row(f"extra {extra.name}", escape(extra.remedy) or f"[green]{held}[/]")
    others = [
        f"{name} {version}"
        for name, version in machine.packages.items()
        if name not in {engine.name for engine in found.engines}
    ]
    table.add_row("packages", ", ".join(others))
    table.add_row("cache", escape(found.cache) + ("" if found.cache_writable else " (read-only)"))
    table.add_row("telemetry", f"OpenVINO's usage reports: {found.telemetry}")
    if found.speeds is not None:
        speeds = found.speeds
        table.add_row("fp32 peak", f"{quantity(speeds.fp32, 'OP/s')} on {speeds.threads} threads")
        table.add_row("int8 peak", quantity(speeds.int8, "OP/s"))
        table.add_row("bandwidth", quantity(speeds.bandwidth, "B/s"))
    if found.noise is not None:
        noise = found.noise
        seen = "" if math.isinf(noise.detectable) else f", sees {noise.detectable - 1:.1%} and more"
        table.add_row("noise", f"a model against itself: {ratio(noise.ratio)}{seen}")
    if found.power is not None:
        table.add_row("energy", escape(_power(found.power)))
    console.print(table)
    console.print()
    for line in found.warnings:
        console.print(f"! {escape(line)}", style="yellow")
    if not found.warnings:
        console.print("nothing stands in the way", style="green")


def _power(power: Power) -> str:
    estimate = f"{power.estimate:.3g} W a busy logical CPU ({power.source})"
    if power.obstacle:
        return f"estimated at {estimate}: {power.obstacle}"
    if power.counted is None:
        return f"measured by {power.counters}"
    idle = "" if power.idle is None else f", {power.idle:.3g} W idle"
    return (
        f"measured by {power.counters}: {power.counted:.3g} W a busy logical CPU{idle}; an "
        f"estimate would count {estimate}"
    )


def _cores(cores: Cores) -> str:
    quota = "no quota" if math.isinf(cores.quota) else f"a cgroup quota of {cores.quota:g}"
    return (
        f"{cores.granted} granted ({cores.physical} physical): {cores.online} online, "
        f"{cores.affinity} by affinity, {quota}"
    )

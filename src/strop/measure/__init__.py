"""Latency, throughput, memory and the machine they were measured on.

Whatever is timed runs in a process of its own, pinned to the CPUs granted, and nothing else that
was started here runs meanwhile: :func:`pair` gives the figures that a claim may rest on,
:func:`screen` and :class:`Arena` the ones that order candidates.
"""

from strop.measure.arena import Arena, ScreenTiming, screen
from strop.measure.conditions import Conditions
from strop.measure.cost import cost
from strop.measure.energy import energy, kind_of, saving
from strop.measure.latency import curve, speedup, summarise
from strop.measure.machine import describe, granted_cpus
from strop.measure.memory import file_bytes, footprint, peak, weights_bytes
from strop.measure.meter import Meter, Stopwatch, Usage, idle_watts, meter
from strop.measure.noise import NoiseFloor, machine_noise, noise_floor
from strop.measure.pairs import PairTiming, TimingFailed, pair
from strop.measure.roofline import Bound, Roofline, bound, peaks
from strop.measure.streams import Throughput, throughput
from strop.measure.subject import Subject, batch_size
from strop.measure.wattage import Wattage, wattage
from strop.measure.watts import Watts, watts

__all__ = [
    "Arena",
    "Bound",
    "Conditions",
    "Meter",
    "NoiseFloor",
    "PairTiming",
    "Roofline",
    "ScreenTiming",
    "Stopwatch",
    "Subject",
    "Throughput",
    "TimingFailed",
    "Usage",
    "Wattage",
    "Watts",
    "batch_size",
    "bound",
    "cost",
    "curve",
    "describe",
    "energy",
    "file_bytes",
    "footprint",
    "granted_cpus",
    "idle_watts",
    "kind_of",
    "machine_noise",
    "meter",
    "noise_floor",
    "pair",
    "peak",
    "peaks",
    "saving",
    "screen",
    "speedup",
    "summarise",
    "throughput",
    "wattage",
    "watts",
    "weights_bytes",
]

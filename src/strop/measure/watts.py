"""Watts of one busy logical CPU: the one figure that an estimate of energy rests on."""

from __future__ import annotations

from dataclasses import dataclass

from strop.records import Machine

_DEFAULT = 3.5
_DEFAULT_SOURCE = "the mean of a cloud's busy logical CPUs (Cloud Carbon Footprint, AWS)"

# Thermal design power in watts, and logical CPUs, of a whole processor: its maker's data sheet.
_PROCESSORS = {
    "EPYC 7543 ": (225, 64),
    "EPYC 7713 ": (225, 128),
    "EPYC 7742 ": (225, 128),
    "EPYC 7763 ": (280, 128),
    "EPYC 9554 ": (360, 128),
    "EPYC 9654 ": (360, 192),
    "EPYC 9754 ": (360, 256),
    "Xeon(R) CPU E5-2699 v4 ": (145, 44),
    "Xeon(R) Gold 6248 ": (150, 40),
    "Xeon(R) Gold 6338 ": (205, 64),
    "Xeon(R) Platinum 8180 ": (205, 56),
    "Xeon(R) Platinum 8280 ": (205, 56),
    "Xeon(R) Platinum 8380 ": (270, 80),
    "Xeon(R) Platinum 8480+ ": (350, 112),
    "Xeon(R) Platinum 8490H ": (350, 120),
    "Ryzen 7 5800X ": (105, 16),
    "Ryzen 9 7950X ": (170, 32),
    "Core(TM) i7-12700 ": (65, 20),
    "Core(TM) i9-13900K ": (125, 32),
}


@dataclass(frozen=True)
class Watts:
    """Watts of one busy logical CPU.

    Attributes
    ----------
    source
        Where the figure comes from, as a clause.
    """

    per_core: float
    source: str


def watts(machine: Machine, given: float | None = None) -> Watts:
    """What was given; else the processor's design power over its logical CPUs; else a mean.

    The design power is what a package takes when all its cores are busy, so that a share of it is
    what a core takes in a machine that is used to the full. A processor that hides its model, as
    many virtual machines' do, counts as the mean: 3.5 watts a logical CPU at full use, the figure
    of the Cloud Carbon Footprint project for AWS, from SPECpower results (its methodology gives
    4.26 for Google's and 3.76 for Microsoft's).

    Examples
    --------
    >>> from strop.measure import describe
    >>> watts(describe(), given=5)
    Watts(per_core=5.0, source='given')
    """
    if given is not None:
        return Watts(float(given), "given")
    name = f"{machine.cpu} "
    for known, (power, logical) in _PROCESSORS.items():
        if known in name:
            return Watts(power / logical, f"{known.strip()}: {power} W, {logical} logical CPUs")
    return Watts(_DEFAULT, _DEFAULT_SOURCE)

"""Advice in words, each sentence from one small rule over measured figures.

A rule takes one engine's profile and returns what it has to say; its threshold stands beside it.
No rule knows anything that was not measured in this profile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from strop.profiling.record import Advice, EngineProfile, Operator, Quantisation

FLOAT_SHARE = 0.1
"""Share of a call that a kind of operator may run in float inside a quantised graph."""
CONVERSION_SHARE = 0.1
"""Share of a call that may go into conversions of type."""
LAYOUT_SHARE = 0.1
"""Share of a call that may go into moving tensors between layouts."""
OUTSIDE_SHARE = 0.25
"""Share of a call that may be spent outside all operators."""
MEMORY_SHARE = 0.3
"""Share of a call in operators that the memory bounds and that come near its peak."""
NEAR_PEAK = 0.5
"""The share of the roofline that counts as near it."""
IDLE_SHARE = 0.1
"""Share of a call that one operator must take for its low use of the machine to matter."""
LOW_ROOFLINE = 0.25
"""The share of the roofline below which an operator uses the machine badly."""
SMALL_SECONDS = 10e-6
SMALL_SHARE = 0.25
"""Operators this small count as small; what share of a call they may take together."""
DOMINANT_SHARE = 0.5
"""Share of a call that makes one operator the one to look at."""
SLOWED_SHARE = 0.02
"""Share of a call that must be lost to quantisation, in all places together, to be told."""
FASTER = 1.2
"""How many times faster an engine must be for the choice to matter: less is noise."""

_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuantize")
_CASTS = ("Cast", "Convert", "aten::to", "aten::_to_copy")
_LAYOUTS = ("Reorder", "ReorderInput", "ReorderOutput", "Transpose", "aten::contiguous")
_FLOATS = ("float32", "float64", "float16", "bfloat16")


def advise(
    profiles: Sequence[EngineProfile], quantisation: Quantisation | None
) -> tuple[Advice, ...]:
    """All that the rules have to say, the largest share of a call first."""
    told = [profile for profile in profiles if not profile.reason]
    found = [advice for profile in told for rule in RULES for advice in rule(profile)]
    found.extend(_engine_choice(profiles))
    if quantisation is not None:
        found.extend(_slowed(told[0], quantisation))
    return tuple(sorted(found, key=lambda advice: -advice.share))


def float_in_quantised(profile: EngineProfile) -> Iterator[Advice]:
    """Kinds of operators that run in float although the graph computes on integers."""
    if not profile.quantised:
        return
    for kind, operators in _by_kind(profile).items():
        floats = [op for op in operators if op.precision in _FLOATS]
        share = _share(floats)
        if share >= FLOAT_SHARE and kind not in _CONVERSIONS + _CASTS + _LAYOUTS:
            yield _advice(
                float_in_quantised,
                profile,
                share,
                f"{kind} runs in float and costs {share:.0%} ({_count(floats)}): quantise it, "
                "or the operators around it gain nothing from their integers there",
            )


def conversions(profile: EngineProfile) -> Iterator[Advice]:
    """Time in operators that only change the type of numbers."""
    mine = [op for op in profile.operators if op.operator in _CONVERSIONS + _CASTS]
    share = _share(mine)
    if share >= CONVERSION_SHARE:
        kinds = ", ".join(dict.fromkeys(op.operator for op in mine))
        yield _advice(
            conversions,
            profile,
            share,
            f"conversions of type ({kinds}) cost {share:.0%} in {_count(mine)}: fewer changes "
            "between integers and floats, by quantising neighbours together or neither, save them",
        )


def layouts(profile: EngineProfile) -> Iterator[Advice]:
    """Time in operators that only move a tensor into another layout."""
    mine = [op for op in profile.operators if op.operator in _LAYOUTS]
    share = _share(mine)
    if share >= LAYOUT_SHARE:
        yield _advice(
            layouts,
            profile,
            share,
            f"moving tensors between layouts costs {share:.0%} in {_count(mine)}: another "
            "order of operators, or an engine with another layout, may need less of it",
        )


def outside(profile: EngineProfile) -> Iterator[Advice]:
    """Time of a call that no operator accounts for, less what the profiler itself takes."""
    inside = sum(op.seconds for op in profile.operators)
    seconds = min(profile.outside_seconds, max(profile.call_seconds - inside, 0.0))
    share = seconds / profile.call_seconds
    if share >= OUTSIDE_SHARE:
        each = seconds / max(len(profile.operators), 1)
        yield _advice(
            outside,
            profile,
            share,
            f"{share:.0%} of a call is in no operator ({each * 1e6:.1f} µs for each of "
            f"{len(profile.operators)}): dispatch and copies, which fewer operators or a larger "
            "batch spread",
        )


def memory_bound(profile: EngineProfile) -> Iterator[Advice]:
    """Operators that memory bounds and that reach a good part of its peak."""
    mine = [
        op
        for op in profile.operators
        if op.side == "memory" and op.roofline is not None and op.roofline >= NEAR_PEAK
    ]
    share = _share(mine)
    if share >= MEMORY_SHARE:
        moved = sum(op.bytes_moved or 0 for op in mine) / sum(op.seconds for op in mine)
        yield _advice(
            memory_bound,
            profile,
            share,
            f"{share:.0%} of a call is bound by memory ({_count(mine)} move "
            f"{moved / 1e9:.1f} GB/s): fewer bytes (narrower weights, fusing, a larger batch for "
            "the same weights) help there, faster arithmetic does not",
        )


def low_use(profile: EngineProfile) -> Iterator[Advice]:
    """Single operators that take long and reach little of what the machine can, even when quick."""
    for op in profile.operators:
        if op.share < IDLE_SHARE or op.roofline is None or not op.low:
            continue
        if op.roofline * op.seconds / op.low < LOW_ROOFLINE:
            yield _advice(
                low_use,
                profile,
                op.share,
                f"{op.operator} '{op.name}' costs {op.share:.0%} and reaches {op.roofline:.0%} "
                f"of what the machine could do ({op.side} side): another kernel, shape or engine "
                "may do better",
            )


def many_small(profile: EngineProfile) -> Iterator[Advice]:
    """Operators so small that starting them is much of their time."""
    mine = [op for op in profile.operators if op.seconds < SMALL_SECONDS]
    share = _share(mine)
    if share >= SMALL_SHARE and len(mine) > 1:
        yield _advice(
            many_small,
            profile,
            share,
            f"{_count(mine)} of under {SMALL_SECONDS * 1e6:.0f} µs cost {share:.0%} together: "
            "starting them is much of that; a larger batch, or a clean-up that folds them, helps",
        )


def dominant(profile: EngineProfile) -> Iterator[Advice]:
    """One operator that takes most of the call."""
    for op in profile.operators:
        if op.share >= DOMINANT_SHARE:
            yield _advice(
                dominant,
                profile,
                op.share,
                f"{op.operator} '{op.name}' alone costs {op.share:.0%}: nothing else is worth "
                "looking at first",
            )


Rule = Callable[[EngineProfile], Iterator[Advice]]
RULES: tuple[Rule, ...] = (
    float_in_quantised,
    conversions,
    layouts,
    outside,
    memory_bound,
    low_use,
    many_small,
    dominant,
)


def _engine_choice(profiles: Sequence[EngineProfile]) -> Iterator[Advice]:
    if len(profiles) < 2:
        return
    best, second = sorted(profiles, key=lambda profile: profile.call_seconds)[:2]
    ratio = second.call_seconds / best.call_seconds
    if ratio >= FASTER:
        yield Advice(
            rule="engine_choice",
            engine=best.engine,
            share=1.0,
            text=f"{best.engine} takes {best.call_seconds * 1e3:.3g} ms a call, {ratio:.1f} times "
            f"less than {second.engine}, the next: deploy there",
        )


def _slowed(profile: EngineProfile, quantisation: Quantisation) -> Iterator[Advice]:
    slowed = quantisation.slowed
    lost = sum(one.quantised_seconds - one.float_seconds for one in slowed)
    share = lost / profile.profiled_seconds
    if share >= SLOWED_SHARE:
        worst = slowed[0]
        places = "one place runs" if len(slowed) == 1 else f"{len(slowed)} places run"
        yield Advice(
            rule="slowed_by_quantisation",
            engine=profile.engine,
            share=share,
            text=f"{places} slower quantised than in float, which costs {lost * 1e6:.0f} µs, "
            f"{share:.0%} of a call, most at '{worst.nodes[0]}' ({', '.join(worst.operators)}: "
            f"{worst.quantised_seconds * 1e6:.0f} µs, {worst.float_seconds * 1e6:.0f} µs in "
            "float): leave those in float",
        )
    share = quantisation.added_seconds / profile.profiled_seconds
    if share >= CONVERSION_SHARE:
        yield Advice(
            rule="added_by_quantisation",
            engine=profile.engine,
            share=share,
            text=f"operators that only the quantised graph has cost {share:.0%}: they quantise, "
            "dequantise and reorder",
        )


def _advice(rule: Rule, profile: EngineProfile, share: float, text: str) -> Advice:
    return Advice(rule=rule.__name__, engine=profile.engine, share=min(share, 1.0), text=text)


def _by_kind(profile: EngineProfile) -> dict[str, list[Operator]]:
    kinds: dict[str, list[Operator]] = {}
    for operator in profile.operators:
        kinds.setdefault(operator.operator, []).append(operator)
    return kinds


def _share(operators: Sequence[Operator]) -> float:
    return sum(operator.share for operator in operators)


def _count(operators: Sequence[Operator]) -> str:
    return f"{len(operators)} operator{'s' if len(operators) != 1 else ''}"

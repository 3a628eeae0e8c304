"""Each rule speaks above its threshold and is silent below it."""

from __future__ import annotations

import pytest

from strop.profiling import Advice, EngineProfile, Quantisation, Slowed
from strop.profiling.advice import advise

from .made import operator, profile

FULL = operator("rest", 1e-3, precision="int8", roofline=0.9, side="compute")


def _rules(found: tuple[Advice, ...]) -> set[str]:
    return {advice.rule for advice in found}


def _filled(*operators: object, kind: str = "Conv") -> EngineProfile:
    """A call without anything outside; the rest is spread over operators that no rule minds."""
    used = sum(one.seconds for one in operators)  # type: ignore[attr-defined]
    rest = [
        operator(f"r{i}", (1e-3 - used) / 20, kind, precision="int8", roofline=0.8, side="compute")
        for i in range(20)
    ]
    return profile(*operators, *rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "above", "below"),
    [
        (
            "float_in_quantised",
            operator("up", 310e-6, "Resize"),
            operator("up", 90e-6, "Resize"),
        ),
        (
            "conversions",
            operator("q", 150e-6, "QuantizeLinear"),
            operator("q", 50e-6, "QuantizeLinear"),
        ),
        ("layouts", operator("t", 150e-6, "Transpose"), operator("t", 50e-6, "Transpose")),
        (
            "memory_bound",
            operator("fc", 400e-6, bytes_moved=4_000_000, roofline=0.8, side="memory"),
            operator("fc", 400e-6, bytes_moved=4_000_000, roofline=0.3, side="memory"),
        ),
        (
            "low_use",
            operator("dw", 200e-6, roofline=0.1, side="compute"),
            operator("dw", 200e-6, roofline=0.4, side="compute"),
        ),
        ("dominant", operator("big", 600e-6), operator("big", 400e-6)),
    ],
)
def test_thresholds(rule: str, above: object, below: object) -> None:
    assert rule in _rules(advise([_filled(above)], None))
    assert rule not in _rules(advise([_filled(below)], None))


def test_a_sentence_holds_the_measured_figures() -> None:
    found = advise([_filled(operator("up", 310e-6, "Resize"))], None)
    text = next(advice.text for advice in found if advice.rule == "float_in_quantised")
    assert text.startswith("Resize runs in float and costs 31% (1 operator)")


def test_float_in_a_float_graph_is_no_news() -> None:
    only = profile(operator("up", 310e-6, "Resize"), operator("c", 690e-6))
    assert "float_in_quantised" not in _rules(advise([only], None))


def test_many_small_operators_count_together() -> None:
    small = [operator(f"s{i}", 5e-6) for i in range(60)]
    large = [operator(f"l{i}", 70e-6) for i in range(10)]
    assert "many_small" in _rules(advise([profile(*small, *large)], None))
    assert "many_small" not in _rules(advise([profile(*large)], None))


def test_what_the_profiler_adds_is_not_held_against_the_model() -> None:
    half = [operator(f"c{i}", 100e-6) for i in range(5)]
    assert "outside" in _rules(advise([profile(*half)], None))
    assert "outside" not in _rules(advise([profile(*half, call_seconds=0.5e-3)], None))


def test_an_operator_that_is_sometimes_quick_uses_the_machine() -> None:
    disturbed = operator("c", 200e-6, roofline=0.1, side="compute", low=50e-6)
    assert "low_use" not in _rules(advise([_filled(disturbed)], None))


def test_engines_are_compared_by_calls_without_the_profiler() -> None:
    slow = profile(FULL, engine="openvino", call_seconds=3e-3)
    found = advise([profile(FULL), slow], None)
    choice = next(advice for advice in found if advice.rule == "engine_choice")
    assert choice.engine == "onnxruntime" and "3.0 times less than openvino" in choice.text
    near = profile(FULL, engine="openvino", call_seconds=1.1e-3)
    assert "engine_choice" not in _rules(advise([profile(FULL), near], None))


def test_losses_by_quantisation_are_told_and_ordered() -> None:
    one = Slowed(
        nodes=("head",), operators=("MatMul",), float_seconds=100e-6, quantised_seconds=400e-6
    )
    told = Quantisation(float_profile=profile(FULL), slowed=(one,), added_seconds=150e-6)
    found = advise([_filled()], told)
    assert [advice.rule for advice in found] == ["slowed_by_quantisation", "added_by_quantisation"]
    assert found[0].text.startswith(
        "one place runs slower quantised than in float, which costs 300 µs, 30% of a call, most at "
        "'head' (MatMul: 400 µs, 100 µs in float)"
    )
